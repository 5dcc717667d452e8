"""Every entry of the table in capabilities.py: what it says works is right, the rest fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend, untraced
from capabilities import (
    DERIVATIVES,
    EXCEPTIONS,
    FUNCTIONS,
    KEPT,
    LIBRARIES,
    MODES,
    REFUSE_DEFICIENT,
    SPECTRA,
)
from spectra import quick_compilation  # noqa: F401

import ngdla

N, M, BATCH, STEP = 5, 11, 3, 1e-6

Call = Callable[[Any, Any, Any], Any]

ENTRIES = [
    (function, library, mode)
    for function in FUNCTIONS
    for library, modes in MODES.items()
    for mode in modes
]


# Steps of what is called by online_eigh_result and inverse_free_apply.
STEPS = ("online_eigh_init", "online_eigh_update", "inverse_free_init", "inverse_free_update")


# What takes longest to trace by far: the functions are compiled in tests of their own.
LONG = {
    ("online_eigh_result", "torch", "jit"),
    ("inverse_free_apply", "torch", "jit"),
    ("inverse_free_apply", "jax", "eager"),
}


def marks(function: str, library: str, mode: str) -> tuple[pytest.MarkDecorator, ...]:
    traced = len(MODES[library]) > 1 and function in STEPS
    return (pytest.mark.slow,) if traced or (function, library, mode) in LONG else ()


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(
    ("function", "library", "mode"),
    [pytest.param(*entry, marks=marks(*entry)) for entry in ENTRIES],
    ids=str,
)
def test_entry(function: str, library: str, mode: str) -> None:
    backend = BACKENDS[library]()
    check = {"eager": works, "lazy": is_lazy, "jit": traces, "grad": has_gradient, "vmap": maps}
    if (function, library, mode) in EXCEPTIONS:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the library says
            check[mode](FUNCTIONS[function], backend)
    else:
        check[mode](FUNCTIONS[function], backend)


@pytest.mark.slow  # every operation is compiled by itself
@pytest.mark.parametrize("library", ["jax", "jax-gpu"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_transformations_that_are_not_compiled(function: str, library: str) -> None:
    """Derivatives and maps of JAX; those of the table are compiled."""
    backend, call = BACKENDS[library](), FUNCTIONS[function]
    has_gradient(call, backend, compiled=False)
    maps(call, backend, compiled=False)


@pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning")  # of a W that is singular
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_derivatives_are_right_or_nan(function: str, library: str, spectrum: str) -> None:
    backend, call, point = BACKENDS[library](), FUNCTIONS[function], arguments()
    (n, m), rng = point[0].shape, np.random.default_rng(7)
    U, V = (np.linalg.qr(rng.standard_normal((size, n))).Q for size in (n, m))
    point = ((U * SPECTRA[spectrum]) @ V.T, *point[1:])
    if spectrum == "deficient" and function in REFUSE_DEFICIENT:
        with pytest.raises(ValueError, match=r"positive definite|singular"):
            call(*point)
        return
    refused = spectrum in DERIVATIVES.get(function, ((), ""))[0]
    with optimised(backend):
        has_gradient(call, backend, point=point, refused=refused)


@contextlib.contextmanager
def optimised(backend: Any) -> Iterator[None]:
    """Let XLA optimise.

    Without, it makes a maximum twice and rounds one of them; the derivative, which looks for the
    entry that is equal to it, is then 0 / 0 (JAX 0.10.2).
    """
    if not hasattr(backend, "jax"):
        yield
        return
    name = "jax_disable_most_optimizations"
    before = backend.jax.config.values[name]
    backend.jax.config.update(name, False)
    yield
    backend.jax.config.update(name, before)


def test_the_table_is_complete() -> None:
    functions = {name for name in ngdla.__all__ if callable(getattr(ngdla, name))}
    results = {
        "DampedFactor",
        "DampingPath",
        "HermitianInfo",
        "PrecisionWarning",
        "SNRInfo",
        "SolveInfo",
    }
    results |= {"LowRankEigh", "NystromFactor", "OnlineEigh", "RankWarning", "SVDResult"}
    results |= {"InverseFreeReport", "InverseFreeState", "InverseFreeStatistics", "InverseRoot"}
    results |= {"SeriesResult", "StepSizeWarning", "WeightSharing"}
    results |= {"ColumnStream", "RowStream", "ScoreOperator"}  # with tests of their own
    results |= {"ColumnShards", "RowShards"}  # too
    results |= {"state_dict", "load_state_dict"}  # of the host
    assert set(FUNCTIONS) == functions - results
    assert (
        set(LIBRARIES)
        == set(MODES)
        == set(BACKENDS)
        - {
            "numpy-readonly",
            "strict-float32",
            "torch-meta",
            "cupy-double",
        }
    )
    assert set(EXCEPTIONS) <= set(ENTRIES)


# --------------------------------------------------------------------- what each mode means


def works(call: Call, backend: Backend) -> None:
    S, v, f = arguments()
    x = call(*backend.asarray((S, v, f)))
    assert type(x) is type(backend.asarray(S))
    close(backend.numpy(x), call(S, v, f))


def is_lazy(call: Call, backend: Backend) -> None:
    S, v, f = arguments()
    close(backend.numpy(backend.call(call, *backend.asarray((S, v, f)))), call(S, v, f))


def traces(call: Call, backend: Any) -> None:
    S, v, f = arguments()
    if hasattr(backend, "jax"):
        x = backend.jax.jit(call)(*backend.asarray((S, v, f)))
    else:
        compiled = backend.torch.compile(call, fullgraph=True, backend="aot_eager")
        with untraced():  # torch interprets the bytecode itself
            x = compiled(*backend.asarray((S, v, f)))
    close(backend.numpy(x), call(S, v, f))


def has_gradient(
    call: Call, backend: Any, *, compiled: bool = True, point: Any = None, refused: bool = False
) -> None:
    """Compare derivatives of sum(c * result) in random directions with central differences.

    Where they are `refused`, they are NaN.
    """
    point, directions = point or arguments(), arguments(seed=1)
    c = np.random.default_rng(2).standard_normal(np.shape(call(*point)))
    gradients = gradients_of(call, point, c, backend, compiled)
    slope = sum(np.sum(g * d) for g, d in zip(gradients, directions) if g is not None)
    if refused:
        assert np.isnan(slope)
        return
    ahead, behind = (
        np.sum(c * call(*(x + sign * STEP * d for x, d in zip(point, directions))))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * STEP), rtol=1e-6)


def gradients_of(call: Call, point: Any, c: np.ndarray, backend: Any, compiled: bool) -> list[Any]:
    arrays = backend.asarray(point)
    if hasattr(backend, "jax"):
        weights = backend.asarray(c)

        def scalar(S: Any, v: Any, f: Any) -> Any:
            return backend.jax.numpy.sum(weights * call(S, v, f))

        gradient = backend.jax.grad(scalar, argnums=(0, 1, 2))
        gradient = backend.jax.jit(gradient) if compiled else gradient
        return [np.asarray(g) for g in gradient(*arrays)]
    if call in map(FUNCTIONS.get, KEPT):
        gradient = backend.torch.func.grad(
            lambda *x: (backend.asarray(c) * call(*x)).sum(), argnums=(0, 1, 2)
        )
        return [backend.numpy(g) for g in gradient(*arrays)]
    arrays = [x.requires_grad_() for x in arrays]
    (backend.asarray(c) * call(*arrays)).sum().backward()
    return [None if x.grad is None else backend.numpy(x.grad) for x in arrays]


def maps(call: Call, backend: Any, *, compiled: bool = True) -> None:
    stacks = [np.stack(x) for x in zip(*(arguments(seed) for seed in range(BATCH)))]
    mapping = backend.jax.vmap(call) if hasattr(backend, "jax") else backend.torch.vmap(call)
    if compiled and hasattr(backend, "jax"):
        mapping = backend.jax.jit(mapping)
    mapped = backend.numpy(mapping(*backend.asarray(stacks)))
    close(mapped, np.stack([call(*(x[i] for x in stacks)) for i in range(BATCH)]))


def arguments(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, M)), rng.standard_normal(M), rng.standard_normal(N)


def close(x: np.ndarray, reference: np.ndarray) -> None:
    assert x.shape == reference.shape
    np.testing.assert_allclose(x, reference, rtol=1e-11, atol=1e-13)

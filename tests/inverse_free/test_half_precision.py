"""Factors stored in 16 bits: what gets lost, and what storage in two numbers or 32 bits keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend, fields_of, half_dtype
from dense_updates import (
    NAMES,
    DenseState,
    after,
    dense_update,
    member,
    samples,
    second_moment,
    structure,
)
from references import U
from spectra import quick_compilation, relative  # noqa: F401

from ngdla import (
    InverseFreeState,
    inverse_free_apply,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
)
from ngdla._backend.dtypes import astype
from ngdla.inverse_free.state import restore
from ngdla.structures import StructuredMatrix

IN, OUT, DAMPING = 8, 3, 0.01
HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
STORAGES = ("native", "float32", "compensated")
in_half_precision = pytest.mark.parametrize("half", list(HALF))


LIBRARIES = ("numpy", "torch", "jax", "cupy", "cupy-double")


@pytest.fixture(params=[name for name in LIBRARIES if name in BACKENDS])
def library(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


def in_half(library: Backend, x: np.ndarray, half: str) -> Any:
    """Return an array of a library in half precision."""
    x = library.asarray(x.astype("float32"))
    if library.name == "torch":
        return x.to(getattr(library.torch, half))  # type: ignore[attr-defined]
    if library.name == "jax":
        return x.astype(half)
    return x.astype(half_dtype(half))


def name_of(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return samples(rng, 40, IN), samples(rng, 40, OUT)


# ------------------------------------------------------------------------------- stagnation
# A constant batch, so that the average of KFAC is known, and steps of an order that follows it.


def kfac(U_: np.ndarray, step_size: float, steps: int) -> np.ndarray:
    """Return the inverse of the damped average, from the one of which K = I is the root."""
    past, d = (1 - step_size) ** steps, len(U_)
    one = np.eye(d)
    return np.linalg.inv(past * (1 - DAMPING) * one + (1 - past) * U_ + DAMPING * one)


def repeated(library: Backend, step: Callable[[Any], Any], state: Any, steps: int) -> Any:
    """Return the state after that many steps, in JAX in one compiled loop."""
    if library.name == "jax":
        return library.jax.jit(  # type: ignore[attr-defined]
            lambda state: library.jax.lax.fori_loop(0, steps, lambda _, s: step(s), state)  # type: ignore[attr-defined]
        )(state)
    for _ in range(steps):
        state = step(state)
    return state


def error_against_kfac(
    library: Backend, half: str, storage: str, step_size: float, steps: int
) -> float:
    a, g = (x.astype("float32") for x in batch(np.random.default_rng(7)))
    state = inverse_free_init(
        IN,
        OUT,
        structures=("dense", "diagonal"),
        like=in_half(library, a, half),
        storage=storage,
        momentum=False,
    )
    a_, g_ = library.asarray([a, g])

    def step(state: InverseFreeState) -> InverseFreeState:
        statistics = inverse_free_statistics(state, a_, g_, check=False)
        return inverse_free_update(
            state,
            statistics,
            damping=DAMPING,
            step_size=step_size,
            rule="ikfac",
            retraction="binomial",
            order=2,
            check=False,
        )

    state = repeated(library, step, state, steps)
    assert name_of(state.K) == ("float32" if storage == "float32" else half)
    K = library.numpy(state.K.to_dense()).astype("float64")
    if state.compensation_K:
        K = K + library.numpy(state.compensation_K.to_dense())
    return relative(K @ K.T, kfac(second_moment(a.astype("float64")), step_size, steps))


@pytest.mark.parametrize("storage", STORAGES)
def test_small_steps_in_bfloat16(library: Backend, storage: str) -> None:
    """Of 0.002, less than half of the spacing of numbers: alone, they leave K where it is."""
    error = error_against_kfac(library, "bfloat16", storage, 0.002, 400)
    if storage == "native":
        assert error >= 0.3
    else:
        assert error <= 5e-3


@pytest.mark.parametrize("storage", STORAGES)
def test_small_steps_in_float16(storage: str) -> None:
    """It has three bits more, so that smaller steps get lost, here 0.0004."""
    error = error_against_kfac(Backend(), "float16", storage, 0.0004, 700)
    if storage == "native":
        assert error >= 0.15
    else:
        assert error <= 5e-3


@pytest.mark.slow
@in_half_precision
@pytest.mark.parametrize("storage", STORAGES)
def test_many_small_steps(library: Backend, half: str, storage: str) -> None:
    """3000 of them; native, K stays where its steps have become smaller than its spacing."""
    step_size = 0.002 if half == "bfloat16" else 0.0004
    error = error_against_kfac(library, half, storage, step_size, 3000)
    if storage == "native":
        assert error >= 0.3
    else:
        assert error <= 5e-3


# ---------------------------------------------------------------------------------- dtypes


def dtypes_of(matrix: StructuredMatrix | tuple[()]) -> set[str]:
    return {name_of(leaf) for leaf in matrix.leaves} if matrix else set()


@in_half_precision
@pytest.mark.parametrize("storage", STORAGES)
def test_dtypes_of_a_state(
    library: Backend, half: str, storage: str, rng: np.random.Generator
) -> None:
    """The same before and after an update; what is computed, and the report, is in float32."""
    a, g = (in_half(library, x, half) for x in batch(rng))
    state = inverse_free_init(
        IN, OUT, structures=("upper-triangular", "diagonal"), like=a, storage=storage
    )

    def run(state: InverseFreeState) -> Any:
        statistics = inverse_free_statistics(state, a, g)
        state = inverse_free_update(state, statistics, damping=DAMPING, step_size=0.1, momentum=0.5)
        product = inverse_free_apply(state, in_half(library, np.ones((OUT, IN)), half))
        return state, statistics, product

    if library.name == "jax":
        run = library.jax.jit(run)  # type: ignore[attr-defined]
    new, statistics, product = run(state)
    for s in (state, new):
        factor = "float32" if storage == "float32" else half
        assert dtypes_of(s.K) == dtypes_of(s.C) == {factor}
        assert dtypes_of(s.momentum_K) == dtypes_of(s.momentum_C) == {half}
        lost = {half} if storage == "compensated" else set()
        assert dtypes_of(s.compensation_K) == dtypes_of(s.compensation_C) == lost
        assert [name_of(x) for x in fields_of(s.report)] == ["float32"] * 6 + ["bool"]
        assert name_of(s.step) == "int32"
    assert dtypes_of(statistics.H_K) == dtypes_of(statistics.H_C) == {"float32"}
    assert name_of(statistics.rows) == "float32"
    assert name_of(product) == "float32"
    assert name_of(new.K.to_dense()) == "float32"


@pytest.mark.thinned
@in_half_precision
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_skipped_or_taken_without_a_read(
    library: Backend, half: str, storage: str, name: str, rng: np.random.Generator
) -> None:
    """With check=False the device chooses between old and new factors, of what is not a number."""
    a, g = (in_half(library, x, half) for x in batch(rng))
    pair = structure(name, IN), structure(name, OUT)
    state = inverse_free_init(IN, OUT, structures=pair, like=a, storage=storage)
    call: Any = partial(inverse_free_update, damping=DAMPING, step_size=0.1, momentum=0.5)
    if library.name == "jax":
        call = library.jax.jit(partial(call, check=False))  # type: ignore[attr-defined]
    else:
        call = partial(call, check=False)
    statistics = inverse_free_statistics(state, a, g, check=False)
    poisoned = inverse_free_statistics(state, a * math.nan, g, check=False)
    taken, skipped = call(state, statistics), call(state, poisoned)
    assert not bool(taken.report.skipped)
    assert bool(skipped.report.skipped)
    for field in ("K", "C", "momentum_K", "compensation_C"):
        if not (kept := getattr(state, field)):
            continue
        leaves = zip(kept.leaves, getattr(skipped, field).leaves, getattr(taken, field).leaves)
        for before, after_nan, new in leaves:
            assert name_of(before) == name_of(after_nan) == name_of(new)
            one, other, new = (
                library.numpy(astype(x, "float32")) for x in (before, after_nan, new)
            )
            np.testing.assert_array_equal(one, other)
            assert np.all(np.isfinite(new))


@in_half_precision
@pytest.mark.parametrize(
    ("storage", "bytes_each"), [("native", 2), ("float32", 4), ("compensated", 4)]
)
def test_memory_of_the_factors(half: str, storage: str, bytes_each: int) -> None:
    """2 bytes for each number, or 4, in one array or in two."""
    like = np.zeros(1, half_dtype(half))
    state = inverse_free_init(
        769, 30, structures=("hierarchical", "dense"), like=like, storage=storage, momentum=False
    )
    held = [state.K, state.C, state.compensation_K, state.compensation_C]
    found = sum(leaf.nbytes for M in held if M for leaf in M.leaves)
    assert found == bytes_each * (state.K.size + state.C.size)
    assert state.K.size == 31 * 769 - 255


# ---------------------------------------------------------------------------------- values


@in_half_precision
@pytest.mark.parametrize("retraction", ["series", "expm", "binomial", "implicit", "exact"])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_storage_is_rounded(
    half: str, retraction: str, name: str, rng: np.random.Generator
) -> None:
    """An update from half precision is that of the same factors in float32, rounded.

    To half precision, not at all, or to two numbers that lose u^2.
    """
    dtype, u = half_dtype(half), HALF[half]
    pair = structure(name, IN), structure(name, OUT)
    a, g = (x.astype(dtype) for x in batch(rng))
    K, C = (
        s.from_dense(member(rng, name, d).astype("float32")).astype(half)
        for s, d in zip(pair, (IN, OUT))
    )
    options = {"damping": DAMPING, "step_size": 0.1, "retraction": retraction, "momentum": 0.5}
    init = partial(inverse_free_init, IN, OUT, structures=pair)
    exact = dataclasses.replace(init(like=np.zeros(1, "float32")), K=K.computed(), C=C.computed())
    exact = after(exact, a.astype("float32"), g.astype("float32"), **options)
    native, wide, pairs = (
        dataclasses.replace(
            init(like=a, storage=storage),
            K=K.astype("float32") if storage == "float32" else K,
            C=C.astype("float32") if storage == "float32" else C,
        )
        for storage in STORAGES
    )
    native, wide, pairs = (after(state, a, g, **options) for state in (native, wide, pairs))
    for x, y in zip(fields_of(native)[:4], fields_of(exact)[:4]):
        for leaf, expected in zip(x.leaves, y.leaves):
            np.testing.assert_array_equal(leaf, expected.astype(dtype))
    for leaf, expected in zip(wide.K.leaves, exact.K.leaves):
        np.testing.assert_array_equal(leaf, expected)
    both = restore(pairs.K, pairs.compensation_K)
    for leaf, expected in zip(both.leaves, exact.K.leaves):
        assert np.all(np.abs(leaf - expected) <= u**2 * np.abs(expected) + 2.0**-25)


@in_half_precision
def test_compensated_factors_are_used_with_their_compensation(
    half: str, rng: np.random.Generator
) -> None:
    """By the statistics and by the product: against float64, to u^2 of each rounding."""
    a, g = batch(rng)
    dtype = half_dtype(half).name
    like = np.zeros(1, "float32")
    state = inverse_free_init(IN, OUT, like=like, dtype=dtype, storage="compensated")
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.3, "rule": "ikfac"}
    state = after(state, a.astype("float32"), g.astype("float32"), **options)
    expected = dense_update(
        DenseState.start(IN, OUT), second_moment(a), second_moment(g), **options
    )
    statistics = inverse_free_statistics(state, a.astype("float32"), g.astype("float32"))
    allowed = 4 * HALF[half] ** 2 + 50 * IN * U["float32"]
    H_K = expected.K.T @ a.T @ a @ expected.K
    assert relative(statistics.H_K.to_dense(), H_K) <= allowed
    V = rng.standard_normal((OUT, IN))
    found = inverse_free_apply(state, V.astype("float32"))
    P, Q = (F @ F.T for F in (expected.K, expected.C))
    assert relative(found, Q @ V @ P) <= 4 * allowed


@in_half_precision
def test_statistics_of_half_precision_are_sums_in_float32(
    library: Backend, half: str, rng: np.random.Generator
) -> None:
    """Of many rows, which would get lost in sums of half precision."""
    a, g = (rng.standard_normal((3000, d)).astype(half_dtype(half)) for d in (IN, OUT))
    like = [in_half(library, x, half) for x in (a, g)]
    state = inverse_free_init(IN, OUT, like=like[0])
    statistics = inverse_free_statistics(state, *like, check=False)
    for x, H in ((a, statistics.H_K), (g, statistics.H_C)):
        exact = x.astype("float64").T @ x.astype("float64")
        assert relative(library.numpy(H.to_dense()), exact) <= 3000**0.5 * U["float32"]
    assert float(statistics.rows) == 3000


def test_sizes_beyond_float16(rng: np.random.Generator) -> None:
    """Statistics of 1e8 and tangents of 1e7 are no harm: what is stored is K, of 1e-4."""
    a, g = batch(rng)
    state = inverse_free_init(IN, OUT, like=np.zeros(1, "float16"), momentum=False)
    update = partial(after, damping=DAMPING, step_size=0.1, rule="ikfac", retraction="exact")
    state = update(state, (1e4 * a).astype("float32"), g.astype("float32"))
    K = state.K.to_dense()
    step = float(state.report.step_K)  # which rounding of such a tangent limits
    curvature = 1e8 * second_moment(a) + DAMPING * np.eye(IN)
    expected = np.linalg.inv((1 - step) * np.eye(IN) + step * curvature)
    assert math.isfinite(float(state.report.bound_K))
    assert relative(K @ K.T, expected) <= 0.1


def test_factors_beyond_float16() -> None:
    """Without data, K grows to 1 / sqrt(damping): 1e6, which float16 cannot hold."""
    like = np.zeros((4, IN), "float16")
    state = inverse_free_init(IN, IN, like=like, momentum=False)
    options: dict[str, Any] = {"damping": 1e-12, "step_size": 0.9, "check": False}
    state = after(state, like, like, 12, rule="ikfac", retraction="exact", **options)
    assert np.all(np.isfinite(state.K.to_dense()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_compiled_code_rounds_too(dtype: str, rng: np.random.Generator) -> None:
    """Compilers that fuse would keep digits that storage loses, and lose what it compensates."""
    torch = pytest.importorskip("torch")
    a, g = (torch.asarray(rng.standard_normal((9, d)).astype("float32")) for d in (IN, OUT))

    def step(state: Any) -> Any:
        statistics = inverse_free_statistics(state, a, g)
        options: dict[str, Any] = {"damping": 0.1, "step_size": 1e-3, "rule": "ikfac"}
        return inverse_free_update(state, statistics, check=False, **options)

    state = eager = inverse_free_init(
        IN, OUT, structures=("diagonal", "diagonal"), like=a, dtype=dtype, storage="compensated"
    )
    compiled = torch.compile(step, fullgraph=True)
    for _ in range(30):
        state, eager = compiled(state), step(eager)
    assert torch.any(state.compensation_K.leaves[0] != 0)
    for name in ("K", "C"):
        one, other = (
            restore(getattr(s, name), getattr(s, f"compensation_{name}")) for s in (state, eager)
        )
        torch.testing.assert_close(one.leaves[0], other.leaves[0], rtol=HALF[dtype] ** 2, atol=0.0)

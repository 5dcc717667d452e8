"""Samples of weight 0 change nothing, and derivatives by weights are those of a smooth function."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, sr_data
from spectra import quick_compilation  # noqa: F401

import ngdla

MODES = ("real", "complex", "holomorphic")
NOTHING = np.array([0, 3])  # the samples of weight 0 here


def spoiled(O: np.ndarray, E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return data of which those of samples 0 and 3 are not finite."""
    O, E = O.copy(), E.copy()
    O[0, 1], O[3], E[3] = np.nan, np.inf, np.nan
    return O, E


def weights_of(rng: np.random.Generator, n: int, dtype: str = "float64") -> np.ndarray:
    weights = (0.5 + rng.random(n)).astype(dtype)
    weights[NOTHING] = 0.0
    return weights


def in_form(form: str, O: Any, shape: tuple[int, int], dtype: str) -> Any:
    """Return log-derivatives as an array, as column blocks or as a stream in three blocks."""
    n, m = shape
    rows, columns = -(-n // 3), -(-m // 3)
    if form == "array":
        return O
    if form == "rows":
        blocks = [O[i : i + rows, :] for i in range(0, n, rows)]
        return ngdla.RowStream(blocks, shape, dtype=dtype, like=O)
    blocks = [O[:, i : i + columns] for i in range(0, m, columns)]
    return blocks if form == "list" else ngdla.ColumnStream(blocks, shape, dtype=dtype, like=O)


# -------------------------------------------------------------------------- weight 0 is nothing


@pytest.mark.thinned
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["array", "list", "columns", "rows"])
@pytest.mark.parametrize("options", [{}, {"snr": 0.5}], ids=str)
def test_samples_of_weight_0_change_nothing(
    backend: Backend, mode: str, form: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    n, m = (15, 6) if form == "rows" else (8, 15)
    stream = form in ("rows", "columns")
    if (form == "rows" and options) or (stream and backend.name in ("torch-meta", "dask")):
        pytest.skip("refused")
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O, E = sr_data(rng, mode, dtype, n, m)
    weights = weights_of(rng, n, real)
    left = weights > 0
    previous = rng.standard_normal(m).astype(real)
    options = {"mode": mode, "momentum": 0.8, **options}
    reference = ngdla.stochastic_reconfiguration(
        O[left], E[left], 0.1, weights=weights[left], previous=previous, **options
    )
    like, energies = (backend.asarray(x) for x in spoiled(O, E))
    given = in_form(form, like, (n, m), str(O.dtype))
    pieces = in_form("list", previous[None, :], (1, m), real) if form == "list" else None
    prior = previous if pieces is None else [piece[0] for piece in pieces]
    call = _eager if stream else backend.call
    d = call(
        ngdla.stochastic_reconfiguration,
        given,
        energies,
        0.1,
        weights=backend.asarray(weights),
        previous=backend.asarray(prior),
        **options,
    )
    expected = dtype if mode == "holomorphic" else real
    if form == "list":
        reference = [reference[i : i + 5] for i in (0, 5, 10)]
    backend.assert_matches(d, reference, like=like, dtype=expected, tolerance=1e4 * U[dtype])


def _eager(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


@pytest.mark.parametrize("mode", MODES)
def test_scores_and_residuals_of_weight_0_are_0(
    backend: Backend, mode: str, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[-1]
    O, E = sr_data(rng, mode, dtype, 5, 7)
    weights = weights_of(rng, 5, "float32")
    S = backend.call(
        ngdla.scores, backend.asarray(spoiled(O, E)[0]), weights=backend.asarray(weights), mode=mode
    )
    f = backend.call(
        ngdla.residuals,
        backend.asarray(spoiled(O, E)[1]),
        weights=backend.asarray(weights),
        mode=mode,
    )
    if not backend.has_values:
        return
    nothing = np.concatenate([NOTHING, NOTHING + 5]) if mode == "complex" else NOTHING
    S, f = backend.numpy(S), backend.numpy(f)
    assert not S[nothing].any()
    assert not f[NOTHING[1:]].any()
    assert np.isfinite(S).all()
    assert np.isfinite(f).all()


@pytest.mark.parametrize("form", ["columns", "rows"])
def test_streams_take_no_further_pass(form: str, rng: np.random.Generator) -> None:
    O, E = spoiled(*sr_data(rng, "real", "complex128", 15, 6))
    calls = []
    given = in_form(form, O, (15, 6), "float64")._reader.source

    def counted() -> Any:
        calls.append(1)
        return iter(given)

    kind = ngdla.ColumnStream if form == "columns" else ngdla.RowStream
    stream = kind(counted, (15, 6), dtype="float64")
    ngdla.stochastic_reconfiguration(stream, E.real, 0.1, weights=weights_of(rng, 15))
    assert len(calls) == (3 if form == "columns" else 2)


@pytest.mark.parametrize("form", ["array", "list", "columns", "rows"])
def test_samples_that_count_must_be_finite(form: str, rng: np.random.Generator) -> None:
    O, E = spoiled(*sr_data(rng, "real", "complex128", 15, 6))
    weights = weights_of(rng, 15)
    bad = O.copy()
    bad[9, 2] = np.nan
    message = r"block [01] of the stream `log_der.*NaN" if form[-1] == "s" else "`log_deriv.*NaN"
    with pytest.raises(ValueError, match=message):
        ngdla.stochastic_reconfiguration(
            in_form(form, bad, (15, 6), "float64"), E.real, 0.1, weights=weights
        )
    bad_E = E.real.copy()
    bad_E[9] = np.inf
    with pytest.raises(ValueError, match="`local_energies` contains NaN or Inf"):
        ngdla.stochastic_reconfiguration(
            in_form(form, O, (15, 6), "float64"), bad_E, 0.1, weights=weights
        )


@pytest.mark.parametrize("weights", [[0.0, 1.0, np.nan], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
def test_what_cannot_be_refused_is_nan(weights: list[float], rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    O, E = rng.standard_normal((3, 5)), rng.standard_normal(3)
    step = jax.jit(lambda O, E, w: ngdla.stochastic_reconfiguration(O, E, 0.1, weights=w))
    assert np.isnan(step(O, E, np.array(weights))).all()
    bad = np.where(np.arange(3)[:, None] == 1, np.nan, O)
    assert np.isnan(step(bad, E, np.array([0.0, 1.0, 2.0]))).all()
    assert np.isfinite(step(bad, E, np.array([1.0, 0.0, 2.0]))).all()


@pytest.mark.parametrize("size", [1e4, 1e8, 1e15, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_however_far_out_a_sample_of_weight_0_is(
    dtype: str, size: float, rng: np.random.Generator
) -> None:
    """Its q, which derivatives need, is never seen."""
    jax = pytest.importorskip("jax")
    O, E = rng.standard_normal((6, 9)).astype(dtype), rng.standard_normal(6).astype(dtype)
    weights = weights_of(rng, 6, dtype)
    left = weights > 0
    reference = ngdla.stochastic_reconfiguration(O[left], E[left], 1e-2, weights=weights[left])
    O[NOTHING] *= size
    step = jax.jit(
        lambda *arrays: ngdla.stochastic_reconfiguration(*arrays[:2], 1e-2, weights=arrays[2])
    )
    error = np.linalg.norm(step(O, E, weights) - reference)
    assert error <= 1e3 * U[dtype] * np.linalg.norm(reference)


# --------------------------------------------------------------------------- weights of any scale


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", ["smallest", "largest"])
def test_weights_at_the_ends_of_the_range(
    backend: Backend, dtype: str, end: str, rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes or not backend.has_values:
        pytest.skip("no such values")
    O, E = rng.standard_normal((5, 9)).astype(dtype), rng.standard_normal(5).astype(dtype)
    weights = np.array([0.25, 0.0, 0.5, 1.0, 0.125], dtype=dtype)
    factor = {"smallest": 16 * np.finfo(dtype).tiny, "largest": np.finfo(dtype).max}[end]
    like = backend.asarray(O)
    one, other = (
        backend.call(ngdla.stochastic_reconfiguration, like, backend.asarray(E), 0.1, weights=w)
        for w in (backend.asarray(weights), backend.asarray(weights * factor))
    )
    backend.assert_matches(
        other, backend.numpy(one), like=like, dtype=dtype, tolerance=100 * U[dtype]
    )


def test_half_precision_weights(rng: np.random.Generator) -> None:
    O, E, weights = rng.standard_normal((6, 9)), rng.standard_normal(6), rng.random(6)
    weights = weights.astype("float16")
    one, other = (
        ngdla.stochastic_reconfiguration(O, E, 0.1, weights=w)
        for w in (weights, weights.astype("float64"))
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


# ------------------------------------------------------------------------------------ derivatives


def smooth_gradient(
    O: np.ndarray, E: np.ndarray, weights: np.ndarray, mode: str, c: np.ndarray
) -> np.ndarray:
    """Return the gradient of Re c^H d: p_i enters by A^-1 conj(Oc_i) (e_i - Oc_i d)."""
    p = weights / weights.sum()
    Oc, e = O - p @ O, E - p @ E
    e = e.real if mode == "real" else e
    only = np.asarray if mode == "holomorphic" else np.real
    A = only(H(Oc) @ (p[:, None] * Oc)) + DAMPING * np.eye(O.shape[1])
    d = np.linalg.solve(A, only(H(Oc) @ (p * e)))
    slopes = np.linalg.solve(A, only(Oc.conj() * (e - Oc @ d)[:, None]).T).T
    by_p = np.real(slopes @ c.conj())
    return (by_p - p @ by_p) / weights.sum()


DAMPING = 1e-2
WAYS = ("torch", "jax", "jax-jit", "jax-forward")


def gradient(way: str, value: Any, weights: np.ndarray) -> np.ndarray:
    if way == "torch":
        torch = pytest.importorskip("torch")
        leaf = torch.tensor(weights, requires_grad=True)
        value(torch.asarray, leaf).backward()
        return leaf.grad.numpy()
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    derive = jax.jacfwd if way == "jax-forward" else jax.grad
    function = derive(lambda w: value(jax.numpy.asarray, w))
    return np.asarray((jax.jit(function) if way != "jax" else function)(weights))


def is_quick(way: str, mode: str, shape: tuple[int, int], method: str) -> bool:
    """Tell whether a case is one of few that compile, or compiles nothing."""
    return way == "torch" or (way, mode, method) == ("jax-jit", "complex", "auto")


@pytest.mark.parametrize(
    ("way", "mode", "shape", "method"),
    [
        case if is_quick(*case) else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(WAYS, MODES, [(9, 20), (20, 9)], ["auto", "eigh"])
    ],
    ids=str,
)
@pytest.mark.parametrize("finite", [True, False])
def test_derivatives_by_weights_of_0(
    way: str, mode: str, shape: tuple[int, int], method: str, finite: bool
) -> None:
    if (way == "jax" and (mode, shape[0]) != ("real", 9)) or (method == "eigh" and not finite):
        pytest.skip("the others tell, or eigenvalues 0 coincide")
    rng = np.random.default_rng(5)
    O, E = sr_data(rng, mode, "complex128", *shape)
    weights = weights_of(rng, shape[0])
    c = rng.standard_normal(shape[1]) + 1j * rng.standard_normal(shape[1])
    c = c if mode == "holomorphic" else c.real
    counts = np.ones(shape[0], dtype=bool)
    if not finite:
        O, E = spoiled(O, E)
        counts[NOTHING] = False
    reference = np.zeros(shape[0])
    reference[counts] = smooth_gradient(O[counts], E[counts], weights[counts], mode, c)

    def value(convert: Any, weights: Any) -> Any:
        d = ngdla.stochastic_reconfiguration(
            convert(O), convert(E), DAMPING, weights=weights, mode=mode, method=method
        )
        d = (convert(c.conj()) * d).sum()
        return d.real if mode == "holomorphic" else d

    computed = gradient(way, value, weights)
    assert np.linalg.norm(computed - reference) <= 1e-8 * np.linalg.norm(reference)
    if not finite:
        assert not computed[NOTHING].any()


@pytest.mark.parametrize("way", ["torch", "jax-jit"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_derivatives_of_what_is_put_together(way: str, scale: float) -> None:
    """Scores and residuals have the same q, whatever their dtypes are."""
    rng = np.random.default_rng(6)
    O, E = rng.standard_normal((7, 12)).astype("float32"), rng.standard_normal(7)
    weights, c = weights_of(rng, 7), rng.standard_normal(12)
    reference = smooth_gradient(O.astype("float64"), E, weights, "real", c)

    def value(convert: Any, weights: Any) -> Any:
        S = ngdla.scores(convert(O * np.float32(scale)), weights=weights)
        f = ngdla.residuals(convert(E), weights=weights)
        return scale * (convert(c) * ngdla.damped_lstsq(S, f, DAMPING * scale**2)).sum()

    computed = gradient(way, value, weights)
    assert np.linalg.norm(computed - reference) <= 1e-4 * np.linalg.norm(reference)


@pytest.mark.parametrize("form", ["list", "columns", "rows"])
def test_derivatives_through_streams(form: str) -> None:
    rng = np.random.default_rng(7)
    O, E = rng.standard_normal((12, 6)), rng.standard_normal(12)
    weights, c = weights_of(rng, 12), rng.standard_normal(6)
    O[3], E[3] = np.nan, np.inf
    counts = np.arange(12) != 3
    reference = np.zeros(12)
    reference[counts] = smooth_gradient(O[counts], E[counts], weights[counts], "real", c)

    def value(convert: Any, weights: Any) -> Any:
        given = in_form(form, convert(O), (12, 6), "float64")
        d = ngdla.stochastic_reconfiguration(given, convert(E), DAMPING, weights=weights)
        pieces = d if isinstance(d, list) else [d]
        starts = np.cumsum([0, *(len(piece) for piece in pieces)])
        return sum((convert(c[i : i + len(x)]) * x).sum() for i, x in zip(starts, pieces))

    computed = gradient("torch", value, weights)
    assert np.linalg.norm(computed - reference) <= 1e-8 * np.linalg.norm(reference)


def test_numpy_keeps_exact_zeros(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    O, weights = rng.standard_normal((5, 7)), weights_of(rng, 5)
    for S in (
        ngdla.scores(O, weights=weights),
        ngdla.scores(torch.asarray(O), weights=torch.asarray(weights)),
    ):
        assert not np.asarray(S)[NOTHING].any()

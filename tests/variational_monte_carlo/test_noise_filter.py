"""The signal-to-noise filter against its definition in the m x m eigenbasis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array, sr_data
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend.calls import opened
from ngdla.damped.problem import Options
from ngdla.damped.right_hand_side import LeastSquares
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.variational_monte_carlo.filtered_step import Filters, filtered_step
from ngdla.variational_monte_carlo.noise_filter import SNRInfo

MODES = ("real", "complex", "holomorphic")
SHAPES = [(8, 20), (20, 8)]


def filtered(S: Any, f: Any, null: Any, damping: Any, snr: Any, x0: Any = None, **options: Any):
    scores = score_matrix(S)
    pieces = None if x0 is None else (x0[..., None],)
    rhs = LeastSquares(f[..., None], pieces, True)
    keywords = {"refine": 0, "null": null, "trusted": True, **options}
    full_output = keywords.pop("full_output", False)
    with opened(f, keywords.pop("check", True)) as checks:
        filters, chosen = Filters(snr), Options(**keywords)
        return filtered_step(scores, rhs, damping, filters, chosen, checks, full_output=full_output)


def centred(
    rng: np.random.Generator, mode: str, dtype: str, shape: tuple[int, int], p: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return S, f and the null vectors."""
    O, E = sr_data(rng, mode, dtype, *shape)
    E = E.real if mode == "real" else E
    S, f = ngdla.scores(O, weights=p, mode=mode), ngdla.residuals(E, weights=p, mode=mode)
    q = np.sqrt(p / p.sum())
    null = np.kron(np.eye(2), q[:, None]) if mode == "complex" else q
    return S, f, null.astype(S.real.dtype)


def defined(
    S: np.ndarray,
    f: np.ndarray,
    p: np.ndarray,
    damping: float,
    snr: float,
    x0: np.ndarray,
    metric: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, the ratios and the eigenvalues of all m directions, ascending."""
    root = np.sqrt(metric)
    T = (S / root).astype(complex)
    r, p = f - S @ x0, p / p.sum()
    values, V = np.linalg.eigh(H(T) @ T)
    forces = [np.conj(row) * r_i for row, r_i in zip(T, r)]  # conj(S_i) f_i of each row
    if len(r) == 2 * len(p):
        forces = [forces[i] + forces[i + len(p)] for i in range(len(p))]
    samples = np.array(forces) @ np.conj(V)  # V^H F of each sample
    force = samples.sum(axis=0)
    error = np.sqrt(np.sum(np.abs(samples - p[:, None] * force) ** 2, axis=0))
    ratio = np.abs(force) / error
    kept = 1 / (1 + (snr / ratio) ** 6)
    return x0 + (V @ (kept * force / (values + damping))) / root, ratio, values


@pytest.mark.thinned
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_definition(
    backend: Backend, mode: str, shape: tuple[int, int], weighted: bool, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    p = (rng.integers(1, 5, shape[0]) if weighted else np.ones(shape[0])).astype(real)
    S, f, null = centred(rng, mode, dtype, shape, p)
    x0 = (0.1 * random_array(rng, (shape[1],), str(S.dtype))).astype(S.dtype)
    metric = (0.5 + rng.random(shape[1])).astype(real)
    arrays = backend.asarray([S, f, null, x0, metric])
    x, info = backend.call(
        lambda S, f, null, x0, metric: filtered(
            S, f, null, 0.1, 1.5, x0, metric=metric, full_output=True
        ),
        *arrays,
    )
    wide = [a.astype(np.result_type(a, "float64")) for a in (S, f, p, x0, metric)]
    expected, ratio, values = defined(*wide[:3], 0.1, 1.5, *wide[3:])
    kind = {"like": arrays[0], "dtype": real, "tolerance": 1e5 * U[real]}
    backend.assert_matches(x, expected, **{**kind, "dtype": str(S.dtype)})
    skipped = null.size // len(null) if len(S) < shape[1] else 0
    count = min(S.shape)
    nothing = np.zeros(skipped)
    top = slice(len(values) - count + skipped, None)
    backend.assert_matches(info.snr, np.append(nothing, ratio[top]), **kind)
    backend.assert_matches(info.eigenvalues, np.append(nothing, values[top]), **kind)
    kept = np.append(nothing, 1 / (1 + (1.5 / ratio[top]) ** 6))
    backend.assert_matches(info.kept, kept, **kind)
    length = np.asarray(np.linalg.norm(S @ expected))
    backend.assert_matches(info.step_norm, length, **kind)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_threshold_keeps_the_step(
    mode: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    p = rng.random(shape[0])
    S, f, null = centred(rng, mode, "complex128", shape, p)
    x0 = random_array(rng, (shape[1],), str(S.dtype))
    x = filtered(S, f, null, 1e-2, 0.0, x0)
    plain = ngdla.damped_lstsq(S, f, 1e-2, x0=x0, null=null)
    assert np.linalg.norm(x - plain) <= 1e-11 * np.linalg.norm(plain)


def test_a_high_threshold_stops_the_step(rng: np.random.Generator) -> None:
    S, f, null = centred(rng, "real", "float64", (8, 20), np.ones(8))
    x0 = rng.standard_normal(20)
    np.testing.assert_allclose(filtered(S, f, null, 1e-2, 1e6, x0), x0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scales_of_scores_and_energies(shape: tuple[int, int], rng: np.random.Generator) -> None:
    S, f, null = centred(rng, "holomorphic", "complex128", shape, np.ones(shape[0]))
    x, info = filtered(S, f, null, 1e-2, 2.0, full_output=True)
    y, other = filtered(8 * S, f / 4, null, 64e-2, 2.0, full_output=True)
    np.testing.assert_allclose(32 * y, x, rtol=1e-10)
    np.testing.assert_allclose(other.snr, info.snr, rtol=1e-10)


def test_directions_without_noise_and_without_signal() -> None:
    """Two samples pull the same way: no noise. Nothing pulls along the other direction."""
    S = np.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    null = np.full(4, 0.5)
    x, info = filtered(S, np.asarray([1.0, -1.0, 0.0, 0.0]), null, 1.0, 3.0, full_output=True)
    np.testing.assert_allclose(info.eigenvalues, [2.0, 8.0], rtol=1e-14)
    np.testing.assert_array_equal(info.snr[1], 0.0)
    np.testing.assert_allclose(x, [2 / 3 / (1 + (3 / info.snr[0]) ** 6), 0.0], rtol=1e-14)
    S = np.asarray([[1.0], [-1.0], [1.0], [-1.0]])  # nothing is rounded
    x, info = filtered(S, S[:, 0], null, 1.0, 3.0, full_output=True)
    assert np.isinf(info.snr[0])
    np.testing.assert_allclose(x, [4 / 5], rtol=1e-14)


def test_nothing_to_do(rng: np.random.Generator) -> None:
    S, f, null = centred(rng, "real", "float64", (6, 15), np.ones(6))
    x, info = filtered(S, 0 * f, null, 1.0, 2.0, full_output=True)
    np.testing.assert_array_equal(x, 0)
    np.testing.assert_array_equal(info.snr, 0)
    assert np.all(np.isfinite(filtered(0 * S, f, null, 1.0, 2.0)))


def test_gradients_are_finite(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, f, null = centred(rng, "real", "float64", (6, 15), np.ones(6))
    c = rng.standard_normal(15)

    def scalar(f: Any) -> Any:
        return jax.numpy.sum(c * filtered(jax.numpy.asarray(S), f, jax.numpy.asarray(null), 0.1, 2))

    scalar = jax.jit(scalar)
    gradient, direction = jax.jit(jax.grad(scalar)), rng.standard_normal(6)
    slope = gradient(jax.numpy.asarray(f))
    ahead, behind = (scalar(jax.numpy.asarray(f + s * 1e-6 * direction)) for s in (1, -1))
    np.testing.assert_allclose(slope @ direction, (ahead - behind) / 2e-6, rtol=1e-6)
    assert np.all(np.isfinite(gradient(jax.numpy.zeros(6))))


def test_batches_are_stacked_problems(backend: Backend, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    problems = [centred(rng, "holomorphic", dtype, (4, 7), np.ones(4)) for _ in range(3)]
    S, f, null = (np.stack(x) for x in zip(*problems))
    arrays = backend.asarray([S, f, null])
    x = backend.call(lambda S, f, null: filtered(S, f, null, 0.1, 1.5), *arrays)
    looped = np.stack([filtered(*one, 0.1, 1.5) for one in problems])
    backend.assert_matches(x, looped, like=arrays[0], dtype=dtype, tolerance=1e5 * U[dtype])


def test_illegal_damping_under_jit_is_nan(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, f, null = map(jax.numpy.asarray, centred(rng, "real", "float64", (6, 15), np.ones(6)))
    x = jax.jit(lambda damping: filtered(S, f, null, damping, 2.0))(-1.0)
    assert np.all(np.isnan(x))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"snr": -1}, ValueError, "`snr` is -1; it must be finite and not negative"),
        ({"snr": float("nan")}, ValueError, "`snr` is nan"),
        ({"snr": "2"}, TypeError, "`snr` is '2'; it must be a number"),
        ({"method": "qr"}, ValueError, "`method` is 'qr'; with `snr` it must be 'auto' or 'eigh'"),
        ({"precision": "mixed"}, ValueError, "`precision` is 'mixed'; with `snr`"),
        ({"refine": 2}, ValueError, "`refine` is 2, but steps filtered by `snr`"),
        ({"damping": -1.0}, ValueError, "`damping` is -1.0"),
    ],
)
def test_bad_options(
    options: dict[str, Any], error: type[Exception], message: str, rng: np.random.Generator
) -> None:
    S, f, null = centred(rng, "real", "float64", (6, 15), np.ones(6))
    with pytest.raises(error, match=message):
        filtered(S, f, null, **{"damping": 0.1, "snr": 2.0, **options})


def test_bad_values(rng: np.random.Generator) -> None:
    S, f, null = centred(rng, "real", "float64", (6, 15), np.ones(6))
    with pytest.raises(ValueError, match="`f` contains NaN"):
        filtered(S, f * np.nan, null, 0.1, 2.0)
    with pytest.raises(ValueError, match="`S` contains NaN"):
        filtered(S * np.nan, f, null, 0.1, 2.0)
    with pytest.raises(ValueError, match="`damping` holds values"):
        filtered(S, f, null, np.asarray(-1.0), 2.0)
    with pytest.raises(ValueError, match="`metric` holds values"):
        filtered(S, f, null, 0.1, 2.0, metric=-np.ones(15))


def test_the_result_is_a_pair_on_demand(rng: np.random.Generator) -> None:
    S, f, null = centred(rng, "real", "float64", (6, 15), np.ones(6))
    x, info = filtered(S, f, null, 0.1, 2.0, full_output=True)
    assert isinstance(info, SNRInfo)
    np.testing.assert_array_equal(x, filtered(S, f, null, 0.1, 2.0))

"""Leave-one-out residuals against fits that leave one sample out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array, sr_data
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend import shapes


def refitted(
    design: np.ndarray, f: np.ndarray, penalty: np.ndarray, samples: list[list[int]]
) -> np.ndarray:
    """Return f_B - design_B x for the rows B of each sample, x from all other rows."""
    e = np.zeros(f.shape, dtype=np.result_type(design, f))
    for rows in samples:
        keep = np.setdiff1d(np.arange(len(f)), rows)
        M = design[keep]
        x = np.linalg.solve(H(M) @ M + np.diag(penalty), H(M) @ f[keep])
        e[rows] = f[rows] - design[rows] @ x
    return e


def sample_problem(
    rng: np.random.Generator, mode: str, dtype: str, shape: tuple[int, int], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[list[int]]]:
    """Return scores, f, null, and the design with a free mean and the rows of each sample."""
    n, m = shape
    real = "float32" if U[dtype] > 1e-10 else "float64"
    given = dtype if mode == "holomorphic" else real
    O, E = sr_data(rng, mode, dtype, n, m)
    q = np.sqrt(weights / weights.sum())
    rows = q[:, None] * O
    f = q * (E.real if mode == "real" else E)
    samples = [[i] for i in range(n)]
    N = q[:, None]
    if mode == "complex":
        rows, f = np.concatenate([rows.real, rows.imag]), np.concatenate([f.real, f.imag])
        N, samples = np.kron(np.eye(2), N), [[i, i + n] for i in range(n)]
    S, design = rows - N @ (N.T @ rows), np.concatenate([rows, N], axis=1)
    return S.astype(given), f.astype(given), N.astype(real), design, samples


@pytest.mark.thinned
@pytest.mark.parametrize("mode", ["real", "complex", "holomorphic"])
@pytest.mark.parametrize("shape", [(7, 17), (17, 7)], ids=str)
@pytest.mark.parametrize("method", ["cholesky", "eigh", "qr"])
def test_the_mean_is_fitted_without_the_sample(
    backend: Backend, mode: str, shape: tuple[int, int], method: str, rng: np.random.Generator
) -> None:
    """The intercept that `null` stands for is free, weighted, and not that of all samples."""
    dtype = backend.dtypes[-1]
    weights = rng.integers(1, 4, shape[0]).astype(float)
    S, f, null, design, samples = sample_problem(rng, mode, dtype, shape, weights)
    penalty = np.concatenate([np.full(shape[1], 0.1), np.zeros(null.shape[1])])
    like = backend.asarray(S)

    def residuals(S: Any, f: Any, null: Any) -> Any:
        factor = ngdla.damped_factor(S, 0.1, null=null, method=method, check=False)
        return factor.leave_one_out(f)

    e = backend.call(residuals, like, backend.asarray(f), backend.asarray(null))
    reference = refitted(design, f, penalty, samples)
    backend.assert_matches(e, reference, like=like, dtype=str(S.dtype), tolerance=1e4 * U[dtype])


@pytest.mark.parametrize("shape", [(6, 14), (14, 6)], ids=str)
@pytest.mark.parametrize("stacked", [False, True])
def test_ridge_regression(
    backend: Backend, shape: tuple[int, int], stacked: bool, rng: np.random.Generator
) -> None:
    """Without null vectors; several complex right-hand sides of real scores, and a metric."""
    n, m = shape
    real = "float32" if U[backend.dtypes[-1]] > 1e-10 else "float64"
    result = backend.dtypes[-1]
    S, f = random_array(rng, (n, m), real), random_array(rng, (n, 2), result)
    metric = (0.5 + rng.random(m)).astype(real)
    like = backend.asarray(S)

    def residuals(S: Any, f: Any, metric: Any) -> Any:
        factor = ngdla.damped_factor(S, 0.3, metric=metric, check=False)
        return factor.leave_one_out(f, stacked=stacked)

    e = backend.call(residuals, like, backend.asarray(f), backend.asarray(metric))
    half = n // 2
    samples = [[i, i + half] for i in range(half)] if stacked else [[i] for i in range(n)]
    reference = refitted(S, f, 0.3 * metric, samples)
    backend.assert_matches(e, reference, like=like, dtype=result, tolerance=1e4 * U[result])


@pytest.mark.parametrize("mode", ["real", "complex"])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_samples_of_weight_zero_have_no_residual(
    mode: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    weights = np.ones(shape[0])
    weights[[1, 3]] = 0
    S, f, null, design, samples = sample_problem(rng, mode, "complex128", shape, weights)
    e = ngdla.damped_factor(S, 0.1, null=null).leave_one_out(f)
    penalty = np.concatenate([np.full(shape[1], 0.1), np.zeros(null.shape[1])])
    np.testing.assert_allclose(e, refitted(design, f, penalty, samples), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(e[[1, 3]], 0)


def test_batches_are_stacked_problems(valued_backend: Backend, rng: np.random.Generator) -> None:
    backend = valued_backend
    dtype = backend.dtypes[-1]
    for shape in ((3, 5, 9), (3, 9, 5)):
        S, f = random_array(rng, shape, dtype), random_array(rng, shape[:2], dtype)
        like = backend.asarray(S)

        def residuals(S: Any, f: Any) -> Any:
            return ngdla.damped_factor(S, 0.1, check=False).leave_one_out(f)

        e = backend.call(residuals, like, backend.asarray(f))
        looped = np.stack([ngdla.damped_factor(a, 0.1).leave_one_out(b) for a, b in zip(S, f)])
        backend.assert_matches(e, looped, like=like, dtype=dtype, tolerance=1e4 * U[dtype])


@pytest.mark.parametrize("stacked", [False, True])
def test_chunks_of_rows(
    stacked: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of S are multiplied in chunks, of one block or several."""
    S, f = rng.standard_normal((20, 6)), rng.standard_normal(20)
    whole = ngdla.damped_factor(S, 0.1).leave_one_out(f, stacked=stacked)
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 3 * 6 * 8)
    for given in (S, [S[:, :2], S[:, 2:]]):
        e = ngdla.damped_factor(given, 0.1).leave_one_out(f, stacked=stacked)
        np.testing.assert_allclose(e, whole, rtol=1e-11)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "native"), ("float64", "mixed")])
def test_dtype_is_that_of_scores_and_right_hand_side(
    dtype: str, precision: str, rng: np.random.Generator
) -> None:
    S, f = random_array(rng, (6, 15), dtype), rng.standard_normal(6)
    e = ngdla.damped_factor(S, 0.5, precision=precision).leave_one_out(f)
    assert e.dtype == np.float64
    exact = ngdla.damped_factor(S.astype("float64"), 0.5).leave_one_out(f)
    assert np.linalg.norm(e - exact) <= 1e3 * U["float32"] * np.linalg.norm(exact)


def test_bad_input(rng: np.random.Generator) -> None:
    factor = ngdla.damped_factor(rng.standard_normal((5, 9)), 0.1)
    with pytest.raises(ValueError, match=r"`stacked` is True but `S` has 5 rows.*stacked=False"):
        factor.leave_one_out(np.ones(5), stacked=True)
    with pytest.raises(TypeError, match="`stacked` is 1; it must be True, False or None"):
        factor.leave_one_out(np.ones(5), stacked=1)
    with pytest.raises(ValueError, match=r"`f` has shape \(4,\)"):
        factor.leave_one_out(np.ones(4))
    with pytest.raises(ValueError, match="`f` contains NaN"):
        factor.leave_one_out(np.full(5, np.nan))

"""Orthonormal columns by Cholesky factors: of any condition, and of dependent columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, narrow, random_array, wide
from spectra import needs, norm, orthonormal, quick_compilation, relative  # noqa: F401

from ngdla.low_rank.cholesky_qr import (
    cholesky_qr,
    column_gram,
    equilibrated_cholesky,
    inverse_triangular,
    nearly_orthogonal,
)

ROWS, COLUMNS = 30, 6


def with_condition(rng: np.random.Generator, condition: float, dtype: str) -> np.ndarray:
    sigma = np.geomspace(1, 1 / condition, COLUMNS)
    left = orthonormal(rng, ROWS, COLUMNS, dtype)
    return (narrow(left) * sigma @ H(orthonormal(rng, COLUMNS, COLUMNS, dtype))).astype(dtype)


def hard_columns(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Return a stack: conditions 1, u^-1/2 and 0.1 / u, repeated columns, columns of any size."""
    u = U[dtype]
    stack = [with_condition(rng, condition, dtype) for condition in (1, u**-0.5, 0.1 / u)]
    repeated = stack[0].copy()
    repeated[:, 3:] = repeated[:, :3]
    return np.stack([*stack, repeated, stack[0] * 10.0 ** np.arange(-12, 12, 4).astype(dtype)])


@pytest.mark.thinned
def test_columns_are_orthonormal(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    """To a few u, whatever the condition; Q R = Y up to l u, since each sweep is a product."""
    needs(backend, dtype)
    Y = hard_columns(rng, dtype)
    like = backend.asarray(Y)
    Q, R = backend.call(cholesky_qr, like)
    backend.assert_kind(Q, like=like, dtype=dtype, shape=Y.shape)
    backend.assert_kind(R, like=like, dtype=dtype, shape=(len(Y), COLUMNS, COLUMNS))
    if not backend.has_values:
        return
    Q, R = backend.numpy(Q), backend.numpy(R)
    np.testing.assert_array_equal(R, np.triu(R))
    for i, y in enumerate(Y):
        assert norm(H(wide(Q[i])) @ wide(Q[i]) - np.eye(COLUMNS)) <= 4 * COLUMNS * U[dtype]
        assert relative(wide(Q[i]) @ wide(R[i]), y) <= 8 * COLUMNS * U[dtype]


def test_condition_1e6_in_float32(rng: np.random.Generator) -> None:
    """Where two sweeps of Cholesky alone would fail: u cond^2 = 6e4."""
    Y = with_condition(rng, 1e6, "float32")
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(Y.T @ Y)
    Q, _ = cholesky_qr(Y)
    assert norm(Q.T @ Q - np.eye(COLUMNS)) <= 4 * COLUMNS * U["float32"]


def test_column_gram(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    Y = random_array(rng, (2, ROWS, 3), dtype)
    like = backend.asarray(Y)
    G = backend.call(column_gram, like)
    reference = H(wide(Y)) @ wide(Y)
    backend.assert_matches(G, reference, like=like, dtype=dtype, tolerance=ROWS * U[dtype])


def test_the_factor_of_a_singular_matrix_exists(dtype: str, rng: np.random.Generator) -> None:
    """It is that of G to 8 l u in units of the norms of the columns; a zero column is none."""
    Y = random_array(rng, (ROWS, COLUMNS), dtype) * 10.0 ** np.arange(COLUMNS).astype(dtype)
    Y[:, 4] = 3 * Y[:, 1]
    Y[:, 2] = 0
    G = column_gram(Y)
    L = equilibrated_cholesky(G.copy(), ROWS)
    sizes = np.linalg.norm(Y, axis=0)
    sizes[2] = 1
    error = (L @ H(L) - G) / sizes / sizes[:, None]
    assert np.abs(error).max() <= 8 * COLUMNS * U[dtype]
    np.testing.assert_array_equal(L, np.tril(L))


@pytest.mark.parametrize(("cosine", "far"), [(0.0, True), (0.5, True), (0.9, False), (1.0, False)])
def test_nearly_orthogonal(valued_backend: Backend, cosine: float, far: bool) -> None:
    """Distances from the span of the columns before, here sqrt(1 - cosine^2), of 0.7 and more."""
    real = valued_backend.dtypes[0]
    Y = np.array([[1, cosine], [0, (1 - cosine**2) ** 0.5]], real) * np.array([3, 1e-4], real)

    def asked(Y: Any) -> Any:
        return nearly_orthogonal(equilibrated_cholesky(column_gram(Y), 2), 0.7)

    flag = valued_backend.call(asked, valued_backend.asarray(Y))
    assert bool(valued_backend.numpy(flag)) is far


def test_inverse_triangular(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    L = np.tril(random_array(rng, (2, 5, 5), dtype)) + 4 * np.eye(5, dtype=dtype)
    like = backend.asarray(L)
    inverse = backend.call(inverse_triangular, like)
    tolerance = 10 * U[dtype] * np.linalg.cond(L).max()
    backend.assert_matches(
        inverse, np.linalg.inv(narrow(L)), like=like, dtype=dtype, tolerance=tolerance
    )


@pytest.mark.parametrize("rows", [60, 1000])
def test_equal_columns(rows: int, valued_backend: Backend) -> None:
    """Sums of many terms of one sign err by more than what is shrunk at first."""
    real = valued_backend.dtypes[0]
    noise = np.random.default_rng(0).standard_normal((rows, 20)).astype(real)
    Y = np.ones((rows, 20), real) + 16 * np.asarray(U[real], real) * noise
    Q, R = (valued_backend.numpy(x) for x in cholesky_qr(valued_backend.asarray(Y)))
    assert np.abs(H(Q) @ Q - np.eye(20)).max() <= rows * U[real]
    assert np.abs(Q @ R - Y).max() <= 100 * rows * U[real]

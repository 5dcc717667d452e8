"""Triangular Toeplitz matrices: power series, transforms of many entries, and their optimum."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from backends import Backend
from patterns import member, projected
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    needs,
    norm,
    quick_compilation,  # noqa: F401
    relative,
)

from ngdla import structured_factor
from ngdla.structures import LowerToeplitz, UpperToeplitz

LARGE = 301  # a prime of neither factor of a transform, and above where products are dense
BOTH = pytest.mark.parametrize("structure", [LowerToeplitz(), UpperToeplitz()], ids=repr)


def decaying(rng: np.random.Generator, d: int, dtype: str) -> np.ndarray:
    """Return coefficients of a well-conditioned matrix."""
    c = random_array(rng, (d,), dtype) * 0.5 ** np.arange(1, d + 1)
    c[0] = 1.0
    return c.astype(dtype)


def dense(structure: Any, c: np.ndarray) -> np.ndarray:
    lower = scipy.linalg.toeplitz(c, np.zeros_like(c))
    return lower.T if isinstance(structure, UpperToeplitz) else lower


@cache
def large_case(structure: Any, dtype: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return K, V and X; and what follows: products, columns of K K and K^-1, projections."""
    rng = np.random.default_rng(7)
    K = dense(structure, decaying(rng, LARGE, dtype))
    V, X = random_array(rng, (LARGE, 2), dtype), random_array(rng, (3, LARGE), dtype)
    A, S = narrow(K), X.T @ X.conj()
    inverse = scipy.linalg.inv(A)
    exact = [A @ V, H(A) @ V, inverse @ V, A @ A, inverse]
    exact += [projected(structure, N) for N in (S, H(A) @ S @ A, H(A) @ A)]
    upper = isinstance(structure, UpperToeplitz)
    return [K, V, X], exact[:3] + [N[0] if upper else N[:, 0] for N in exact[3:]]


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@BOTH
def test_large_matrices(backend: Backend, dtype: str, structure: Any) -> None:
    """By transforms, to u log d and a condition of 2; a mean of few errs by u of the trace."""
    needs(backend, dtype)
    given, exact = large_case(structure, dtype)

    def run(K: Any, V: Any, X: Any) -> list[Any]:
        M = structure.from_dense(K, check=False)
        inner = [structure.project_samples(X, check=False), M.project_inner(X), M.project_gram()]
        matrices = [M @ M, M.inverse(), *inner]
        return [M @ V, M.H @ V, M.solve(V), *(A.leaves[0] for A in matrices), M.logabsdet()]

    arguments = backend.asarray(given)
    *found, logabsdet = backend.call(run, *arguments)
    for i, (x, reference) in enumerate(zip(found, exact)):
        tolerance = (40 if i < 5 else 2 * LARGE) * U[dtype]
        backend.assert_matches(x, reference, like=arguments[1], dtype=dtype, tolerance=tolerance)
    backend.assert_kind(logabsdet, like=arguments[1], dtype=REAL[dtype], shape=())


@BOTH
@pytest.mark.parametrize("d", [1, 2, 5, 64, LARGE])
def test_they_are_power_series(structure: Any, d: int, dtype: str) -> None:
    """They commute, and inverses, exponentials and roots are those of the series."""
    rng = np.random.default_rng(d)
    c, e = decaying(rng, d, dtype), decaying(rng, d, dtype)
    K, L = (structure.from_dense(dense(structure, x)) for x in (c, e))
    u = U[dtype]
    series = np.convolve(wide(c), wide(e))[:d]
    for product in (K @ L, L @ K):
        assert relative(product.leaves[0], series) <= 40 * u
    one = (K @ K.inverse()).leaves[0]
    assert norm(one - np.eye(d)[0]) <= 100 * u * norm(K.inverse().leaves[0])
    root = K.inv_sqrtm()
    assert relative((root @ root @ K).leaves[0], np.eye(d)[0]) <= 200 * u
    expected = wide(np.eye(d)[0].astype(c.dtype))  # y' = c' y, coefficient by coefficient
    slope = np.arange(d) * wide(c)
    expected[0] = np.exp(wide(c)[0])
    for k in range(1, d):
        expected[k] = np.sum(slope[1 : k + 1] * expected[:k][::-1]) / k
    # squarings double the error, as often as |K|_F must be halved
    assert relative(K.expm().leaves[0], expected) <= 40 * u * max(1.0, K.frobenius_norm())


@BOTH
def test_sums_of_diagonals_of_products(structure: Any, dtype: str) -> None:
    """Pi(K^H K) and |K|_F, which are not formed: as of the dense matrices."""
    for d in (1, 2, 9, LARGE):
        K = member(np.random.default_rng(d), structure, (d,), dtype)
        M = structure.from_dense(K)
        A = narrow(K)
        exact = projected(structure, H(A) @ A)
        # the sum of a diagonal errs by u of all squares, its mean by u over its length
        error = np.max(np.abs(M.project_gram().to_dense() - exact))
        assert error <= 20 * U[dtype] * norm(A) ** 2 * np.log2(2 * d)
        assert M.frobenius_norm() == pytest.approx(norm(A), rel=20 * d**0.5 * U[dtype])


@BOTH
@pytest.mark.parametrize("d", [1, 2, 5, 30])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_optimum_solves_a_small_system(structure: Any, d: int, dtype: str) -> None:
    """c = x sqrt(d / x_0) with Q x = e_0 and Q_kl = tr(J_k^T S J_l), J_l of ones at one lag."""
    X = random_array(np.random.default_rng(d), (2 * d, d), dtype)
    S = X.T @ X.conj() + 0.5 * np.eye(d)
    sign = 1 if isinstance(structure, UpperToeplitz) else -1
    Js = [np.eye(d, k=sign * lag) for lag in range(d)]
    Q = np.array([[np.trace(J.T @ S @ I) for I in Js] for J in Js])
    x = np.linalg.solve(Q, np.eye(d)[0])
    c = x * np.sqrt(d / x[0])
    K = structured_factor(S, structure, 1e-30)
    assert relative(K.leaves[0], c) <= 1e-10


@pytest.mark.parametrize("d", [3, 10, 40])
def test_a_stationary_process_is_whitened(d: int) -> None:
    """The inverse Cholesky factor of an autoregressive process of order 1, but for one end."""
    a = 0.6
    S = a ** np.abs(np.subtract.outer(np.arange(d), np.arange(d))) / (1 - a**2)
    K = structured_factor(S, LowerToeplitz(), 1e-30).to_dense()
    M = K.T @ S @ K
    assert np.max(np.abs(np.diag(M, -1))) <= 1 / d
    assert np.trace(M) == pytest.approx(d)

"""Kinds of small matrices, against the dense matrix in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array

from ngdla.damped.inverses import GramMatrix, Spectrum, cast_inverse

DAMPING = 0.25


def small_matrix(backend: Backend, kind: str, G: np.ndarray) -> GramMatrix | Spectrum:
    if kind == "Gram matrix":
        return GramMatrix(backend.asarray(G))
    values, Q = np.linalg.eigh(G)
    return Spectrum(backend.asarray(values), backend.asarray(Q))


@pytest.mark.parametrize("kind", ["Gram matrix", "spectrum"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_what_a_small_matrix_knows(
    valued_backend: Backend, kind: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    backend, n = valued_backend, 5
    dtype = backend.dtypes[-1]
    T = random_array(rng, (*batch, n, 2 * n), dtype)
    G = T @ H(T)
    W = G.astype("complex128") + DAMPING * np.eye(n)
    matrix = small_matrix(backend, kind, G)
    inverse, ok = matrix.copy().inverse(DAMPING)
    assert np.all(backend.numpy(ok))
    damping = backend.asarray(np.full(batch, DAMPING, dtype=U_REAL[dtype]))
    eigenvalues = np.linalg.eigvalsh(W)
    condition = float(np.max(eigenvalues[..., -1] / eigenvalues[..., 0]))
    tolerance = 100 * n * U[dtype] * condition
    expected = {
        "log det": (matrix.log_determinant(inverse, damping), np.linalg.slogdet(W)[1]),
        "dimension": (
            matrix.effective_dimension(inverse, damping),
            np.sum(1 - DAMPING / eigenvalues, axis=-1),
        ),
    }
    for name, (value, reference) in expected.items():
        np.testing.assert_allclose(backend.numpy(value), reference, rtol=tolerance, err_msg=name)
    smallest = backend.numpy(inverse.smallest_eigenvalue()) / eigenvalues[..., 0]
    assert np.all(smallest >= 1 - tolerance)
    assert np.all(smallest <= 2)


U_REAL = {
    "float32": "float32",
    "complex64": "float32",
    "float64": "float64",
    "complex128": "float64",
}


@pytest.mark.parametrize("kind", ["Gram matrix", "spectrum"])
@pytest.mark.parametrize("null", [False, True])
def test_the_inverse_without_null_vectors(
    valued_backend: Backend, kind: str, null: bool, rng: np.random.Generator
) -> None:
    """X diag(weights) X^H = P W^-1 P, whose diagonal leave-one-out residuals need."""
    backend, n = valued_backend, 5
    dtype = backend.dtypes[-1]
    T = random_array(rng, (n, 2 * n), dtype)
    inverse, _ = small_matrix(backend, kind, T @ H(T)).inverse(DAMPING)
    N = np.full((n, 1), n**-0.5).astype(dtype)
    X, weights = (
        backend.numpy(x) for x in inverse.diagonalised(backend.asarray(N) if null else None)
    )
    P = np.eye(n) - (N @ H(N) if null else 0)
    expected = P @ np.linalg.inv(T @ H(T) + DAMPING * np.eye(n)) @ P
    np.testing.assert_allclose((X * weights[:, 0]) @ H(X), expected, atol=1e3 * U[dtype])


def test_a_cast_inverse_is_that_of_the_rounded_factor(rng: np.random.Generator) -> None:
    T = random_array(rng, (4, 9), "complex64")
    for kind in ("Gram matrix", "spectrum"):
        inverse, _ = small_matrix(Backend(), kind, T @ H(T)).inverse(DAMPING)
        wide = cast_inverse(inverse, "complex128")
        assert type(wide) is type(inverse)
        for before, after in zip(inverse, wide):
            if before is None:
                assert after is None
                continue
            expected = "complex128" if np.iscomplexobj(before) else "float64"
            assert after.dtype == expected
            np.testing.assert_array_equal(after, before)


def test_integers_of_an_inverse_are_not_cast() -> None:
    """Such as the pivots of an LU factorisation."""

    class Pivoted(NamedTuple):
        LU: np.ndarray
        pivots: np.ndarray

    wide = cast_inverse(Pivoted(np.eye(2, dtype="float32"), np.array([1, 0])), "float64")
    assert (wide.LU.dtype, wide.pivots.dtype) == ("float64", "int64")

"""Solves, inverses, determinants and exponentials of general matrices, singular ones too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from backends import Backend
from references import U, narrow, random_array
from spectra import (
    REAL,
    needs,
    norm,
    quick_compilation,  # noqa: F401
    relative,
)

from ngdla._backend import general
from ngdla._backend.namespace import namespace
from ngdla._backend.settings import library_settings

BATCHES = ((), (2,), (2, 1, 3))


@pytest.mark.thinned
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_inverses(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    needs(backend, dtype)
    A = (random_array(rng, (*batch, 5, 5), dtype) + 5 * np.eye(5)).astype(dtype)
    B = random_array(rng, (*batch, 5, 2), dtype)

    def run(A: Any, B: Any) -> list[Any]:
        return [general.solve(A, B), general.inverse(A), general.logabsdet(A)]

    like, right = backend.asarray([A, B])
    X, inverse, logabsdet = backend.call(run, like, right)
    wider, tolerance = narrow(A), 100 * U[dtype]
    exact = np.linalg.solve(wider, B)
    backend.assert_matches(X, exact, like=like, dtype=dtype, tolerance=tolerance)
    exact = np.linalg.inv(wider)
    backend.assert_matches(inverse, exact, like=like, dtype=dtype, tolerance=tolerance)
    exact = np.linalg.slogdet(wider)[1]
    backend.assert_matches(logabsdet, exact, like=like, dtype=REAL[dtype], tolerance=tolerance)


@pytest.mark.thinned
@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_singular_matrices(
    valued_backend: Backend, dtype: str, batch: tuple[int, ...], value: float
) -> None:
    """Nothing raises, no result is finite, and the other matrices of a batch are inverted."""
    needs(valued_backend, dtype)
    A = np.zeros((*batch, 3, 3), dtype) + np.eye(3, dtype=dtype)
    last = (-1,) * len(batch)
    A[last] = value

    def run(A: Any) -> list[Any]:
        with library_settings(namespace(A)):
            return [general.inverse(A), general.logabsdet(A)]

    found = valued_backend.call(run, valued_backend.asarray(A))
    inverse, logabsdet = map(valued_backend.numpy, found)
    assert not np.any(np.isfinite(np.diagonal(inverse[last])))
    assert not np.isfinite(logabsdet[last])
    assert value != 0 or logabsdet[last] == -np.inf
    if batch:
        np.testing.assert_array_equal(inverse.reshape(-1, 3, 3)[0], np.eye(3))


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_exponentials(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Of matrices of norm 3, of 0, and of what does not commute with its adjoint."""
    needs(backend, dtype)
    A = random_array(rng, (*batch, 4, 4), dtype) / 2
    A[(0,) * len(batch)] = np.triu(A[(0,) * len(batch)], 1)
    like = backend.asarray(A)
    found = backend.call(general.expm, like)
    exact = scipy.linalg.expm(narrow(A))
    backend.assert_matches(found, exact, like=like, dtype=dtype, tolerance=200 * U[dtype])


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 30.0, 1e3])
def test_exponentials_by_products_alone(size: float, rng: np.random.Generator) -> None:
    """Where a library has none: the error is u |A|, and small matrices lose nothing against 1."""
    A = random_array(rng, (6, 6), "float64")
    A = size * (A - A.T) / norm(A - A.T)  # exp(A) is orthogonal
    w, V = np.linalg.eig(A)
    exact = ((V * np.exp(w)) @ np.linalg.inv(V)).real
    assert relative(general._expm_by_products(A, 20), exact) <= 100 * U["float64"] * max(size, 1.0)


@pytest.mark.parametrize("order", [1, 2, 5, 20])
def test_series_of_the_exponential(order: int, rng: np.random.Generator) -> None:
    """All terms but the identity, for matrices and for numbers."""
    A = random_array(rng, (4, 4), "complex128")
    terms = [np.linalg.matrix_power(A, j) / math.factorial(j) for j in range(1, order + 1)]
    found = general.expm1_series(A, order, np.matmul)
    assert norm(found - sum(terms)) <= 20 * U["float64"] * sum(map(norm, terms))
    number = general.expm1_series(0.5, order, lambda x, y: x * y)
    assert number == pytest.approx(sum(0.5**j / math.factorial(j) for j in range(1, order + 1)))

"""Solves, inverses, determinants and exponentials of general matrices, singular ones too."""

from __future__ import annotations

import functools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
from backends import Backend, inside
from references import H, U, narrow, random_array
from spectra import (
    REAL,
    needs,
    norm,
    quick_compilation,  # noqa: F401
)

from ngdla._backend import general
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
        with library_settings(A):
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


BAR = 256  # times u max(1, |A|_F) |exp(A)|_F


@functools.cache
def families() -> tuple[np.ndarray, np.ndarray]:
    """Return matrices of single precision and all kinds, and their exponentials by mpmath."""
    rng = np.random.default_rng(3)
    R, C = random_array(rng, (4, 4), "float64"), random_array(rng, (4, 4), "complex128")
    Q, skew = np.linalg.qr(C)[0], R - R.T
    spectra = ((1, 2, 8, 8), (-60, -20, 0, 8), (-1e3, -1, -1, 0), (3, 3, 3, 3))
    stack = [
        *(shift * np.eye(4) + X for shift in (-80, -40, 40, 1000j) for X in (R, C)),
        *(10.0**k * X / norm(X) for k in range(-8, 3) for X in (R, C)),
        *(k * skew / norm(skew) for k in (1, 30, 1e3)),
        *((Q * values) @ H(Q) for values in spectra),
        *(k * np.triu(R, 1) for k in (1, 100)),
        *(np.diag([2.0, 2, 2, k]) + 50 * np.eye(4, k=1) for k in (2, -5)),
        *(k * np.triu(R) for k in (1, 20)),
        np.diag([-2000.0, 0, 1, -3]),
        np.zeros((4, 4)),
    ]
    A = np.stack(stack).astype("complex64").astype("complex128")
    return A, np.stack([exponential(x) for x in A])


def exponential(A: np.ndarray) -> np.ndarray:
    """Return exp(A) by mpmath, in 50 digits."""
    with mpmath.workdps(50):
        E = mpmath.expm(mpmath.matrix(A.tolist()))
        return np.array([[complex(E[i, j]) for j in range(len(A))] for i in range(len(A))])


def assert_exponentials(found: np.ndarray, A: np.ndarray, exact: np.ndarray, dtype: str) -> None:
    for X, one, E in zip(found, A, exact, strict=True):
        assert norm(X - E) <= BAR * U[dtype] * max(1.0, norm(one)) * norm(E), (one, X, E)


@pytest.mark.thinned
def test_exponentials_of_all_kinds(backend: Backend, dtype: str) -> None:
    """Near multiples of I, small, large, skew, nilpotent, Hermitian and far from normal."""
    needs(backend, dtype)
    A, exact = families()
    if not dtype.startswith("complex"):
        real = np.all(A.imag == 0, axis=(-2, -1))
        A, exact = A[real].real, exact[real].real
    like = backend.asarray(A.astype(dtype))
    found = backend.call(inside(general.expm), like)
    backend.assert_kind(found, like=like, dtype=dtype, shape=A.shape)
    if backend.has_values:
        assert_exponentials(backend.numpy(found), A, exact, dtype)


def test_exponentials_one_by_one(dtype: str) -> None:
    """A single matrix is squared without a mask."""
    A, exact = families()
    if not dtype.startswith("complex"):
        real = np.all(A.imag == 0, axis=(-2, -1))
        A, exact = A[real].real, exact[real].real
    found = np.stack([general.expm(one) for one in A.astype(dtype)])
    assert_exponentials(found, A, exact, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_beyond_the_range(backend: Backend, dtype: str) -> None:
    """Of -1e200 I they are 0; where squarings are not counted, norms beyond 1 / u give NaN."""
    needs(backend, dtype)
    large, u = {"float32": 1e38, "float64": 1e200}[dtype], U[dtype]
    A = np.stack([np.diag(x) for x in ([-large, -large], [-large, 0], [-0.5 / u, 0], [0, 0])])
    like = backend.asarray(A.astype(dtype))
    found = backend.call(inside(general.expm), like)
    if not backend.has_values:
        return
    zero, part, near, one = backend.numpy(found)
    assert not np.any(zero)
    assert np.all(one == np.eye(2))
    np.testing.assert_array_equal(near, np.diag([0, 1]))
    counted = backend.name not in ("jax", "jax-gpu", "strict", "strict-float32")
    np.testing.assert_array_equal(part, np.diag([0, 1]) if counted else np.full((2, 2), np.nan))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_derivatives_of_exponentials(library: str, rng: np.random.Generator) -> None:
    """First and second ones, by blocks of larger exponentials; of repeated eigenvalues too."""
    pytest.importorskip(library)
    R, E, F = random_array(rng, (3, 3, 3), "float64")
    named = [np.eye(3), 0 * R, R - 40 * np.eye(3), np.diag([1.0, 1, 2]), np.eye(3, k=1), R + R.T]
    A = np.stack([*named, *(k * R / norm(R) for k in (1e-3, 0.02, 1, 30)), 20 * np.triu(R)])
    first = np.stack([derivative(one, E) for one in A])
    adjoint = np.stack([derivative(one.T, E) for one in A])
    second = np.stack([derivative(one, E, F) for one in A])
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        array, jvp, vjp, compiled = jax.numpy.asarray, jax.jvp, jax.vjp, jax.jit
    else:
        import torch

        array, jvp, vjp = torch.asarray, torch.func.jvp, torch.func.vjp
        compiled = lambda function: function  # noqa: E731

    def along(A: Any, E: Any) -> Any:
        return jvp(general.expm, (A,), (E,))[1]

    def run(A: Any, E: Any, F: Any) -> Any:
        twice = jvp(lambda A: along(A, E), (A,), (F,))[1]
        return along(A, E), vjp(general.expm, A)[1](E)[0], twice

    E, F = (np.zeros_like(A) + x for x in (E, F))
    found = compiled(run)(*map(array, (A, E, F)))
    for derivatives, exact in zip(found, (first, adjoint, second)):
        for one, reference in zip(np.asarray(derivatives), exact):
            assert norm(one - reference) <= 1e-12 * norm(reference)


def derivative(A: np.ndarray, E: np.ndarray, F: np.ndarray | None = None) -> np.ndarray:
    """Return the derivative of exp at A along E, or along E and F, as a block of a larger exp.

    N. J. Higham, "Functions of Matrices", SIAM 2008, equation (3.16).
    """
    zero, d = np.zeros_like(A), len(A)
    if F is None:
        return exponential(np.block([[A, E], [zero, A]]))[:d, d:].real
    rows = [[A, E, F, zero], [zero, A, zero, F], [zero, zero, A, E], [zero, zero, zero, A]]
    return exponential(np.block(rows))[:d, 3 * d :].real


@pytest.mark.parametrize("order", [1, 2, 5, 20])
def test_series_of_the_exponential(order: int, rng: np.random.Generator) -> None:
    """All terms but the identity, for matrices and for numbers."""
    A = random_array(rng, (4, 4), "complex128")
    terms = [np.linalg.matrix_power(A, j) / math.factorial(j) for j in range(1, order + 1)]
    found = general.expm1_series(A, order, np.matmul)
    assert norm(found - sum(terms)) <= 20 * U["float64"] * sum(map(norm, terms))
    number = general.expm1_series(0.5, order, lambda x, y: x * y)
    assert number == pytest.approx(sum(0.5**j / math.factorial(j) for j in range(1, order + 1)))

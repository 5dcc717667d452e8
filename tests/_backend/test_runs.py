"""Sums of a million terms of one sign, in every layout of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend, inside

from ngdla._backend.gram import gram
from ngdla._backend.runs import blas_takes, long_mean, long_norm, long_product
from ngdla.damped.roundings import rounding
from ngdla.score_matrices.column_blocks import column_blocks

U32 = 2.0**-24
TERMS = 10**6

# What is in memory, and the view of it that has the entries of A.
LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[Any], Any]]] = {
    "as it lies": (lambda A: A, lambda B: B),
    "transposed": (lambda A: A.T, lambda B: B.T),
    "columns of a wider one": (
        lambda A: np.pad(A, ((0, 0), (3, 4))),
        lambda B: B[:, 3 : B.shape[1] - 4],
    ),
    "rows of a transposed one": (
        lambda A: np.pad(A.T, ((0, 0), (1, 2))),
        lambda B: B[:, 1 : B.shape[1] - 2].T,
    ),
    "every other column": (lambda A: np.repeat(A, 2, axis=1), lambda B: B[:, ::2]),
    "every other row": (lambda A: np.repeat(A, 2, axis=0), lambda B: B[::2, :]),
    "columns backwards": (lambda A: A[:, ::-1], lambda B: B[:, ::-1]),
    "rows backwards": (lambda A: A[::-1], lambda B: B[::-1, :]),
    "all backwards": (lambda A: A[::-1, ::-1], lambda B: B[::-1, ::-1]),
}


def laid_out(backend: Backend, A: np.ndarray, layout: str) -> Any:
    """Return A in an array library and a layout."""
    if "backwards" in layout and backend.name == "torch":
        pytest.skip("torch has no negative strides")
    stored, view = LAYOUTS[layout]
    S = view(backend.asarray(np.ascontiguousarray(stored(A))))
    np.testing.assert_array_equal(backend.numpy(S), A)
    return S


@pytest.fixture(params=["numpy", "strict", "torch", "jax"])
def library(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


# JAX has no layouts, and array-api-strict those of NumPy.
FEW = ("as it lies", "transposed")
layouts = pytest.mark.parametrize(
    ("library", "layout"),
    [
        (name, layout)
        for name in ("numpy", "strict", "torch", "jax")
        for layout in (LAYOUTS if name in ("numpy", "torch") else FEW)
    ],
    indirect=["library"],
)
SLOW = pytest.mark.slow


def nearly_constant(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return numbers whose roundings all point the same way once a sum of them is large."""
    x = 1.03 + 1e-3 * rng.random(shape)
    return (x * (np.exp(0.3j) if dtype == "complex64" else 1.0)).astype(dtype)


def assert_within_model(result: np.ndarray, exact: np.ndarray, size: float, terms: int) -> None:
    error = np.linalg.norm(result - exact)
    allowed = rounding(U32, terms) * size
    assert error <= allowed, f"{error / allowed:.3g} times the model"


@layouts
@pytest.mark.parametrize(
    ("shape", "k", "dtype"),
    [
        pytest.param((1, TERMS), 2, "float32", marks=SLOW),
        ((2, TERMS), 1, "float32"),
        pytest.param((TERMS, 2), 1, "float32", marks=SLOW),
        pytest.param((2, TERMS // 4), 1, "complex64", marks=SLOW),
        ((TERMS // 16, 3), 2, "complex64"),
        ((3, 20_000), 2, "float32"),
        ((50_000, 3), 2, "float32"),
    ],
    ids=str,
)
def test_products_and_gram_matrices_err_as_in_lanes(
    library: Backend, shape: tuple[int, int], k: int, dtype: str, layout: str
) -> None:
    rng = np.random.default_rng(1)
    A, x, y = (nearly_constant(rng, s, dtype) for s in (shape, (shape[1], k), (shape[0], k)))
    S = laid_out(library, A, layout)
    W = A.astype(complex if dtype == "complex64" else float)
    size, (n, m) = float(np.linalg.norm(W)), shape
    scores = column_blocks(S)
    product = library.numpy(inside(lambda x: scores.matvec((x,)))(library.asarray(x)))
    assert_within_model(product, W @ x, size * float(np.linalg.norm(x)), m)
    product = library.numpy(inside(lambda y: scores.rmatvec(y)[0])(library.asarray(y)))
    assert_within_model(product, W.conj().T @ y, size * float(np.linalg.norm(y)), n)
    tall, few = n > m, W.T if n > m else W
    G = library.numpy(inside(lambda S: gram(S.T if tall else S))(S))
    assert_within_model(G, few @ few.conj().T, size**2, max(n, m))


@layouts
@pytest.mark.parametrize("n", [pytest.param(1, marks=SLOW), 2])
def test_gram_matrices_err_by_few_roundings(library: Backend, n: int, layout: str) -> None:
    """What the choice of the precision relies on; by a few times that for so many terms."""
    A = np.random.default_rng(2).uniform(0.5, 1.5, (n, TERMS // n)).astype("float32")
    G = library.numpy(inside(gram)(laid_out(library, A, layout)))
    W = A.astype(float)
    assert np.linalg.norm(G - W @ W.T) <= 5 * 4 * U32 * np.linalg.norm(W) ** 2


@layouts
def test_means_and_norms_err_as_in_lanes(library: Backend, layout: str) -> None:
    A = nearly_constant(np.random.default_rng(3), (TERMS // 2, 2), "float32")
    X, W = laid_out(library, A, layout), A.astype(float)
    exact = np.mean(W, axis=0, keepdims=True)
    mean = library.numpy(inside(long_mean)(X))
    assert_within_model(mean, exact, float(np.linalg.norm(exact)), len(A))
    norms = library.numpy(inside(long_norm)(X))
    exact = np.linalg.norm(W, axis=0)
    assert_within_model(norms, exact, float(np.linalg.norm(exact)), len(A))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", [(3, 5000, 1), (1, 2049, 4), (3, 70_001, 2)], ids=str)
def test_long_products_of_batches(
    valued_backend: Backend, batch: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    rng, (p, length, q) = np.random.default_rng(4), shape
    dtype = valued_backend.dtypes[-1]
    stored = rng.standard_normal((*batch, length, p)).astype(dtype)
    B = rng.standard_normal((*batch, length, q)).astype(dtype)
    A = valued_backend.asarray(stored)
    result = valued_backend.numpy(inside(long_product)(A.mT, valued_backend.asarray(B)))
    exact = np.swapaxes(stored, -1, -2) @ B
    np.testing.assert_allclose(result, exact, rtol=0, atol=0.02)


def test_what_blas_takes() -> None:
    A = np.zeros((4, 6))
    assert blas_takes(A)
    assert blas_takes(A.T)
    assert blas_takes(A[:, 1:5])
    assert blas_takes(A[::2])
    assert not blas_takes(A[:, ::2])
    assert not blas_takes(A[::-1])
    assert not blas_takes(np.broadcast_to(A[0], (4, 6)))
    assert not blas_takes(np.zeros((4, 6), dtype=complex).real)

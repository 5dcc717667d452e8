"""Cholesky: one failure semantics on every library; solves against dense inverses."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array
from spectra import quick_compilation  # noqa: F401

from ngdla._backend import triangular


def positive(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    A = random_array(rng, shape, dtype)
    return (A @ H(A) + shape[-1] * np.eye(shape[-1])).astype(dtype)


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (3, 6, 6), (2, 2, 4, 4)], ids=str)
def test_cholesky_is_a_factor(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes or backend.name == "numpy-readonly":
        pytest.skip("no such dtype, or a matrix that may be overwritten and cannot be")
    A = positive(rng, shape, dtype)
    like = backend.asarray(A)
    L, ok = triangular.cholesky(backend.asarray(A))
    backend.assert_kind(L, like=like, dtype=dtype, shape=shape)
    assert tuple(ok.shape) == shape[:-2]
    if backend.has_values:
        factor = backend.numpy(L)
        assert np.all(backend.numpy(ok))
        np.testing.assert_array_equal(factor, np.tril(factor))
        error = np.linalg.norm(factor @ H(factor) - A)
        assert error <= 8 * shape[-1] * U[dtype] * np.linalg.norm(A)


@pytest.mark.parametrize("kind", ["negative last", "negative first", "indefinite", "nan", "zero"])
def test_cholesky_failure_is_a_flag_and_nan(backend: Backend, dtype: str, kind: str) -> None:
    if dtype not in backend.dtypes or not backend.has_values or backend.name == "numpy-readonly":
        pytest.skip("no such dtype or no values")
    A = np.eye(4, dtype=dtype)
    if kind == "indefinite":
        A[1, 2] = A[2, 1] = 3.0
    else:
        entry = {"negative last": -1.0, "negative first": -1.0, "nan": np.nan, "zero": 0.0}[kind]
        A[0 if kind == "negative first" else 3, 0 if kind == "negative first" else 3] = entry
    stack = np.stack([np.eye(4, dtype=dtype), A])
    single, ok = triangular.cholesky(backend.asarray(A))
    assert not backend.numpy(ok)
    assert np.all(np.isnan(np.diagonal(backend.numpy(single))[-1:]))
    both, flags = triangular.cholesky(backend.asarray(stack))
    np.testing.assert_array_equal(backend.numpy(flags), [True, False])
    np.testing.assert_array_equal(backend.numpy(both)[0], np.eye(4))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_solves(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    A = positive(rng, (*batch, 6, 6), dtype)
    L = np.linalg.cholesky(A)
    B = random_array(rng, (*batch, 6, 2), dtype)
    like, right = backend.asarray(L), backend.asarray(B)
    tolerance = 100 * U[dtype]
    for function, options, matrix in (
        (triangular.cho_solve, {}, A),
        (triangular.solve_triangular, {}, L),
        (triangular.solve_triangular, {"transposed": True}, H(L)),
    ):
        X = backend.call(function, like, right, **options)
        reference = np.linalg.solve(matrix.astype(np.complex128), B)
        reference = reference if dtype.startswith("complex") else reference.real
        backend.assert_matches(X, reference, like=like, dtype=dtype, tolerance=tolerance)

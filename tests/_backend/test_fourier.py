"""Convolutions and autocorrelations by transforms, against their sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, narrow, random_array
from spectra import needs

from ngdla._backend import fourier


def lower(c: np.ndarray) -> np.ndarray:
    """Return the Toeplitz matrix of entries c_(i - j)."""
    i, j = np.indices((c.shape[-1],) * 2)
    return (i >= j) * narrow(c)[..., abs(i - j)]


@pytest.mark.thinned(0)
@pytest.mark.parametrize("shape", [(1,), (2, 7), (33,)], ids=str)
def test_convolutions(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """T X and T^H X for the lower triangular T, to u log d of |c| |X|."""
    needs(backend, dtype)
    c, X = random_array(rng, shape, dtype), random_array(rng, (*shape, 3), dtype)

    def run(c: Any, X: Any) -> list[Any]:
        return [fourier.convolution(c, X), fourier.convolution(c, X, adjoint=True)]

    like = backend.asarray(X)
    found = backend.call(run, backend.asarray(c), like)
    for x, T in zip(found, (lower(c), H(lower(c)))):
        backend.assert_kind(x, like=like, dtype=dtype, shape=X.shape)
        if backend.has_values:
            allowed = 10 * U[dtype] * np.linalg.norm(c) * np.linalg.norm(X)
            assert np.linalg.norm(backend.numpy(x) - T @ narrow(X)) <= allowed


@pytest.mark.thinned(0)
@pytest.mark.parametrize("shape", [(1, 1), (2, 7, 3), (33, 2)], ids=str)
def test_autocorrelations(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Sums of the diagonals of S S^H from the main one down, to u log d of |S|^2."""
    needs(backend, dtype)
    S = random_array(rng, shape, dtype)
    d = shape[-2]
    like = backend.asarray(S)
    found = backend.call(fourier.autocorrelation, like)
    backend.assert_kind(found, like=like, dtype=dtype, shape=shape[:-1])
    if backend.has_values:
        A = narrow(S) @ H(narrow(S))
        sums = [np.trace(A, offset=-lag, axis1=-2, axis2=-1) for lag in range(d)]
        error = np.max(np.abs(backend.numpy(found) - np.stack(sums, axis=-1)))
        assert error <= 10 * U[dtype] * np.linalg.norm(S) ** 2

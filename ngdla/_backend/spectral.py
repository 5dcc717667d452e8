"""Eigenvalues, singular values and the R of a QR factorisation, with one failure semantics.

Where a factorisation fails (NaN or Inf in the input, no convergence), the values are NaN on every
library: nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from .namespace import (
    Array,
    LinAlgError,
    dtype_name,
    is_cupy_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
    real_name,
)
from .triangular import over_batch

__all__ = ["eigh", "left_singular", "qr_r"]


def eigh(A: Array) -> tuple[Array, Array]:
    """Return (w, U) with A = U diag(w) U^H, w ascending, for Hermitian A (..., n, n)."""
    xp = namespace(A)
    if is_numpy_namespace(xp):
        return over_batch(_eigh_numpy, A)
    return _nan_on_failure(lambda: xp.linalg.eigh(A), A)


def _eigh_numpy(A: Array) -> tuple[Array, Array]:
    # SciPy works in single precision, numpy.linalg in double whatever A is; for real double
    # precision the BLAS of the Gram matrix is NumPy's (see triangular.py on two BLAS libraries).
    try:
        if dtype_name(A.dtype) == "float64":
            w, U = np.linalg.eigh(A)
            return w, U
        return scipy.linalg.eigh(A, driver="evd", check_finite=False)
    except LinAlgError:
        return np.full(A.shape[:1], np.nan, dtype=A.real.dtype), np.full_like(A, np.nan)


def left_singular(A: Array) -> tuple[Array, Array]:
    """Return (s, U): singular values (descending) and left singular vectors of A (..., n, m)."""
    xp = namespace(A)
    n = A.shape[-2]

    def svd() -> tuple[Array, Array]:
        U, s, _ = xp.linalg.svd(A, full_matrices=False)
        return s, U

    return _nan_on_failure(svd, A[..., :, :n])


def qr_r(A: Array) -> Array:
    """Return the triangular factor R, (..., n, n), of A = Q R for A (..., m, n) with m >= n."""
    xp = namespace(A)  # array-api-compat 1.16 unpacks the lone R of mode="r" as a pair
    if is_numpy_namespace(xp):
        return np.linalg.qr(A, mode="r")
    if is_torch_namespace(xp):
        import torch

        # torch differentiates through Q only
        return torch.linalg.qr(A, mode="reduced" if A.requires_grad else "r").R
    if is_cupy_namespace(xp):
        import cupy

        return cupy.linalg.qr(A, mode="r")
    if is_jax_namespace(xp):
        return xp.linalg.qr(A, mode="r")
    return xp.linalg.qr(A).R


def _nan_on_failure(
    factorise: Callable[[], tuple[Array, Array]], square: Array
) -> tuple[Array, Array]:
    xp = namespace(square)
    failures: Any = (LinAlgError,)
    if is_torch_namespace(xp):
        import torch

        failures = (torch.linalg.LinAlgError,)
    try:
        values, vectors = factorise()
        return values, vectors
    except failures:
        real = getattr(xp, real_name(dtype_name(square.dtype)))
        values = xp.zeros_like(square[..., 0], dtype=real) + xp.nan
        return values, xp.full_like(square, xp.nan)

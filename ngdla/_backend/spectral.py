"""Eigenvalues, singular values and the R of a QR factorisation, with one failure semantics.

Where a factorisation fails (NaN or Inf in the input, no convergence), the values are NaN on every
library: nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.linalg

from .array import AnyArray
from .choices import CHOICES
from .chunks import in_one_block
from .dtypes import astype, dtype_name, is_complex, real_name, unit_roundoff
from .fused import filled, finite_along
from .namespace import (
    LinAlgError,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .scipy_threads import short_call
from .shapes import expanded
from .sums import writable
from .tracing import concrete, detached, is_traced
from .triangular import over_batch

__all__ = ["apart", "eigh", "least_gap", "left_singular", "qr", "qr_r", "svd"]


_SMALL = 512
_DOUBLE = {"float32": "float64", "complex64": "complex128"}


def eigh(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (w, U) with A = U diag(w) U^H, w ascending, for Hermitian A (..., n, n)."""
    xp = namespace(A)
    if is_numpy_namespace(xp):
        return over_batch(_eigh_numpy, A)
    if is_dask_namespace(xp):
        return in_one_block(eigh, A, results=(_values_like(A), A))
    return _nan_on_failure(_eigh_cupy if is_cupy_namespace(xp) else xp.linalg.eigh, A, A)


def least_gap(values: AnyArray) -> AnyArray:
    """Return 16 sqrt(u) of the largest of values in descending order, (..., 1)."""
    return 16 * unit_roundoff(dtype_name(values.dtype)) ** 0.5 * values[..., :1]


def apart(values: AnyArray, kept: int, *, rest: bool = True) -> AnyArray:
    """Tell whether derivatives of the `kept` largest eigenpairs are to be trusted, (...).

    `values` are in descending order. Each gap of those kept, also to what follows, must exceed
    16 sqrt(u) of the largest: derivatives of eigenvectors have errors of u over the gap. Where no
    more values are known but there is a `rest` it counts as 0.
    """
    xp = namespace(values)
    ends = xp.zeros_like(values[..., :1])
    if kept < values.shape[-1]:
        ends = values[..., kept : kept + 1]
    elif not rest:
        ends = ends - values[..., :1] - 1
    gaps = values[..., :kept] - xp.concat([values[..., 1:kept], ends], axis=-1)
    return xp.all(gaps > least_gap(values), axis=-1)


def _eigh_numpy(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    # SciPy works in single precision, numpy.linalg in double whatever A is, but with the threads
    # that made the Gram matrix (see scipy_threads.py).
    try:
        if dtype_name(A.dtype) == "float64" or len(A) <= _SMALL:
            w, U = np.linalg.eigh(A)
            return w, U
        with short_call(A, 4 * len(A) ** 3):
            return scipy.linalg.eigh(A, driver="evd", check_finite=False)
    except LinAlgError:
        return np.full(A.shape[:1], np.nan, dtype=A.real.dtype), np.full_like(A, np.nan)


def _eigh_cupy(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """One matrix by divide and conquer; a stack by rotations, or one by one: see choices.py."""
    import cupy

    if A.ndim == 2 or not A.size or CHOICES["stacks of eigh"].way == "at once":
        w, U = cupy.linalg.eigh(A)
        return w, U
    w, U = cupy.empty(A.shape[:-1], A.real.dtype), cupy.empty(A.shape, A.dtype)
    for place in np.ndindex(A.shape[:-2]):
        w[place], U[place] = cupy.linalg.eigh(A[place])
    return w, U


def left_singular(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (s, U): singular values (descending) and left singular vectors of A (..., n, m).

    With r = min(n, m), shapes (..., r) and (..., n, r).
    """
    xp = namespace(A)
    r = min(A.shape[-2:])
    if is_dask_namespace(xp):
        if (
            A.ndim == 2 and A.numblocks[1] > 1 and A.shape[0] <= A.shape[1]
        ):  # only the triangles of chunks meet in one block
            A = xp.matrix_transpose(qr_r(xp.matrix_transpose(A)))
        vectors = A[..., :, :r]
        return in_one_block(left_singular, A, results=(_values_like(vectors), vectors))

    def values_and_left(A: AnyArray) -> tuple[AnyArray, AnyArray]:
        U, s, _ = xp.linalg.svd(A, full_matrices=False)
        return s, U

    return _nan_on_failure(values_and_left, A, A[..., :, :r])


def svd(A: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return (U, s, Vh) with A = U diag(s) Vh for A (..., n, m) with n >= m, s descending.

    Shapes (..., n, m), (..., m), (..., m, m).
    """
    xp = namespace(A)
    right = A[..., : A.shape[-1], :]
    if is_dask_namespace(xp):
        return in_one_block(svd, A, results=(A, _values_like(A), right))

    def factorise(A: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
        U, s, Vh = xp.linalg.svd(A, full_matrices=False)
        return s, U, Vh

    s, U, Vh = _nan_on_failure(factorise, A, A, right)
    return U, s, Vh


def qr(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (Q, R), shapes (..., n, m) and (..., m, m), of A (..., n, m) with n >= m."""
    xp = namespace(A)
    if is_dask_namespace(xp):
        return in_one_block(qr, A, results=(A, A[..., : A.shape[-1], :]))
    if is_cupy_namespace(xp):
        Q, R = _nan_where_not_finite(xp.linalg.qr(A), A)
        return Q, R
    Q, R = xp.linalg.qr(A)
    return Q, R


def qr_r(A: AnyArray) -> AnyArray:
    """Return the triangular factor R, (..., n, n), of A = Q R for A (..., m, n) with m >= n.

    torch knows no derivative of R without Q.
    """
    xp = namespace(A)  # array-api-compat 1.16 unpacks the lone R of mode="r" as a pair
    if is_numpy_namespace(xp):
        return np.linalg.qr(A, mode="r")
    if is_torch_namespace(xp):
        import torch

        return torch.linalg.qr(A, mode="r").R
    if is_cupy_namespace(xp):
        import cupy

        return _nan_where_not_finite([cupy.linalg.qr(A, mode="r")], A)[0]
    if is_jax_namespace(xp):
        return xp.linalg.qr(A, mode="r")
    if is_dask_namespace(xp) and A.ndim > 2:
        return in_one_block(qr_r, A, results=(A[..., : A.shape[-1], :],))
    if is_dask_namespace(xp):  # its QR of tall matrices wants chunks of rows
        A = A.rechunk({1: -1})
    return xp.linalg.qr(A).R


def _nan_on_failure(factorise: Callable[[AnyArray], Any], A: AnyArray, *vectors: AnyArray) -> Any:
    """Return (values, *vectors) of A, NaN for each matrix of a stack that fails.

    `vectors` have the shapes of the vectors, the first one one vector for each value.
    """
    xp = namespace(A)
    if is_cupy_namespace(xp):
        return _nan_where_not_finite(factorise(A), A)
    try:
        factors = tuple(factorise(A))
        if not _nan_of_torch(A, factors[0]):
            return factors
    except _failures(xp):
        pass
    if A.ndim > 2:  # one matrix failed: ask each
        each = [
            _nan_on_failure(factorise, A[i, ...], *(V[i, ...] for V in vectors))
            for i in range(A.shape[0])
        ]
        return tuple(xp.stack(parts) for parts in zip(*each))
    dtype = dtype_name(A.dtype)
    if is_torch_namespace(xp) and dtype in _DOUBLE and not is_traced(A):
        # MKL finds no eigenvectors in float32 of some matrices with many zeros
        wide = (astype(X, _DOUBLE[dtype]) for X in (A, *vectors))
        values, *found = _nan_on_failure(factorise, *wide)
        return astype(values, real_name(dtype)), *(astype(X, dtype) for X in found)
    nan = [_values_like(vectors[0]) + xp.nan, *(xp.full_like(V, xp.nan) for V in vectors)]
    return _finite_ones(factorise, A, nan) if is_traced(A) else tuple(nan)


def _nan_of_torch(A: AnyArray, values: AnyArray) -> bool:
    """Tell whether a failure in single precision shows by NaN alone, as it does at times in MKL."""
    xp = namespace(A)
    if not is_torch_namespace(xp) or dtype_name(A.dtype) not in _DOUBLE or is_traced(A):
        return False
    if A.device.type != "cpu":  # where MKL does not work
        return False
    seen = detached(values)
    if writable(seen):  # NumPy sees the same memory, and torch is asked for nothing
        return bool(np.isnan(seen.numpy()).any())
    return bool(concrete(xp.any(xp.isnan(seen))))


def _nan_where_not_finite(factors: Iterable[AnyArray], A: AnyArray) -> tuple[AnyArray, ...]:
    """Return factors that CuPy found, NaN where A is not finite: cuSOLVER raises nothing."""
    bad = ~finite_along(A, (-2, -1))
    return tuple(filled(X, expanded(bad, X.ndim - bad.ndim), math.nan) for X in factors)


def _finite_ones(factorise: Callable[[AnyArray], Any], A: AnyArray, nan: list[AnyArray]) -> Any:
    """Return what `torch.vmap` asks for: of many matrices, which look like one, some failed."""
    xp = namespace(A)
    finite = xp.all(xp.isfinite(A))
    try:
        results = factorise(xp.where(finite, A, xp.zeros_like(A)))
    except _failures(xp):
        return tuple(nan)
    return tuple(xp.where(finite, one, other) for one, other in zip(results, nan))


def _failures(xp: Any) -> Any:
    """Return what this library raises where a factorisation fails."""
    if is_torch_namespace(xp):
        import torch

        return torch.linalg.LinAlgError
    return LinAlgError


def _values_like(vectors: AnyArray) -> AnyArray:
    """Return zeros in the place of the eigenvalues or singular values of these vectors."""
    xp, row = namespace(vectors), vectors[..., 0, :]
    return xp.zeros_like(xp.real(row) if is_complex(row) else row)

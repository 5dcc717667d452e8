"""Cholesky factors of CuPy's matrices by cuSOLVER, which says in `info` whether they are any.

CuPy's own (14.2) drops `info` unless the host is to wait for it, and copies factors to Fortran
order in each triangular solve. What is lower in C order is upper in Fortran order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .array import AnyArray

__all__ = ["cho_solve_cupy", "cholesky_cupy", "inverse_triangular_cupy"]

_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}


def cholesky_cupy(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (L, ok) for Hermitian A (..., n, n), which is overwritten if it is contiguous.

    L is NaN where `ok`, (...), is not set.
    """
    import cupy

    if not A.size:
        return A, cupy.ones(A.shape[:-2], dtype=bool)
    if not (A.flags.c_contiguous or (A.ndim == 2 and A.flags.f_contiguous)):
        A = cupy.ascontiguousarray(A)
    info = (_factor if A.ndim == 2 else _factor_stack)(A)
    diagonal = A.diagonal(axis1=-2, axis2=-1)
    ok = _factored()(diagonal, info[..., None], axis=-1)
    return _lower_or_nan()(A, ok[..., None, None], A.shape[-1]), ok


def _factor(A: AnyArray) -> AnyArray:
    """Write the factor over one triangle, and return cuSOLVER's info, ()."""
    import cupy
    from cupy.cuda import device

    potrf, buffer_size = _routine("potrf", A), _routine("potrf_bufferSize", A)
    handle, n = device.get_cusolver_handle(), len(A)
    size = buffer_size(handle, _uplo(A), n, A.data.ptr, n)
    work, info = cupy.empty(size, A.dtype), cupy.empty((), np.int32)
    potrf(handle, _uplo(A), n, A.data.ptr, n, work.data.ptr, size, info.data.ptr)
    return info


def _factor_stack(A: AnyArray) -> AnyArray:
    """Factor each matrix of a C-ordered stack in place, and return info, (...)."""
    import cupy
    from cupy.cuda import device

    n, info = A.shape[-1], cupy.empty(A.shape[:-2], np.int32)
    start, step = A.data.ptr, n * n * A.itemsize
    places = cupy.arange(start, start + info.size * step, step, dtype=np.uintp)
    _routine("potrfBatched", A)(
        device.get_cusolver_handle(), _UPPER, n, places.data.ptr, n, info.data.ptr, info.size
    )
    return info


def cho_solve_cupy(L: AnyArray, B: AnyArray, *, used_up: bool) -> AnyArray:
    """Return A^-1 B, (n, k), Fortran-ordered, from the factor L of one matrix A.

    It is written over B where that is `used_up` and Fortran-ordered.
    """
    import cupy
    from cupy.cuda import device

    conjugates = L.dtype.kind == "c" and L.flags.c_contiguous  # it is read as that of conj(A)
    X = B if used_up and B.flags.f_contiguous else cupy.empty(B.shape[::-1], B.dtype).T
    if conjugates:
        cupy.conjugate(B, out=X)
    elif X is not B:
        X[...] = B
    info, (n, k) = cupy.empty((), np.int32), X.shape
    _routine("potrs", L)(
        device.get_cusolver_handle(), _uplo(L), n, k, L.data.ptr, n, X.data.ptr, n, info.data.ptr
    )
    return cupy.conjugate(X, out=X) if conjugates else X


def inverse_triangular_cupy(L: AnyArray) -> AnyArray:
    """Return L^-1 for one C-ordered lower triangular L, by two kernels."""
    import cupy
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    n, inverse, one = len(L), cupy.eye(len(L), dtype=L.dtype), np.ones((), L.dtype)
    getattr(cublas, _LETTERS[L.dtype.char] + "trsm")(  # L^T is upper, and so is its inverse
        device.get_cublas_handle(),
        *(_LEFT, _UPPER, _AS_IT_IS, _NON_UNIT),
        *(n, n, one.ctypes.data),
        *(L.data.ptr, n),
        *(inverse.data.ptr, n),
    )
    return inverse


_LEFT, _AS_IT_IS, _NON_UNIT = 0, 0, 0  # cublasSideMode_t, cublasOperation_t, cublasDiagType_t
_LOWER, _UPPER = 0, 1  # cublasFillMode_t


def _uplo(A: AnyArray) -> int:
    return _UPPER if A.flags.c_contiguous else _LOWER


def _routine(name: str, A: AnyArray) -> Any:
    from cupy_backends.cuda.libs import cusolver

    return getattr(cusolver, _LETTERS[A.dtype.char] + name)


@cache
def _factored() -> Any:
    """Tell whether info is 0 and a diagonal finite: what cuSOLVER makes of NaN it does not say."""
    import cupy

    return cupy.ReductionKernel(
        "T x, int32 info",
        "bool ok",
        "isfinite(x) && info == 0",
        "a && b",
        "ok = a",
        "true",
        "ngdla_factored",
    )


@cache
def _lower_or_nan() -> Any:
    import cupy

    return cupy.ElementwiseKernel(
        "T x, bool ok, int64 n",
        "T y",
        'y = i % n > (i / n) % n ? T(0) : ok ? x : T(nan(""))',
        "ngdla_lower_or_nan",
    )

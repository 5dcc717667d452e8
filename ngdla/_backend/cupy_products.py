"""Products of CuPy's matrices as they lie in memory: transposed, conjugated, strided, stacked.

`cupy.matmul` (14.2) copies views that are not contiguous, stacks that are not C-ordered, and has
no flag for a conjugate; `cupy.cublas.gemm` copies a C-ordered matrix of which it is to take the
adjoint. cuBLAS itself takes each matrix whose rows, or columns, lie in memory in one piece.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from .array import AnyArray

__all__ = ["empty_gram", "product_cupy", "syrk_cupy", "taken_by_cublas"]

Form = Literal["N", "T", "H"]  # the matrix itself, its transpose, its adjoint

_SWAPPED: dict[Form, Form] = {"N": "T", "T": "N", "H": "H"}
_OPERATIONS = {"N": 0, "T": 1, "H": 2}  # cublasOperation_t
_DATA_TYPES = {"f": 0, "d": 1, "F": 4, "D": 5}  # cudaDataType_t


class _Buffer(NamedTuple):
    """A matrix, or a stack, as cuBLAS reads it: by columns. What lies by rows is transposed."""

    pointer: int
    operation: int
    leading: int  # entries from one column to the next
    stride: int  # entries from one matrix to the next


def product_cupy(
    A: AnyArray, B: AnyArray, left: Form = "N", right: Form = "N", *, out: AnyArray | None = None
) -> AnyArray:
    """Return op(A) op(B), (..., p, q), for matrices or stacks of the same leading axes.

    Nothing is copied where `taken_by_cublas` holds, but the second of two complex matrices that
    are both to be conjugated and lie one by rows and one by columns. A product with the adjoint of
    a matrix that lies by columns does so too, as `out` then must.
    """
    import cupy

    if A.dtype != B.dtype or A.dtype.char not in _DATA_TYPES or A.shape[:-2] != B.shape[:-2]:
        return cupy.matmul(_formed(A, left), _formed(B, right))
    if A.dtype.kind != "c":
        left, right = _real(left), _real(right)
    A, B = (X if taken_by_cublas(X) else cupy.ascontiguousarray(X) for X in (A, B))
    by_columns = [form == "H" and not _by_rows(X) for X, form in ((A, left), (B, right))]
    if any(by_columns) and left == right == "H" and not all(by_columns):
        return product_cupy(A, B.conj(), left, "T", out=out)
    p, k = A.shape[-2:] if left == "N" else A.shape[:-3:-1]
    q = B.shape[-1 if right == "N" else -2]
    if out is None:
        out = _empty(A, p, q, by_columns=any(by_columns))
    if 0 in (*A.shape, *B.shape):
        out.fill(0)
    elif out.ndim > 3:
        for i in range(len(out)):
            product_cupy(A[i], B[i], left, right, out=out[i])
    elif any(by_columns):
        _multiply(A, B, (left, right), k, out)
    else:  # (A B)^T = B^T A^T
        _multiply(B, A, (_SWAPPED[right], _SWAPPED[left]), k, out.swapaxes(-2, -1))
    return out


def _real(form: Form) -> Form:
    return "T" if form == "H" else form


def _formed(A: AnyArray, form: Form) -> AnyArray:
    """Return op(A), for CuPy's own product."""
    A = A if form == "N" else A.swapaxes(-2, -1)
    return A.conj() if form == "H" else A


def empty_gram(S: AnyArray) -> AnyArray:
    """Return new memory for S S^H, in the order that products of rows of S have."""
    n = S.shape[-2]
    return _empty(S, n, n, by_columns=S.dtype.kind == "c" and not _by_rows(S))


def syrk_cupy(S: AnyArray) -> AnyArray:
    """Return the lower triangle of S S^T, C-ordered, for one real S that cuBLAS takes.

    What is above it is not set.
    """
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    G, char, matrix = empty_gram(S), S.dtype.char, _buffer(S, "N")
    one, zero = _scalars(char)
    (cublas.ssyrk if char == "f" else cublas.dsyrk)(
        device.get_cublas_handle(),
        cublas.CUBLAS_FILL_MODE_UPPER,  # of the transpose
        matrix.operation,
        *S.shape,
        one.ctypes.data,
        *(matrix.pointer, matrix.leading),
        zero.ctypes.data,
        *(G.data.ptr, max(1, len(G))),
    )
    return G


def taken_by_cublas(A: AnyArray) -> bool:
    """Tell whether rows, or columns, of each matrix lie in memory in one piece."""
    return _by_rows(A) or _by_columns(A)


def _by_rows(A: AnyArray) -> bool:
    (row, column), (p, q), size = A.strides[-2:], A.shape[-2:], A.itemsize
    rows = p <= 1 or (row % size == 0 and row >= q * size)
    stacked = all(
        length <= 1 or (step % size == 0 and step >= 0)  # one matrix lies in a stack as it likes
        for length, step in zip(A.shape[:-2], A.strides[:-2])
    )
    return rows and stacked and (column == size or q <= 1)


def _by_columns(A: AnyArray) -> bool:
    return _by_rows(A.swapaxes(-2, -1))


def _empty(A: AnyArray, p: int, q: int, *, by_columns: bool) -> AnyArray:
    import cupy

    shape = (q, p) if by_columns else (p, q)
    new = cupy.empty((*A.shape[:-2], *shape), A.dtype)
    return new.swapaxes(-2, -1) if by_columns else new


def _multiply(A: AnyArray, B: AnyArray, forms: tuple[Form, Form], k: int, out: AnyArray) -> None:
    """Write op(A) op(B) into columns; "H" of what lies by rows is its conjugate."""
    from cupy.cuda import device
    from cupy_backends.cuda.libs import cublas

    char = A.dtype.char
    first, second = _buffer(A, forms[0]), _buffer(B, forms[1])
    result = _buffer(out, "N", by_rows=False)
    one, zero = _scalars(char)
    cublas.gemmStridedBatchedEx(
        device.get_cublas_handle(),
        first.operation,
        second.operation,
        *out.shape[-2:],
        k,
        one.ctypes.data,
        *(first.pointer, _DATA_TYPES[char], first.leading, first.stride),
        *(second.pointer, _DATA_TYPES[char], second.leading, second.stride),
        zero.ctypes.data,
        *(result.pointer, _DATA_TYPES[char], result.leading, result.stride),
        len(out) if out.ndim > 2 else 1,
        _compute_type(char),
        cublas.CUBLAS_GEMM_DEFAULT,
    )


def _buffer(A: AnyArray, form: Form, *, by_rows: bool | None = None) -> _Buffer:
    by_rows = _by_rows(A) if by_rows is None else by_rows
    outer, inner = (-2, -1) if by_rows else (-1, -2)
    length = max(1, A.shape[inner])
    step = A.strides[outer] // A.itemsize
    return _Buffer(
        A.data.ptr,
        _OPERATIONS[_SWAPPED[form] if by_rows else form],
        max(step, length) if A.shape[outer] > 1 else length,
        A.strides[0] // A.itemsize if A.ndim > 2 and len(A) > 1 else 0,
    )


def _compute_type(char: str) -> int:
    """Return how cuBLAS computes, in TF32 where CuPy's own setting allows that."""
    from cupy._core import _routines_linalg as routines
    from cupy_backends.cuda.libs import cublas

    if char in "dD":
        return cublas.CUBLAS_COMPUTE_64F
    if routines.get_compute_type(np.float32) == routines.COMPUTE_TYPE_TF32:
        return cublas.CUBLAS_COMPUTE_32F_FAST_TF32
    return cublas.CUBLAS_COMPUTE_32F


@cache
def _scalars(char: str) -> tuple[Any, Any]:
    """Return 1 and 0, which cuBLAS reads on the host."""
    return np.array(1, dtype=char), np.array(0, dtype=char)

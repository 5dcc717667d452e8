"""Products with a wide matrix S (..., n, m) and its adjoint, and what is done to diagonals.

Each operation stands here once with all libraries on one screen. None copies S, and S^H y is never
adjoint(S) @ y: for complex S that copies S in NumPy and CuPy, and in XLA it is slow on the CPU.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import Any

import array_api_extra as xpx
import numpy as np

from .array import AnyArray
from .chunks import columns_chunked, is_chunked
from .cupy_products import product_cupy, taken_by_cublas
from .dtypes import astype, dtype_name, is_complex, real_name, real_part, result_name
from .kernels_cupy import centred_cupy
from .namespace import (
    is_cupy_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .runs import product
from .shapes import CHUNK_BYTES, spans
from .sums import writable

__all__ = [
    "add_diagonal",
    "add_to_diagonal",
    "add_to_diagonals",
    "adjoint",
    "adjoint_product",
    "centred_rows",
    "conjugated",
    "hermitian_part",
    "matmul_stored",
    "preserved",
    "real_diagonal",
    "rmatvec",
    "trace",
    "transposed_product",
    "weighted_mean",
]


AnyArrays = tuple[AnyArray, ...]


def adjoint(A: AnyArray) -> AnyArray:
    """Return the conjugate transpose of the last two axes; real arrays are not copied."""
    xp = namespace(A)
    if is_torch_namespace(xp):
        return A.mH  # a view, conjugated inside GEMM; array-api-compat's conj copies
    A = xp.matrix_transpose(A)
    return xp.conj(A) if is_complex(A) else A


def conjugated(A: AnyArray) -> AnyArray:
    """Return an adjoint whose entries are conjugated, as a result must be: torch's is a view."""
    return A.resolve_conj() if is_torch_namespace(namespace(A)) else A


def hermitian_part(A: AnyArray) -> AnyArray:
    """Return (A + A^H) / 2."""
    return 0.5 * (A + adjoint(A))


def rmatvec(S: AnyArray, Y: AnyArray) -> AnyArray:
    """Return S^H Y, (..., m, k), as conj(Y)^T S with S as it lies in memory."""
    if not isinstance(S, np.ndarray) and _taken_by_cublas(S) and S.dtype == Y.dtype:
        return product_cupy(S, Y, "H")
    if is_complex(Y):
        xp = namespace(S)
        return xp.conj(_transposed(product(_transposed(xp.conj(Y)), S)))
    return _transposed(product(_transposed(Y), S))


def _taken_by_cublas(S: AnyArray) -> bool:
    """Tell whether S is an array of CuPy that cuBLAS takes as it lies."""
    return is_cupy_namespace(namespace(S)) and taken_by_cublas(S)


def _transposed(A: AnyArray) -> AnyArray:
    """Return A^T, a view, in NumPy without the functions that lead to one."""
    return A.mT if isinstance(A, np.ndarray) else namespace(A).matrix_transpose(A)


def transposed_product(X: AnyArray, P: AnyArray) -> AnyArray:
    """Return X^T P, (..., d, k), for X (..., N, d) with X as it lies in memory."""
    xp = namespace(X)
    if is_cupy_namespace(xp):
        return product_cupy(X, P, "T")
    if is_jax_namespace(xp):  # XLA is slow on the CPU with the transpose of a wide matrix
        return xp.matrix_transpose(xp.matmul(xp.matrix_transpose(P), X))
    return xp.matmul(xp.matrix_transpose(X), P)


def adjoint_product(A: AnyArray, X: AnyArray) -> AnyArray:
    """Return A^H X, (..., n, k), with rows that lie in memory as those of X, for small A."""
    xp = namespace(A)
    if is_torch_namespace(xp):
        return A.mH @ X
    if is_cupy_namespace(xp):
        return product_cupy(A, X, "H")
    return rmatvec(A, X) if is_complex(A) else transposed_product(A, X)


def matmul_stored(A: AnyArray, X: AnyArray) -> AnyArray:
    """Return A X in the dtype of X, where A may be stored in half precision.

    Rows of such an A are converted in chunks of at most 64 MB.
    """
    xp, dtype = namespace(X), dtype_name(X.dtype)
    if dtype_name(A.dtype) == dtype:
        return xp.matmul(A, X)
    rows = max(1, CHUNK_BYTES // (4 * math.prod(A.shape) // A.shape[-2]))
    starts = range(0, A.shape[-2], rows)
    blocks = [xp.matmul(astype(A[..., i : i + rows, :], dtype), X) for i in starts]
    return xp.concat(blocks, axis=-2)


# -------------------------------------------------------------------------------- diagonal


def real_diagonal(A: AnyArray) -> AnyArray:
    """Return the real parts of the diagonal, (..., n)."""
    xp = namespace(A)
    diagonal = xp.linalg.diagonal(A)
    return xp.real(diagonal) if is_complex(A) else diagonal


def trace(A: AnyArray) -> AnyArray:
    """Return the real trace of a Hermitian matrix, (...), summed in float32 or wider."""
    real = real_name(dtype_name(A.dtype))
    if isinstance(A, np.ndarray):
        return np.asarray(A.real.trace(axis1=-2, axis2=-1, dtype=real))
    xp = namespace(A)
    if is_jax_namespace(xp):  # one loop of XLA, where a diagonal is gathered by three
        return xp.real(xp.trace(A, axis1=-2, axis2=-1, dtype=result_name(dtype_name(A.dtype))))
    return xp.sum(astype(real_diagonal(A), real), axis=-1)


def add_to_diagonal(A: AnyArray, shift: float | AnyArray) -> AnyArray:
    """Return A + shift * identity. `A` is used up: NumPy, CuPy and torch write into it.

    `shift` is a Python number or a real array of shape `A.shape[:-2]`.
    """
    return add_diagonal(A, shift if isinstance(shift, float) else shift[..., None])


def add_to_diagonals(matrices: AnyArrays, diagonal: AnyArray, shift: float) -> AnyArrays:
    """Return matrices and a diagonal (..., n), with a number added to all diagonals. Used up."""
    xp = namespace(diagonal)
    if not writable(*matrices, diagonal):
        return (*(add_to_diagonal(A, shift) for A in matrices), diagonal + shift)
    if not is_torch_namespace(xp):
        diagonal += shift  # where it lies, as matrices are
        return (*(add_to_diagonal(A, shift) for A in matrices), diagonal)
    import torch

    torch._foreach_add_([*(A.diagonal(dim1=-2, dim2=-1) for A in matrices), diagonal], shift)
    return (*matrices, diagonal)


def add_diagonal(A: AnyArray, diagonal: float | AnyArray) -> AnyArray:
    """Return A + diag(diagonal), for (..., n) or (..., 1). `A` is used up, as above."""
    xp = namespace(A)
    if is_torch_namespace(xp) and writable(A, diagonal):
        A.diagonal(dim1=-2, dim2=-1).add_(diagonal)
        return A
    if is_cupy_namespace(xp):
        entries = A.diagonal(axis1=-2, axis2=-1)
        entries += diagonal
        return A
    if is_numpy_namespace(xp):
        n = A.shape[-1]
        flat = A.reshape(A.shape[:-2] + (n * n,))
        flat[..., :: n + 1] += diagonal
        return flat.reshape(A.shape)
    if is_jax_namespace(xp):
        rows = diagonal if isinstance(diagonal, float) else xp.expand_dims(diagonal, axis=-1)
        return A + rows * xp.eye(A.shape[-1], dtype=A.dtype)
    diagonal = xp.zeros_like(xp.linalg.diagonal(A)) + diagonal
    if is_torch_namespace(xp):
        import torch

        return A + torch.diag_embed(diagonal)
    return A + xpx.create_diagonal(diagonal)


def preserved(A: AnyArray) -> AnyArray:
    """Return A to be used up by `add_to_diagonal`, a copy where that writes into it."""
    xp = namespace(A)
    if is_torch_namespace(xp) and writable(A):
        return A.clone()
    return A.copy() if is_numpy_namespace(xp) or is_cupy_namespace(xp) else A


# --------------------------------------------------------------------------------- centring


def weighted_mean(O: AnyArray, p: AnyArray, kept: AnyArray | None = None) -> AnyArray:
    """Return sum_j p_j O_j, (..., 1, m), over the rows that are `kept`, (..., n, 1), or over all.

    Others may be NaN and Inf; for them, rows are copied in chunks of at most 64 MB.
    """
    xp, dtype = namespace(O), dtype_name(O.dtype)
    p = astype(p, dtype)
    if kept is None:
        mean = rmatvec(O, p)
    else:
        zero = xp.zeros_like(O[..., :1, :1])
        copied = not is_chunked(O)
        rows = spans(O.shape[-2], O.shape[-1], O.shape[:-2], dtype, copied=copied)
        parts = (
            rmatvec(xp.where(kept[..., i, :], O[..., i, :], zero), p[..., i, :])
            for i in (span or slice(None) for span in rows)
        )
        mean = reduce(add, parts)
    mean = xp.matrix_transpose(mean)
    return xp.conj(mean) if is_complex(O) else mean


def centred_rows(
    O: AnyArray,
    mean: AnyArray,
    scale: float | AnyArray,
    *,
    stack: bool,
    kept: AnyArray | None = None,
) -> AnyArray:
    """Return scale * (O - mean), the real parts on top of the imaginary ones if `stack`.

    `mean` has shape (..., 1, m); `scale` is a number or has shape (..., n, 1), as has `kept`: rows
    where it is not set are 0, whatever they hold. The result is the one new array of the size of O:
    NumPy and CuPy write into it.
    """
    xp = namespace(O)
    if is_cupy_namespace(xp):
        return _centred_rows_cupy(O, mean, scale, kept, stack=stack)
    parts = [(xp.real(O), xp.real(mean)), (xp.imag(O), xp.imag(mean))] if stack else [(O, mean)]
    if is_numpy_namespace(xp):
        n, m = O.shape[-2:]
        S = xp.empty(O.shape[:-2] + (len(parts) * n, m), dtype=parts[0][0].dtype)
        for i, (part, shift) in enumerate(parts):
            rows = S[..., i * n : (i + 1) * n, :]
            xp.subtract(part, shift, out=rows)
            xp.multiply(rows, scale, out=rows)
            if kept is not None:
                xp.copyto(rows, 0, where=~kept)
        return S
    if kept is not None:
        parts = [(xp.where(kept, part, shift), shift) for part, shift in parts]
    parts = [(part - shift) * scale for part, shift in parts]
    return columns_chunked(xp.concat(parts, axis=-2)) if stack else parts[0]


def _centred_rows_cupy(
    O: AnyArray, mean: AnyArray, scale: Any, kept: AnyArray | None, *, stack: bool
) -> AnyArray:
    import cupy

    n, m = O.shape[-2:]
    S = cupy.empty(
        (*O.shape[:-2], 2 * n if stack else n, m), real_part(O).dtype if stack else O.dtype
    )
    out = (S[..., :n, :], S[..., n:, :]) if stack else (S,)
    centred_cupy(O, mean, scale, True if kept is None else kept, out)
    return S

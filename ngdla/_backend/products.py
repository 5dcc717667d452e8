"""Products with a wide matrix S (..., n, m): its Gram matrix, S @ x and its adjoint times y.

Each operation stands here once with all libraries on one screen. None copies S (`_herk` copies
chunks of what is not contiguous), and S^H y is never adjoint(S) @ y: for complex S that copies S in
NumPy and CuPy, and in XLA it is slow on the CPU.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import array_api_extra as xpx
import numpy as np
from array_api_compat import device
from scipy.linalg import blas

from .chunks import columns_chunked, sum_over_chunks
from .namespace import (
    Array,
    as_array,
    astype,
    dtype_name,
    is_complex,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
    real_name,
)
from .sums import writable

__all__ = [
    "add_diagonal",
    "add_to_diagonal",
    "adjoint",
    "adjoint_product",
    "centred_rows",
    "gram",
    "gram_by_halves",
    "gram_cupy_syrk",
    "identity_like",
    "matmul_stored",
    "preserved",
    "rmatvec",
    "squared_norm",
    "trace",
    "transposed_product",
    "unit_columns",
    "weighted_sum_with_gram",
]

# Row counts below which halving a Gram matrix gains nothing (the blocks become too small for
# GEMM), and the columns that one step of the JAX loop takes: measured on the CPU, that of CuPy not
# yet on a GPU (asv_benchmarks/claims/gram.py).
_TORCH_LEAF = 64
_TORCH_WIDE = 4  # times as many columns as rows, below which leaves are twice as large
_JAX_ROWS = 512
_JAX_COMPLEX_ROWS = 16
_JAX_LEAVES = 4
_JAX_COLUMNS = 2048
_CUPY_LEAF = 512
_COPIED_BYTES = 64 * 2**20
_MIRRORED = 256  # rows of the blocks in which one triangle is copied to the other


def adjoint(A: Array) -> Array:
    """Return the conjugate transpose of the last two axes; real arrays are not copied."""
    xp = namespace(A)
    if is_torch_namespace(xp):
        return A.mH  # a view, conjugated inside GEMM; array-api-compat's conj copies
    A = xp.matrix_transpose(A)
    return xp.conj(A) if is_complex(A) else A


def rmatvec(S: Array, Y: Array) -> Array:
    """Return S^H Y, (..., m, k), as conj(Y)^T S with S as it lies in memory."""
    xp = namespace(S)
    if is_complex(Y):
        return xp.conj(xp.matrix_transpose(xp.matmul(xp.matrix_transpose(xp.conj(Y)), S)))
    return xp.matrix_transpose(xp.matmul(xp.matrix_transpose(Y), S))


def transposed_product(X: Array, P: Array) -> Array:
    """Return X^T P, (..., d, k), for X (..., N, d) with X as it lies in memory."""
    xp = namespace(X)
    if is_jax_namespace(xp):  # XLA is slow on the CPU with the transpose of a wide matrix
        return xp.matrix_transpose(xp.matmul(xp.matrix_transpose(P), X))
    return xp.matmul(xp.matrix_transpose(X), P)


def adjoint_product(A: Array, X: Array) -> Array:
    """Return A^H X, (..., n, k), with rows that lie in memory as those of X, for small A."""
    if is_torch_namespace(namespace(A)):
        return A.mH @ X
    return rmatvec(A, X) if is_complex(A) else transposed_product(A, X)


def matmul_stored(A: Array, X: Array) -> Array:
    """Return A X in the dtype of X, where A may be stored in half precision.

    Rows of such an A are converted in chunks of at most 64 MB.
    """
    xp, dtype = namespace(X), dtype_name(X.dtype)
    if dtype_name(A.dtype) == dtype:
        return xp.matmul(A, X)
    rows = max(1, _COPIED_BYTES // (4 * math.prod(A.shape) // A.shape[-2]))
    starts = range(0, A.shape[-2], rows)
    blocks = [xp.matmul(astype(A[..., i : i + rows, :], dtype), X) for i in starts]
    return xp.concat(blocks, axis=-2)


def squared_norm(X: Array) -> Array:
    """Return |X|_F^2, (...), of X (..., n, m)."""
    xp = namespace(X)
    flat = xp.reshape(X, (*X.shape[:-2], X.shape[-2] * X.shape[-1]))
    if is_torch_namespace(xp):  # array-api-compat's cannot be mapped by torch.vmap
        square = xp.linalg.vecdot(flat, flat)
    else:
        square = xp.vecdot(flat, flat)
    return as_array(xp.real(square) if is_complex(X) else square)


# ------------------------------------------------------------------------------------ Gram


def gram(S: Array) -> Array:
    """Return S S^H, (..., n, n), Hermitian, in half the flops of a product where possible."""
    xp = namespace(S)
    if is_numpy_namespace(xp):
        return _gram_numpy(S)
    if is_torch_namespace(xp):
        return _gram_torch(S)
    if is_cupy_namespace(xp):
        return gram_by_halves(S, leaf=_CUPY_LEAF)
    if is_jax_namespace(xp):
        return _gram_jax()(S)
    if is_dask_namespace(xp):
        return sum_over_chunks(gram, S)
    return xp.matmul(S, adjoint(S))


def _gram_torch(S: Array) -> Array:
    """Blocks are written into one array where that is allowed: their copies cost too much else."""
    n, m = S.shape[-2:]
    wide = m >= _TORCH_WIDE * n
    leaf = _TORCH_LEAF if wide else 2 * _TORCH_LEAF
    if n <= leaf or m < n:
        return S @ S.mH
    G = S.new_empty((*S.shape[:-1], n))
    if not writable(G, S):
        return gram_by_halves(S, leaf=leaf if wide else n)
    _fill_gram(G, S, leaf)
    return G


def _fill_gram(G: Array, S: Array, leaf: int) -> None:
    """Write S S^H into a torch tensor by halves."""
    import torch

    n = S.shape[-2]
    if n <= leaf:
        torch.matmul(S, S.mH, out=G)
        return
    top, bottom = S[..., : n // 2, :], S[..., n // 2 :, :]
    cross = G[..., n // 2 :, : n // 2]
    torch.matmul(bottom, top.mH, out=cross)
    G[..., : n // 2, n // 2 :] = cross.mH
    _fill_gram(G[..., : n // 2, : n // 2], top, leaf)
    _fill_gram(G[..., n // 2 :, n // 2 :], bottom, leaf)


def _gram_numpy(S: Array) -> Array:
    """Real: NumPy hands S @ S.mT to syrk. Complex: herk, one matrix at a time."""
    if not is_complex(S):
        return S @ S.mT
    if S.ndim == 2:
        return _herk(S)
    n, m = S.shape[-2:]
    blocks = [_herk(block) for block in S.reshape(math.prod(S.shape[:-2]), n, m)]
    return np.reshape(np.asarray(blocks, dtype=S.dtype), S.shape[:-1] + (n,))


def _herk(S: Array) -> Array:
    herk = blas.get_blas_funcs("herk", (S,))
    if not S.flags.forc:  # SciPy would copy the whole of S
        columns = max(1, _COPIED_BYTES // (S.itemsize * len(S)))
        starts = range(0, S.shape[1], columns)
        return sum(_herk(np.ascontiguousarray(S[:, i : i + columns])) for i in starts)
    if S.flags.f_contiguous:
        G = herk(1.0, S, lower=1)
    else:  # the transpose of C-ordered S is Fortran-ordered: (S^T)^H S^T = conj(S S^H)
        G = herk(1.0, S.T, trans=2).T
    G += np.conj(np.tril(G, -1).T)
    return G


def weighted_sum_with_gram(A: Array, old: Any, X: Array, new: Any) -> Array:
    """Return old A + new X^T conj(X) for Hermitian A (..., d, d) and X (..., N, d).

    `old` and `new` are Python numbers or real arrays of shape (..., 1, 1). BLAS adds one triangle
    to a new array and the other is copied from it: NumPy's own product of a matrix with its
    transpose spends three times as long on that copy, at d = 4096, as on the product.
    """
    xp = namespace(A)
    if not is_numpy_namespace(xp) or A.shape[-1] < _MIRRORED:
        return old * A + new * gram(xp.matrix_transpose(X))
    total = np.multiply(old, A, order="C")
    d, rows = A.shape[-1], X * new**0.5
    for T, R in zip(total.reshape(-1, d, d), rows.reshape(-1, *X.shape[-2:])):
        _add_gram(T, R)
    return total


def _add_gram(total: Array, X: Array) -> None:
    """Add X^T conj(X) in place, C-ordered, reading the upper triangle only."""
    conjugated = np.conj(X) if is_complex(X) else X  # `total` is conj(total) to LAPACK
    if is_complex(X):
        update = blas.get_blas_funcs("herk", (total,))
    else:
        update = blas.get_blas_funcs("syrk", (total,))
    update(1.0, conjugated.T, beta=1.0, c=total.T, lower=1, overwrite_c=1)
    for i in range(0, len(total), _MIRRORED):
        end = i + _MIRRORED
        total[end:, i:end] = np.conj(total[i:end, end:].T)
        square = total[i:end, i:end]
        square[:] = np.triu(square) + np.conj(np.triu(square, 1).T)


def gram_by_halves(S: Array, *, leaf: int) -> Array:
    """Return S S^H from the Gram matrices of both halves of the rows and one cross product."""
    xp = namespace(S)
    n = S.shape[-2]
    if n <= leaf:
        return _outer(S, S)
    top, bottom = S[..., : n // 2, :], S[..., n // 2 :, :]
    cross = _outer(bottom, top)
    upper = xp.concat([gram_by_halves(top, leaf=leaf), adjoint(cross)], axis=-1)
    lower = xp.concat([cross, gram_by_halves(bottom, leaf=leaf)], axis=-1)
    return xp.concat([upper, lower], axis=-2)


def gram_cupy_syrk(S: Array) -> Array:
    """Return S S^T for a real 2-D CuPy array by cuBLAS syrk (CuPy wraps no herk).

    The output must be C-contiguous: otherwise `cupy.cublas.syrk` copies a C-ordered S.
    """
    import cupy
    from cupy import cublas

    n = S.shape[0]
    G = cublas.syrk("N", S, out=cupy.zeros((n, n), dtype=S.dtype), lower=True)
    return cupy.tril(G) + cupy.tril(G, -1).T


def _outer(A: Array, B: Array) -> Array:
    """Return A B^H without a conjugated copy of B where the library allows it."""
    xp = namespace(A)
    if is_cupy_namespace(xp) and is_complex(B) and A.ndim == 2:
        from cupy import cublas

        return cublas.gemm("N", "H", A, B)
    return xp.matmul(A, adjoint(B))


@cache
def _gram_jax() -> Any:
    """Return the compiled Gram of JAX: its tangent is dS S^H + S dS^H."""
    import jax
    import jax.numpy as jnp

    def product(A: Array, B: Array) -> Array:
        return jnp.matmul(A, adjoint(B), precision=jax.lax.Precision.HIGHEST)

    def halves(S: Array, leaf: int) -> Array:
        n = S.shape[0]
        if n <= leaf:
            return product(S, S)
        top, bottom = S[: n // 2], S[n // 2 :]
        cross = product(bottom, top)
        return jnp.block([[halves(top, leaf), adjoint(cross)], [cross, halves(bottom, leaf)]])

    def by_columns(S: Array) -> Array:
        """Take blocks of columns that stay in the cache while their triangle is formed.

        XLA multiplies complex matrices on the CPU at a third of the real rate: there the real and
        imaginary parts A and B of a block are rows of one real block.
        """
        n, m = S.shape
        steps = m // _JAX_COLUMNS

        def add(i: Array, K: Array) -> Array:
            block = real_rows(jax.lax.dynamic_slice(S, (0, i * _JAX_COLUMNS), (n, _JAX_COLUMNS)))
            return K + halves(block, -(-block.shape[0] // _JAX_LEAVES))

        rest = real_rows(S[:, steps * _JAX_COLUMNS :])
        K = jax.lax.fori_loop(0, steps, add, product(rest, rest))
        if not is_complex(S):
            return K
        AA, BA, BB = K[:n, :n], K[n:, :n], K[n:, n:]
        return jax.lax.complex(AA + BB, BA - BA.T)  # (A + i B) (A + i B)^H

    def real_rows(S: Array) -> Array:
        return jnp.concatenate([jnp.real(S), jnp.imag(S)]) if is_complex(S) else S

    def whole(S: Array) -> Array:
        return product(S, S)

    @jax.custom_jvp
    def gram(S: Array) -> Array:
        rows = _JAX_COMPLEX_ROWS if is_complex(S) else _JAX_ROWS
        if S.ndim > 2 or S.shape[0] < rows or S.shape[1] < 2 * _JAX_COLUMNS:
            return whole(S)
        return jax.lax.platform_dependent(S, cpu=by_columns, default=whole)

    def tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        half = product(tangents[0], primals[0])
        return gram(primals[0]), half + adjoint(half)

    gram.defjvp(tangent)
    return jax.jit(gram)


# -------------------------------------------------------------------------------- diagonal


def trace(A: Array) -> Array:
    """Return the real trace of a Hermitian matrix, (...), summed in float32 or wider."""
    xp = namespace(A)
    diagonal = xp.linalg.diagonal(A)
    diagonal = xp.real(diagonal) if is_complex(A) else diagonal
    return xp.sum(astype(diagonal, real_name(dtype_name(A.dtype))), axis=-1)


def add_to_diagonal(A: Array, shift: float | Array) -> Array:
    """Return A + shift * identity. `A` is used up: NumPy, CuPy and torch write into it.

    `shift` is a Python number or a real array of shape `A.shape[:-2]`.
    """
    return add_diagonal(A, shift if isinstance(shift, float) else shift[..., None])


def add_diagonal(A: Array, diagonal: float | Array) -> Array:
    """Return A + diag(diagonal), for (..., n) or (..., 1). `A` is used up, as above."""
    xp = namespace(A)
    if is_torch_namespace(xp) and writable(A, diagonal):
        A.diagonal(dim1=-2, dim2=-1).add_(diagonal)
        return A
    if is_numpy_namespace(xp) or is_cupy_namespace(xp):
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


def unit_columns(like: Array) -> Array:
    """Return the first l unit vectors, (d, l), for an array (..., d, l)."""
    d, columns = like.shape[-2:]
    return _eye(d, columns, like)


def identity_like(like: Array, n: int) -> Array:
    """Return the n x n identity in the dtype of an array."""
    return _eye(n, n, like)


def _eye(rows: int, columns: int, like: Array) -> Array:
    xp = namespace(like)
    if is_jax_namespace(xp):
        return xp.eye(rows, columns, dtype=like.dtype)
    if is_dask_namespace(xp):  # its eye fails where there are more columns than rows
        return xp.eye(max(rows, columns), dtype=like.dtype)[:rows, :columns]
    # array-api-compat's `device` goes through sys.modules, where torch.compile fails
    where = like.device if is_torch_namespace(xp) else device(like)
    return xp.eye(rows, columns, dtype=like.dtype, device=where)


def preserved(A: Array) -> Array:
    """Return A to be used up by `add_to_diagonal`, a copy where that writes into it."""
    xp = namespace(A)
    if is_torch_namespace(xp) and writable(A):
        return A.clone()
    return A.copy() if is_numpy_namespace(xp) or is_cupy_namespace(xp) else A


# --------------------------------------------------------------------------------- centring


def centred_rows(O: Array, mean: Array, scale: float | Array, *, stack: bool) -> Array:
    """Return scale * (O - mean), the real parts on top of the imaginary ones if `stack`.

    `mean` has shape (..., 1, m); `scale` is a number or has shape (..., n, 1). The result is the
    one new array of the size of O: NumPy and CuPy write into it.
    """
    xp = namespace(O)
    parts = [(xp.real(O), xp.real(mean)), (xp.imag(O), xp.imag(mean))] if stack else [(O, mean)]
    if is_numpy_namespace(xp) or is_cupy_namespace(xp):
        n, m = O.shape[-2:]
        S = xp.empty(O.shape[:-2] + (len(parts) * n, m), dtype=parts[0][0].dtype)
        for i, (part, shift) in enumerate(parts):
            rows = S[..., i * n : (i + 1) * n, :]
            xp.subtract(part, shift, out=rows)
            xp.multiply(rows, scale, out=rows)
        return S
    parts = [(part - shift) * scale for part, shift in parts]
    return columns_chunked(xp.concat(parts, axis=-2)) if stack else parts[0]

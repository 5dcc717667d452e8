"""Gram matrices, in half the flops of a product where the library allows it.

S is copied in chunks only, where BLAS does not take its layout; `_herk` takes contiguous ones.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import blas

from .array import AnyArray
from .choices import CHOICES
from .chunks import sum_over_chunks
from .column_loops import loop_over_columns
from .device_memory import require_square_on_each_device
from .dtypes import dtype_name, is_complex
from .gram_cupy import gram_cupy
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .products import adjoint, hermitian_part
from .runs import LONG, THIN_TORCH, blas_takes, in_loop_jax, long_product, product, sum_over_copies
from .scipy_threads import short_call
from .shapes import CHUNK_BYTES
from .sums import add_multiple, writable

__all__ = ["gram", "gram_by_halves", "weighted_sum_with_gram"]

# Row counts below which halving a Gram matrix gains nothing (the blocks become too small for
# GEMM), and the columns that one step of the JAX loop takes: measured on the CPU
# (asv_benchmarks/claims/gram.py).
_TORCH_LEAF = 64
_TORCH_WIDE = 4  # times as many columns as rows, below which leaves are twice as large
_JAX_ROWS = 512
_JAX_COMPLEX_ROWS = 16
_JAX_FEW = (2, 3)  # rows, of which XLA makes sums in one accumulator if they lie transposed
_JAX_PARTS = 4
_JAX_COLUMNS = 2048
_MIRRORED = 256  # rows of the blocks in which one triangle is copied to the other


def gram(S: AnyArray) -> AnyArray:
    """Return S S^H, (..., n, n), Hermitian, in half the flops of a product where possible."""
    xp = namespace(S)
    if is_numpy_namespace(xp):
        return _gram_numpy(S)
    if is_torch_namespace(xp):
        return _gram_torch(S)
    if is_cupy_namespace(xp):
        return gram_cupy(S)
    if is_jax_namespace(xp):
        require_square_on_each_device(S)
        return _gram_jax(CHOICES["gram of jax"].way)(S)
    if is_dask_namespace(xp):
        return sum_over_chunks(gram, S)
    return product(S, adjoint(S))


def _gram_torch(S: AnyArray) -> AnyArray:
    n, m = S.shape[-2:]
    if S.device.type == "cuda":
        return _gram_torch_cuda(S)
    if m > LONG and S.device.type == "cpu":
        if n < THIN_TORCH:
            return long_product(S, S.mH, lanes=False)
        if not blas_takes(S):
            return sum_over_copies(_gram_torch, S)
    return _halves_torch(S)


def _gram_torch_cuda(S: AnyArray) -> AnyArray:
    return S @ S.mH if CHOICES["gram of torch"].way == "product" else _halves_torch(S)


def _halves_torch(S: AnyArray) -> AnyArray:
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


def _fill_gram(G: AnyArray, S: AnyArray, leaf: int) -> None:
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


def _gram_numpy(S: AnyArray) -> AnyArray:
    """Real: NumPy hands S @ S.mT to syrk. Complex: herk, one matrix at a time."""
    if not is_complex(S):
        taken = S.flags.forc or blas_takes(S)
        return S @ S.mT if taken else sum_over_copies(_gram_numpy, S)
    if S.ndim == 2:
        return _herk(S)
    n, m = S.shape[-2:]
    blocks = [_herk(block) for block in S.reshape(math.prod(S.shape[:-2]), n, m)]
    return np.reshape(np.asarray(blocks, dtype=S.dtype), S.shape[:-1] + (n,))


def _herk(S: AnyArray) -> AnyArray:
    herk = blas.get_blas_funcs("herk", (S,))
    if not S.flags.forc:  # SciPy would copy the whole of S
        columns = max(1, CHUNK_BYTES // (S.itemsize * len(S)))
        starts = range(0, S.shape[1], columns)
        return sum(_herk(np.ascontiguousarray(S[:, i : i + columns])) for i in starts)
    with short_call(S, len(S) * S.size / 2):
        if S.flags.f_contiguous:
            G = herk(1.0, S, lower=1)
        else:  # the transpose of C-ordered S is Fortran-ordered: (S^T)^H S^T = conj(S S^H)
            G = herk(1.0, S.T, trans=2).T
    G += np.conj(np.tril(G, -1).T)
    return G


def weighted_sum_with_gram(A: AnyArray, old: Any, X: AnyArray, new: Any) -> AnyArray:
    """Return old A + new X^T conj(X) for Hermitian A (..., d, d) and X (..., N, d).

    `old` and `new` are Python numbers or real arrays of shape (..., 1, 1), `new` not negative. In
    NumPy BLAS adds one triangle to a new array and the other is copied from it: its own product of
    a matrix with its transpose spends three times as long on that copy, at d = 4096, as on the
    product.
    """
    xp = namespace(A)
    if not X.shape[-2]:
        return old * A
    rows = X * new**0.5
    if not is_numpy_namespace(xp) or A.shape[-1] < _MIRRORED:
        return add_multiple(gram(xp.matrix_transpose(rows)), old, A)
    total = np.multiply(old, A, order="C")
    d = A.shape[-1]
    for T, R in zip(total.reshape(-1, d, d), rows.reshape(-1, *X.shape[-2:])):
        _add_gram(T, R)
    return total


def _add_gram(total: AnyArray, X: AnyArray) -> None:
    """Add X^T conj(X) in place, C-ordered, reading the upper triangle only."""
    if is_complex(X):
        update = blas.get_blas_funcs("herk", (total,))
    else:
        update = blas.get_blas_funcs("syrk", (total,))
    conjugated = np.conj(X) if is_complex(X) else X  # `total` is conj(total) to LAPACK
    with short_call(X, len(total) * X.size / 2):
        update(1.0, conjugated.T, beta=1.0, c=total.T, lower=1, overwrite_c=1)
    for i in range(0, len(total), _MIRRORED):
        end = i + _MIRRORED
        total[end:, i:end] = np.conj(total[i:end, end:].T)
        square = total[i:end, i:end]
        square[:] = np.triu(square) + np.conj(np.triu(square, 1).T)


def gram_by_halves(S: AnyArray, *, leaf: int) -> AnyArray:
    """Return S S^H from the Gram matrices of both halves of the rows and one cross product."""
    xp = namespace(S)
    n = S.shape[-2]
    if n <= leaf:
        return xp.matmul(S, adjoint(S))
    top, bottom = S[..., : n // 2, :], S[..., n // 2 :, :]
    cross = xp.matmul(bottom, adjoint(top))
    upper = xp.concat([gram_by_halves(top, leaf=leaf), adjoint(cross)], axis=-1)
    lower = xp.concat([cross, gram_by_halves(bottom, leaf=leaf)], axis=-1)
    return xp.concat([upper, lower], axis=-2)


@cache
def _gram_jax(way: str) -> Any:
    """Return the compiled Gram of JAX: its tangent is dS S^H + S dS^H.

    Each way is a function of its own: JAX does not trace one again where another way is taken.
    """
    import jax

    def whole(S: AnyArray) -> AnyArray:
        if way != "symmetric" or dtype_name(S.dtype) not in ("float32", "float64"):
            return _whole_jax(S)
        return jax.lax.platform_dependent(S, cuda=_symmetric_jax, default=_whole_jax)

    @jax.custom_jvp
    def gram(S: AnyArray) -> AnyArray:
        if S.shape[-2] in _JAX_FEW and S.shape[-1] > LONG:
            return jax.lax.platform_dependent(S, cpu=_few_rows_jax, default=whole)
        rows = _JAX_COMPLEX_ROWS if is_complex(S) else _JAX_ROWS
        if S.ndim > 2 or S.shape[0] < rows or S.shape[1] < _JAX_COLUMNS // 2:
            return whole(S)
        return jax.lax.platform_dependent(S, cpu=_by_columns_jax, default=whole)

    def tangent(primals: tuple[AnyArray], tangents: tuple[AnyArray]) -> tuple[AnyArray, AnyArray]:
        half = _product_jax(tangents[0], primals[0])
        return gram(primals[0]), half + adjoint(half)

    gram.defjvp(tangent)
    return jax.jit(gram)


def _product_jax(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B^H."""
    import jax

    return jax.numpy.matmul(A, adjoint(B), precision=jax.lax.Precision.HIGHEST)


def _whole_jax(S: AnyArray) -> AnyArray:
    return _product_jax(S, S)


def _symmetric_jax(S: AnyArray) -> AnyArray:
    """Return S S^T by syrk, which forms one triangle."""
    import jax

    n = S.shape[-2]
    nothing = jax.numpy.zeros((*S.shape[:-1], n), S.dtype)
    return jax.lax.linalg.symmetric_product(S, nothing, symmetrize_output=True)


def _few_rows_jax(S: AnyArray) -> AnyArray:
    return in_loop_jax(S, adjoint(S))


def _by_columns_jax(S: AnyArray) -> AnyArray:
    """Take blocks of columns that stay in the cache while their triangle is formed."""
    import jax

    def of_columns(block: AnyArray) -> tuple[AnyArray, None]:
        return _triangle_jax(block), None

    blocks, _ = loop_over_columns(S, of_columns, columns=_JAX_COLUMNS)
    n = S.shape[-2]
    if not is_complex(S):
        return _whole_of_triangle_jax(blocks)[:n, :n]
    blocks = jax.lax.complex(blocks[0], blocks[1])
    return hermitian_part(_whole_of_triangle_jax(blocks)[:n, :n])


# The blocks of a lower triangle.
_LOWER = [(i, j) for i in range(_JAX_PARTS) for j in range(i + 1)]


def _triangle_jax(S: AnyArray) -> AnyArray:
    """Return the products of parts of the rows that make up the lower triangle of S S^H.

    One after the other in a loop, whose body XLA compiles once. It multiplies complex matrices on
    the CPU at a third of the real rate: with S = A + i B, the real parts are products of [A, B]
    with itself, and the imaginary ones, (..., 2, blocks, q, q) in all, of [B, -A] with [A, B].
    """
    import jax
    import jax.numpy as jnp

    *batch, n, m = S.shape
    if n % _JAX_PARTS:
        S = jnp.pad(S, [(0, 0)] * len(batch) + [(0, -n % _JAX_PARTS), (0, 0)])
    parts = jnp.moveaxis(S.reshape(*batch, _JAX_PARTS, -1, m), -3, 0)
    left = right = parts
    if is_complex(S):
        A, B = jnp.real(parts), jnp.imag(parts)
        right = jnp.concatenate([A, B], axis=-1)
        left = jnp.stack([right, jnp.concatenate([B, -A], axis=-1)], axis=-3)
        right = jnp.expand_dims(right, -3)
    blocks = jax.lax.map(lambda ij: _product_jax(left[ij[0]], right[ij[1]]), jnp.asarray(_LOWER))
    return jnp.moveaxis(blocks, 0, -3)


def _whole_of_triangle_jax(blocks: AnyArray) -> AnyArray:
    """Return the Hermitian matrix of which these are the blocks of the lower triangle."""
    import jax.numpy as jnp

    place = {pair: k for k, pair in enumerate(_LOWER)}
    pairs = [(i, j) for i in range(_JAX_PARTS) for j in range(_JAX_PARTS)]
    chosen = blocks[jnp.asarray([place[max(pair), min(pair)] for pair in pairs])]
    above = jnp.asarray([i < j for i, j in pairs])[:, None, None]
    whole = jnp.where(above, adjoint(chosen), chosen)
    size = blocks.shape[-1]
    whole = whole.reshape(_JAX_PARTS, _JAX_PARTS, size, size)
    return whole.transpose(0, 2, 1, 3).reshape(_JAX_PARTS * size, _JAX_PARTS * size)

"""Long sums, made in runs of about the square root of their length.

One accumulator that takes L terms of one sign errs by up to L u / 2 of their sum. BLAS adds in
many lanes, and multiplies matrices by blocks of the axis that is summed over; but a matrix times a
vector, or with one row, has a single accumulator where that axis does not lie in memory in one
piece, and so has NumPy for strides that BLAS does not take. Runs of sqrt(L) terms, then the sum of
their sums, err by sqrt(L) u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial, reduce
from operator import add
from typing import Any

import numpy as np

from .array import AnyArray
from .column_loops import loop_over_columns, shard_runs
from .cupy_products import product_cupy, taken_by_cublas
from .dtypes import dtype_name
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .shapes import spans

__all__ = [
    "LONG",
    "THIN_TORCH",
    "blas_takes",
    "in_loop_jax",
    "length_in_lanes",
    "long_mean",
    "long_product",
    "long_sum",
    "pieces",
    "product",
    "sum_over_copies",
]

LONG = 2048  # terms, from which on a sum is looked at
_LONG_JAX = 2**16  # whose layouts are not known
_SPAN_TORCH = 2**15  # of a matrix times a vector, whose lanes are few
THIN_TORCH = 16  # rows or columns, below which MKL on AMD processors has one accumulator
_COLUMNS_JAX = 2048
_LANES_JAX = 256  # terms, beyond which errors grow with their number
_BLOCKED = 10**6  # multiplications, below which OpenBLAS has one accumulator for a transposed A
_SHORTEST = 64  # run


def product(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B, by `long_product` where sums are long."""
    if not isinstance(A, np.ndarray) and is_cupy_namespace(namespace(A)):
        return _product_cupy(A, B)
    return A @ B if A.shape[-1] <= LONG else long_product(A, B)


def long_product(A: AnyArray, B: AnyArray, *, lanes: bool = True) -> AnyArray:
    """Return A B, (..., p, q), for A (..., p, L) and B (..., L, q), whose sums err as in lanes.

    It is one product where the library makes them so, but not if `lanes` is False. Otherwise views
    are multiplied; where a library copies those, it is 64 MB at a time.
    """
    xp = namespace(A)
    if lanes and _in_lanes(A, B):
        return xp.matmul(A, B)
    if is_jax_namespace(xp):
        return _product_jax()(A, B)
    ends = {A.shape[-2], B.shape[-1]}
    if is_torch_namespace(xp) and 1 in ends and ends != {1} and _lies_in_one_piece(A, B):
        return _by_spans(A, B)
    return _by_runs(A, B)


def length_in_lanes(length: int, like: AnyArray) -> float:
    """Return how long a sum in lanes would be that errs as one of this length of a library does."""
    if is_jax_namespace(namespace(like)) and _LANES_JAX < length <= _LONG_JAX:
        return length * (length / _LANES_JAX)
    return length


def _product_cupy(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B as they lie in memory; what cuBLAS does not take is copied 64 MB at a time."""
    if taken_by_cublas(A) and taken_by_cublas(B):
        return product_cupy(A, B)
    *batch, p, length = A.shape
    copied = spans(length, max(p, B.shape[-1]), batch, dtype_name(A.dtype), copied=True)
    parts = ((A, B) if i is None else (A[..., i], B[..., i, :]) for i in copied)
    return reduce(add, (product_cupy(a, b) for a, b in parts))


def _by_runs(A: AnyArray, B: AnyArray) -> AnyArray:
    xp = namespace(A)
    *batch, p, length = A.shape
    q = B.shape[-1]
    run = max(_SHORTEST, math.isqrt(length), min(p, q))
    terms: list[AnyArray] = []
    for span in spans(length, max(p, q), batch, dtype_name(A.dtype), copied=True):
        a, b = (A, B) if span is None else (A[..., span], B[..., span, :])
        terms.extend(
            xp.sum(xp.matmul(xp.moveaxis(left, -2, -3), right), axis=-3)
            for left, right in zip(pieces(a, run, axis=-1), pieces(b, run, axis=-2))
        )
    return reduce(add, terms)


def _by_spans(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B as a sum of products of fewer terms, which are as fast as one."""
    ends = range(_SPAN_TORCH, A.shape[-1] + _SPAN_TORCH, _SPAN_TORCH)
    parts = (slice(end - _SPAN_TORCH, end) for end in ends)
    return reduce(add, (A[..., part] @ B[..., part, :] for part in parts))


@cache
def _product_jax() -> Any:
    """Return the product of JAX, on the CPU in a loop; GPUs have lanes enough."""
    import jax

    def product(A: AnyArray, B: AnyArray) -> AnyArray:
        return jax.lax.platform_dependent(A, B, cpu=in_loop_jax, default=jax.numpy.matmul)

    return jax.jit(product)


def in_loop_jax(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B by a loop over blocks of columns of A, inside compiled code."""
    total, _ = loop_over_columns(A, lambda a, b: (a @ b, None), B, columns=_COLUMNS_JAX)
    return total


def long_mean(X: AnyArray) -> AnyArray:
    """Return the mean over rows, (..., 1, m), of X (..., n, m)."""
    return long_sum(X) / X.shape[-2]


def long_sum(X: AnyArray) -> AnyArray:
    """Return the sum over rows, (..., 1, m), of X (..., n, m)."""
    xp = namespace(X)
    if is_dask_namespace(xp) or X.shape[-2] == 0:
        return xp.sum(X, axis=-2, keepdims=True)
    sums = (
        xp.sum(xp.sum(piece, axis=-2), axis=-2, keepdims=True)
        for piece in pieces(X, max(_SHORTEST, math.isqrt(X.shape[-2])), axis=-2)
    )
    return reduce(add, sums)


def long_norm(X: AnyArray) -> AnyArray:
    """Return the 2-norms of the columns, (..., k), of X (..., L, k)."""
    xp, norm = namespace(X), partial(namespace(X).linalg.vector_norm, axis=-2)
    if is_dask_namespace(xp):
        return norm(X)
    if is_jax_namespace(xp):
        return norm(norm(shard_runs(X)))
    run = max(_SHORTEST, math.isqrt(X.shape[-2]))
    return reduce(xp.hypot, (norm(norm(part)) for part in pieces(X, run, axis=-2)))


def pieces(X: AnyArray, run: int, *, axis: int) -> Iterator[AnyArray]:
    """Yield X with an axis of length L as two, (L // run, run), and what is left, as (1, rest)."""
    xp, length = namespace(X), X.shape[axis]
    whole = length // run * run
    tail = X.shape[X.ndim + axis + 1 :]
    for start, end, width in ((0, whole, run), (whole, length, length - whole)):
        if end > start:
            part = X[..., start:end] if axis == -1 else X[..., start:end, :]
            shape = (*X.shape[: X.ndim + axis], (end - start) // width, width, *tail)
            yield xp.reshape(part, shape)


def sum_over_copies(function: Callable[[AnyArray], AnyArray], S: AnyArray) -> AnyArray:
    """Return the sum of function(columns) over columns of S that are copied, 64 MB at a time."""
    *batch, n, m = S.shape
    xp = namespace(S)
    copied = spans(m, n, batch, dtype_name(S.dtype), copied=True)
    parts = (S if span is None else S[..., span] for span in copied)
    if is_torch_namespace(xp):
        return reduce(add, (function(part.contiguous()) for part in parts))
    return reduce(add, (function(xp.asarray(part, order="C", copy=True)) for part in parts))


def _in_lanes(A: AnyArray, B: AnyArray) -> bool:
    """Tell whether the library makes the sums of A B in many lanes, or by blocks."""
    xp = namespace(A)
    if is_dask_namespace(xp):
        return True
    if is_jax_namespace(xp):
        return bool(A.shape[-1] <= _LONG_JAX)
    if not is_numpy_namespace(xp) and not is_torch_namespace(xp):
        return False
    if is_torch_namespace(xp) and A.device.type != "cpu":
        return True
    p, q = A.shape[-2], B.shape[-1]
    if is_torch_namespace(xp):
        most = LONG if min(p, q) > 1 else _SPAN_TORCH
        if min(p, q) < THIN_TORCH and A.shape[-1] > most:
            return False
    if p == q == 1:
        return bool(is_numpy_namespace(xp)) and _strides(A)[1] == _strides(B)[0] == 1
    if min(p, q) == 1:
        return _lies_in_one_piece(A, B)
    blocked = A.shape[-1] * p * q > _BLOCKED or is_torch_namespace(xp) or _strides(A)[1] == 1
    return blocked and blas_takes(A) and blas_takes(B)


def _lies_in_one_piece(A: AnyArray, B: AnyArray) -> bool:
    """Tell of a matrix times a vector, or a row times a matrix, how it is summed over in memory."""
    if B.shape[-1] == 1:
        return blas_takes(A) and _strides(A)[1] == 1
    return blas_takes(B) and _strides(B)[0] == 1


def blas_takes(A: AnyArray) -> bool:
    """Tell whether rows or columns of a NumPy or torch matrix lie in memory one after the other."""
    (row, column), (n, m) = _strides(A), A.shape[-2:]
    return (column == 1 and row >= m) or (row == 1 and column >= n)


def _strides(A: AnyArray) -> tuple[float, float]:
    """Return the distances in memory between rows and between columns, in entries."""
    if is_torch_namespace(namespace(A)):
        return A.stride(-2), A.stride(-1)
    row, column = A.strides[-2:]
    return row / A.itemsize, column / A.itemsize

"""Norms and inner products, right wherever they are normal numbers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np

from .array import AnyArray
from .dtypes import (
    astype,
    double_name,
    dtype_name,
    has_double,
    is_complex,
    is_double,
    real_name,
)
from .fused import filled, in_one_kernel, largest_along
from .kernels_cupy import inner_cupy, norm_cupy, squares_and_distances_cupy
from .namespace import (
    as_array,
    is_cupy_namespace,
    is_jax_namespace,
    is_torch_namespace,
    namespace,
)
from .powers import power_of_two
from .runs import LONG, long_norm
from .tracing import chooses, compiled, detached, free_to_read, is_traced, number_if_free

__all__ = [
    "frobenius_norm",
    "inner_columns",
    "largest_entry",
    "norm_along",
    "plain_norms",
    "roots_or_one",
    "scaled_norms",
    "squared_norm",
    "squares_and_distances",
]


def largest_entry(X: AnyArray, axis: int | tuple[int, ...]) -> AnyArray:
    """Return max |X_ij| along some axes, which have then length 1; 1 where all entries are 0.

    Squares of X over it neither overflow nor, where they matter, underflow.
    """
    xp = namespace(X)
    largest = xp.max(xp.abs(X), axis=axis, keepdims=True)
    return xp.where(largest > 0, largest, xp.ones_like(largest))


def frobenius_norm(A: AnyArray) -> AnyArray:
    """Return |A|_F, (...), as `norm_along` does."""
    return norm_along(A, (-2, -1))


# Where a norm lies in here, squares that underflow do not count, and none overflows.
_SQUARES_FIT = {"float32": (2.0**-40, 2.0**60), "float64": (2.0**-400, 2.0**500)}


def norm_along(X: AnyArray, axis: int | tuple[int, ...], *, keepdims: bool = False) -> AnyArray:
    """Return the 2-norm of X along some axes, right wherever it is a normal number itself.

    Its derivatives where all entries are 0 are 0. Where the host may look, entries are divided by
    a power of two only if their squares do not fit.
    """
    if 0 in X.shape:
        return _plain_norm(X, axis, keepdims=keepdims)
    if not isinstance(X, np.ndarray) and is_cupy_namespace(namespace(X)):
        return norm_cupy(X, axis, keepdims=keepdims)
    # in JAX one compiled piece is the faster one
    if free_to_read(X) and (isinstance(X, np.ndarray) or not is_jax_namespace(namespace(X))):
        norm = _plain_norm(X, axis, keepdims=keepdims)
        if _squares_fit(norm):
            return norm
    return compiled(_scaled_norm, X, axis=axis, keepdims=keepdims)


def _plain_norm(X: AnyArray, axis: int | tuple[int, ...], *, keepdims: bool) -> AnyArray:
    if isinstance(X, np.ndarray) and X.ndim == 2 and axis == (-2, -1) and not keepdims:
        return np.asarray(np.linalg.norm(X))  # without a copy
    return as_array(namespace(X).linalg.vector_norm(X, axis=axis, keepdims=keepdims))


def _squares_fit(norm: AnyArray) -> bool:
    """Tell whether all norms are known to lie where plain squares are right."""
    xp, (least, largest) = namespace(norm), _SQUARES_FIT[dtype_name(norm.dtype)]
    if not norm.ndim:
        value = number_if_free(norm)
        return value is not None and least < value < largest
    smallest, greatest = map(number_if_free, (xp.min(norm), xp.max(norm)))
    return smallest is not None and greatest is not None and least < smallest <= greatest < largest


def _scaled_norm(X: AnyArray, axis: int | tuple[int, ...], *, keepdims: bool) -> AnyArray:
    xp = namespace(X)
    if is_torch_namespace(xp):  # whose slope at 0 is 0
        import torch

        unit = power_of_two(largest_along(detached(X), axis, keepdims=True))
        norm = unit * torch.linalg.vector_norm(X / unit, dim=axis, keepdim=True)
        return norm if keepdims else xp.squeeze(norm, axis=axis)
    unit = power_of_two(xp.max(xp.abs(detached(X)), axis=axis, keepdims=True))
    parts = (xp.real(X), xp.imag(X)) if is_complex(X) else (X,)
    squares = (xp.sum((part / unit) ** 2, axis=axis, keepdims=True) for part in parts)
    square = reduce(add, squares)
    zero = square == 0
    root = xp.sqrt(xp.where(zero, xp.ones_like(square), square))  # whose slope at 0 is infinite
    norm = unit * xp.where(zero, xp.zeros_like(root), root)
    return norm if keepdims else xp.squeeze(norm, axis=axis)


def squared_norm(X: AnyArray) -> AnyArray:
    """Return |X|_F^2, (...), of X (..., n, m)."""
    xp = namespace(X)
    if not X.shape[-2]:  # Dask does not flatten chunks of no rows
        return as_array(xp.sum(xp.real(X) if is_complex(X) else X, axis=(-2, -1)))
    if is_cupy_namespace(xp):
        return inner_cupy(X, X, (-2, -1))
    flat = xp.reshape(X, (*X.shape[:-2], X.shape[-2] * X.shape[-1]))
    if is_torch_namespace(xp):  # array-api-compat's cannot be mapped by torch.vmap
        square = xp.linalg.vecdot(flat, flat)
    else:
        square = xp.vecdot(flat, flat)
    return as_array(xp.real(square) if is_complex(X) else square)


def inner_columns(X: AnyArray, Y: AnyArray) -> AnyArray:
    """Return Re X_j^H Y_j, (..., k), of the columns of X and Y (..., n, k)."""
    if isinstance(X, np.ndarray):
        columns: AnyArray = np.vecdot(X, Y, axis=-2)  # type: ignore[call-overload]
        return columns.real
    xp = namespace(X)
    if is_cupy_namespace(xp):
        return inner_cupy(X, Y, -2)
    if is_torch_namespace(xp):
        import torch

        products = torch.linalg.vecdot(X, Y, dim=-2)
    else:
        products = xp.vecdot(X, Y, axis=-2)
    return xp.real(products) if is_complex(products) else products


def squares_and_distances(X: AnyArray, Y: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return |X_j|^2 and |X_j - Y_j|^2, each (..., k), of the columns of X and Y (..., n, k)."""
    if not isinstance(X, np.ndarray) and is_cupy_namespace(namespace(X)):
        return squares_and_distances_cupy(X, Y, -2)
    difference = X - Y
    return inner_columns(X, X), inner_columns(difference, difference)


def plain_norms(x: Sequence[AnyArray]) -> AnyArray:
    """Return the 2-norms, (..., k), of the columns of a vector in pieces, whose squares fit.

    They are few pieces of compiled code.
    """
    xp = namespace(x[0])
    parts = [part for z in x for part in ((xp.real(z), xp.imag(z)) if is_complex(z) else (z,))]
    return xp.sqrt(reduce(add, (xp.sum(part * part, axis=-2) for part in parts)))


def scaled_norms(x: AnyArray) -> AnyArray:
    """Return the 2-norms, (..., k), of the columns of x (..., n, k), whose squares may not fit."""
    xp, dtype = namespace(x), dtype_name(x.dtype)
    if is_cupy_namespace(xp) or not x.shape[-2]:
        return norm_along(x, -2)
    if is_traced(x) and chooses(x) and has_double(x) and not is_double(dtype):
        return astype(plain_norms((astype(x, double_name(dtype)),)), real_name(dtype))
    scale = largest_entry(x, -2)
    norm = long_norm if x.shape[-2] > LONG else partial(xp.linalg.vector_norm, axis=-2)
    return xp.squeeze(scale, axis=-2) * norm(x / scale)


def roots_or_one(squares: AnyArray) -> AnyArray:
    """Return square roots, and 1 for 0."""
    xp = namespace(squares)
    if is_cupy_namespace(xp):
        return in_one_kernel(_roots_or_one, squares)
    roots = xp.sqrt(squares)
    return filled(roots, roots == 0, 1.0)


def _roots_or_one(xp: Any, squares: AnyArray) -> AnyArray:
    return xp.sqrt(xp.where(squares == 0, 1 + 0 * squares, squares))

"""Shapes that the algebra moves between: added axes, columns, chunks, pieces side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import array_api_extra as xpx
import numpy as np

from .dtypes import astype, dtype_name, is_complex, real_name, result_name
from .namespace import Array, is_dask_namespace, namespace

__all__ = [
    "CHUNK_BYTES",
    "as_given",
    "expanded",
    "in_common_dtype",
    "joined",
    "length_of_chunk",
    "moved",
    "padded",
    "spans",
]

CHUNK_BYTES = 64 * 2**20  # of what is copied at a time


def expanded(value: Any, trailing: int) -> Any:
    """Return an array (...) with `trailing` more axes of length 1; a Python number as it is."""
    if isinstance(value, float):
        return value
    return namespace(value).reshape(value, value.shape + (1,) * trailing)


def moved(x: Array, source: int, destination: int) -> Array:
    """Return x with one axis, counted from 0, in another place.

    By a permutation: `torch.func.vmap` has no rule for `moveaxis`.
    """
    axes = [axis for axis in range(x.ndim) if axis != source]
    axes.insert(destination, source)
    return namespace(x).permute_dims(x, tuple(axes))


def padded(x: Array, pairs: list[tuple[int, int]]) -> Array:
    """Return x with so many zeros before and after each axis."""
    xp = namespace(x)
    if is_dask_namespace(xp):  # array-api-extra assigns to a part, and fails where it is empty
        return xp.pad(x, pairs)
    return xpx.pad(x, pairs, xp=xp)


def as_given(X: Array, vector: bool) -> Array:
    """Return columns (..., d, k) without the k axis where the caller gave none."""
    return namespace(X).squeeze(X, axis=-1) if vector else X


def joined(arrays: list[Array], *, axis: int) -> Array:
    """Return the arrays side by side along an axis; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else namespace(arrays[0]).concat(arrays, axis=axis)


def length_of_chunk(width: int, batch: Any, dtype: str) -> int:
    """Return how many rows or columns with so many entries make 64 MB, at least one."""
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize  # unknown to NumPy
    return max(1, CHUNK_BYTES // max(1, itemsize * width * math.prod(batch)))


def spans(
    length: int, width: int, batch: Any, dtype: str, *, copied: bool
) -> Iterator[slice | None]:
    """Yield slices of at most 64 MB where they will be copied, else None for the whole axis."""
    step = length_of_chunk(width, batch, dtype)
    if not copied or length <= step:
        yield None
        return
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def in_common_dtype(function: Callable[..., Array], *arrays: Array) -> Array:
    """Return a function that is linear in its last argument, in the dtype all promote to.

    A complex last argument among real ones is two real ones: no other is made complex.
    """
    *factors, V = arrays
    names = [dtype_name(x.dtype) for x in arrays]
    if is_complex(V) and not any(map(is_complex, factors)):
        xp = namespace(V)
        real = real_name(result_name(*names))
        parts = [astype(part, real) for part in (xp.real(V), xp.imag(V))]
        factors = [astype(x, real) for x in factors]
        return function(*factors, parts[0]) + 1j * function(*factors, parts[1])
    return function(*(astype(x, result_name(*names)) for x in arrays))

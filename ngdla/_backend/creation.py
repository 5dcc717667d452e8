"""New arrays, of the library and on the device of one that is there."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device

from .array import AnyArray
from .dtypes import dtype_of
from .kept_arrays import KeptArrays, place_of
from .namespace import (
    Array,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

__all__ = [
    "constant",
    "full",
    "generic_column",
    "host_array",
    "identity_like",
    "placed",
    "unit_columns",
    "zeros",
]


def zeros(shape: tuple[int, ...], like: Array, name: str) -> Array:
    """Return zeros of the named dtype, of the library and on the device of `like`."""
    xp = namespace(like)
    return _made(xp.zeros, like, shape, dtype=dtype_of(xp, name))


def full(shape: tuple[int, ...], value: float, like: Array, name: str) -> Array:
    """Return an array of one number, of the named dtype, as `zeros` does."""
    xp = namespace(like)
    return _made(xp.full, like, shape, value, dtype=dtype_of(xp, name))


def host_array(values: Any, name: str) -> np.ndarray:
    """Return nested sequences of numbers as an array on the host, to be made a `constant`."""
    return np.asarray(values, dtype=name)


def constant(values: Any, like: AnyArray, name: str) -> Array:
    """Return numbers of the host as a constant, of the library and on the device of `like`.

    Small ones are kept on a GPU: they are read only, and must not get to the caller.
    """
    xp, x = namespace(like), np.asarray(values, dtype=name)
    if is_dask_namespace(xp):  # which takes host arrays as they are, and as indices only these
        return x
    sent = is_cupy_namespace(xp) or (is_torch_namespace(xp) and like.device.type == "cuda")
    place = place_of(like) if sent and x.nbytes <= _SMALL else None
    if place is None:
        return placed(x, like, name)
    return _KEPT.get((place, x.tobytes(), x.shape, name), lambda: placed(x, like, name))


# Bytes up to which finding a constant by what it holds takes less than sending it, and of all.
_SMALL, _KEPT = 2**16, KeptArrays(4 * 2**20)


def placed(values: Any, like: Array, name: str) -> Array:
    """Return numbers of the host as a new array, of the library and on the device of `like`."""
    xp = namespace(like)
    return xp.asarray(np.asarray(values, dtype=name), device=_placed(xp, like))


def _made(make: Any, like: AnyArray, *args: Any, **options: Any) -> Array:
    """Return a new array on the device of `like`."""
    xp = namespace(like)
    if is_cupy_namespace(xp):  # whose new arrays lie on the current device, whatever is asked for
        with like.device:
            return make(*args, **options)
    return make(*args, device=_placed(xp, like), **options)


def _placed(xp: Any, like: AnyArray) -> Any:
    if is_jax_namespace(xp):
        return _placed_by_jax(like)
    if is_numpy_namespace(xp) or is_dask_namespace(xp):
        return None
    # array-api-compat's `device` goes through sys.modules, where torch.compile fails
    return like.device if is_torch_namespace(xp) else device(like)


def _placed_by_jax(like: AnyArray) -> Any:
    """Return the device that an array was put on, None where JAX places constants itself."""
    import jax

    if isinstance(like, jax.core.Tracer) or not like.committed or len(like.devices()) > 1:
        return None
    return next(iter(like.devices()))


def unit_columns(like: Array) -> Array:
    """Return the first l unit vectors, (d, l), for an array (..., d, l)."""
    d, columns = like.shape[-2:]
    return _eye(d, columns, like)


def generic_column(like: Array) -> Array:
    """Return sin k^2 for k = 1, ..., d, (..., d, 1), for an array (..., d, l).

    No vector that comes from the structure of a matrix is orthogonal to it.
    """
    xp, ones = namespace(like), namespace(like).ones_like(like[..., :1])
    if is_jax_namespace(xp):  # which would make a sum of each entry
        k = xp.arange(1, like.shape[-2] + 1, dtype=like.dtype)[:, None] * ones
    else:
        k = xp.cumulative_sum(ones, axis=-2)
    return xp.sin(k**2)


def identity_like(like: Array, n: int) -> Array:
    """Return the n x n identity in the dtype of an array."""
    return _eye(n, n, like)


def _eye(rows: int, columns: int, like: Array) -> Array:
    xp = namespace(like)
    if is_dask_namespace(xp):  # its eye fails where there are more columns than rows
        return xp.eye(max(rows, columns), dtype=like.dtype)[:rows, :columns]
    return _made(xp.eye, like, rows, columns, dtype=like.dtype)

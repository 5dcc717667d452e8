"""The dtype in which optimisers keep arrays between steps."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from training_study.networks import Array


def as_dtype(x: Array, name: str) -> Array:
    """Return an array in the named dtype."""
    xp = array_namespace(x)
    return xp.astype(x, getattr(xp, name), copy=False)


def in_dtype(arrays: Any, name: str) -> Any:
    """Return an array, or a tuple of them, as it is kept between steps."""
    if not isinstance(arrays, tuple):
        return as_dtype(arrays, name)
    stored = [as_dtype(x, name) for x in arrays]
    return type(arrays)(*stored) if hasattr(arrays, "_fields") else tuple(stored)

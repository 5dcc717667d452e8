"""The dtype in which optimisers keep arrays between steps."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from ngdla.structures import StructuredMatrix
from training_study.networks import Array


def as_dtype(x: Array, name: str) -> Array:
    """Return an array in the named dtype."""
    xp = array_namespace(x)
    return xp.astype(x, getattr(xp, name), copy=False)


def in_dtype(kept: Any, name: str) -> Any:
    """Return an array, a tuple of them, or a structured matrix as it is kept between steps."""
    if isinstance(kept, StructuredMatrix):
        return kept.astype(name)
    if not isinstance(kept, tuple):
        return as_dtype(kept, name)
    stored = [as_dtype(x, name) for x in kept]
    return type(kept)(*stored) if hasattr(kept, "_fields") else tuple(stored)


def parts(kept: Any) -> list[Array]:
    """Return the arrays of what is kept."""
    if kept is None:
        return []
    if isinstance(kept, StructuredMatrix):
        return list(kept.leaves)
    return list(kept)

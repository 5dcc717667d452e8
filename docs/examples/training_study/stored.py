"""The dtype in which optimisers keep arrays between steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from array_api_compat import array_namespace

from ngdla.structures import StructuredMatrix
from training_study.networks import Array


def as_dtype(x: Array, name: str) -> Array:
    """Return an array in the named dtype."""
    xp = array_namespace(x)
    return xp.astype(x, getattr(xp, name), copy=False)


def in_dtype(kept: Any, name: str) -> Any:
    """Return arrays, in a tuple, dataclass or structured matrix, as they are kept between steps."""
    if isinstance(kept, StructuredMatrix):
        return kept.astype(name)
    if isinstance(kept, tuple):
        return tuple(as_dtype(x, name) for x in kept)
    if dataclasses.is_dataclass(kept):
        return type(kept)(**{field: as_dtype(x, name) for field, x in vars(kept).items()})
    return as_dtype(kept, name)


def parts(kept: Any) -> list[Array]:
    """Return the arrays of what is kept."""
    if kept is None:
        return []
    if isinstance(kept, StructuredMatrix):
        return list(kept.leaves)
    return list(kept) if isinstance(kept, tuple) else list(vars(kept).values())

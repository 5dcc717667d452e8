"""Entries of arrays in another order of their indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ngdla._backend.creation import constant
from ngdla._backend.namespace import Array, namespace

__all__ = ["inverse_permutation", "taken"]


def taken(X: Array, indices: Any, axis: int) -> Array:
    """Return the entries of these indices along an axis, in their order."""
    return namespace(X).take(X, constant(indices, X, "int32"), axis=axis)


def inverse_permutation(order: Sequence[int]) -> list[int]:
    """Return where 0, 1, ... stand in an order of them."""
    return sorted(range(len(order)), key=order.__getitem__)

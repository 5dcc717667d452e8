"""Sums of structured matrices in which one is used up, so that no array is made for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ngdla._backend.namespace import Array
from ngdla._backend.sums import add_multiple, add_to_multiple

from .matrix import StructuredMatrix
from .storage import expanded_to

__all__ = ["multiple_plus", "plus_identity", "plus_multiple"]


def plus_multiple(total: StructuredMatrix, factor: Any, M: StructuredMatrix) -> StructuredMatrix:
    """Return total + factor M. `total` is used up: it must be computed, and nobody else's."""
    return _combined(add_multiple, total, factor, M)


def multiple_plus(total: StructuredMatrix, factor: Any, M: StructuredMatrix) -> StructuredMatrix:
    """Return factor total + M. `total` is used up, as above."""
    return _combined(add_to_multiple, total, factor, M)


def plus_identity(total: StructuredMatrix, shift: float) -> StructuredMatrix:
    """Return total + shift I. `total` is used up, as above."""
    d = total.dimension
    leaves = total.structure.add_identity(total.leaves, shift, d)
    return StructuredMatrix(leaves, total.structure, d)


def _combined(
    function: Callable[[Array, Any, Array], Array],
    total: StructuredMatrix,
    factor: Any,
    M: StructuredMatrix,
) -> StructuredMatrix:
    M = M.astype(total.dtype_name)
    return total.map(lambda a, b: function(a, expanded_to(factor, a), b), M)

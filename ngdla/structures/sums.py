"""Sums of structured matrices in which one is used up, so that no array is made for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ngdla._backend.sums_together import add_multiples, add_to_multiples

from .kernels import Leaves
from .matrix import StructuredMatrix

__all__ = ["multiple_plus", "plus_identity", "plus_multiple"]


def plus_multiple(total: StructuredMatrix, factor: Any, M: StructuredMatrix) -> StructuredMatrix:
    """Return total + factor M. `total` is used up: it must be computed, and nobody else's."""
    return _combined(add_multiples, total, factor, M)


def multiple_plus(total: StructuredMatrix, factor: Any, M: StructuredMatrix) -> StructuredMatrix:
    """Return factor total + M. `total` is used up, as above."""
    return _combined(add_to_multiples, total, factor, M)


def plus_identity(total: StructuredMatrix, shift: float) -> StructuredMatrix:
    """Return total + shift I. `total` is used up, as above."""
    d = total.dimension
    leaves = total.structure.add_identity(total.leaves, shift, d)
    return StructuredMatrix(leaves, total.structure, d)


def _combined(
    function: Callable[[Leaves, Any, Leaves], Leaves],
    total: StructuredMatrix,
    factor: Any,
    M: StructuredMatrix,
) -> StructuredMatrix:
    leaves = function(total.leaves, factor, M.astype(total.dtype_name).leaves)
    return StructuredMatrix(leaves, total.structure, total.dimension)

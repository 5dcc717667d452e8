"""Units for the right-hand side of a problem whose numbers lie anywhere in the range of a dtype.

S, damping, right-hand side and solution may all be normal numbers while multipliers, of the size
of |S|^-3, are not. The problem is linear: its right-hand side over a power of two U, each column
of its own, has the solution x / U, bit for bit as long as nothing leaves the range. U is chosen so
that nothing does, wherever |S|^2 is a normal number: with n < m x / U is about 1 or less, and
multipliers are about 1 / |S|; with n >= m x / U is about 1 / |S|, and f / U is 1.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from ngdla._backend.dtypes import dtype_name, real_name
from ngdla._backend.fused import bounded
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.powers import power_of_two
from ngdla._backend.shapes import expanded
from ngdla.score_matrices.score_matrix import Vector

from .right_hand_side import Layout, RightHandSide, Solve

__all__ = ["unit_of"]

_LARGEST = {"float32": 2.0**120, "float64": 2.0**1000}  # so that products with it stay in range


def unit_of(
    rhs: RightHandSide, layout: Layout, squared_norm: Array, damping: Any, *, wide: bool
) -> Array:
    """Return U, (..., 1, k), for all columns of a right-hand side."""
    xp = namespace(squared_norm)
    length = expanded(power_of_two(xp.sqrt(squared_norm + damping)), 1)
    if isinstance(rhs, Solve):
        least = expanded(power_of_two(xp.zeros_like(squared_norm) + damping), 1)
        unit = _bounded(_size(rhs.v, layout), least if wide else length)
    else:
        unit = _bounded(_size(rhs.f, layout), length if wide else length / length)
        if rhs.x0 is not None:
            of_x0 = _size(rhs.x0, layout)
            unit = xp.maximum(unit, _bounded(of_x0, length / length if wide else 1 / length))
    unit = layout.merged(unit, xp.maximum)
    if layout.paired:
        unit = xp.concat([unit, unit], axis=-1)
    return xp.expand_dims(unit, axis=-2)


def _size(x: Array | Vector, layout: Layout) -> Array:
    """Return the power of two next to the largest entry of each column, (..., k)."""
    if not isinstance(x, tuple):
        return power_of_two(_largest(x))
    maximum = namespace(x[0]).maximum
    return power_of_two(layout.ranks.merged(reduce(maximum, map(_largest, x)), maximum))


def _largest(piece: Array) -> Array:
    xp = namespace(piece)
    sizes = xp.abs(piece)
    return xp.max(sizes, axis=-2) if piece.shape[-2] else xp.sum(sizes, axis=-2)


def _bounded(a: Array, b: Array) -> Array:
    """Return a / b for powers of two, within what their dtype holds with a margin."""
    largest = _LARGEST[real_name(dtype_name(a.dtype))]
    return bounded(a / b, 1 / largest, largest)

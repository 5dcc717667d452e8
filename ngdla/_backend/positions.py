"""Axes of data with positions: sequences, unfolded convolutions; or layers side by side.

Arrays of three and more axes can be read in two ways, and only the caller knows which is meant.
"""

from __future__ import annotations

from typing import Any

from .checks import require_flag
from .namespace import Array, namespace

__all__ = ["require_positions", "with_positions"]


def require_positions(x: Array, positions: Any, name: str) -> bool:
    """Return whether an array of at least two axes has an axis of positions, (..., M, T, d)."""
    if positions is not None:
        require_flag(positions, "positions")
    shape = tuple(x.shape)
    if len(shape) == 2:
        if positions:
            msg = (
                f"`{name}` has shape {shape}, (M, d), without an axis of positions; leave "
                f"`positions` away, or pass `{name}` of shape (M, T, d)."
            )
            raise ValueError(msg)
        return False
    if positions is None:
        *batch, M, T, _ = shape
        layers = (*batch, M)
        inside = f" in a stack of {_count(tuple(batch))}" if batch else ""
        msg = (
            f"`{name}` has shape {shape}: pass positions=True for {M} samples of {T} positions"
            f"{inside}, (..., M, T, d), or positions=False for a stack of {_count(layers)} with "
            f"{T} samples, (..., M, d)."
        )
        raise TypeError(msg)
    return bool(positions)


def with_positions(x: Array, positions: bool) -> Array:
    """Return x as (..., M, T, d), with T = 1 where it has no axis of positions."""
    return x if positions else namespace(x).expand_dims(x, axis=-2)


def _count(layers: tuple[int, ...]) -> str:
    """Return "12 layers" or "3 x 5 layers"."""
    return f"{' x '.join(map(str, layers))} layers"

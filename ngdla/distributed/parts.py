"""What all communicators ask of the arrays that they are handed."""

from __future__ import annotations

from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array

__all__ = ["need_array", "need_part_for_each"]


def need_array(x: Array, communicator: str) -> None:
    """Refuse what is no array."""
    if not is_array(x):
        msg = f"{communicator} takes arrays, and got {shown(x)}. Pass an array."
        raise TypeError(msg)


def need_part_for_each(x: Array, size: int) -> None:
    """Refuse an array for all_to_all whose leading axis is not that of the ranks."""
    if not x.shape or x.shape[0] != size:
        msg = (
            f"all_to_all takes one part for each of the {size} ranks along the first axis of x, "
            f"and x has shape {tuple(x.shape)}. Pass x of shape ({size}, ...)."
        )
        raise ValueError(msg)

"""Sums of many arrays, such as the parameters of a matrix, in few operations where that is known.

torch takes them as a list, and CuPy in one piece where they lie one behind the other in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .array import AnyArray
from .blocks import in_one_row
from .namespace import is_cupy_namespace, is_torch_namespace, namespace
from .pieces_cupy import divided, one_piece
from .shapes import expanded
from .sums import add_multiple, add_to_multiple, writable

__all__ = ["add_multiples", "add_to_multiples", "multiples"]

Arrays = tuple[AnyArray, ...]


def multiples(arrays: Arrays, factor: Any) -> Arrays:
    """Return factor x of each of some arrays (..., *), for a number or a real array (...)."""
    if _taken_together(arrays, factor):
        import torch

        return tuple(torch._foreach_mul(arrays, factor))
    piece = _one_piece(arrays, factor)
    if piece is not None:
        return divided(piece * factor, [x.shape for x in arrays])
    return tuple(x * _over(factor, x) for x in arrays)


def add_multiples(totals: Arrays, factor: Any, arrays: Arrays) -> Arrays:
    """Return total + factor x of each pair. The totals are used up."""
    if _added_in_one_piece(add_multiple, totals, factor, arrays):
        return totals
    if not _taken_together(totals, factor, *arrays):
        return tuple(add_multiple(a, _over(factor, a), x) for a, x in zip(totals, arrays))
    import torch

    if isinstance(factor, float):
        torch._foreach_add_(totals, arrays, alpha=factor)
    else:
        torch._foreach_add_(totals, torch._foreach_mul(arrays, factor))
    return totals


def add_to_multiples(totals: Arrays, factor: Any, arrays: Arrays) -> Arrays:
    """Return factor total + x of each pair. The totals are used up."""
    if _added_in_one_piece(add_to_multiple, totals, factor, arrays):
        return totals
    if not _taken_together(totals, factor, *arrays):
        return tuple(add_to_multiple(a, _over(factor, a), x) for a, x in zip(totals, arrays))
    import torch

    if isinstance(factor, float):
        return tuple(torch._foreach_add(arrays, totals, alpha=factor))
    torch._foreach_mul_(totals, factor)
    torch._foreach_add_(totals, arrays)
    return totals


def _taken_together(arrays: Arrays, factor: Any, *others: AnyArray) -> bool:
    """Tell whether torch takes all arrays at once, with a number or one that lies in an array."""
    if len(arrays) == 1 or not is_torch_namespace(namespace(arrays[0])):
        return False
    alike = isinstance(factor, float) or (factor.ndim == 0 and factor.dtype == arrays[0].dtype)
    return alike and writable(*arrays, factor, *others)


def _one_piece(arrays: Arrays, factor: Any) -> AnyArray | None:
    """Return all arrays of CuPy as one where they lie so, and have one factor."""
    if len(arrays) == 1 or not is_cupy_namespace(namespace(arrays[0])):
        return None
    return one_piece(arrays) if isinstance(factor, float) or not factor.ndim else None


def _added_in_one_piece(
    add: Callable[..., AnyArray], totals: Arrays, factor: Any, arrays: Arrays
) -> bool:
    """Add arrays of CuPy where that is done in one piece, and tell whether it was."""
    total = _one_piece(totals, factor)
    if total is None:
        return False
    add(total, factor, in_one_row([x.reshape(-1) for x in arrays]))
    return True


def _over(factor: Any, x: AnyArray) -> Any:
    """Return a number, or an array of the leading axes of x, to be combined with x."""
    return factor if isinstance(factor, float) else expanded(factor, x.ndim - factor.ndim)

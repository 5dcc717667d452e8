"""Arrays of CuPy that lie one behind the other in one piece of memory, and what moves them there.

An operation on a piece takes one launch, whatever it holds. Which entry goes where is told by maps
of places, which stay on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from .array import AnyArray
from .creation import placed
from .kept_arrays import KeptArrays, place_of
from .kernels_cupy import moved_cupy

__all__ = ["assembled", "collected", "divided", "one_piece"]

Arrays = Sequence[AnyArray]
Shape = tuple[int, ...]

_MOST = 2**22  # entries of a map, beyond which launches take no time beside the work
_MAPS = KeptArrays(2**26)


def one_piece(arrays: Arrays) -> AnyArray | None:
    """Return the entries of arrays that lie one behind the other, (n,), a view; None of others."""
    full = [x for x in arrays if x.size]
    if not full:
        return None
    first, dtype = full[0].data, full[0].dtype
    end = first.ptr
    for x in full:
        behind = x.data.mem is first.mem and x.data.ptr == end
        if not behind or x.dtype != dtype or not x.flags.c_contiguous:
            return None
        end += x.nbytes
    return _from_here_on(full[0], (end - first.ptr) // dtype.itemsize)


def divided(piece: AnyArray, shapes: Sequence[Shape]) -> tuple[AnyArray, ...]:
    """Return views of these shapes, one behind the other."""
    parts, start = [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        parts.append(piece[start:end].reshape(shape))
        start = end
    return tuple(parts)


def collected(arrays: Arrays, factors: Sequence[float] | None = None) -> AnyArray | None:
    """Return multiples of arrays one behind the other, (n,), in one launch for each memory.

    None where that takes as many launches as arrays, or a map too long to be kept.
    """
    import cupy

    pairs = [(x, factor) for x, factor in zip(arrays, factors or [1.0] * len(arrays)) if x.size]
    runs = [list(run) for _, run in groupby(pairs, lambda pair: id(pair[0].data.mem))]
    sizes = [sum(x.size for x, _ in run) for run in runs]
    maps = [_layout([x for x, _ in run]) for run in runs]
    if len(runs) == len(pairs) or sum(sizes) > _MOST or None in maps:
        return None
    piece, start = cupy.empty(sum(sizes), dtype=arrays[0].dtype), 0
    for run, layout, size in zip(runs, maps, sizes):
        assert layout is not None
        _move(layout, _Row(), [factor for _, factor in run], piece[start : start + size])
        start += size
    return piece


def assembled(blocks: Arrays, corners: Sequence[tuple[int, int]], shape: Shape) -> AnyArray | None:
    """Return the matrix of blocks with these first rows and columns, and zeros elsewhere.

    None where the blocks do not lie in one memory, or the map is too long to be kept.
    """
    import cupy

    full = [i for i, block in enumerate(blocks) if block.size]
    blocks, corners = [blocks[i] for i in full], [corners[i] for i in full]
    layout = _layout(blocks)
    if layout is None or math.prod(shape) > _MOST:
        return None
    matrix = cupy.empty(shape, dtype=blocks[0].dtype)
    _move(layout, _Matrix(tuple(corners), shape), [1.0] * len(blocks), matrix)
    return matrix


class _View(NamedTuple):
    """Where an array lies in a memory, counted in entries."""

    start: int
    shape: Shape
    steps: tuple[int, ...]

    def places(self) -> np.ndarray:
        axes = [step * np.arange(length) for length, step in zip(self.shape, self.steps)]
        return reduce(np.add.outer, axes, np.asarray(self.start))


class _Layout(NamedTuple):
    """Where arrays lie in the memory from the first of them on."""

    memory: AnyArray
    views: tuple[_View, ...]


class _Row(NamedTuple):
    """All places one behind the other."""

    def map(self, views: tuple[_View, ...]) -> np.ndarray:
        return np.concatenate([view.places().reshape(-1) for view in views])


class _Matrix(NamedTuple):
    """Blocks of places in a matrix, and -1 elsewhere."""

    corners: tuple[tuple[int, int], ...]
    shape: Shape

    def map(self, views: tuple[_View, ...]) -> np.ndarray:
        places = np.full(self.shape, -1)
        for (top, left), view in zip(self.corners, views):
            rows, columns = view.shape
            places[top : top + rows, left : left + columns] = view.places()
        return places


def _layout(arrays: Arrays) -> _Layout | None:
    """Return where arrays lie, or None if they share no memory, or go backwards or too far."""
    first = min(arrays, key=lambda x: x.data.ptr)
    dtype, unit = first.dtype, first.dtype.itemsize
    views, end = [], 0
    for x in arrays:
        if x.data.mem is not first.data.mem or x.dtype != dtype or any(s < 0 for s in x.strides):
            return None
        steps = tuple(stride // unit for stride in x.strides)
        views.append(_View((x.data.ptr - first.data.ptr) // unit, tuple(x.shape), steps))
        last = sum(step * (length - 1) for length, step in zip(x.shape, steps))
        end = max(end, views[-1].start + last + 1)
    return _Layout(_from_here_on(first, end), tuple(views)) if end < 2**31 else None


def _from_here_on(x: AnyArray, count: int) -> AnyArray:
    """Return the entries of a memory from the first one of an array on, (count,)."""
    import cupy

    return cupy.ndarray((count,), x.dtype, memptr=x.data)


def _move(layout: _Layout, target: _Row | _Matrix, factors: list[float], out: AnyArray) -> None:
    """Write multiples of arrays to their places in a target."""
    memory, views = layout
    places = _kept(memory, (target, views), "int32", lambda: target.map(views))
    weights: Any = 1.0
    if any(factor != 1.0 for factor in factors):
        counts = tuple(math.prod(view.shape) for view in views)
        key = tuple(factors), counts
        weights = _kept(memory, key, "float64", lambda: np.repeat(factors, counts))
    moved_cupy(memory, places, weights, out)


def _kept(like: AnyArray, key: Any, dtype: str, make: Callable[[], np.ndarray]) -> AnyArray:
    return _MAPS.get((place_of(like), key), lambda: placed(make(), like, dtype))

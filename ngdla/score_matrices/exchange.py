"""Rows for columns: from each rank's samples to all samples of its share of the parameters.

Rank j has n_j rows of S, and is to have all n rows of about m / P columns. They travel in chunks,
some columns for every rank at once, so that beside the two parts of S there is no more than what
is on the way: 4 MB for each rank, at most 64 MB in all, each of what is sent and what arrives.
Chunks of a few MB lie in memory that the process has already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from ngdla._backend.blocks import side_by_side
from ngdla._backend.creation import zeros
from ngdla._backend.dtypes import dtype_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.ranks import TracedRanks
from ngdla._backend.shapes import joined, length_of_chunk
from ngdla._backend.tracing import is_traced

from .score_matrix import Vector

__all__ = ["Arrival", "column_shares", "exchanged", "rows_of", "whole"]

_MANY = 16  # ranks from which on chunks are 64 MB in all
Arrival = Callable[[Array], Array]  # what is done to all rows of some columns


def column_shares(columns: int, size: int) -> tuple[int, ...]:
    """Return how many columns each of `size` ranks has: equal numbers, or one more."""
    least, more = divmod(columns, size)
    return tuple(least + (rank < more) for rank in range(size))


def exchanged(
    blocks: Vector,
    ranks: TracedRanks,
    counts: tuple[int, ...],
    shares: tuple[int, ...],
    arrival: Arrival | None = None,
) -> Array:
    """Return all rows of this rank's share of the columns, from all columns of this rank's rows.

    `arrival` is done to all rows of some columns as they arrive. `counts` are the rows of each
    rank, and `shares` the columns that it gets.
    """
    chunks = _arrivals(blocks, ranks, counts, shares)
    own = ranks.own(shares)
    if own == 0:
        for _ in chunks:  # others have some
            pass
        shape = (*blocks[0].shape[:-2], sum(counts), 0)
        empty = zeros(shape, blocks[0], dtype_name(blocks[0].dtype))
        return empty if arrival is None else arrival(empty)
    return side_by_side(chunks if arrival is None else map(arrival, chunks), own)


def _arrivals(
    blocks: Vector, ranks: TracedRanks, counts: tuple[int, ...], shares: tuple[int, ...]
) -> Iterator[Array]:
    """Yield all rows of some of this rank's columns, one chunk after the other."""
    like, most, widest = blocks[0], max(counts), max(shares)
    width = length_of_chunk(len(counts) * most, like.shape[:-2], dtype_name(like.dtype))
    if not is_traced(like):  # whose chunks are code, one after the other
        width = max(1, width * min(len(counts), _MANY) // _MANY)
    starts = list(accumulate(shares, initial=0))
    own = ranks.own(shares)
    for i in range(0, widest, width):
        end = min(i + width, widest)
        parts = []
        for start, share in zip(starts, shares):
            columns = _columns(blocks, start + min(i, share), start + min(end, share))
            parts.append(_padded(columns, most, end - i))
        sent = namespace(like).stack(parts, axis=0)
        del parts
        arrived = ranks.exchanged(sent)
        del sent
        if i < own:
            span = slice(0, min(end, own) - i)
            chunk = joined(
                [arrived[j, ..., :count, span] for j, count in enumerate(counts) if count], axis=-2
            )
            del arrived
            yield chunk
            del chunk  # before the next one is on the way


def _columns(blocks: Vector, start: int, stop: int) -> Array:
    """Return columns of blocks that lie side by side."""
    parts, first = [], 0
    for block in blocks:
        width = int(block.shape[-1])
        low, high = max(start - first, 0), min(stop - first, width)
        if low < high:
            parts.append(block[..., low:high])
        first += width
    return joined(parts, axis=-1) if parts else blocks[0][..., :0]


def _padded(x: Array, rows: int, columns: int) -> Array:
    """Return x (..., r, c) with zeros below and on the right, to be as large as all others."""
    for axis, missing in ((-2, rows - x.shape[-2]), (-1, columns - x.shape[-1])):
        if missing:
            shape = list(x.shape)
            shape[axis] = missing
            filler = zeros(tuple(shape), x, dtype_name(x.dtype))
            x = namespace(x).concat([x, filler], axis=axis)
    return x


def whole(ranks: TracedRanks, y: Array, counts: tuple[int, ...]) -> Array:
    """Return the rows of all ranks one below the other, (..., n, k), of which this one has y."""
    parts = ranks.gathered(_padded(y, max(counts), int(y.shape[-1])))
    return joined([parts[i, ..., :count, :] for i, count in enumerate(counts) if count], axis=-2)


def rows_of(ranks: TracedRanks, y: Array, counts: tuple[int, ...]) -> Array:
    """Return the rows of this rank, (..., r, k), among those of all."""
    rank: Any = ranks.rank
    if isinstance(rank, int):
        start = sum(counts[:rank])
        return y[..., start : start + counts[rank], :]
    xp = namespace(y)
    return xp.take(y, rank * counts[0] + xp.arange(counts[0]), axis=-2)

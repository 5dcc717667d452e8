"""Rows of S in the basis of the small matrix, sample after sample, without another n x m array.

With n < m the basis X is n x n and its rows are those of the samples themselves; with n >= m it is
m x m and sample i has the row S_i X, formed in chunks. Stacked scores [Re; Im] have two rows a
sample, i and i + n / 2, which arrive together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ngdla._backend.chunks import is_chunked
from ngdla._backend.dtypes import dtype_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import spans

from .column_blocks import ColumnBlocks
from .score_matrix import ScoreMatrix

__all__ = ["is_stacked", "sample_rows"]

Rows = tuple[Array, ...]  # of as many samples each: one array, or two where rows are stacked


def is_stacked(stacked: bool | None, null: Array | None, scores: ScoreMatrix) -> bool:
    """Check `stacked` and return it, by default whether there are two null vectors.

    Where ranks have some rows each, rows i and i + n / 2 of all are not those of one sample.
    """
    if stacked is None:
        stacked = null is not None and null.shape[-1] == 2
    if not isinstance(stacked, bool):
        msg = f"`stacked` is {shown(stacked)}; it must be True, False or None."
        raise TypeError(msg)
    if stacked and scores.rows % 2:
        msg = (
            f"`stacked` is True but `{scores.name}` has {scores.rows} rows; stacked scores "
            f"[Re; Im] have two a sample. Pass stacked=False for one row a sample."
        )
        raise ValueError(msg)
    if stacked and scores.breaks_pairs:
        msg = (
            f"`stacked` is True, but each rank has some rows of `{scores.name}`, so that the two "
            f"rows of a sample lie n / 2 apart on none; pass ColumnShards, or stacked=False for "
            f"one row a sample."
        )
        raise ValueError(msg)
    scores.ranks.note(options=stacked)
    return stacked


def sample_rows(
    scores: ScoreMatrix, X: Array, vectors: Rows, *, stacked: bool, width: int = 1
) -> Iterator[tuple[Rows, ...]]:
    """Yield the same samples of X, or S X with n >= m, and of each of the `vectors` (..., n, k).

    As many samples at a time as 64 MB hold in rows of X, of S, or of `width` numbers.
    """
    count, width = 2 if stacked else 1, max(width, int(X.shape[-1]))
    start, length = 0, scores.at_hand.rows // count
    vectors = tuple(map(scores.own_samples, vectors))
    parts = _row_sources(scores, X, count)
    for rows in zip(*(_chunks(part, X, width, product=not scores.wide) for part in parts)):
        size = int(rows[0].shape[-2])
        offsets = [start + i * length for i in range(count)]
        yield rows, *(tuple(v[..., i : i + size, :] for i in offsets) for v in vectors)
        start += size


def _equal_slice(x: Array, i: int, count: int) -> Array:
    """Return part i of `count` equal ones of the rows of x, (..., n / count, k)."""
    rows = x.shape[-2] // count
    return x[..., i * rows : (i + 1) * rows, :]


def _row_sources(scores: ScoreMatrix, X: Array, count: int) -> list[Iterator[Array]]:
    """Return the rows of X, or of S with n >= m, in `count` equal parts."""
    if scores.wide:
        return [iter((_equal_slice(X, i, count),)) for i in range(count)]
    dtype = dtype_name(X.dtype)
    if count == 1:
        return [_row_parts(scores, dtype)]
    scores = scores.at_hand
    if not isinstance(scores, ColumnBlocks):
        msg = (
            f"the two rows of a sample of stacked scores lie far apart in `{scores.name}`, which "
            f"is read once, row after row; pass an array, or stacked=False for one row a sample."
        )
        raise ValueError(msg)
    halves = [tuple(_equal_slice(block, i, count) for block in scores.blocks) for i in range(count)]
    return [_row_parts(dataclasses.replace(scores, blocks=blocks), dtype) for blocks in halves]


def _row_parts(scores: ScoreMatrix, dtype: str) -> Iterator[Array]:
    return (rows for _, rows in scores.parameters.row_parts(dtype))


def _chunks(parts: Iterator[Array], X: Array, width: int, *, product: bool) -> Iterator[Array]:
    """Yield the rows, or their products with X, in chunks of at most 64 MB."""
    xp, dtype, batch = namespace(X), dtype_name(X.dtype), X.shape[:-2]
    for part in parts:
        copied = not is_chunked(part)
        for span in spans(int(part.shape[-2]), width, batch, dtype, copied=copied):
            rows = part if span is None else part[..., span, :]
            yield xp.matmul(rows, X) if product else rows

"""Scores and vectors cut into the parts of ranks, and results put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from backends import Backend
from thread_ranks import ThreadCommunicator, run_ranks

import ngdla

__all__ = ["LAYOUTS", "PLACES", "Cut", "equal", "put_together", "sharded", "uneven"]


class Cut(NamedTuple):
    """Which rows and columns are those of a rank, in vectors that the library takes and gives."""

    rows: slice
    columns: slice


def equal(size: int, ranks: int) -> list[int]:
    """Return the sizes of equal parts, the first ones larger by one where there is a rest."""
    return [size // ranks + (rank < size % ranks) for rank in range(ranks)]


def uneven(size: int, ranks: int) -> list[int]:
    """Return the sizes of parts of which the second is empty, and the first is half of all."""
    if ranks == 1:
        return [size]
    rest = size - size // 2
    return [size // 2, 0, *equal(rest, ranks - 2)] if ranks > 2 else [size, 0]


def spans(sizes: Sequence[int]) -> list[slice]:
    """Return slices that follow each other."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


# The axis that is cut, and how.
LAYOUTS: dict[str, tuple[str, Callable[[int, int], list[int]]]] = {
    "columns": ("columns", equal),
    "uneven columns": ("columns", uneven),
    "rows": ("rows", equal),
    "uneven rows": ("rows", uneven),
}


# One process, equal parts, and parts of which one is empty.
PLACES = [("columns", 1), ("columns", 2), ("rows", 2), ("uneven columns", 3), ("uneven rows", 3)]


def cuts(layout: str, shape: tuple[int, int], ranks: int) -> list[tuple[Cut, Cut]]:
    """Return for each rank what it has of S, and of vectors."""
    (n, m), (axis, sizes) = shape, LAYOUTS[layout]
    if axis == "columns":
        return [(Cut(slice(None), part),) * 2 for part in spans(sizes(m, ranks))]
    exchanged = spans(equal(m, ranks)) if n < m else [slice(None)] * ranks
    return [
        (Cut(rows, slice(None)), Cut(rows, columns))
        for rows, columns in zip(spans(sizes(n, ranks)), exchanged, strict=True)
    ]


def sharded(
    function: Callable[[Any, Callable[..., Any], Callable[..., Any]], Any],
    S: np.ndarray,
    layout: str,
    ranks: int,
    backend: Backend,
) -> list[Any]:
    """Return for each rank function(shards, n_axis, m_axis): its part of vectors with these axes.

    The arrays are those of a library.
    """
    parts = cuts(layout, S.shape, ranks)
    kind = ngdla.ColumnShards if LAYOUTS[layout][0] == "columns" else ngdla.RowShards

    def run(comm: ThreadCommunicator) -> Any:
        of_S, of_vectors = parts[comm.rank]
        shards = kind(backend.asarray(S[of_S.rows, of_S.columns]), comm)
        return function(
            shards,
            lambda y: None if y is None else backend.asarray(y[of_vectors.rows]),
            lambda x: None if x is None else backend.asarray(x[of_vectors.columns]),
        )

    return run_ranks(ranks, run)


def put_together(parts: Sequence[Any], axis: str, layout: str, shape: tuple[int, int]) -> Any:
    """Return a result: of all ranks one after the other, or of all the same."""
    n, m = shape
    by_columns = LAYOUTS[layout][0] == "columns"
    own = {"m": by_columns or n < m, "n": not by_columns, "": False}[axis]
    if own:
        return np.concatenate(parts)
    for part in parts[1:]:
        np.testing.assert_array_equal(part, parts[0])
    return parts[0]

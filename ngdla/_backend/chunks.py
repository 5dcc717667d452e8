"""Dask arrays: what their chunks must be, and how the small matrices are worked on in one block.

Scores are chunked along their columns only. Then a Gram matrix is a sum of Gram matrices of
chunks, products with S are sums or concatenations of products with chunks, and everything n x n
is one block. Nothing here computes: all results are lazy. For arrays of other libraries the
functions that lay out chunks return them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from .array import AnyArray
from .namespace import is_dask_namespace, namespace
from .settings import library_settings

__all__ = [
    "chunked_like",
    "columns_chunked",
    "in_column_chunks",
    "in_one_block",
    "is_chunked",
    "require_known_shape",
    "require_whole_samples",
    "sum_over_chunks",
    "unchunked",
]


def is_chunked(x: AnyArray) -> bool:
    """Tell whether `x` is a Dask array."""
    return not isinstance(x, np.ndarray) and bool(is_dask_namespace(namespace(x)))


def require_known_shape(x: AnyArray, name: str) -> None:
    """Raise if Dask does not know the shape of its array `x`."""
    if any(map(math.isnan, x.shape)):
        msg = f"`{name}` is a Dask array of unknown shape {x.shape}; call compute_chunk_sizes()."
        raise ValueError(msg)


def in_column_chunks(S: AnyArray, name: str) -> AnyArray:
    """Return S without empty chunks; raise if it is chunked along another axis than its last."""
    if not is_chunked(S):
        return S
    if any(count > 1 for count in S.numblocks[:-1]):
        wanted = ", ".join(["-1"] * (S.ndim - 1) + ["'auto'"])
        msg = (
            f"`{name}` is a Dask array with {' x '.join(map(str, S.numblocks))} chunks; only the "
            f"last axis, that of the parameters, may be chunked. Use {name}.rechunk(({wanted}))."
        )
        raise ValueError(msg)
    return S.rechunk({S.ndim - 1: tuple(width for width in S.chunks[-1] if width)})


def require_whole_samples(x: AnyArray, name: str) -> None:
    """Raise if the samples of an array (n, ...), of any shape, are in several chunks."""
    if is_chunked(x) and x.numblocks[0] > 1:
        msg = (
            f"`{name}` is a Dask array with {' x '.join(map(str, x.numblocks))} chunks; its first "
            f"axis, that of the samples, must be one chunk. Use {name}.rechunk({{0: -1}})."
        )
        raise ValueError(msg)


def unchunked(x: AnyArray) -> AnyArray:
    """Return `x` in one chunk."""
    return x.rechunk(-1) if is_chunked(x) else x


def columns_chunked(S: AnyArray) -> AnyArray:
    """Return S (..., n, m) with the chunks of its columns, and one chunk of everything else."""
    return S.rechunk(dict.fromkeys(range(S.ndim - 1), -1)) if is_chunked(S) else S


def chunked_like(x: AnyArray, S: AnyArray, axis: int) -> AnyArray:
    """Return a vector (..., m or n) or (..., m or n, k) in the chunks of an axis of S."""
    if not is_chunked(x):
        return x
    chunks = dict.fromkeys(range(x.ndim), -1)
    chunks[S.ndim - 2] = S.chunks[axis]
    return x.rechunk(chunks)


def sum_over_chunks(gram: Callable[[AnyArray], AnyArray], S: AnyArray) -> AnyArray:
    """Return the sum of gram(chunk), (..., n, n), over the column chunks of S (..., n, m)."""
    import dask.array as da

    *batch, row, column = range(S.ndim)
    other_row = S.ndim
    terms = da.blockwise(
        partial(_term, gram),
        (column, *batch, row, other_row),
        columns_chunked(S),
        (*batch, row, column),
        new_axes={other_row: S.shape[-2]},
        adjust_chunks={column: 1},
        meta=S._meta,
    )
    return da.sum(terms, axis=0, split_every=2)  # in pairs, which keeps the fewest terms waiting


def _term(gram: Callable[[AnyArray], AnyArray], chunk: AnyArray) -> AnyArray:
    with library_settings(chunk):
        return gram(chunk)[None, ...]


def in_one_block(
    function: Callable[..., Any], *arrays: AnyArray, results: tuple[AnyArray, ...]
) -> Any:
    """Return function(*arrays) as lazy arrays of one chunk, of the shapes and dtypes of `results`.

    `function` is given arrays of the library that Dask has in its chunks, each in one piece.
    """
    # Not dask.delayed: it optimises the graph of each argument by itself, so that one graph would
    # then hold S and its Gram matrix several times.
    import dask.array as da

    values = da.blockwise(  # a tuple in the place of a 0-d block
        partial(_apply, function),
        (),
        *(part for i, x in enumerate(arrays) for part in (unchunked(x), _axes(i, x))),
        concatenate=True,
        meta=arrays[0]._meta,
    )
    found = [
        da.blockwise(
            itemgetter(i),
            _axes(0, like),
            values,
            (),
            new_axes=dict(zip(_axes(0, like), like.shape)),
            meta=like._meta,
        )
        for i, like in enumerate(results)
    ]
    return tuple(found) if len(found) > 1 else found[0]


def _axes(position: int, x: AnyArray) -> tuple[tuple[int, int], ...]:
    """Return labels for the axes of an argument of `blockwise`, shared with no other argument."""
    return tuple((position, axis) for axis in range(x.ndim))


def _apply(function: Callable[..., Any], *blocks: AnyArray) -> tuple[AnyArray, ...]:
    with library_settings(blocks[0]):
        value = function(*blocks)
    return value if isinstance(value, tuple) else (value,)

"""Blocks that are put together to one matrix, and parts of matrices that become arrays again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from .array import AnyArray
from .choices import CHOICES
from .creation import zeros
from .dtypes import conjugate, dtype_name, is_complex
from .kernels_cupy import doubled_triangle_cupy
from .namespace import is_cupy_namespace, is_numpy_namespace, is_torch_namespace, namespace
from .pieces_cupy import assembled, collected, divided, one_piece
from .shapes import joined
from .sums import add_multiple, writable

__all__ = [
    "add_to_middle",
    "block_matrix",
    "doubled_triangle",
    "ends_replaced",
    "in_one_row",
    "matrix_of",
    "scaled_copies",
    "side_by_side",
    "squared_columns",
    "taken_whole",
]

Row = tuple[AnyArray | None, ...]

# Rows of a matrix, up to which one product takes about as long on a GPU as a launch.
_WHOLE = 1024


def taken_whole(like: AnyArray, d: int) -> bool:
    """Tell of one matrix of dimension d, of the library of `like`, whether dividing it pays not."""
    few = like.ndim == 2 and d <= _WHOLE and is_cupy_namespace(namespace(like))
    return few and CHOICES["triangles of cupy"].way == "whole"


def matrix_of(
    blocks: Sequence[AnyArray], corners: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> AnyArray:
    """Return the matrix, of CuPy, of blocks with these first rows and columns, 0 elsewhere."""
    whole = assembled(blocks, corners, shape)
    if whole is None:
        row = in_one_row([block.reshape(-1) for block in blocks])
        whole = assembled(divided(row, [block.shape for block in blocks]), corners, shape)
    return whole


def doubled_triangle(A: AnyArray, *, upper: bool) -> AnyArray:
    """Return the upper or lower triangle of a matrix of CuPy, twice beside the diagonal."""
    return doubled_triangle_cupy(A, upper=upper)


def block_matrix(rows: tuple[Row, ...]) -> AnyArray:
    """Return the matrix of rows of blocks (..., n, m), where None stands for zeros.

    In each row and in each column at least one block is there, and the first row has all of them.
    """
    blocks = [block for row in rows for block in row if block is not None]
    xp = namespace(blocks[0])
    written = is_numpy_namespace(xp) or is_cupy_namespace(xp)
    if not written and not (is_torch_namespace(xp) and writable(*blocks)):
        return xp.concat([_whole_row(row, rows[0]) for row in rows], axis=-2)
    heights = [_first(row).shape[-2] for row in rows]
    widths = [block.shape[-1] for block in rows[0] if block is not None]
    shape = (*blocks[0].shape[:-2], sum(heights), sum(widths))
    if is_cupy_namespace(xp) and len(shape) == 2:
        whole = assembled(blocks, _corners(rows, heights, widths), shape)
        if whole is not None:
            return whole
    total = xp.zeros(shape, dtype=blocks[0].dtype) if written else blocks[0].new_zeros(shape)
    _write(_places(total, rows, heights, widths), blocks)
    return total


def _places(
    total: AnyArray, rows: tuple[Row, ...], heights: list[int], widths: list[int]
) -> list[AnyArray]:
    """Return the views of a matrix that blocks are written to."""
    blocks = [block for row in rows for block in row if block is not None]
    return [
        total[..., top : top + block.shape[-2], left : left + block.shape[-1]]
        for block, (top, left) in zip(blocks, _corners(rows, heights, widths))
    ]


def _corners(rows: tuple[Row, ...], heights: list[int], widths: list[int]) -> list[tuple[int, int]]:
    """Return the first row and column of each block."""
    tops, lefts = accumulate(heights, initial=0), list(accumulate(widths, initial=0))
    return [
        (top, left)
        for row, top in zip(rows, tops)
        for block, left in zip(row, lefts)
        if block is not None
    ]


def _whole_row(row: Row, first: Row) -> AnyArray:
    """Return a row of blocks with its zeros, as wide as the blocks of the first row."""
    column = namespace(_first(row)).zeros_like(_first(row)[..., :1])
    filled = [
        column * x[..., :1, :] if block is None and x is not None else block
        for block, x in zip(row, first)
    ]
    return namespace(column).concat(filled, axis=-1)


def _first(row: Row) -> AnyArray:
    return next(block for block in row if block is not None)


def add_to_middle(
    total: AnyArray, start: int, end: int, factor: AnyArray, X: AnyArray, *, axis: int = -1
) -> AnyArray:
    """Return total with factor X added to its columns, or rows, from start to end. It is used up.

    `axis` is -1 for columns and -2 for rows.
    """
    middle = _span(total, start, end, axis)
    if writable(total, factor, X):
        add_multiple(middle, factor, X)
        return total
    pieces = [_span(total, 0, start, axis), middle + factor * X]
    return _joined([*pieces, _span(total, end, total.shape[axis], axis)], axis)


def ends_replaced(
    total: AnyArray, ends: AnyArray, first: int, factor: AnyArray, *, axis: int = -1
) -> AnyArray:
    """Return factor total in the middle, and the columns, or rows, of `ends` on both sides of it.

    The `first` of them come before. `total` is used up; `axis` is as above.
    """
    last, length = ends.shape[axis] - first, total.shape[axis]
    middle = _span(total, first, length - last, axis)
    sides = [_span(ends, 0, first, axis), _span(ends, first, first + last, axis)]
    if not writable(total, ends, factor):
        return _joined([sides[0], middle * factor, sides[1]], axis)
    middle *= factor
    places = [_span(total, 0, first, axis), _span(total, length - last, length, axis)]
    _write(places, sides)
    return total


def squared_columns(X: AnyArray) -> AnyArray:
    """Return the sums of |x|^2 of the columns of X (..., n, m). X is used up."""
    xp = namespace(X)
    if writable(X) and not is_complex(X):
        X *= X
        return xp.sum(X, axis=-2)
    return xp.sum(conjugate(X) * X, axis=-2)


def _span(X: AnyArray, start: int, end: int, axis: int) -> AnyArray:
    return X[..., start:end] if axis == -1 else X[..., start:end, :]


def _joined(pieces: list[AnyArray], axis: int) -> AnyArray:
    return namespace(pieces[0]).concat([x for x in pieces if x.shape[axis]], axis=axis)


def _write(places: list[AnyArray], blocks: list[AnyArray]) -> None:
    """Write arrays into views of another one."""
    if is_torch_namespace(namespace(places[0])):
        import torch

        torch._foreach_copy_(places, blocks)
        return
    for place, block in zip(places, blocks):
        place[...] = block


def scaled_copies(
    arrays: list[AnyArray], factors: list[float], *others: AnyArray
) -> tuple[AnyArray, ...]:
    """Return a multiple of each array, which lies in memory by itself, and other arrays.

    Those of CuPy lie one behind the other, so that the next operation may take them as one.
    """
    xp = namespace(arrays[0])
    if is_cupy_namespace(xp) and all(x.dtype == arrays[0].dtype for x in others):
        every = [*arrays, *others]
        piece = collected(every, [*factors, *[1.0] * len(others)])
        if piece is not None:
            return divided(piece, [x.shape for x in every])
    if not is_torch_namespace(xp) or not writable(*arrays):
        return (*(x * factor for x, factor in zip(arrays, factors)), *others)
    import torch

    return (*torch._foreach_mul(arrays, factors), *others)


def in_one_row(arrays: Sequence[AnyArray]) -> AnyArray:
    """Return the entries of arrays (..., n) one behind the other; of CuPy maybe a view of them."""
    if arrays[0].ndim == 1 and len(arrays) > 1 and is_cupy_namespace(namespace(arrays[0])):
        for in_few_launches in (one_piece, collected):
            row = in_few_launches(arrays)
            if row is not None:
                return row
    return joined(list(arrays), axis=-1)


def side_by_side(chunks: Iterable[AnyArray], columns: int) -> AnyArray:
    """Return chunks of columns as one array, each written as it comes where the library allows."""
    chunks = iter(chunks)
    first = next(chunks)
    xp = namespace(first)
    if first.shape[-1] == columns or not writable(first):
        parts = [first, *chunks]
        return first if len(parts) == 1 else xp.concat(parts, axis=-1)
    total: AnyArray = zeros((*first.shape[:-1], columns), first, dtype_name(first.dtype))
    start = first.shape[-1]
    total[..., :start] = first
    del first
    for chunk in chunks:
        stop = start + chunk.shape[-1]
        total[..., start:stop] = chunk
        start = stop
        del chunk  # before the next one is made
    return total

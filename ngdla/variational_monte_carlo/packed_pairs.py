"""Complex parameters of a function that is not holomorphic, as pairs of real ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.checks import Empty, require_array
from ngdla._backend.namespace import namespace
from ngdla.score_matrices.column_blocks import ColumnBlocks, column_blocks, tree_blocks
from ngdla.score_matrices.parameter_forms import ONE_ARRAY, ComplexPairs, ParameterTree
from ngdla.score_matrices.score_matrix import ScoreMatrix

__all__ = ["packed_blocks"]


def packed_blocks(given: Any, name: str, *, empty: Empty = False) -> ColumnBlocks:
    """Return log-derivatives by [Re theta, Im theta], (..., n, 2, m) or leaves (n, 2, *shape).

    `empty` as in `require_array`.
    """
    if isinstance(given, ScoreMatrix):
        msg = (
            f"`{name}` is a {type(given).__name__}; with `pack` it must be an array (n, 2, m), or "
            f"a list or tree of arrays (n, 2, ...)."
        )
        raise TypeError(msg)
    if hasattr(given, "dtype"):
        require_array(given, name, ndim=3, empty=empty)
        *batch, n, two, m = given.shape
        _require_pairs(tuple(given.shape), two, name)
        columns = namespace(given).reshape(given, (*batch, n, 2 * m))
        form = ComplexPairs(ONE_ARRAY, (*batch, m))
        return dataclasses.replace(column_blocks(columns, name=name, empty=empty), form=form)
    blocks = tree_blocks(given, name=name, empty=empty)
    tree = blocks.form
    assert isinstance(tree, ParameterTree)
    for i, (block, shape) in enumerate(zip(blocks.blocks, tree.shapes)):
        whole, found = (block.shape[0], *shape), shape[0] if shape else None
        _require_pairs(whole, found, name + tree.label(i))
    shapes = tuple(shape[1:] for shape in tree.shapes)
    return dataclasses.replace(blocks, form=ComplexPairs(ParameterTree(tree.tree, shapes)))


def _require_pairs(shape: tuple[int, ...], found: int | None, name: str) -> None:
    if found != 2:
        msg = (
            f"`{name}` must have axes (n, 2, ...) with `pack`, the second for the derivatives by "
            f"real and imaginary parts of parameters, but its shape is {shape}."
        )
        raise ValueError(msg)

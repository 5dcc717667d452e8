"""Score matrices given as column blocks: Gram matrices and products, one block after the other.

A score matrix S of shape (..., n, m) arrives as one array, as a sequence of column blocks
[(n, m_1), (n, m_2), ...], or as a tree with leaves (n, *shape). Inside the library it is always a
`ColumnBlocks`, and a vector with the m axis is always a tuple with one piece, (..., m_k, k), for
each block.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

from ngdla._backend.calls import all_finite, place_in_batch
from ngdla._backend.checks import Empty, require_array, require_like
from ngdla._backend.chunks import in_column_chunks, is_chunked, require_whole_samples
from ngdla._backend.column_loops import Step, pass_over_columns
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.products import rmatvec
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.runs import long_sum, product
from ngdla._backend.shapes import joined, spans
from ngdla._backend.split_tf32 import gram_in
from ngdla._backend.trees import holds_arrays, tree_leaves

from .parameter_forms import ONE_ARRAY, BlockSequence, ParameterForm, ParameterTree
from .score_matrix import Piece, ScoreMatrix, ScoreSource, StoredScores, Vector

__all__ = ["ColumnBlocks", "column_blocks", "score_matrix", "tree_blocks"]


def score_matrix(S: Any, *, name: str = "S") -> ScoreMatrix:
    """Check `S` and return it as a `ScoreMatrix`."""
    return S.for_call() if isinstance(S, ScoreSource) else column_blocks(S, name=name)


def column_blocks(S: Any, *, name: str = "S", empty: Empty = False) -> ColumnBlocks:
    """Check `S` and return it as `ColumnBlocks`; `empty` as in `require_array`."""
    if type(S) in (list, tuple) and not any(map(_is_container_of_arrays, S)):
        return _sequence_blocks(S, name, empty)
    if not hasattr(S, "dtype") and (isinstance(S, dict) or holds_arrays(S)):
        return tree_blocks(S, name=name, empty=empty)
    require_array(S, name, ndim=2, empty=empty)
    return ColumnBlocks((in_column_chunks(S, name),), None, ONE_ARRAY, name)


def _is_container_of_arrays(block: Any) -> bool:
    return not hasattr(block, "dtype") and holds_arrays(block)


def _sequence_blocks(S: list[Any] | tuple[Any, ...], name: str, empty: Empty) -> ColumnBlocks:
    """Return a list or tuple of column blocks (n, m_k)."""
    if not S:
        msg = f"`{name}` is an empty {type(S).__name__}; it needs at least one column block."
        raise ValueError(msg)
    form = BlockSequence(type(S), len(S))
    for i, block in enumerate(S):
        require_array(block, f"{name}[{i}]", ndim=2, empty=empty)
        if block.ndim > 2:
            msg = (
                f"`{name}[{i}]` has shape {tuple(block.shape)}; column blocks in a "
                f"{type(S).__name__} are 2-D: reshape each to (n, m_k), or pass a dict of arrays "
                f"(n, ...)."
            )
            raise ValueError(msg)
    return _blocks(S, S, form, name)


def tree_blocks(S: Any, *, name: str = "S", empty: Empty = False) -> ColumnBlocks:
    """Check a tree with leaves (n, *shape), and return it as `ColumnBlocks`, one for each leaf."""
    try:
        leaves, tree = tree_leaves(S)
    except RecursionError:
        msg = f"`{name}` is a {type(S).__name__} that is nested too deeply, or holds itself."
        raise ValueError(msg) from None
    if not leaves:
        msg = f"`{name}` is a {type(S).__name__} without arrays; it needs at least one."
        raise ValueError(msg)
    for path, leaf in zip(tree.paths, leaves):
        require_array(leaf, name + path, ndim=1, blocks=False, empty=empty)
        require_whole_samples(leaf, name + path)
    form = ParameterTree(tree, tuple(tuple(map(int, leaf.shape[1:])) for leaf in leaves))
    blocks = [
        namespace(leaf).reshape(leaf, (leaf.shape[0], math.prod(shape)))
        for leaf, shape in zip(leaves, form.shapes)
    ]
    return _blocks(blocks, leaves, form, name)


def _blocks(blocks: Any, given: Any, form: ParameterForm, name: str) -> ColumnBlocks:
    """Return blocks (n, m_k), of what was given, that fit together."""
    first, names = blocks[0], [name + form.label(i) for i in range(len(blocks))]
    for block, whole, own in zip(blocks, given, names):
        require_like(block, own, first, names[0])
        if block.shape[0] != first.shape[0]:
            msg = (
                f"`{own}` has shape {tuple(whole.shape)} but `{names[0]}` has shape "
                f"{tuple(given[0].shape)}; parts of `{name}` have equal numbers of rows, one for "
                f"each sample."
            )
            raise ValueError(msg)
        if is_complex(block) != is_complex(first):
            msg = (
                f"`{own}` has dtype {dtype_name(block.dtype)} but `{names[0]}` has "
                f"{dtype_name(first.dtype)}; all parts of `{name}` are real or all are complex."
            )
            raise TypeError(msg)
    checked = tuple(in_column_chunks(block, own) for block, own in zip(blocks, names))
    return ColumnBlocks(checked, None, form, name)


@part
@register_pytree(static=("form", "name"))
@dataclasses.dataclass(frozen=True, eq=False)
class ColumnBlocks(StoredScores):
    """The scaled score matrix S diag(scales), of which only the blocks of S are stored."""

    blocks: tuple[Array, ...]  # (..., n, m_k)
    scales: Vector | None  # (..., m_k, 1), real
    form: ParameterForm  # in which the caller's S is given
    name: str  # of the caller's argument, for messages

    @property
    def like(self) -> Array:
        """An array of the library and on the device of the scores."""
        return self.blocks[0]

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the batch axes."""
        return tuple(self.blocks[0].shape[:-2])

    @property
    def rows(self) -> int:
        """Number n of samples."""
        return int(self.blocks[0].shape[-2])

    @property
    def columns(self) -> int:
        """Number m of parameters."""
        return sum(int(block.shape[-1]) for block in self.blocks)

    @property
    def wide(self) -> bool:
        """Tell whether to work in the sample space, with the n x n Gram matrix."""
        n, m = map(int, self.blocks[0].shape[-2:])
        return n < m or n < self.columns

    @property
    def dtype(self) -> str:
        """Name of the dtype that all blocks promote to."""
        first, *others = self.blocks
        dtype = result_name(dtype_name(first.dtype))
        for block in others:
            dtype = result_name(dtype, dtype_name(block.dtype))
        return dtype

    @property
    def given_dtypes(self) -> set[str]:
        """Names of the dtypes in which the blocks came."""
        return {dtype_name(block.dtype) for block in self.blocks}

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What the pieces of a vector with the m axis must fit."""
        if self.form is ONE_ARRAY:  # small solves are to be few calls
            (block,) = self.blocks
            return (Piece(self.name, block, int(block.shape[-1])),)
        return tuple(
            Piece(self.name + self.form.label(i), block, int(block.shape[-1]))
            for i, block in enumerate(self.blocks)
        )

    # ------------------------------------------------------------------------- products

    def column_squares(self) -> Vector:
        """Return |S e_j|^2, one piece (..., m_k, 1) per block, in the real dtype of S."""
        dtype = self.dtype

        def squares(S: Array, scale: Array | None) -> tuple[None, Array]:
            return None, _column_squares(S if scale is None else S * _as_row(scale))

        passes = (self._pass(i, dtype, squares, copied=True) for i in range(len(self.blocks)))
        return tuple(piece for _, piece in passes)

    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""
        dtype = dtype_name(x[0].dtype)

        def product(S: Array, scale: Array | None, part: Array) -> tuple[Array, None]:
            return _product(S, scale, part), None

        terms = [self._pass(i, dtype, product, piece)[0] for i, piece in enumerate(x)]
        return reduce(add, terms)

    def with_scales(self, scales: Vector) -> ColumnBlocks:
        """Return the same S with other scales."""
        return dataclasses.replace(self, scales=scales)

    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w, where x may be None for 0, and if `product` S times it.

        One pass: where columns are converted, each chunk is used for both products.
        """

        def back(S: Array, scale: Array | None, part: Array | None) -> tuple[Any, Array]:
            new = rmatvec(S, w) if scale is None else rmatvec(S, w) * scale
            new = new if part is None else part + new
            return (_product(S, scale, new) if product else None), new

        count = len(self.blocks)
        terms, pieces = zip(
            *(
                self._pass(i, dtype_name(w.dtype), back, part)
                for i, part in enumerate([None] * count if x is None else x)
            )
        )
        return pieces, reduce(add, terms) if product else None

    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (..., n, n), and S x."""
        dense_gram, dtype = gram_in(dtype)

        def gram_of(S: Array, scale: Array | None) -> tuple[Array, None]:
            return dense_gram(S if scale is None else S * _as_row(scale)), None

        copied = self.scales is not None
        terms = [self._pass(i, dtype, gram_of, copied=copied)[0] for i in range(len(self.blocks))]
        return reduce(add, terms), None if x is None else self.matvec(x)

    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (..., m, m), and S^H (g - S x) and S x, where g or x may be None for 0."""
        xp, (dense_gram, dtype) = namespace(self.like), gram_in(dtype)
        K = reduce(add, (dense_gram(xp.matrix_transpose(S)) for _, S in self.row_parts(dtype)))
        K = xp.conj(K) if dtype.startswith("complex") else K  # S^T conj(S), not S^H S
        return (K, None, None) if g is None and x is None else (K, *self.gradient(g, x))

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of rows and these rows of S, (..., r, m), copies of at most 64 MB."""
        blocks = self.blocks
        copied = len(blocks) > 1 or self.scales is not None or dtype_name(blocks[0].dtype) != dtype
        copied = copied and not is_chunked(blocks[0])
        for span in spans(self.rows, self.columns, self.batch, dtype, copied=copied):
            parts = [_part(block, span, -2, dtype) for block in blocks]
            if self.scales is not None:
                parts = [S * astype(s, real_name(dtype)) for S, s in zip(parts, self._row_scales())]
            yield span or slice(0, self.rows), joined(parts, axis=-1)

    def to_dense(self, dtype: str) -> Array:
        """Return S diag(scales) as one array, for the factorisations that need one."""
        blocks = [astype(block, dtype) for block in self.blocks]
        if self.scales is not None:
            rows = [astype(scale, real_name(dtype)) for scale in self._row_scales()]
            blocks = [block * row for block, row in zip(blocks, rows)]
        return joined(blocks, axis=-1)

    def nan_error(self) -> Exception | None:
        """Return the error of scores that hold NaN or Inf, None where they do not."""
        if all(bool(all_finite(block)) for block in self.blocks):
            return None
        place = place_in_batch(len(self.batch), *self.blocks)
        return ValueError(
            f"`{self.name}` contains NaN or Inf{place}. Drop or mask the samples they belong to."
        )

    def _row_scales(self) -> list[Array]:
        """Return the scales as rows, (..., 1, m_k)."""
        return list(map(_as_row, self.scales or ()))

    def _pass(
        self, i: int, dtype: str, step: Step, *vectors: Array | None, copied: bool = False
    ) -> tuple[Any, Any]:
        """Return the sum of the terms of step(S, scale, *vectors), and its rows, of block i.

        S is in `dtype`; where it has to be converted for that, or is `copied` anyway, it is taken
        in chunks of columns. `scale` belongs to these, (..., c, 1), or is None.
        """
        block = self.blocks[i]
        if self.scales is None and dtype_name(block.dtype) == dtype and not copied:
            return step(block, None, *vectors)

        def converted(S: Array, scale: Array | None, *parts: Array | None) -> tuple[Any, Any]:
            scale = None if scale is None else astype(scale, real_name(dtype))
            return step(astype(S, dtype), scale, *parts)

        copied = (copied or dtype_name(block.dtype) != dtype) and not is_chunked(block)
        scale = None if self.scales is None else self.scales[i]
        return pass_over_columns(block, converted, scale, *vectors, dtype=dtype, copied=copied)


def _as_row(scale: Array) -> Array:
    """Return (..., 1, c) of (..., c, 1)."""
    return namespace(scale).matrix_transpose(scale)


def _column_squares(S: Array) -> Array:
    """Return |S e_j|^2, (..., c, 1)."""
    xp = namespace(S)
    parts = (xp.real(S), xp.imag(S)) if is_complex(S) else (S,)
    return xp.matrix_transpose(reduce(add, (long_sum(part * part) for part in parts)))


def _product(S: Array, scale: Array | None, x: Array) -> Array:
    """Return S diag(scale) x."""
    x = x if scale is None else x * scale
    return product(S, x)


def _part(x: Array, span: slice | None, axis: int, dtype: str) -> Array:
    """Return the entries `span` of an axis in `dtype`; `x` itself where nothing changes."""
    if span is not None:
        x = x[..., span] if axis == -1 else x[..., span, :]
    return astype(x, dtype)

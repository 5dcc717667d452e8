"""The forms in which callers hold their parameters, and with them all vectors with the m axis.

Inside, such a vector is a tuple of pieces (..., m_k, k), one for each column block of S. A form
takes a vector of the caller's apart into pieces (..., m_k) or (..., m_k, k), and puts those of a
solution together again: one array, a list or tuple of arrays, or a tree, whose leaves have the
shapes of parameters. Complex parameters of a function that is not holomorphic are pairs of real
ones.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ngdla._backend.checks import require_array
from ngdla._backend.dtypes import is_complex
from ngdla._backend.namespace import Array, is_array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.trees import Tree

__all__ = [
    "ONE_ARRAY",
    "BlockSequence",
    "ComplexPairs",
    "ParameterForm",
    "ParameterTree",
    "is_one_number",
]

Shape = tuple[int, ...]


class ParameterForm(ABC):
    """How vectors with the m axis are written. A value: equal forms are equal."""

    def label(self, i: int) -> str:
        """Return what follows a name where piece i of it is meant."""
        return ""

    @abstractmethod
    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the pieces of a vector, (..., m_k) or (..., m_k, k); raise if it has another form.

        `name` and `scores` are those of the vector and of the score matrix, for messages.
        """

    def weights_apart(self, d: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the pieces of a diagonal, of which a number stands for a whole block."""
        return self.taken_apart(d, name, scores)

    @abstractmethod
    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return the vector with these pieces, (..., m_k) or (..., m_k, k)."""

    @abstractmethod
    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Return column blocks (..., n, m_k) in the form in which S was given."""


@part
@dataclasses.dataclass(frozen=True)
class OneArray(ParameterForm):
    """One array, (..., m)."""

    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return v as the only piece."""
        return (v,)

    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return the only piece."""
        return pieces[0]

    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Return the only block."""
        return blocks[0]


ONE_ARRAY = OneArray()


@part
@dataclasses.dataclass(frozen=True)
class BlockSequence(ParameterForm):
    """A list or tuple of arrays (m_k,)."""

    kind: type
    count: int

    def label(self, i: int) -> str:
        """Return "[i]"."""
        return f"[{i}]"

    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the entries of a list or tuple."""
        if not isinstance(v, (list, tuple)):
            msg = (
                f"`{name}` is a {type(v).__name__}; `{scores}` is a {self.kind.__name__} of "
                f"{self.count} column blocks, so `{name}` must be a list or tuple of {self.count} "
                f"pieces."
            )
            raise TypeError(msg)
        if len(v) != self.count:
            msg = f"`{name}` has {len(v)} pieces but `{scores}` has {self.count} column blocks."
            raise ValueError(msg)
        return v

    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return a list or tuple, as that of S is."""
        return self.kind(pieces)

    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Return a list or tuple, as that of S is."""
        return self.kind(blocks)


@part
@dataclasses.dataclass(frozen=True)
class ParameterTree(ParameterForm):
    """A tree of parameters of any shapes."""

    tree: Tree
    shapes: tuple[Shape, ...]

    def label(self, i: int) -> str:
        """Return the path of leaf i."""
        return self.tree.paths[i]

    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the leaves, flattened."""
        return [
            self._flat(leaf, i, name, scores)
            for i, leaf in enumerate(self._leaves(v, name, scores))
        ]

    def weights_apart(self, d: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the leaves, flattened; numbers stay as they are."""
        return [
            leaf if is_one_number(leaf) else self._flat(leaf, i, name, scores)
            for i, leaf in enumerate(self._leaves(d, name, scores))
        ]

    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return the tree of leaves with the shapes of parameters, or an axis of columns more."""
        return self.tree.with_leaves(
            [
                namespace(piece).reshape(piece, shape + tuple(piece.shape[1:]))
                for piece, shape in zip(pieces, self.shapes)
            ]
        )

    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Return the tree of leaves (n, *shape)."""
        return self.tree.with_leaves(
            [
                namespace(block).reshape(block, (block.shape[0], *shape))
                for block, shape in zip(blocks, self.shapes)
            ]
        )

    def _leaves(self, v: Any, name: str, scores: str) -> list[Any]:
        leaves = None if is_array(v) else self.tree.leaves_of(v)
        if leaves is None:
            msg = (
                f"`{name}` is a {type(v).__name__} that does not have the form of `{scores}`; it "
                f"must be a tree of the same containers and keys, with leaves "
                f"{', '.join(self.tree.paths)}."
            )
            raise TypeError(msg)
        return leaves

    def _flat(self, leaf: Any, i: int, name: str, scores: str) -> Array:
        """Return a checked leaf as (m_k,), or (m_k, k) where it has one axis more."""
        shape, count = self.shapes[i], len(self.shapes[i])
        if not is_array(leaf) or tuple(leaf.shape[:count]) != shape or leaf.ndim > count + 1:
            path = self.label(i)
            require_array(leaf, name + path, blocks=False)
            msg = (
                f"`{name}{path}` has shape {tuple(leaf.shape)} but a row of `{scores}{path}` has "
                f"shape {shape}; it must have that, or one axis more for k right-hand sides."
            )
            raise ValueError(msg)
        return namespace(leaf).reshape(leaf, (math.prod(shape), *leaf.shape[count:]))


@part
@dataclasses.dataclass(frozen=True)
class ComplexPairs(ParameterForm):
    """Complex parameters in another form, as real ones: real parts, then imaginary parts."""

    form: ParameterForm
    shape: Shape | None = None  # (..., m) of one array, of which the other form knows nothing

    def label(self, i: int) -> str:
        """Return that of the complex parameters."""
        return self.form.label(i)

    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return real parts followed by imaginary parts, of vectors without an axis of columns."""
        pieces = self.form.taken_apart(v, name, scores)
        return [_pair(self._checked(piece, name, scores)) for piece in pieces]

    def weights_apart(self, d: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the same weights for both parts."""
        return [
            piece
            if self.shape is None and is_one_number(piece)
            else _twice(self._checked(piece, name, scores))
            for piece in self.form.weights_apart(d, name, scores)
        ]

    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return complex pieces in the other form."""
        return self.form.put_together([_complex(piece) for piece in pieces])

    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Refuse: scores have a row of pairs."""
        raise AssertionError

    def _checked(self, piece: Any, name: str, scores: str) -> Array:
        """Return an array, checked before it has twice its length."""
        require_array(piece, name)
        if self.shape is not None and tuple(piece.shape) != self.shape:
            msg = (
                f"`{name}` has shape {tuple(piece.shape)} but `{scores}` has pairs of derivatives "
                f"by complex parameters of shape {self.shape}; it must have that."
            )
            raise ValueError(msg)
        if self.shape is None and piece.ndim > 1:
            msg = (
                f"`{name}` has one axis more than the parameters of `{scores}`; with pairs of "
                f"derivatives it must be one vector."
            )
            raise ValueError(msg)
        array: Array = piece
        return array


def is_one_number(x: Any) -> bool:
    """Tell whether x is a real number or an array without axes."""
    return isinstance(x, numbers.Real) or (is_array(x) and x.ndim == 0)


def _pair(piece: Array) -> Array:
    xp = namespace(piece)
    parts = [xp.real(piece), xp.imag(piece)] if is_complex(piece) else [piece, xp.zeros_like(piece)]
    return xp.concat(parts, axis=-1)


def _twice(piece: Array) -> Array:
    return namespace(piece).concat([piece, piece], axis=-1)


def _complex(piece: Array) -> Array:
    m = piece.shape[-1] // 2
    return piece[..., :m] + 1j * piece[..., m:]

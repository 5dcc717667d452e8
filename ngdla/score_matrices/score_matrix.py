"""What the algebra asks of a score matrix S, however it is stored.

Arrays and sequences of column blocks are in memory (`ColumnBlocks`), a `ColumnStream` or
`RowStream` arrives block by block, and a `ScoreOperator` only multiplies. Every method takes at
most one pass over S: what can be computed together is one method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from ngdla._backend.dtypes import astype, dtype_name, real_name
from ngdla._backend.namespace import Array

__all__ = ["ParameterVector", "Piece", "ScoreMatrix", "Scores", "Vector"]

Vector = tuple[Array, ...]  # with the m axis: one piece, (..., m_k, k), for each column block
ParameterVector = Array | Sequence[Array]  # the same as callers write it


class Piece(NamedTuple):
    """What a piece of a vector with the m axis must fit."""

    name: str  # of the column block, for messages
    block: Array | None  # whose chunks the piece takes over
    columns: int


class ScoreMatrix(ABC):
    """The matrix S diag(scales), (..., n, m).

    With `scales` = 1 / sqrt(metric), a solve in the metric D is a solve with D = 1.
    """

    name: str  # of the caller's argument, for messages
    scales: Vector | None  # (..., m_k, 1), real
    sequence: str | None  # "list" or "tuple" where the caller's S is a sequence

    @property
    @abstractmethod
    def like(self) -> Array:
        """An array of the library and on the device of the scores."""

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the batch axes."""
        return ()

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number n of samples."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Number m of parameters."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Name of the dtype that all of S promotes to, float32 at least."""

    @property
    def wide(self) -> bool:
        """Tell whether to work in the sample space, with the n x n Gram matrix."""
        return self.rows < self.columns

    @property
    def dense(self) -> bool:
        """Tell whether S is in memory, so that `to_dense` may copy it."""
        return False

    @property
    def has_gram(self) -> bool:
        """Tell whether method "auto" forms the Gram matrix."""
        return True

    @property
    def regram(self) -> bool:
        """Tell whether the Gram matrix can be formed in a higher precision than that of S."""
        return True

    @property
    def sketched(self) -> int:
        """Number of columns that a preconditioner may take of the Gram matrix."""
        return 256

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What the pieces of a vector with the m axis must fit."""
        return (Piece(self.name, None, self.columns),)

    @abstractmethod
    def with_scales(self, scales: Vector) -> Self:
        """Return the same S with other scales."""

    @abstractmethod
    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""

    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (..., m_k, k) a block, in the dtype of y."""
        return self.add_rmatvec(None, y, product=False)[0]

    @abstractmethod
    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w, where x may be None for 0, and if `product` S times it."""

    @abstractmethod
    def gradient(self, g: Array | None, x: Vector | None) -> tuple[Vector, Array | None]:
        """Return S^H (g - S x) and S x, where g or x may be None for 0."""

    @abstractmethod
    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (..., n, n), and S x."""

    @abstractmethod
    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (..., m, m), and S^H (g - S x) and S x, where g or x may be None for 0."""

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of rows and these rows of S, (..., r, m), for n >= m."""
        msg = (
            f"`{self.name}` is a {type(self).__name__}, whose rows are not at hand; pass an array, "
            f"or a RowStream of scores."
        )
        raise ValueError(msg)

    def to_dense(self, dtype: str) -> Array:
        """Return S diag(scales) as one array, for the factorisations that need one."""
        raise NotImplementedError

    @abstractmethod
    def not_finite(self, dtype: str) -> Exception:
        """Return the error of scores whose squared row norms are not finite."""

    def consistent(self, dtype: str) -> Array | None:
        """Return a flag whether products with S and with S^H fit together; None if they must."""
        return None

    def inconsistent(self) -> Exception:
        """Return the error of products that do not fit together."""
        raise NotImplementedError

    def fault(self, dtype: str) -> Exception | None:
        """Return the error of products with S that are not finite, where that can be told."""
        return None

    def split(self, x: Array) -> Vector:
        """Return the pieces of a vector (..., m, k)."""
        pieces, start = [], 0
        for piece in self.pieces:
            pieces.append(x[..., start : start + piece.columns, :])
            start += piece.columns
        return (x,) if len(pieces) == 1 else tuple(pieces)

    def scaled(self, x: Vector) -> Vector:
        """Return diag(scales) x."""
        if self.scales is None:
            return x
        real = real_name(dtype_name(x[0].dtype))
        return tuple(piece * astype(scale, real) for piece, scale in zip(x, self.scales))

    def unscaled(self, x: Vector) -> Vector:
        """Return diag(scales)^-1 x."""
        if self.scales is None:
            return x
        real = real_name(dtype_name(x[0].dtype))
        return tuple(piece / astype(scale, real) for piece, scale in zip(x, self.scales))


Scores = Array | Sequence[Array] | ScoreMatrix  # S as callers write it

"""What the algebra asks of a score matrix S, however it is stored.

Arrays, sequences of column blocks and trees are in memory (`ColumnBlocks`), a `ColumnStream` or
`RowStream` arrives block by block, and a `ScoreOperator` only multiplies. `ScoreMatrix` is what all
of them can do. With n < m the work is done in the sample space (`SampleScores`), with n >= m in the
parameter space (`ParameterScores`); arrays and operators serve both, a stream one of them. Every
method takes at most one pass over S: what can be computed together is one method.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from ngdla._backend.dtypes import astype, dtype_name, real_name
from ngdla._backend.namespace import Array
from ngdla._backend.ranks import ALONE, Alone

from .parameter_forms import ParameterForm

__all__ = [
    "ParameterScores",
    "ParameterVector",
    "Piece",
    "SampleScores",
    "ScoreMatrix",
    "ScoreSource",
    "Scores",
    "StoredScores",
    "Vector",
]

Vector = tuple[Array, ...]  # with the m axis: one piece, (..., m_k, k), for each column block
ParameterVector = Array | Sequence[Any] | Mapping[Any, Any]  # the same as callers write it


class Piece(NamedTuple):
    """What a piece of a vector with the m axis must fit."""

    name: str  # of the column block, for messages
    block: Array | None  # whose chunks the piece takes over
    columns: int


class ScoreSource(ABC):
    """S as a caller hands it in, where it is no array, sequence or tree."""

    @abstractmethod
    def for_call(self) -> ScoreMatrix:
        """Return S for one call, in which it does not change."""


class ScoreMatrix(ScoreSource):
    """The matrix S diag(scales), (..., n, m).

    With `scales` = 1 / sqrt(metric), a solve in the metric D is a solve with D = 1.
    """

    name: str  # of the caller's argument, for messages
    scales: Vector | None  # (..., m_k, 1), real
    form: ParameterForm  # of vectors with the m axis, as callers write them
    ranks: Alone = ALONE  # that have parts of S
    across_columns: Alone = ALONE  # those of them that have parts of vectors with the m axis
    across_rows: Alone = ALONE  # those that work on parts of vectors with the n axis

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
    def breaks_pairs(self) -> bool:
        """Tell whether rows i and i + n / 2 are not those that a caller stacked."""
        return False

    @property
    def at_hand(self) -> ScoreMatrix:
        """The part of S that this rank has."""
        return self

    @property
    def given_rows(self) -> int:
        """Number of rows of vectors with the n axis, as callers give them on this rank."""
        return self.rows

    @property
    @abstractmethod
    def columns(self) -> int:
        """Number m of parameters."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Name of the dtype that all of S promotes to, float32 at least."""

    @property
    def given_dtypes(self) -> set[str]:
        """Names of the dtypes in which parts of S came."""
        return {self.dtype}

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
    def gram_dtype(self) -> str | None:
        """Name of the dtype of a Gram matrix that is given; None where it is formed in any."""
        return None

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

    def for_call(self) -> Self:
        """Return the same S for one call, in which it does not change."""
        return self

    def all_samples(self, y: Array, name: str) -> Array:
        """Return a vector with the n axis for all ranks, (..., n, k), from what a caller gave."""
        return y

    def own_samples(self, y: Array) -> Array:
        """Return the rows of a vector with the n axis that go with the rows of S at hand."""
        return y

    def given_back(self, y: Array) -> Array:
        """Return what callers on this rank are to have of rows that go with those at hand."""
        return y

    def named(self, name: str) -> Self:
        """Return the same S with another name in messages."""
        other = copy.copy(self)
        vars(other).update(name=name)
        return other

    @abstractmethod
    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""

    @abstractmethod
    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (..., m_k, k) per block, in the dtype of y."""

    def not_finite(self, dtype: str) -> Exception:
        """Return the error of scores whose squared row norms are not finite."""
        return self.nan_error() or self.range_error(dtype)

    def nan_error(self) -> Exception | None:
        """Return the error of scores that hold NaN or Inf, None where they do not."""
        return None

    def range_error(self, dtype: str) -> Exception:
        """Return the error of finite scores whose squared row norms are not."""
        return ValueError(
            f"the squared row norms of `{self.name}` exceed the range of {real_name(dtype)}. "
            f"Scale `{self.name}` (and `damping` by the square), or pass it as float64."
        )

    def consistent(self, dtype: str) -> Array | None:
        """Return a flag whether products with S and with S^H fit together; None if they must."""
        return None

    def inconsistent(self) -> Exception:
        """Return the error of functions that are not adjoint to each other."""
        return ValueError(
            f"`rmatvec` of `{self.name}` is not the adjoint of `matvec`: y^H (S x) and (S^H y)^H x "
            f"differ. Check scales and signs, and for complex scores the conjugate."
        )

    def column_squares(self) -> Vector:
        """Return |S e_j|^2, one piece (..., m_k, 1) per block, in the real dtype of S."""
        msg = (
            f"`{self.name}` is a {type(self).__name__}, whose columns are not at hand; pass an "
            f"array, a ColumnStream or a RowStream of the scores, or give `metric` by what you "
            f"know of the parameters."
        )
        raise ValueError(msg)

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

    # ------------------------------------------------------------------------- which it is

    @property
    def samples(self) -> SampleScores:
        """These scores, for work in the sample space; raise if they do not serve it."""
        msg = (
            f"`{self.name}` is a {type(self).__name__}, of whose rows only a block is at hand, so "
            f"that their Gram matrix cannot be formed; pass a ColumnStream."
        )
        raise ValueError(msg)

    @property
    def parameters(self) -> ParameterScores:
        """These scores, for work in the parameter space; raise if they do not serve it."""
        raise self._rows_missing()

    @property
    def stored(self) -> StoredScores:
        """These scores, for factorisations of S itself; raise if S is not in memory."""
        msg = (
            f"`method` 'svd' and 'qr' need `{self.name}` in memory; for a {type(self).__name__} "
            f"choose 'cholesky' or 'eigh', with a higher `precision` if need be."
        )
        raise ValueError(msg)

    def _rows_missing(self) -> Exception:
        return ValueError(
            f"`{self.name}` is a {type(self).__name__}, whose rows are not at hand; pass an array, "
            f"or a RowStream of scores."
        )


class SampleScores(ScoreMatrix):
    """Scores that serve the sample space: what n < m needs."""

    @property
    def samples(self) -> SampleScores:
        """These scores."""
        return self

    @abstractmethod
    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (..., n, n), in a dtype or by "split-tf32", and S x."""

    @abstractmethod
    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w, where x may be None for 0, and if `product` S times it."""

    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (..., m_k, k) per block, in the dtype of y."""
        return self.add_rmatvec(None, y, product=False)[0]


class ParameterScores(ScoreMatrix):
    """Scores that serve the parameter space: what n >= m needs."""

    @property
    def parameters(self) -> ParameterScores:
        """These scores."""
        return self

    @abstractmethod
    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (..., m, m), and S^H (g - S x) and S x, where g or x may be None for 0.

        S^H S is formed in a dtype or by "split-tf32".
        """

    def gradient(self, g: Array | None, x: Vector | None) -> tuple[Vector, Array | None]:
        """Return S^H (g - S x) and S x, where g or x may be None for 0."""
        Sx = None if x is None else self.matvec(x)
        if Sx is not None:
            g = -Sx if g is None else g - Sx
        assert g is not None
        return self.rmatvec(g), Sx

    @abstractmethod
    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of rows and these rows of S, (..., r, m)."""


class StoredScores(SampleScores, ParameterScores):
    """Scores in memory, which serve both spaces and can be factored themselves."""

    @property
    def dense(self) -> bool:
        """S is in memory."""
        return True

    @property
    def stored(self) -> StoredScores:
        """These scores."""
        return self

    @abstractmethod
    def to_dense(self, dtype: str) -> Array:
        """Return S diag(scales) as one array, for the factorisations that need one."""


Scores = Array | Sequence[Any] | Mapping[Any, Any] | ScoreSource  # S as callers write it

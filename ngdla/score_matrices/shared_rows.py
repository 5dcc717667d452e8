"""Scores of which each rank has some rows (walkers), for work in the parameter space.

With S = [S_1; S_2; ...] the matrix S^H S is the sum of S_k^H S_k, and S^H y that of S_k^H y_k: a
solve sums m^2 words, and m for each gradient. Vectors with the n axis are gathered, so that every
rank has all of them, and does the same with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ngdla._backend.namespace import Array
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.ranks import TracedRanks
from ngdla._backend.shapes import joined

from .column_blocks import ColumnBlocks
from .exchange import Arrival, column_shares, exchanged, rows_of, whole
from .gathered_form import GatheredForm
from .parameter_forms import ONE_ARRAY, ParameterForm
from .score_matrix import ParameterScores, ScoreMatrix, Vector
from .shared_columns import SharedColumns
from .shared_scores import SharedScores

__all__ = ["SharedRows"]


@register_pytree(static=("counts", "name", "ranks", "stack", "given"))
@dataclasses.dataclass(frozen=True, eq=False)
class SharedRows(SharedScores, ParameterScores):
    """The rows of this rank, among those of all."""

    local: Any  # a `ParameterScores`
    counts: tuple[int, ...]  # samples of each rank
    name: str
    ranks: TracedRanks
    stack: bool = False  # imaginary parts below the real ones: two rows a sample
    given: bool = True  # vectors with the n axis are given by rank, else as a whole

    # ------------------------------------------------------------------------- what it is

    @property
    def across_rows(self) -> TracedRanks:  # type: ignore[override]
        """The ranks, each with its part of the samples."""
        return self.ranks

    @property
    def rows(self) -> int:
        """Number of rows of all ranks."""
        return sum(self.counts) * (2 if self.stack else 1)

    @property
    def breaks_pairs(self) -> bool:
        """Tell whether rows i and i + n / 2 are not those that a caller stacked."""
        return not self.stack

    @property
    def at_hand(self) -> ScoreMatrix:
        """The rows that this rank has."""
        local: ScoreMatrix = self.local
        return local

    @property
    def given_rows(self) -> int:
        """Number of rows of vectors with the n axis, as callers give them on this rank."""
        return int(self.local.rows) if self.given else self.rows

    @property
    def columns(self) -> int:
        """Number m of parameters."""
        return int(self.local.columns)

    @property
    def wide(self) -> bool:
        """The work is always done in the parameter space."""
        return False

    # --------------------------------------------------------------------- rows for columns

    @property
    def samples(self) -> SharedColumns:
        """The same S by columns, for work in the sample space."""
        return self.by_columns()

    def by_columns(
        self, arrival: Arrival | None = None, *, gathered: bool = False
    ) -> SharedColumns:
        """Return the same S by columns, about as many on each rank, made by an exchange.

        `arrival` is done to all rows of some columns as they arrive. Callers have vectors with the
        m axis as a whole if `gathered`.
        """
        if not isinstance(self.local, ColumnBlocks):
            msg = (
                f"`{self.name}` has {self.rows} rows and {self.columns} columns on all ranks, so "
                f"that rows have to be exchanged for columns, but this rank's are a "
                f"{type(self.local).__name__}; pass arrays, or ColumnShards of a ColumnStream."
            )
            raise ValueError(msg)
        shares = column_shares(self.columns, self.ranks.size)
        if not gathered and not self.ranks.has_uneven_parts and len(set(shares)) > 1:
            msg = (
                f"`{self.name}` has {self.columns} columns, of which {self.ranks.size} devices "
                f"cannot have equally many, as traced code needs them; add columns of zeros."
            )
            raise ValueError(msg)
        columns = exchanged(self.local.blocks, self.ranks, self.counts, shares, arrival)
        form: ParameterForm = ONE_ARRAY
        if gathered:
            widths = tuple(int(block.shape[-1]) for block in self.local.blocks)
            form = GatheredForm(self.form, widths, self.ranks, shares)
        local = ColumnBlocks((columns,), None, form, self.name)
        return SharedColumns(local, shares, self.counts, self.name, self.ranks)

    # ------------------------------------------------------------- vectors with the n axis

    def all_samples(self, y: Array, name: str) -> Array:
        """Return a vector with the n axis for all ranks, (..., n, k), from what a caller gave."""
        return whole(self.ranks, y, self.counts) if self.given else y

    def own_samples(self, y: Array) -> Array:
        """Return the rows of this rank, (..., r, k), where stacked the imaginary ones below."""
        n = sum(self.counts)
        halves = (y[..., i * n : (i + 1) * n, :] for i in range(2 if self.stack else 1))
        return joined([rows_of(self.ranks, half, self.counts) for half in halves], axis=-2)

    def _gathered(self, y: Array | None) -> Array | None:
        """Return the rows of all ranks, of which this one has y."""
        if y is None or not self.stack:
            return None if y is None else whole(self.ranks, y, self.counts)
        own = y.shape[-2] // 2
        halves = (y[..., :own, :], y[..., own:, :])
        return joined([whole(self.ranks, half, self.counts) for half in halves], axis=-2)

    # ---------------------------------------------------------------------------- products

    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (..., m, m), and S^H (g - S x) and S x, where g or x may be None for 0."""
        own = None if g is None else self.own_samples(g)
        K, r, Sx = self.local.parameter_gram(dtype, own, x)
        return self.ranks.total(K), self._totals(r), self._gathered(Sx)

    def gradient(self, g: Array | None, x: Vector | None) -> tuple[Vector, Array | None]:
        """Return S^H (g - S x) and S x, where g or x may be None for 0."""
        own = None if g is None else self.own_samples(g)
        r, Sx = self.local.parameters.gradient(own, x)
        totals = self._totals(r)
        assert totals is not None
        return totals, self._gathered(Sx)

    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""
        Sx = self._gathered(self.local.matvec(x))
        assert Sx is not None
        return Sx

    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (..., m_k, k) per block, in the dtype of y."""
        return self.gradient(y, None)[0]

    def column_squares(self) -> Vector:
        """Return |S e_j|^2, one piece (..., m_k, 1) per block, in the real dtype of S."""
        totals = self._totals(self.local.column_squares())
        assert totals is not None
        return totals

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of the rows of this rank and these rows of S, (..., r, m)."""
        parts: Iterator[tuple[slice, Array]] = self.local.row_parts(dtype)
        return parts

    def nan_error(self) -> Exception | None:
        """Return the error of rows of this rank that hold NaN or Inf, None where they do not."""
        error: Exception | None = self.local.nan_error()
        return error

    def _totals(self, pieces: Vector | None) -> Vector | None:
        return None if pieces is None else tuple(map(self.ranks.total, pieces))

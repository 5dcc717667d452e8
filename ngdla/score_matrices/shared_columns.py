"""Scores of which each rank has some columns: what it knows of S is a sum over ranks.

With S = [S_1, S_2, ...] the Gram matrix is the sum of S_k S_k^H, and S x that of S_k x_k, while
S_k^H y is this rank's alone. A solve therefore sums n^2 words, whatever m is, and n for each
product S x, and every rank then factors the same n x n matrix. The work is always done in the
sample space.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.namespace import Array
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.ranks import TracedRanks

from .exchange import rows_of, whole
from .score_matrix import SampleScores, Vector
from .shared_scores import SharedScores

__all__ = ["SharedColumns"]


@register_pytree(static=("ranks", "shares", "given", "name"))
@dataclasses.dataclass(frozen=True, eq=False)
class SharedColumns(SharedScores, SampleScores):
    """The columns of this rank, among those of all."""

    local: Any  # a `SampleScores`
    shares: tuple[int, ...]  # columns of each rank
    given: tuple[int, ...] | None  # rows that callers give on each rank, None for all on every one
    name: str
    ranks: TracedRanks

    # ------------------------------------------------------------------------- what it is

    @property
    def across_columns(self) -> TracedRanks:  # type: ignore[override]
        """The ranks, each with its part of a vector with the m axis."""
        return self.ranks

    @property
    def rows(self) -> int:
        """Number n of samples."""
        return int(self.local.rows)

    @property
    def breaks_pairs(self) -> bool:
        """Tell whether rows i and i + n / 2 are not those that a caller stacked."""
        return self.given is not None

    @property
    def given_rows(self) -> int:
        """Number of rows of vectors with the n axis, as callers give them on this rank."""
        return self.rows if self.given is None else self.ranks.own(self.given)

    @property
    def columns(self) -> int:
        """Number m of parameters of all ranks."""
        return sum(self.shares)

    @property
    def wide(self) -> bool:
        """The work is always done in the sample space."""
        return True

    # ------------------------------------------------------------- vectors with the n axis

    def all_samples(self, y: Array, name: str) -> Array:
        """Return a vector with the n axis, which is the same on all ranks, or gathered from them.

        That it is the same is looked at in the next handshake.
        """
        if self.given is not None:
            return whole(self.ranks, y, self.given)
        self.ranks.note_data(name, y)
        return y

    def given_back(self, y: Array) -> Array:
        """Return what callers on this rank are to have of a vector with the n axis."""
        return y if self.given is None else rows_of(self.ranks, y, self.given)

    # ---------------------------------------------------------------------------- products

    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (..., n, n), in a dtype or by "split-tf32", and S x."""
        G, Sx = self.local.gram(dtype, x)
        return self.ranks.total(G), None if Sx is None else self.ranks.total(Sx)

    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""
        return self.ranks.total(self.local.matvec(x))

    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w of this rank, where x may be None for 0, and if `product` S times it."""
        pieces, Sx = self.local.add_rmatvec(x, w, product=product)
        return pieces, None if Sx is None else self.ranks.total(Sx)

    def column_squares(self) -> Vector:
        """Return |S e_j|^2 of the columns of this rank."""
        squares: Vector = self.local.column_squares()
        return squares

"""A dense corner, a strip beside it, and a diagonal rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from typing import Any

from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.messages import shown

from .block_triangular import BlockTriangular, Parts
from .dense import Dense
from .diagonal import Diagonal

__all__ = ["LowRankTriangular"]

ORIENTATIONS = ("upper-first", "upper-last", "lower-first", "lower-last")


@dataclasses.dataclass(frozen=True)
class LowRankTriangular(BlockTriangular):
    """Diagonal matrices with k dense rows, or k dense columns, that meet in a dense corner.

    ============= ================== ============================== ===========================
    orientation   K                  curvature K^-H K^-1            preconditioner K K^H
    ============= ================== ============================== ===========================
    "upper-first" [[A, B], [0, D]]   rank k plus diagonal           arrowhead
    "lower-last"  [[D, 0], [B, A]]   rank k plus diagonal           arrowhead
    "lower-first" [[A, 0], [B, D]]   arrowhead                      rank k plus diagonal
    "upper-last"  [[D, B], [0, A]]   arrowhead                      rank k plus diagonal
    ============= ================== ============================== ===========================

    Leaves: A, B, D for dense rows, D, B, A for dense columns; A is (..., k, k), B (..., k, d - k)
    or (..., d - k, k), D (..., d - k). With d <= k, everything is the corner. Projections are
    Hermitian in the corner, doubled in the strip, real on the diagonal. Cost: 2 k d flops for a
    column of K @ V, about 2 k^2 d for products, inverses and `project_gram`.

    Attributes
    ----------
    k : int
        Size of the corner, 0 or more.
    orientation : {"upper-first", "upper-last", "lower-first", "lower-last"}
        Dense rows ("upper-first", "lower-last") converge faster and have a cheap optimum.
    features : tuple of int, optional
        The k indices of the corner, in place of the first or the last ones: which ones are
        privileged is the modelling choice.
    """

    k: int = 15
    orientation: str = "upper-first"
    features: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_count(self.k, "k")
        object.__setattr__(self, "k", int(self.k))
        require_choice(self.orientation, "orientation", ORIENTATIONS)
        if self.features is not None:
            object.__setattr__(self, "features", _checked(self.features, self.k))

    def _parts(self, d: int) -> Parts:
        return _low_rank_parts(self, d)


@cache
def _low_rank_parts(structure: LowRankTriangular, d: int) -> Parts:
    k, features = min(structure.k, d), structure.features
    corner, rest = Dense() if k else Diagonal(), Diagonal()
    rows = structure.orientation in ("upper-first", "lower-last") or not k
    last = structure.orientation.endswith("last")
    if features is not None:
        if max(features, default=0) >= d:
            msg = (
                f"`features` reach up to {max(features)}; for a matrix of dimension {d} they must "
                f"be from 0 to {d - 1}."
            )
            raise ValueError(msg)
        others = tuple(i for i in range(d) if i not in set(features))
        if rows:
            return Parts(corner, rest, (k, d - k), indices=features)
        return Parts(rest, corner, (d - k, k), indices=others)
    if rows:
        return Parts(corner, rest, (k, d - k), tail=k if last else 0)
    return Parts(rest, corner, (d - k, k), tail=0 if last else d - k)


def _checked(features: Any, k: int) -> tuple[int, ...]:
    if not isinstance(features, Iterable) or getattr(features, "ndim", 1) != 1:
        msg = f"`features` is {shown(features)}; it must be a tuple of integers."
        raise TypeError(msg)
    indices = tuple(features)
    for index in indices:
        require_count(index, "features")
    if len(indices) != k or len(set(indices)) != k:
        msg = f"`features` are {len(indices)} indices; they must be k = {k} different ones."
        raise ValueError(msg)
    return tuple(int(index) for index in indices)

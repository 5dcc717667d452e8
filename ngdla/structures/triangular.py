"""Full triangular matrices, in half the memory of dense ones."""

from __future__ import annotations

import dataclasses
from functools import cache

from .block_triangular import BlockTriangular, Parts
from .diagonal import Diagonal
from .masked import Masked

__all__ = ["LowerTriangular", "UpperTriangular"]

_LEAF = 64  # below this size, a triangle is one dense block with zeros


@dataclasses.dataclass(frozen=True)
class UpperTriangular(BlockTriangular):
    """Upper triangular matrices. Leaves: triangles of both halves, and the block between them.

    Halves are divided again down to triangles of at most 64 rows, stored with their zeros: some
    d^2 / 2 + 32 d numbers. Projections double what is above the diagonal. Cost: d^2 flops for a
    column of K @ V, half of a dense matrix; d^3 / 3 for products, inverses and `project_gram`.
    """

    def _parts(self, d: int) -> Parts:
        return _upper_parts(d)


@dataclasses.dataclass(frozen=True)
class LowerTriangular(BlockTriangular):
    """Lower triangular matrices. Leaves: triangles of both halves, and the block between them.

    As UpperTriangular; here what is below the diagonal is doubled in projections.
    """

    def _parts(self, d: int) -> Parts:
        return _lower_parts(d)


@cache
def _upper_parts(d: int) -> Parts:
    if d <= _LEAF:
        return Parts(Masked([[i <= j for j in range(d)] for i in range(d)]), Diagonal(), (d, 0))
    first = -(-d // 2)
    return Parts(UpperTriangular(), UpperTriangular(), (first, d - first))


@cache
def _lower_parts(d: int) -> Parts:
    if d <= _LEAF:
        return Parts(Masked([[i >= j for j in range(d)] for i in range(d)]), Diagonal(), (d, 0))
    last = d // 2  # these rows see all columns
    return Parts(LowerTriangular(), LowerTriangular(), (last, d - last), tail=last)

"""Two dense corners, strips beside both, and a diagonal in the middle."""

from __future__ import annotations

import dataclasses
from functools import cache

from ngdla._backend.checks import require_count

from .base import Structure
from .block_triangular import BlockTriangular, Parts
from .dense import Dense
from .diagonal import Diagonal

__all__ = ["Hierarchical"]


@dataclasses.dataclass(frozen=True)
class Hierarchical(BlockTriangular):
    """Matrices [[A, B1, B2], [0, C, 0], [0, D, E]] with a diagonal C.

    The first k1 and the last k2 indices are privileged. They form a corner [[A, B2], [0, E]], and
    with it K is a LowRankTriangular matrix of k1 + k2 dense rows: both attain the same
    preconditioners, this one with k1 k2 fewer numbers.

    Leaves: A (..., k1, k1), B2 (..., k1, k2), E (..., k2, k2), [B1; D] (..., k1 + k2, q) and
    C (..., q), with q = d - k1 - k2. With d <= k1 only A is left, with d <= k1 + k2 the corner.
    Projections are Hermitian in A and E, doubled in B1, B2 and D, real in C. Cost: 2 (k1 + k2) d
    flops for a column of K @ V, 2 (k1^2 + k1 k2 + k2^2) d for products, inverses and
    `project_gram`.

    Attributes
    ----------
    k1, k2 : int
        Sizes of the corners, 0 or more.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, section 3.2 and figure 5.
    """

    k1: int = 15
    k2: int = 15

    def __post_init__(self) -> None:
        for name in ("k1", "k2"):
            require_count(getattr(self, name), name)
            object.__setattr__(self, name, int(getattr(self, name)))

    def _parts(self, d: int) -> Parts:
        return _hierarchical_parts(self.k1, self.k2, d)


@dataclasses.dataclass(frozen=True)
class _Corner(BlockTriangular):
    """[[A, B2], [0, E]]; E is what goes beyond the first k1 indices."""

    k1: int

    def _parts(self, d: int) -> Parts:
        first = min(self.k1, d)
        return Parts(_corner(first), _corner(d - first), (first, d - first))


@cache
def _hierarchical_parts(k1: int, k2: int, d: int) -> Parts:
    first = min(k1, d)
    last = min(k2, d - first)
    corner = _Corner(k1) if first + last else Diagonal()
    return Parts(corner, Diagonal(), (first + last, d - first - last), tail=last)


def _corner(size: int) -> Structure:
    return Dense() if size else Diagonal()

"""Two dense corners, strips beside both, and a diagonal in the middle."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from ngdla._backend.blocks import (
    add_to_middle,
    block_matrix,
    ends_replaced,
    in_one_row,
    scaled_copies,
    squared_columns,
)
from ngdla._backend.checks import require_count
from ngdla._backend.dtypes import conjugate, real_part
from ngdla._backend.fused import largest_along
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import norm_along
from ngdla._backend.products import add_to_diagonals, adjoint, adjoint_product, real_diagonal
from ngdla._backend.runs import product
from ngdla._backend.shapes import expanded
from ngdla._backend.sums import add_multiple

from .base import Structure
from .block_triangular import BlockTriangular, Parts
from .dense import Dense
from .diagonal import Diagonal
from .kernels import Leaves, realified

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

    # With the privileged indices first, K is [[R], [0, D]], where the dense rows are the corner
    # [[A, B2], [0, E]] and B = [B1; D]: one product takes the place of those with four blocks.

    def project_inner(self, K: Leaves, X: Array) -> Leaves:
        """Return Pi(Z^H Z) for Z = conj(X) K, with its columns in that order."""
        if not self._has_all_parts(d := X.shape[-1]):
            return super().project_inner(K, X)
        X1, X2 = self._parts(d).divide(conjugate(X), axis=-1)
        k = self.k1 + self.k2
        Z = add_to_middle(X1 @ self._rows(K), k, d, _beside(K[4]), X2)
        products = product(adjoint(Z[..., :k]), Z)
        return self._projected(products, squared_columns(Z[..., k:]))

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        if not self._has_all_parts(d):
            return super().project_gram(K, d)
        R, B, D = self._rows(K), K[3], K[4]
        squares = namespace(B).sum(conjugate(B) * B, axis=-2)
        corner = R[..., : self.k1 + self.k2]
        return self._projected(adjoint(corner) @ R, add_multiple(squares, conjugate(D), D))

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        if not self._has_all_parts(d):
            return super().product(K, L, d)
        k = self.k1 + self.k2
        R = self._corner(K) @ self._rows(L)
        return self._leaves(add_to_middle(R, k, d, _beside(L[4]), K[3]), K[4] * L[4])

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        if not self._has_all_parts(d := X.shape[-2]):
            return super().square_matmul(K, X)
        X1, X2 = self._parts(d).divide(X)
        R, D = self._rows_in_order(K), expanded(K[4], 1)
        Z = adjoint_product(R, X1)
        Z = add_to_middle(Z, self.k1, d - self.k2, conjugate(D), X2, axis=-2)  # K^H X
        return ends_replaced(Z, R @ Z, self.k1, D, axis=-2)

    def square_rmatmul(self, K: Leaves, X: Array) -> Array:
        if not self._has_all_parts(d := X.shape[-1]):
            return super().square_rmatmul(K, X)
        X1, X2 = self._parts(d).divide(X, axis=-1)
        R, D = self._rows_in_order(K), _beside(K[4])
        Z = add_to_middle(X1 @ R, self.k1, d - self.k2, D, X2)  # X K
        return ends_replaced(Z, Z @ adjoint(R), self.k1, conjugate(D))

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        if not self._has_all_parts(d) or not isinstance(shift, float):
            return super().add_identity(K, shift, d)
        A, E, D = add_to_diagonals((K[0], K[2]), K[4], shift)
        return A, K[1], E, K[3], D

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        """Return the norm of both corners together, or the largest number of the diagonal."""
        if not self._has_all_parts(d):
            return super().coarse_bound(K, d)
        xp = namespace(K[0])
        corners = [xp.reshape(x, (*x.shape[:-2], x.shape[-1] ** 2)) for x in (K[0], K[2])]
        norm = norm_along(in_one_row(corners), -1)
        return xp.maximum(norm, largest_along(K[4], -1))

    def trace(self, K: Leaves, d: int) -> Array:
        if not self._has_all_parts(d):
            return super().trace(K, d)
        diagonals = [real_diagonal(K[0]), real_diagonal(K[2]), real_part(K[4])]
        return as_array(namespace(K[0]).sum(in_one_row(diagonals), axis=-1))

    def _has_all_parts(self, d: int) -> bool:
        return bool(self.k1 and self.k2) and d > self.k1 + self.k2

    def _corner(self, K: Leaves) -> Array:
        A, B2, E, *_ = K
        return block_matrix(((A, B2), (None, E)))

    def _rows(self, K: Leaves) -> Array:
        """Return [[A, B2, B1], [0, E, D]], with the privileged columns first."""
        A, B2, E, B, _ = K
        return block_matrix(((A, B2, B[..., : self.k1, :]), (None, E, B[..., self.k1 :, :])))

    def _rows_in_order(self, K: Leaves) -> Array:
        """Return [[A, B1, B2], [0, D, E]]."""
        A, B2, E, B, _ = K
        return block_matrix(((A, B[..., : self.k1, :], B2), (None, B[..., self.k1 :, :], E)))

    def _projected(self, R: Array, diagonal: Array) -> Leaves:
        """Return the projection of a Hermitian matrix with these first rows and this diagonal."""
        return self._leaves(R, realified(diagonal), doubled=2.0)

    def _leaves(self, R: Array, diagonal: Array, doubled: float = 1.0) -> Leaves:
        """Return the leaves of dense rows, the blocks beside the corners doubled, and C."""
        k, k1 = self.k1 + self.k2, self.k1
        above, below = R[..., :k1, :], R[..., k1:, :]
        blocks = [above[..., :k1], above[..., k1:k], below[..., k1:k], R[..., k:]]
        return scaled_copies(blocks, [1.0, doubled, 1.0, doubled], diagonal)


def _beside(D: Array) -> Array:
    """Return a diagonal (..., q) to be multiplied with columns (..., n, q)."""
    return namespace(D).expand_dims(D, axis=-2)


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

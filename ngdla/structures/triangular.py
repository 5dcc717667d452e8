"""Full triangular matrices, in half the memory of dense ones.

How they are stored does not depend on the library, but how they are computed with does: where a
launch takes longer than the flops that halves save, a triangle is one dense matrix meanwhile.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, ClassVar

from ngdla._backend.blocks import (
    doubled_triangle,
    in_one_row,
    matrix_of,
    scaled_copies,
    taken_whole,
)
from ngdla._backend.dtypes import is_complex
from ngdla._backend.fused import largest_along
from ngdla._backend.gram import gram
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.products import (
    adjoint,
    adjoint_product,
    hermitian_part,
    real_diagonal,
)

from .block_triangular import BlockTriangular, Parts
from .diagonal import Diagonal
from .kernels import Leaves
from .masked import Masked

__all__ = ["LowerTriangular", "UpperTriangular"]

_LEAF = 64  # below this size, a triangle is stored as one dense block with zeros


class _Triangular(BlockTriangular):
    """Both triangles: by halves, or whole."""

    upper: ClassVar[bool]

    def to_dense(self, K: Leaves, d: int) -> Array:
        return (
            matrix_of(K, _corners(self, d), (d, d)) if _whole(K[0], d) else super().to_dense(K, d)
        )

    def project_dense(self, N: Array) -> Leaves:
        if not _whole(N, N.shape[-1]):
            return super().project_dense(N)
        return self._stored(doubled_triangle(hermitian_part(N), upper=self.upper))

    def project_columns(self, S: Array) -> Leaves:
        return self._of_gram(S) if _whole(S, S.shape[-2]) else super().project_columns(S)

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        if not _whole(K[0], d):
            return super().project_gram(K, d)
        return self._of_gram(adjoint(self.to_dense(K, d)))

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        if not _whole(K[0], d):
            return super().product(K, L, d)
        return self._stored(self.to_dense(K, d) @ self.to_dense(L, d))

    def matmul(self, K: Leaves, X: Array) -> Array:
        whole = _whole(K[0], d := X.shape[-2])
        return self.to_dense(K, d) @ X if whole else super().matmul(K, X)

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        if not _whole(K[0], d := X.shape[-2]):
            return super().adjoint_matmul(K, X)
        return adjoint_product(self.to_dense(K, d), X)

    def rmatmul(self, K: Leaves, X: Array) -> Array:
        whole = _whole(K[0], d := X.shape[-1])
        return X @ self.to_dense(K, d) if whole else super().rmatmul(K, X)

    def adjoint_rmatmul(self, K: Leaves, X: Array) -> Array:
        whole = _whole(K[0], d := X.shape[-1])
        return X @ adjoint(self.to_dense(K, d)) if whole else super().adjoint_rmatmul(K, X)

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        if not _whole(K[0], d := X.shape[-2]):
            return super().square_matmul(K, X)
        T = self.to_dense(K, d)
        return T @ adjoint_product(T, X)

    def square_rmatmul(self, K: Leaves, X: Array) -> Array:
        if not _whole(K[0], d := X.shape[-1]):
            return super().square_rmatmul(K, X)
        T = self.to_dense(K, d)
        return X @ T @ adjoint(T)

    def trace(self, K: Leaves, d: int) -> Array:
        if not _whole(K[0], d):
            return super().trace(K, d)
        return as_array(namespace(K[0]).sum(self._diagonal(K, d, real=True), axis=-1))

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        if not _whole(K[0], d):
            return super().spectral_bound(K, d, sufficient)
        return self.coarse_bound(K, d)  # which is exact

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        if not _whole(K[0], d):
            return super().coarse_bound(K, d)
        return largest_along(self._diagonal(K, d), -1)

    def _of_gram(self, S: Array) -> Leaves:
        N = gram(S)
        N = hermitian_part(N) if is_complex(N) else N  # rounding leaves imaginary parts
        return self._stored(doubled_triangle(N, upper=self.upper))

    def _stored(self, T: Array) -> Leaves:
        """Return the parameters of a whole triangle, with zeros on the other side."""
        d = T.shape[-1]
        views = [
            T[top : top + shape[0], left : left + shape[1]] if len(shape) == 2 else T[0, :0]
            for shape, (top, left) in zip(self.shapes(d), _corners(self, d))
        ]
        return scaled_copies(views, [1.0] * len(views))

    def _diagonal(self, K: Leaves, d: int, *, real: bool = False) -> Array:
        """Return the diagonal, leaf by leaf, or its real parts."""
        blocks = [
            x for x, (top, left) in zip(K, _corners(self, d)) if top == left and 0 not in x.shape
        ]
        diagonal = real_diagonal if real else namespace(K[0]).linalg.diagonal
        return in_one_row([diagonal(block) for block in blocks])


def _whole(like: Array, d: int) -> bool:
    """Tell whether a triangle is computed with as one dense matrix."""
    return d > _LEAF and taken_whole(like, d)


@cache
def _corners(structure: _Triangular, d: int, start: int = 0) -> tuple[tuple[int, int], ...]:
    """Return the first row and column of each leaf; those of triangles are equal."""
    first, second = structure._parts(d).sizes
    if not second:
        return ((start, start),) * 3  # one block, and two empty ones
    A, D = (start, start + first) if structure.upper else (start + second, start)
    return (*_corners(structure, first, A), (A, D), *_corners(structure, second, D))


@dataclasses.dataclass(frozen=True)
class UpperTriangular(_Triangular):
    """Upper triangular matrices. Leaves: triangles of both halves, and the block between them.

    Halves are divided again down to triangles of at most 64 rows, stored with their zeros: some
    d^2 / 2 + 32 d numbers. Projections double what is above the diagonal. Cost: d^2 flops for a
    column of K @ V, half of a dense matrix; d^3 / 3 for products, inverses and `project_gram`.
    """

    upper: ClassVar[bool] = True

    def _parts(self, d: int) -> Parts:
        return _upper_parts(d)


@dataclasses.dataclass(frozen=True)
class LowerTriangular(_Triangular):
    """Lower triangular matrices. Leaves: triangles of both halves, and the block between them.

    As UpperTriangular; here what is below the diagonal is doubled in projections.
    """

    upper: ClassVar[bool] = False

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

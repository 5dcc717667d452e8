"""Two structures on the diagonal and a dense block between them: what triangles are made of.

With the indices in two groups, taken in the right order, K is [[A, B], [0, D]], where A and D are
of structures of their own. All operations follow from those of A and D.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import cache, reduce
from typing import Any

from ngdla._backend.fused import all_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, adjoint_product, rmatvec
from ngdla._backend.shapes import joined
from ngdla._backend.tracing import choose_if_free
from ngdla._backend.triangular import cho_solve, cholesky

from .base import Structure
from .indices import inverse_permutation, taken
from .kernels import Leaves

__all__ = ["BlockTriangular", "Parts"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a member of one dimension is divided.

    Attributes
    ----------
    A, D : Structure
        Of the diagonal blocks.
    sizes : tuple of two int
        Their dimensions; one may be 0.
    tail : int
        How many of the first group of indices are the last of all; the others are the first.
    indices : tuple of int or None
        The first group, in place of that.
    """

    A: Structure
    D: Structure
    sizes: tuple[int, int]
    tail: int = 0
    indices: tuple[int, ...] | None = None

    def divide(self, X: Array, axis: int = -2) -> tuple[Array, Array]:
        """Return the rows, or with axis -1 the columns, of both groups."""
        d, head = sum(self.sizes), self.sizes[0] - self.tail
        if self.indices is not None:
            order, count = self._order(), self.sizes[0]
            return taken(X, order[:count], axis), taken(X, order[count:], axis)
        second = _slice(X, head, d - self.tail, axis)
        if not self.tail:
            return _slice(X, 0, head, axis), second
        ends = [_slice(X, 0, head, axis), _slice(X, d - self.tail, d, axis)]
        return joined(ends if head else ends[1:], axis=axis), second

    def unite(self, first: Array, second: Array, axis: int = -2) -> Array:
        """Return rows, or columns, in their own order from those of both groups."""
        head = self.sizes[0] - self.tail
        if self.indices is not None:
            back = inverse_permutation(self._order())
            return taken(joined([first, second], axis=axis), back, axis)
        pieces = [
            _slice(first, 0, head, axis),
            second,
            _slice(first, head, self.sizes[0], axis),
        ]
        return joined([piece for piece in pieces if piece.shape[axis]], axis=axis)

    def _order(self) -> list[int]:
        """Return the first group of indices, and the others."""
        first = set(self.indices or ())
        return [*(self.indices or ()), *(i for i in range(sum(self.sizes)) if i not in first)]

    @property
    def blocks(self) -> list[tuple[Structure, int]]:
        """The diagonal blocks that are not empty."""
        return [(block, size) for block, size in zip((self.A, self.D), self.sizes) if size]


class BlockTriangular(Structure):
    """Leaves: those of A, then B, then those of D."""

    @abc.abstractmethod
    def _parts(self, d: int) -> Parts:
        """Return how a member of dimension d is divided."""

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return _layout(self, d)[1]

    def _split(self, K: Leaves, d: int) -> tuple[Parts, Leaves, Array, Leaves]:
        parts, _, count = _layout(self, d)
        return parts, K[:count], K[count], K[count + 1 :]

    def _blocks(self, N: Array) -> tuple[Parts, Array, Array, Array, Array]:
        """Return the four blocks of a dense matrix."""
        parts, *_ = _layout(self, N.shape[-1])
        top, bottom = parts.divide(N)
        return parts, *parts.divide(top, axis=-1), *parts.divide(bottom, axis=-1)

    def embed(self, K: Array) -> Leaves:
        parts, K11, K12, _, K22 = self._blocks(K)
        return (*parts.A.embed(K11), K12, *parts.D.embed(K22))

    def project_dense(self, N: Array) -> Leaves:
        parts, N11, N12, N21, N22 = self._blocks(N)
        # twice the block of herm N that is held, as the one below it is not
        return (*parts.A.project_dense(N11), N12 + adjoint(N21), *parts.D.project_dense(N22))

    def project_columns(self, S: Array) -> Leaves:
        parts, *_ = _layout(self, S.shape[-2])
        S1, S2 = parts.divide(S)
        B = 2 * S1 @ adjoint(S2)
        return (*parts.A.project_columns(S1), B, *parts.D.project_columns(S2))

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        parts, A, B, D = self._split(K, d)
        first, second = parts.sizes
        # K^H K = [[A^H A, A^H B], [B^H A, B^H B + D^H D]]
        below = parts.D.project_columns(adjoint(B))
        below = tuple(a + b for a, b in zip(parts.D.project_gram(D, second), below))
        return (*parts.A.project_gram(A, first), 2 * parts.A.adjoint_matmul(A, B), *below)

    def to_dense(self, K: Leaves, d: int) -> Array:
        parts, A, B, D = self._split(K, d)
        xp = namespace(B)
        first, second = parts.A.to_dense(A, parts.sizes[0]), parts.D.to_dense(D, parts.sizes[1])
        lower = xp.matrix_transpose(xp.zeros_like(B))
        top, bottom = parts.unite(first, B, axis=-1), parts.unite(lower, second, axis=-1)
        return parts.unite(top, bottom)

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        parts, A, B, D = self._split(K, d)
        first, second = parts.sizes
        return (*parts.A.add_identity(A, shift, first), B, *parts.D.add_identity(D, shift, second))

    def matmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-2])
        X1, X2 = parts.divide(X)
        Y1 = parts.A.add_matmul(B @ X2, A, X1)
        return parts.unite(Y1, parts.D.matmul(D, X2))

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-2])
        X1, X2 = parts.divide(X)
        Y2 = parts.D.add_adjoint_matmul(adjoint_product(B, X1), D, X2)
        return parts.unite(parts.A.adjoint_matmul(A, X1), Y2)

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-2])
        X1, X2 = parts.divide(X)
        # Y = K Z for Z = K^H X: Z1 = A^H X1, Z2 = B^H X1 + D^H X2
        Z2 = parts.D.add_adjoint_matmul(adjoint_product(B, X1), D, X2)
        Y1 = parts.A.add_matmul(B @ Z2, A, parts.A.adjoint_matmul(A, X1))
        return parts.unite(Y1, parts.D.matmul(D, Z2))

    def square_rmatmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-1])
        X1, X2 = parts.divide(X, axis=-1)
        # Y = Z K^H for Z = X K: Z1 = X1 A, Z2 = X1 B + X2 D
        Z2 = parts.D.add_rmatmul(X1 @ B, D, X2)
        Y1 = Z2 @ adjoint(B) + parts.A.square_rmatmul(A, X1)
        return parts.unite(Y1, parts.D.adjoint_rmatmul(D, Z2), axis=-1)

    def rmatmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-1])
        X1, X2 = parts.divide(X, axis=-1)
        Y2 = parts.D.add_rmatmul(X1 @ B, D, X2)
        return parts.unite(parts.A.rmatmul(A, X1), Y2, axis=-1)

    def adjoint_rmatmul(self, K: Leaves, X: Array) -> Array:
        parts, A, B, D = self._split(K, X.shape[-1])
        X1, X2 = parts.divide(X, axis=-1)
        Y1 = X2 @ adjoint(B) + parts.A.adjoint_rmatmul(A, X1)
        return parts.unite(Y1, parts.D.adjoint_rmatmul(D, X2), axis=-1)

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        parts, A, B, D = self._split(K, d)
        _, A_, B_, D_ = self._split(L, d)
        first, second = parts.sizes
        between = parts.A.matmul(A, B_) + parts.D.rmatmul(D_, B)  # A B' + B D'
        return (*parts.A.product(A, A_, first), between, *parts.D.product(D, D_, second))

    def solve(self, K: Leaves, V: Array) -> Array:
        parts, A, B, D = self._split(K, V.shape[-2])
        V1, V2 = parts.divide(V)
        X2 = parts.D.solve(D, V2)
        return parts.unite(parts.A.solve(A, V1 - B @ X2), X2)

    def inverse(self, K: Leaves, d: int) -> Leaves:
        parts, A, B, D = self._split(K, d)
        A, D = parts.A.inverse(A, parts.sizes[0]), parts.D.inverse(D, parts.sizes[1])
        return (*A, -parts.D.rmatmul(D, parts.A.matmul(A, B)), *D)  # between them -A^-1 B D^-1

    def logabsdet(self, K: Leaves, d: int) -> Array:
        total: Any = sum(self._of_blocks("logabsdet", K, d))
        return total

    def trace(self, K: Leaves, d: int) -> Array:
        total: Any = sum(self._of_blocks("trace", K, d))
        return total

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        if sufficient is None:
            return self._largest("spectral_bound", K, d, None)
        coarse = self.coarse_bound(K, d)  # of all blocks, so that one flag is read
        return choose_if_free(
            all_of(coarse <= sufficient),
            lambda: coarse,
            lambda: self._largest("spectral_bound", K, d, None),
        )

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        return self._largest("coarse_bound", K, d)

    def _largest(self, operation: str, K: Leaves, d: int, *arguments: Any) -> Array:
        """Return the largest number of both diagonal blocks."""
        return reduce(namespace(K[0]).maximum, self._of_blocks(operation, K, d, *arguments))

    def _of_blocks(self, operation: str, K: Leaves, d: int, *arguments: Any) -> list[Array]:
        """Return an operation of both diagonal blocks, but for empty ones."""
        parts, A, _, D = self._split(K, d)
        return [
            getattr(block, operation)(leaves, size, *arguments)
            for block, leaves, size in zip((parts.A, parts.D), (A, D), parts.sizes)
            if size
        ]

    # ------------------------------------------------------------------------ optimum
    # tr(K^H S K) = tr(A^H S11 A) + tr(B^H S11 B + 2 Re D^H S21 B + D^H S22 D) is least for
    # B = -S11^-1 S12 D, where the second term is tr(D^H (S22 - S21 S11^-1 S12) D): A is the optimum
    # for S11, and D that for its Schur complement.

    def is_complete(self, d: int) -> bool:
        return all(block.is_complete(size) for block, size in self._parts(d).blocks)

    def is_local(self, d: int) -> bool:
        parts = self._parts(d)
        first, second = parts.sizes
        return parts.A.is_complete(first) and parts.A.is_local(first) and parts.D.is_local(second)

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        parts, A, B, D = self._split(N, d)
        A = parts.A.local_optimum(A, parts.sizes[0])  # A A^H = S11^-1, as A is complete
        W = parts.A.adjoint_matmul(A, 0.5 * B)  # A^H S12, so that W^H W = S21 S11^-1 S12
        explained = parts.D.project_columns(adjoint(W))
        rest = tuple(a - b for a, b in zip(D, explained))
        D = parts.D.local_optimum(rest, parts.sizes[1])
        return (*A, -parts.D.rmatmul(D, parts.A.matmul(A, W)), *D)  # A W = S11^-1 S12

    def optimum(self, S: Array) -> Leaves:
        if self.is_local(S.shape[-1]):
            return super().optimum(S)
        parts, S11, S12, _, S22 = self._blocks(S)
        L, _ = cholesky(S11 + 0)
        Y = cho_solve(L, S12)  # S11^-1 S12
        A, D = parts.A.optimum(S11), parts.D.optimum(S22 - rmatvec(S12, Y))
        return (*A, -parts.D.rmatmul(D, Y), *D)


@cache
def _layout(structure: BlockTriangular, d: int) -> tuple[Parts, tuple[tuple[int, ...], ...], int]:
    """Return the parts, the shapes of all leaves, and how many of them are those of A."""
    parts = structure._parts(d)
    first, second = (block.shapes(n) for block, n in zip((parts.A, parts.D), parts.sizes))
    return parts, (*first, parts.sizes, *second), len(first)


def _slice(X: Array, start: int, end: int, axis: int) -> Array:
    return X[..., start:end] if axis == -1 else X[..., start:end, :]

"""Block-diagonal matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ngdla._backend import general
from ngdla._backend.checks import require_count
from ngdla._backend.creation import identity_like
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.products import add_to_diagonal, adjoint, hermitian_part, trace
from ngdla._backend.shapes import expanded, joined
from ngdla.matrix_functions.hermitian import inverse_square_root
from ngdla.matrix_functions.spectral_radius import spectral_radius_bound

from .base import Structure
from .dense import inverse_cholesky
from .kernels import Leaves

__all__ = ["BlockDiagonal", "bound_of_blocks", "coarse_bound_of_blocks"]


@dataclasses.dataclass(frozen=True)
class BlockDiagonal(Structure):
    """Block-diagonal matrices. Leaves: (blocks, rest), (..., d // b, b, b) and (..., 1, r, r).

    The last block has the size r = d mod b; where r = 0 there is no such leaf, and for d < b it is
    the only one. Projections are the Hermitian parts of the blocks. Cost: 2 b d flops for a column
    of K @ V, 2 b^2 d for products, inverses and `project_gram`, in batched products.

    Attributes
    ----------
    block : int
        b, 1 or more.
    """

    block: int = 32

    def __post_init__(self) -> None:
        require_count(self.block, "block", least=1)
        object.__setattr__(self, "block", int(self.block))

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return tuple((count, b, b) for count, b in self._stacks(d))

    def _stacks(self, d: int) -> list[tuple[int, int]]:
        """Return (number, size) of the equal blocks, and of the last one."""
        count, rest = divmod(d, self.block)
        return [stack for stack in ((count, self.block), (1, rest)) if all(stack)]

    def _rows(self, X: Array) -> list[Array]:
        """Return the rows of X (..., d, n) block by block, (..., N, b, n)."""
        xp, parts, start = namespace(X), [], 0
        for count, b in self._stacks(X.shape[-2]):
            rows = X[..., start : start + count * b, :]
            parts.append(xp.reshape(rows, (*X.shape[:-2], count, b, X.shape[-1])))
            start += count * b
        return parts

    def embed(self, K: Array) -> Leaves:
        xp, leaves, start = namespace(K), [], 0
        for count, b in self._stacks(K.shape[-1]):
            starts = range(start, start + count * b, b)
            leaves.append(xp.stack([K[..., i : i + b, i : i + b] for i in starts], axis=-3))
            start += count * b
        return tuple(leaves)

    def project_dense(self, N: Array) -> Leaves:
        return tuple(map(hermitian_part, self.embed(N)))

    def project_columns(self, S: Array) -> Leaves:
        return tuple(part @ adjoint(part) for part in self._rows(S))

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        return tuple(adjoint(block) @ block for block in K)

    def to_dense(self, K: Leaves, d: int) -> Array:
        if len(K) == 1:
            return _side_by_side(K[0])
        first, last = map(_side_by_side, K)
        upper = namespace(first).zeros_like(first[..., :, :1]) * last[..., :1, :]
        return _block_matrix(first, upper, namespace(first).matrix_transpose(upper), last)

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        return tuple(add_to_diagonal(leaf, expanded(shift, 1)) for leaf in K)

    def matmul(self, K: Leaves, X: Array) -> Array:
        return _joined([A @ part for A, part in zip(K, self._rows(X))])

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        return self.matmul(tuple(map(adjoint, K)), X)

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        if X.shape[-1] < self.block:
            return super().square_matmul(K, X)
        return self.matmul(tuple(A @ adjoint(A) for A in K), X)

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        return tuple(A @ B for A, B in zip(K, L))

    def solve(self, K: Leaves, V: Array) -> Array:
        return _joined([general.solve(A, part) for A, part in zip(K, self._rows(V))])

    def inverse(self, K: Leaves, d: int) -> Leaves:
        return tuple(map(general.inverse, K))

    def logabsdet(self, K: Leaves, d: int) -> Array:
        return namespace(K[0]).sum(_each(general.logabsdet, K), axis=-1)

    def trace(self, K: Leaves, d: int) -> Array:
        return namespace(K[0]).sum(_each(trace, K), axis=-1)

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        return bound_of_blocks(K, sufficient)

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        return coarse_bound_of_blocks(K)

    def is_complete(self, d: int) -> bool:
        return d <= self.block

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        return tuple(map(inverse_cholesky, N))

    def expm(self, K: Leaves, d: int) -> Leaves:
        return tuple(map(general.expm, K))

    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        return tuple(map(inverse_square_root, K))


def bound_of_blocks(K: Leaves, sufficient: Any) -> Array:
    """Return a bound on the modulus of all eigenvalues of blocks (..., N, b, b), (...)."""
    enough = None if sufficient is None else expanded(sufficient, 1)
    bounds = _each(lambda A: spectral_radius_bound(A, sufficient=enough), K)
    return namespace(K[0]).max(bounds, axis=-1)


def coarse_bound_of_blocks(K: Leaves) -> Array:
    """Return the largest Frobenius norm of blocks (..., N, b, b), (...)."""
    return namespace(K[0]).max(_each(frobenius_norm, K), axis=-1)


def _block_matrix(A: Array, B: Array, C: Array, D: Array) -> Array:
    """Return [[A, B], [C, D]]."""
    xp = namespace(A)
    rows = [xp.concat(row, axis=-1) for row in ((A, B), (C, D))]
    return xp.concat(rows, axis=-2)


def _each(function: Callable[[Array], Array], K: Leaves) -> Array:
    """Return a function of each block, (..., N)."""
    return namespace(K[0]).concat([function(leaf) for leaf in K], axis=-1)


def _joined(parts: list[Array]) -> Array:
    """Return the parts (..., N, b, n) as rows of one array, (..., d, n)."""
    xp = namespace(parts[0])
    rows = [
        xp.reshape(part, (*part.shape[:-3], part.shape[-3] * part.shape[-2], part.shape[-1]))
        for part in parts
    ]
    return joined(rows, axis=-2)


def _side_by_side(blocks: Array) -> Array:
    """Return blocks (..., N, b, b) as one block-diagonal matrix, (..., N b, N b)."""
    xp, (count, b) = namespace(blocks), blocks.shape[-3:-1]
    one = identity_like(blocks, count)
    spread = one[:, None, :, None] * xp.expand_dims(blocks, axis=-2)
    return xp.reshape(spread, (*blocks.shape[:-3], count * b, count * b))

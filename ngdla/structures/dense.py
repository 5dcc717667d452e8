"""Dense matrices."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend import general
from ngdla._backend.gram import gram
from ngdla._backend.namespace import Array
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.products import (
    add_to_diagonal,
    adjoint,
    adjoint_product,
    conjugated,
    hermitian_part,
    preserved,
    trace,
)
from ngdla._backend.triangular import cholesky, inverse_triangular
from ngdla.matrix_functions.hermitian import inverse_square_root
from ngdla.matrix_functions.spectral_radius import spectral_radius_bound

from .base import Structure
from .kernels import Leaves

__all__ = ["Dense", "StoredDensely", "inverse_cholesky"]


class StoredDensely(Structure):
    """What members have in common that are kept as one dense matrix. Leaves: (K,)."""

    def to_dense(self, K: Leaves, d: int) -> Array:
        return K[0]

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        return (add_to_diagonal(K[0], shift),)

    def matmul(self, K: Leaves, X: Array) -> Array:
        return K[0] @ X

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        return adjoint_product(K[0], X)

    def rmatmul(self, K: Leaves, X: Array) -> Array:
        return X @ K[0]

    def adjoint_rmatmul(self, K: Leaves, X: Array) -> Array:
        return X @ adjoint(K[0])

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        return (K[0] @ L[0],)

    def solve(self, K: Leaves, V: Array) -> Array:
        return general.solve(K[0], V)

    def logabsdet(self, K: Leaves, d: int) -> Array:
        return general.logabsdet(K[0])

    def trace(self, K: Leaves, d: int) -> Array:
        return trace(K[0])


@dataclasses.dataclass(frozen=True)
class Dense(StoredDensely):
    """All square matrices. Leaves: (K,), of shape (..., d, d).

    Projections are Hermitian parts. Cost: 2 d^2 flops for a column of K @ V, 2 d^3 for products and
    inverses, d^3 (where Gram matrices take half) or 2 d^3 for `project_gram`.
    """

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return ((d, d),)

    def embed(self, K: Array) -> Leaves:
        return (K,)

    def project_dense(self, N: Array) -> Leaves:
        return (hermitian_part(N),)

    def project_columns(self, S: Array) -> Leaves:
        return (gram(S),)

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        return (gram(adjoint(K[0])),)

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        if X.shape[-1] < X.shape[-2]:
            return super().square_matmul(K, X)
        return gram(K[0]) @ X

    def inverse(self, K: Leaves, d: int) -> Leaves:
        return (general.inverse(K[0]),)

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        return spectral_radius_bound(K[0], sufficient=sufficient)

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        return frobenius_norm(K[0])

    def is_complete(self, d: int) -> bool:
        return True

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        return (inverse_cholesky(N[0]),)

    def expm(self, K: Leaves, d: int) -> Leaves:
        return tuple(map(general.expm, K))

    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        return tuple(map(inverse_square_root, K))


def inverse_cholesky(S: Array) -> Array:
    """Return the upper triangular K with K K^H = S^-1, for Hermitian positive definite S."""
    L, _ = cholesky(preserved(S))
    return conjugated(adjoint(inverse_triangular(L)))

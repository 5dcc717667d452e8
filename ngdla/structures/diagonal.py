"""Diagonal matrices."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.blocks import squared_columns
from ngdla._backend.creation import identity_like
from ngdla._backend.dtypes import conjugate, real_part
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.shapes import expanded
from ngdla._backend.sums import add_multiple

from .base import Structure
from .kernels import Leaves, realified

__all__ = ["Diagonal"]


@dataclasses.dataclass(frozen=True)
class Diagonal(Structure):
    """Diagonal matrices. Leaves: (diagonal,), of shape (..., d).

    Projections are the real diagonal. Cost: d flops for a column of K @ V, and for all else.
    """

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return ((d,),)

    def embed(self, K: Array) -> Leaves:
        return (namespace(K).linalg.diagonal(K),)

    def project_dense(self, N: Array) -> Leaves:
        return (realified(namespace(N).linalg.diagonal(N)),)

    def project_columns(self, S: Array) -> Leaves:
        return (realified(namespace(S).sum(conjugate(S) * S, axis=-1)),)

    def project_inner(self, K: Leaves, X: Array) -> Leaves:
        return (realified(squared_columns(self.rmatmul(K, conjugate(X)))),)

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        return (realified(conjugate(K[0]) * K[0]),)

    def to_dense(self, K: Leaves, d: int) -> Array:
        return expanded(K[0], 1) * identity_like(K[0], d)

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        return (K[0] + expanded(shift, 1),)

    def matmul(self, K: Leaves, X: Array) -> Array:
        return expanded(K[0], 1) * X

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        return expanded(conjugate(K[0]), 1) * X

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        return expanded(conjugate(K[0]) * K[0], 1) * X

    def square_rmatmul(self, K: Leaves, X: Array) -> Array:
        return X * namespace(X).expand_dims(conjugate(K[0]) * K[0], axis=-2)

    def add_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        return add_multiple(total, expanded(K[0], 1), X)

    def add_adjoint_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        return add_multiple(total, expanded(conjugate(K[0]), 1), X)

    def rmatmul(self, K: Leaves, X: Array) -> Array:
        return X * namespace(X).expand_dims(K[0], axis=-2)

    def adjoint_rmatmul(self, K: Leaves, X: Array) -> Array:
        return X * namespace(X).expand_dims(conjugate(K[0]), axis=-2)

    def add_rmatmul(self, total: Array, K: Leaves, X: Array) -> Array:
        return add_multiple(total, namespace(X).expand_dims(K[0], axis=-2), X)

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        return (K[0] * L[0],)

    def solve(self, K: Leaves, V: Array) -> Array:
        return V / expanded(K[0], 1)

    def inverse(self, K: Leaves, d: int) -> Leaves:
        return (1 / K[0],)

    def logabsdet(self, K: Leaves, d: int) -> Array:
        xp = namespace(K[0])
        return xp.sum(xp.log(xp.abs(K[0])), axis=-1)

    def trace(self, K: Leaves, d: int) -> Array:
        return as_array(namespace(K[0]).sum(real_part(K[0]), axis=-1))

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        xp = namespace(K[0])
        return xp.max(xp.abs(K[0]), axis=-1)

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        return (1 / namespace(N[0]).sqrt(N[0]),)

    def expm(self, K: Leaves, d: int) -> Leaves:
        return tuple(namespace(x).exp(x) for x in K)

    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        return tuple(1 / namespace(x).sqrt(x) for x in K)

"""What a structure does to its arrays: the operations that each has to define."""

from __future__ import annotations

import abc
import math
from typing import Any

from ngdla._backend.blocks import in_one_row
from ngdla._backend.chunks import unchunked
from ngdla._backend.creation import constant
from ngdla._backend.dtypes import conjugate, dtype_name, is_complex, real_name, real_part
from ngdla._backend.fused import largest_along
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import norm_along
from ngdla._backend.products import adjoint
from ngdla._backend.sums import add_multiple

__all__ = ["Kernels", "Leaves", "real_constant", "realified"]

Leaves = tuple[Array, ...]


class Kernels(abc.ABC):
    """Operations on the parameters of a structure.

    They bear the names of what `StructuredMatrix` makes of them. Leaves are in one dtype, float32
    or wider, X and S have it too; all have the same batch axes. d is the dimension. No argument is
    written to but those that are said to be used up, and results may share memory with arguments.
    """

    # --------------------------------------------------------------- parameters of a matrix

    @abc.abstractmethod
    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the leaves of a member of dimension d, without batch axes."""

    @abc.abstractmethod
    def embed(self, K: Array) -> Leaves:
        """Return the parameters of a dense member, from which `to_dense` makes the same entries."""

    @abc.abstractmethod
    def to_dense(self, K: Leaves, d: int) -> Array:
        """Return the matrix itself."""

    @abc.abstractmethod
    def project_dense(self, N: Array) -> Leaves:
        """Return Pi(N) of a dense matrix."""

    @abc.abstractmethod
    def project_columns(self, S: Array) -> Leaves:
        """Return Pi(S S^H) for S (..., d, n)."""

    def project_inner(self, K: Leaves, X: Array) -> Leaves:
        """Return Pi(K^H X^T conj(X) K), for X (..., n, d)."""
        return self.project_columns(adjoint(self.rmatmul(K, conjugate(X))))

    @abc.abstractmethod
    def project_gram(self, K: Leaves, d: int) -> Leaves:
        """Return Pi(K^H K)."""

    # ------------------------------------------------------------------ products with arrays

    @abc.abstractmethod
    def matmul(self, K: Leaves, X: Array) -> Array:
        """Return K X, for X (..., d, n)."""

    @abc.abstractmethod
    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        """Return K^H X, for X (..., d, n)."""

    def rmatmul(self, K: Leaves, X: Array) -> Array:
        """Return X K, for X (..., n, d)."""
        return adjoint(self.adjoint_matmul(K, adjoint(X)))

    def adjoint_rmatmul(self, K: Leaves, X: Array) -> Array:
        """Return X K^H, for X (..., n, d)."""
        return adjoint(self.matmul(K, adjoint(X)))

    def square_matmul(self, K: Leaves, X: Array) -> Array:
        """Return K K^H X, for X (..., d, n)."""
        return self.matmul(K, self.adjoint_matmul(K, X))

    def square_rmatmul(self, K: Leaves, X: Array) -> Array:
        """Return X K K^H, for X (..., n, d)."""
        return adjoint(self.square_matmul(K, adjoint(X)))

    def add_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + K X. `total` is used up."""
        return add_multiple(total, 1.0, self.matmul(K, X))

    def add_adjoint_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + K^H X. `total` is used up."""
        return add_multiple(total, 1.0, self.adjoint_matmul(K, X))

    def add_rmatmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + X K. `total` is used up."""
        return add_multiple(total, 1.0, self.rmatmul(K, X))

    @abc.abstractmethod
    def solve(self, K: Leaves, V: Array) -> Array:
        """Return K^-1 V, for V (..., d, n)."""

    # ---------------------------------------------------------------- matrices of matrices

    @abc.abstractmethod
    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        """Return K + shift I, for a number or a real array of the batch. K is used up."""

    @abc.abstractmethod
    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        """Return K L."""

    @abc.abstractmethod
    def inverse(self, K: Leaves, d: int) -> Leaves:
        """Return K^-1."""

    @abc.abstractmethod
    def expm(self, K: Leaves, d: int) -> Leaves:
        """Return exp(K)."""

    @abc.abstractmethod
    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        """Return K^(-1/2), of a K with positive eigenvalues and Hermitian diagonal blocks."""

    # ------------------------------------------------------------------- numbers of matrices

    @abc.abstractmethod
    def logabsdet(self, K: Leaves, d: int) -> Array:
        """Return log |det K|, (...)."""

    @abc.abstractmethod
    def trace(self, K: Leaves, d: int) -> Array:
        """Return the real part of the trace, (...)."""

    @abc.abstractmethod
    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        """Return a bound on the modulus of all eigenvalues, (...), not sharp if `sufficient`."""

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        """Return such a bound by one pass over the parameters, where it is known how."""
        return self.spectral_bound(K, d, None)

    def frobenius_norm(self, K: Leaves, d: int) -> Array:
        """Return |K|_F, (...), here where each entry is a parameter once."""
        shapes = self.shapes(d)
        if len(K) == 1:
            axes = tuple(range(-len(shapes[0]), 0))
            return norm_along(K[0], axes)
        return norm_along(_in_a_row(K, shapes), -1)

    def max_abs(self, K: Leaves, d: int) -> Array:
        """Return the largest modulus of an entry, (...), here where entries are parameters."""
        shapes = self.shapes(d)
        if len(K) == 1:
            return as_array(largest_along(K[0], tuple(range(-len(shapes[0]), 0))))
        return as_array(largest_along(_in_a_row(K, shapes), -1))

    # ------------------------------------------------ K that minimises tr(K^H S K) - 2 log |det K|

    def is_complete(self, d: int) -> bool:
        """Tell whether every Hermitian positive definite matrix is K K^H of a member K."""
        return d <= 1

    def is_local(self, d: int) -> bool:
        """Tell whether the optimum depends on Pi(S) alone; then `local_optimum` gives it."""
        return True

    def optimum(self, S: Array) -> Leaves:
        """Return the minimising K for a dense Hermitian positive definite S."""
        return self.local_optimum(self.project_dense(S), S.shape[-1])

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        """Return it from N = Pi(S)."""
        msg = f"the best factor of {self}; define `local_optimum`, or `is_local` and `optimum`."
        raise NotImplementedError(msg)


def _in_a_row(leaves: Leaves, shapes: tuple[tuple[int, ...], ...]) -> Array:
    """Return all parameters in one array, (..., n)."""
    xp = namespace(leaves[0])
    rows = [
        xp.reshape(unchunked(leaf), (*leaf.shape[: leaf.ndim - len(shape)], math.prod(shape)))
        for leaf, shape in zip(leaves, shapes)
        if all(shape)
    ]
    return in_one_row(rows)


def realified(x: Array) -> Array:
    """Return Re x in the dtype of x."""
    return real_part(x) + 0 * x if is_complex(x) else x


def real_constant(values: Any, like: Array) -> Array:
    """Return real numbers of the host as a constant, in the precision of an array."""
    return constant(values, like, real_name(dtype_name(like.dtype)))

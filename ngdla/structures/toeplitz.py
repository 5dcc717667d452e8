"""Triangular Toeplitz matrices, by fast Fourier transforms."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, ClassVar

from ngdla._backend.chunks import unchunked
from ngdla._backend.creation import host_array, identity_like
from ngdla._backend.dtypes import conjugate, real_part
from ngdla._backend.fourier import autocorrelation, convolution
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import norm_along
from ngdla._backend.products import adjoint_product
from ngdla._backend.runs import long_sum
from ngdla._backend.shapes import expanded
from ngdla._backend.triangular import cho_solve, cholesky

from .base import Structure
from .indices import taken
from .kernels import Leaves, real_constant, realified

__all__ = ["LowerToeplitz", "UpperToeplitz"]

# Up to this dimension a product with the dense matrix takes less time than the transforms of
# many columns (asv_benchmarks/claims/structures.py).
_DENSE = 128


class _Toeplitz(Structure):
    """K = sum_l c_l J^l with the shift J, or its transpose for the upper triangle."""

    upper: ClassVar[bool]

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return ((d,),)

    def embed(self, K: Array) -> Leaves:
        return (K[..., 0, :] if self.upper else K[..., :, 0],)

    def project_dense(self, N: Array) -> Leaves:
        sums, d = _sums_of_diagonals(N), N.shape[-1]
        below, above = namespace(N).flip(sums[..., :d], axis=-1), sums[..., d - 1 :]
        return self._from_sums(0.5 * (below + conjugate(above)))

    def _from_sums(self, sums: Array) -> Leaves:
        """Return the projection from the sums of the diagonals below the main one.

        c_0 is the mean of the main diagonal, c_l twice that of the l-th, which has d - l entries.
        """
        d = sums.shape[-1]
        weights = [1.0 / d, *(2.0 / (d - lag) for lag in range(1, d))]
        means = sums * real_constant(weights, sums)
        first = realified(means[..., :1])
        means = namespace(sums).concat([first, means[..., 1:]], axis=-1)
        return (conjugate(means) if self.upper else means,)

    def project_columns(self, S: Array) -> Leaves:
        return self._from_sums(autocorrelation(S))

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        """Diagonal l of K^H K sums to sum_s (d - l - s) conj(c_s) c_(s + l), for both triangles."""
        c = conjugate(K[0]) if self.upper else K[0]
        weighted = c * real_constant([float(d - t) for t in range(d)], c)
        return self._from_sums(_product(c, weighted, adjoint=True))

    def to_dense(self, K: Leaves, d: int) -> Array:
        lower = _lower(K[0])
        return namespace(lower).matrix_transpose(lower) if self.upper else lower

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        xp, c = namespace(K[0]), K[0]
        return (xp.concat([c[..., :1] + expanded(shift, 1), c[..., 1:]], axis=-1),)

    def matmul(self, K: Leaves, X: Array) -> Array:
        if self.upper:  # the conjugate transpose of a lower one
            return _times(conjugate(K[0]), X, adjoint=True)
        return _times(K[0], X)

    def adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        if self.upper:
            return _times(conjugate(K[0]), X)
        return _times(K[0], X, adjoint=True)

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        return (_product(K[0], L[0]),)

    def solve(self, K: Leaves, V: Array) -> Array:
        X = self.matmul(inverse := self.inverse(K, V.shape[-2]), V)
        return X + self.matmul(inverse, V - self.matmul(K, X))  # once refined

    def inverse(self, K: Leaves, d: int) -> Leaves:
        """Return the inverse power series by Newton's g = g (2 - c g), doubling its length."""
        c = K[0]

        def step(g: Array, c: Array) -> Array:
            return 2 * g - _product(g, _product(c, g))

        return (_doubled(step, 1 / c[..., :1], c),)

    def logabsdet(self, K: Leaves, d: int) -> Array:
        xp = namespace(K[0])
        return d * xp.log(xp.abs(K[0][..., 0]))

    def trace(self, K: Leaves, d: int) -> Array:
        return as_array(d * real_part(K[0][..., 0]))

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        return namespace(K[0]).abs(K[0][..., 0])

    def frobenius_norm(self, K: Leaves, d: int) -> Array:
        repeated = K[0] * real_constant([(d - t) ** 0.5 for t in range(d)], K[0])
        return norm_along(repeated, -1)

    def is_local(self, d: int) -> bool:
        return False

    def optimum(self, S: Array) -> Leaves:
        """Return x sqrt(d / x_0) for x = Q^-1 e_0, with Q_kl the sum of S_(i + k, i + l) over i.

        tr(K^H S K) - 2 log |det K| = c^H Q c - 2 d log |c_0| is least where Q c = (d / c_0) e_0.
        """
        xp, d = namespace(S), S.shape[-1]
        Q, step = (xp.flip(S, axis=(-2, -1)) if self.upper else S), 1
        while step < d:  # sums of `step` terms become sums of twice as many
            Q, step = Q + _shifted(Q, step), 2 * step
        L, _ = cholesky(Q + 0)
        x = cho_solve(L, identity_like(Q, d)[..., :, :1] + 0 * Q[..., :, :1])[..., 0]
        return (x * xp.sqrt(d / x[..., :1]),)

    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        """Return the power series by Newton's g = g (3 - c g^2) / 2, doubling its length."""

        def step(g: Array, c: Array) -> Array:
            return 1.5 * g - 0.5 * _product(g, _product(c, _product(g, g)))

        return tuple(_doubled(step, 1 / namespace(c).sqrt(c[..., :1]), c) for c in K)


@dataclasses.dataclass(frozen=True)
class LowerToeplitz(_Toeplitz):
    """Lower triangular Toeplitz matrices, K_ij = c_(i - j). Leaves: (c,), of shape (..., d).

    They commute. Projections are the mean of the diagonal and twice the means of the diagonals
    below it. Cost: two real transforms of length 2 d for a column of K @ V and of
    `project_inner`, O(d log d) for products, inverses and `project_gram`; above d = 128, up to
    which dense products are faster.
    """

    upper: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class UpperToeplitz(_Toeplitz):
    """Upper triangular Toeplitz matrices, K_ij = c_(j - i). Leaves: (c,), of shape (..., d).

    As LowerToeplitz, with the diagonals above the main one.
    """

    upper: ClassVar[bool] = True


def _times(c: Array, X: Array, *, adjoint: bool = False) -> Array:
    """Return T X or T^H X for the lower triangular T of first column c."""
    if X.shape[-2] > _DENSE:
        return convolution(c, X, adjoint=adjoint)
    T = _lower(c)
    return adjoint_product(T, X) if adjoint else T @ X


def _product(c: Array, x: Array, *, adjoint: bool = False) -> Array:
    """Return T x or T^H x, (..., d), for a vector x."""
    xp = namespace(x)
    return xp.squeeze(_times(c, xp.expand_dims(x, axis=-1), adjoint=adjoint), axis=-1)


def _doubled(step: Any, g: Array, c: Array) -> Array:
    """Return the first d coefficients of a power series, twice as many after each step."""
    xp, d, c = namespace(c), c.shape[-1], unchunked(c)
    while (length := g.shape[-1]) < d:
        longer = min(2 * length, d)
        zeros = xp.zeros_like(c[..., : longer - length])
        g = step(unchunked(xp.concat([g, zeros], axis=-1)), c[..., :longer])
    return g


def _lower(c: Array) -> Array:
    """Return the dense matrix of entries c_(i - j)."""
    xp, d = namespace(c), c.shape[-1]
    padded = xp.concat([xp.zeros_like(c), c], axis=-1)
    return xp.reshape(unchunked(taken(padded, _lags(d), -1)), (*c.shape[:-1], d, d))


@cache
def _lags(d: int) -> Any:
    return host_array([d + i - j for i in range(d) for j in range(d)], "int32")


def _sums_of_diagonals(N: Array) -> Array:
    """Return the sums of all diagonals, (..., 2 d - 1), from the lowest one on.

    With d zeros behind each row, and read in rows of 2 d - 1 numbers, each row of the matrix, from
    the last one up, begins one place further to the right than the one before: diagonals are
    columns.
    """
    xp, (*batch, d, _) = namespace(N), N.shape
    rows = xp.concat([xp.flip(N, axis=-2), xp.zeros_like(N)], axis=-1)
    row = xp.reshape(unchunked(rows), (*batch, 2 * d * d))
    skewed = xp.reshape(unchunked(row[..., : d * (2 * d - 1)]), (*batch, d, 2 * d - 1))
    return xp.squeeze(long_sum(skewed), axis=-2)


def _shifted(Q: Array, step: int) -> Array:
    """Return Q_(k + step, l + step), zero outside."""
    xp = namespace(Q)
    inner = Q[..., step:, step:]
    right = xp.zeros_like(Q[..., step:, :step])
    below = xp.zeros_like(Q[..., :step, :])
    return xp.concat([xp.concat([inner, right], axis=-1), below], axis=-2)

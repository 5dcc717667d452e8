"""The methods of a damped solve, one class each, in one table.

Every method leads to the inverse of one Hermitian matrix W = G + damping, n x n or m x m, whichever
is smaller. It is applied by a Cholesky factor, or by eigenvectors and shifted eigenvalues, which
come from the Gram matrix, from an SVD of S, or from the R of a QR of S^H and its SVD. The latter
two do not square the condition number of S, but copy S. Where G is too large to be formed, a
Nystrom approximation preconditions conjugate gradients. None forms L^-1 S.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

from ngdla._backend.fused import bounded
from ngdla._backend.gram import gram
from ngdla._backend.implicit import with_derivatives_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.out_of_memory import Matrix, with_room
from ngdla._backend.pickles import part
from ngdla._backend.products import adjoint, trace
from ngdla._backend.shapes import joined
from ngdla._backend.spectral import apart, eigh, left_singular, qr, qr_r, svd
from ngdla._backend.tracing import derivative_where, detached, differentiable
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .inverses import ExactSmallMatrix, GramMatrix, SmallMatrix, Spectrum, factor_of
from .null_vectors import lift, lift_height
from .nystrom_preconditioner import sketch_small_matrix

__all__ = [
    "METHODS",
    "NOTHING",
    "Eigenvectors",
    "FirstPass",
    "GramMethod",
    "Method",
    "MethodName",
    "SmallProblem",
    "Start",
]

MethodName = Literal["auto", "cholesky", "eigh", "svd", "qr", "cg"]


Start = tuple[Array | None, Vector | None]  # an f and an x that a pass may multiply on the way
NOTHING: Start = (None, None)


class FirstPass(NamedTuple):
    """Products that were formed together with the Gram matrix, each None if not."""

    S_start: Array | None = None  # S x0 or S v / damping
    gradient: Vector | None = None  # S^H (f - S x0)

    def over(self, unit: Array) -> FirstPass:
        """Return the products of what is over a unit, (..., 1, k)."""
        S_start, gradient = self
        return FirstPass(
            None if S_start is None else S_start / unit,
            None if gradient is None else tuple(piece / unit for piece in gradient),
        )


class SmallProblem(NamedTuple):
    """What a method learns from one pass over S."""

    matrix: SmallMatrix
    squared_norm: Array  # (...): |S|_F^2
    first: FirstPass = FirstPass()
    G: Array | None = None  # S S^H or S^H S, not lifted, where formed; may be that of `matrix`


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """A way to the small matrix, and what follows from it. A value: two of a class are equal."""

    name: ClassVar[str]
    needs_dense: ClassVar[bool] = False  # factors S itself, which must lie in memory
    squares_condition: ClassVar[bool] = True  # errs by u |S|_F^2, not by u |S|_F
    exact: ClassVar[bool] = True  # else its inverse only preconditions
    lifts_null: ClassVar[bool] = True  # null vectors of n < m have the eigenvalue tr G / n

    @abstractmethod
    def small_problem(
        self,
        scores: ScoreMatrix,
        dtype: str,
        null: Array | None,
        start: Start,
    ) -> SmallProblem:
        """Return the small matrix in `dtype`, in one pass over S.

        `null` is to be lifted. `start` may be multiplied on the way: S x with n < m, S^H (f - S x)
        with n >= m.
        """

    def without_gram(self) -> Method:
        """Return the method for scores whose Gram matrix is not to be formed."""
        return self

    def last_rung(self) -> Method | None:
        """Return the method to climb to where no precision of this one suffices."""
        return None


class GramMethod(Method):
    """A method that forms the Gram matrix."""

    def small_problem(
        self,
        scores: ScoreMatrix,
        dtype: str,
        null: Array | None,
        start: Start,
    ) -> SmallProblem:
        """Return the Gram matrix, as `small_matrix` keeps it."""

        def formed() -> tuple[Array, FirstPass]:
            f, x = start
            if scores.wide:
                G, Sx = scores.samples.gram(dtype, x)
                return G, FirstPass(S_start=Sx)
            G, gradient, Sx = scores.parameters.parameter_gram(dtype, f, x)
            return G, FirstPass(Sx, gradient)

        G, first = with_room(formed, lambda: _gram_of(scores, dtype))
        squared_norm, K = trace(G), G
        if null is not None:
            K = self.with_null_apart(G, null, lift_height(squared_norm, scores))
        return SmallProblem(self.small_matrix(K), squared_norm, first, G)

    def with_null_apart(self, G: Array, null: Array, height: Array) -> Array:
        """Return G with another eigenvalue along null vectors than 0: lifted, unless overridden."""
        return lift(G, null, height)

    @abstractmethod
    def small_matrix(self, G: Array) -> ExactSmallMatrix:
        """Return the small matrix for a Gram matrix, which may be used up."""


def _gram_of(scores: ScoreMatrix, dtype: str) -> Matrix:
    n, few = (scores.rows, "rows") if scores.wide else (scores.columns, "columns")
    remedy = f"Pass fewer {few} at a time, a lower `precision`, or method='cg'; or free memory."
    return Matrix("the Gram matrix of `S`", (*scores.batch, n, n), dtype, remedy)


@part
class Cholesky(GramMethod):
    """Cholesky factor of the damped Gram matrix."""

    name = "cholesky"

    def small_matrix(self, G: Array) -> ExactSmallMatrix:
        """Return G itself."""
        return GramMatrix(G)


@part
class Automatic(Cholesky):
    """Cholesky, but another method where it cannot serve."""

    name = "auto"

    def without_gram(self) -> Method:
        """Return conjugate gradients."""
        return ConjugateGradients()

    def last_rung(self) -> Method:
        """Return QR."""
        return QR()


@part
class Eigenvectors(GramMethod):
    """Eigenvectors of the Gram matrix."""

    name = "eigh"

    def small_matrix(self, G: Array) -> ExactSmallMatrix:
        """Return eigenvalues, clipped at 0, and eigenvectors."""
        values, U = with_room(lambda: eigh(G), lambda: factor_of("eigendecomposition", G))
        xp = namespace(G)
        if not differentiable(G):
            return Spectrum(bounded(values, 0.0), U)
        ok = apart(xp.flip(values, axis=-1), values.shape[-1], rest=False)
        values = derivative_where(xp.expand_dims(ok, axis=-1), bounded(values, 0.0))
        return Spectrum(values, derivative_where(ok[..., None, None], U), G=G)


class _Singular(Method):
    """Singular vectors of S, which do not square its condition number."""

    needs_dense = True
    squares_condition = False
    lifts_null = False

    def small_problem(
        self,
        scores: ScoreMatrix,
        dtype: str,
        null: Array | None,
        start: Start,
    ) -> SmallProblem:
        """Return the squared singular values, singular vectors, and with n >= m U^H S^H."""
        S, back, G = scores.stored.to_dense(dtype), None, None
        xp = namespace(S)
        if scores.wide:
            s, U = self._of_wide(detached(S))
        else:
            left, s, U = self._of_tall(detached(S))
            back = xp.expand_dims(s, axis=-1) * adjoint(left)
        values = s * s
        squared_norm = xp.sum(values, axis=-1)
        if differentiable(S):
            G = gram(S) if scores.wide else gram(adjoint(S))
            squared_norm = with_derivatives_of(trace, squared_norm, (G,))
            if back is not None:
                back = with_derivatives_of(_components, back, (S, U))
        return SmallProblem(Spectrum(values, U, back, G), squared_norm)

    @abstractmethod
    def _of_wide(self, S: Array) -> tuple[Array, Array]:
        """Return singular values and left singular vectors."""

    @abstractmethod
    def _of_tall(self, S: Array) -> tuple[Array, Array, Array]:
        """Return left singular vectors, (..., n, m), singular values and right singular vectors."""


def _components(S: Array, U: Array) -> Array:
    """Return U^H S^H."""
    return adjoint(namespace(S).matmul(S, U))


@part
class SVD(_Singular):
    """Singular value decomposition of S."""

    name = "svd"

    def _of_wide(self, S: Array) -> tuple[Array, Array]:
        return left_singular(S)

    def _of_tall(self, S: Array) -> tuple[Array, Array, Array]:
        left, s, right = svd(S)
        return left, s, adjoint(right)


@part
class QR(_Singular):
    """QR factorisation of S^H with n < m, of S with n >= m, and the SVD of its R."""

    name = "qr"

    def _of_wide(self, S: Array) -> tuple[Array, Array]:
        xp = namespace(S)
        return left_singular(xp.matrix_transpose(qr_r(xp.matrix_transpose(S))))

    def _of_tall(self, S: Array) -> tuple[Array, Array, Array]:
        Q, R = qr(S)
        left, s, right = svd(R)
        return namespace(S).matmul(Q, left), s, adjoint(right)


@part
class ConjugateGradients(Method):
    """Conjugate gradients with a Nystrom preconditioner, where the Gram matrix is too large."""

    name = "cg"
    exact = False
    lifts_null = False

    def small_problem(
        self,
        scores: ScoreMatrix,
        dtype: str,
        null: Array | None,
        start: Start,
    ) -> SmallProblem:
        """Return an approximation, and an upper estimate of |S|_F^2."""

        def product(p: Array) -> Array:
            if scores.wide:
                _, Gp = scores.samples.add_rmatvec(None, p, product=True)
                assert Gp is not None
                return Gp
            negative, _ = scores.parameters.gradient(None, scores.split(p))
            return -joined(list(negative), axis=-2)

        size = scores.rows if scores.wide else scores.columns
        rank = min(size, scores.sketched)
        sketch, squared_norm = sketch_small_matrix(
            product, (*scores.batch, size, rank), scores.like, dtype
        )
        return SmallProblem(sketch, squared_norm if rank == size else 2 * squared_norm)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (Automatic(), Cholesky(), Eigenvectors(), SVD(), QR(), ConjugateGradients())
}

"""Kinds of small matrices, and of their damped inverses.

The small matrix is n x n or m x m, whichever is smaller: G = S D^-1 S^H with n < m, and
D^-1/2 S^H S D^-1/2 with n >= m. What costs a pass over S does not depend on the damping: it is a
`SmallMatrix`, from which the inverse of W = G + damping follows for any damping. Each kind is a
NamedTuple of arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Self

from ngdla._backend import general
from ngdla._backend.creation import generic_column
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name
from ngdla._backend.implicit import implicit, with_derivatives_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import inner_columns, largest_entry
from ngdla._backend.out_of_memory import Matrix, with_room
from ngdla._backend.pickles import part
from ngdla._backend.products import (
    add_to_diagonal,
    adjoint,
    preserved,
    real_diagonal,
    rmatvec,
    trace,
)
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import detached, iterated
from ngdla._backend.triangular import cho_solve, cholesky, solve_triangular
from ngdla.matrix_functions.hermitian import inverse_square_root

from .null_vectors import without_null

__all__ = [
    "CholeskyInverse",
    "ExactInverse",
    "ExactSmallMatrix",
    "GramMatrix",
    "Inverse",
    "SmallMatrix",
    "SpectralInverse",
    "Spectrum",
    "cast_inverse",
    "eigenvalue_below",
    "factor_of",
    "smallest_by_iterations",
]


class Inverse(Protocol):
    """W^-1, or an approximation that preconditions, by whatever factors W."""

    def __call__(self, r: Array) -> Array:
        """Return W^-1 r, (..., n, k)."""


class ExactInverse(Inverse, Protocol):
    """W^-1 itself."""

    def smallest_eigenvalue(self) -> Array:
        """Return an estimate of the smallest eigenvalue of W, (...), from above."""

    def diagonalised(self, null: Array | None) -> tuple[Array, Array]:
        """Return X, (..., n, n), and weights, (..., n, 1), with P W^-1 P = X diag(weights) X^H.

        P = 1 - N N^H leaves null vectors out.
        """


class SmallMatrix(Protocol):
    """G, lifted along null vectors, without its damping."""

    def inverse(self, damping: Any) -> tuple[Any, Array]:
        """Return (G + damping)^-1 and a flag, (...): it can be used.

        One that cannot, of a matrix that is not positive definite or not finite, never raises, and
        may hold anything. This may be used up.
        """

    def copy(self) -> Self:
        """Return a copy to be used up."""


class ExactSmallMatrix(SmallMatrix, Protocol):
    """G itself, not an approximation, so that sums over its eigenvalues are known."""

    def log_determinant(self, inverse: Any, damping: Array) -> Array:
        """Return log det(G + damping), (...), whose inverse is given."""

    def effective_dimension(self, inverse: Any, damping: Array) -> Array:
        """Return tr G (G + damping)^-1, (...), without cancellation."""


# -------------------------------------------------------------------------------- Cholesky


@part
class CholeskyInverse(NamedTuple):
    """(L L^H)^-1."""

    L: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return cho_solve(self.L, r)

    def of_used_up(self, r: Array) -> Array:
        """Return the inverse times r, which may be written into."""
        return cho_solve(self.L, r, used_up=True)

    def smallest_eigenvalue(self) -> Array:
        """Return an estimate of the smallest eigenvalue of L L^H, (...), from above."""
        return smallest_by_iterations(self, self.L)

    def diagonalised(self, null: Array | None) -> tuple[Array, Array]:
        """Return X = P L^-H and weights of 1."""
        xp, L = namespace(self.L), self.L
        zero = xp.zeros_like(L)
        P = add_to_diagonal(zero if null is None else zero - null @ adjoint(null), 1.0)
        diagonal = xp.expand_dims(xp.linalg.diagonal(L), axis=-1)
        return adjoint(solve_triangular(L, P)), xp.ones_like(xp.abs(diagonal))


@part
class GramMatrix(NamedTuple):
    """G itself."""

    G: Array

    def inverse(self, damping: Any) -> tuple[CholeskyInverse, Array]:
        """Return (G + damping)^-1 and whether G + damping is positive definite. G is used up."""
        L, ok = with_room(
            lambda: cholesky(add_to_diagonal(self.G, damping)),
            lambda: factor_of("Cholesky factor", self.G),
            again=False,
        )
        return CholeskyInverse(L), ok

    def copy(self) -> GramMatrix:
        """Return a copy to be used up."""
        return GramMatrix(preserved(self.G))

    def log_determinant(self, inverse: CholeskyInverse, damping: Array) -> Array:
        """Return 2 sum_i log L_ii."""
        xp = namespace(damping)
        return 2 * xp.sum(xp.log(real_diagonal(inverse.L)), axis=-1)

    def effective_dimension(self, inverse: Any, damping: Array) -> Array:
        """Return tr G (G + damping)^-1."""
        return trace(inverse(self.G))


def factor_of(kind: str, G: Array) -> Matrix:
    """Return what factors of a Gram matrix are called where memory is short for them."""
    remedy = "Pass fewer samples at a time, a lower `precision`, or method='cg'; or free memory."
    part = f"the {kind} of the Gram matrix"
    return Matrix(part, tuple(G.shape), dtype_name(G.dtype), remedy)


_INVERSE_ITERATIONS = 4


def smallest_by_iterations(inverse: Inverse, like: Array) -> Array:
    """Return an estimate of the smallest eigenvalue of W, (...), by inverse iterations.

    They start from a vector that no structure of W is orthogonal to; `like` has the shape of W.
    """
    z = generic_column(like)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        z, _ = state
        z = z / largest_entry(z, -2)  # so that squares neither overflow nor underflow
        return inverse(z), z

    z, before = iterated(step, (z, z), _INVERSE_ITERATIONS)
    size, xp = largest_entry(z, -2), namespace(like)
    z = z / size
    ratio = xp.sqrt(inner_columns(before, before) / inner_columns(z, z))
    return xp.squeeze(ratio, axis=-1) / xp.squeeze(size, axis=(-2, -1))


def eigenvalue_below(inverse: Any) -> Array:
    """Return a lower bound of the smallest eigenvalue of W, (...), for the factor as it is.

    It is 1 / tr W^-1 where the eigenvalues themselves are not known.
    """
    if isinstance(inverse, SpectralInverse):
        return inverse.smallest_eigenvalue()
    X, weights = inverse.diagonalised(None)
    xp, squares = namespace(X), abs(X) ** 2
    weights = xp.matrix_transpose(astype(weights, dtype_name(squares.dtype)))
    return 1 / xp.sum(squares * weights, axis=(-2, -1))


# ---------------------------------------------------------------------------- eigenvectors


@part
class SpectralInverse(NamedTuple):
    """U diag(1 / shifted) U^H, with shifted = eigenvalues + damping, (..., n, 1).

    Derivatives are those of W^-1 where W is given: eigenvectors have none where eigenvalues are
    equal.
    """

    shifted: Array
    U: Array
    back: Array | None = None  # U^H S^H, (..., m, n), with n >= m, from singular vectors of S
    W: Array | None = None  # (..., n, n)

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return self._of_components(rmatvec(self.U, r))

    def fit(self, misfit: Array, moved: Array | None, damping: Any) -> Array:
        """Return A^-1 (S^H misfit - damping moved), (..., m, k), where `back` is known.

        A rounding of S^H misfit in one direction does not reach another one, whose eigenvalue may
        be the damping alone.
        """
        r = namespace(misfit).matmul(self.back, misfit)
        if moved is not None:
            r = r - expanded(damping, 2) * rmatvec(self.U, moved)
        return self._of_components(r)

    def _of_components(self, c: Array) -> Array:
        """Return W^-1 U c, for W = U diag(shifted) U^H."""
        Y = namespace(c).matmul(self.U, c / self.shifted)
        if self.W is None:
            return Y
        known = (self.shifted, self.U)
        return implicit(_equation, _spectral_solution, Y, lambda: known, (self.W, self.U, c))

    def smallest_eigenvalue(self) -> Array:
        """Return the smallest eigenvalue, (...)."""
        return namespace(self.shifted).min(self.shifted, axis=(-2, -1))

    def diagonalised(self, null: Array | None) -> tuple[Array, Array]:
        """Return X = P U and weights 1 / shifted; X = P W^(-1/2) and 1 where W is given."""
        if self.W is None:
            return without_null(self.U, null), 1 / self.shifted
        root = inverse_square_root(self.W, namespace(self.U).squeeze(self.shifted, axis=-1), self.U)
        return without_null(root, null), self.shifted / self.shifted


def _equation(Y: Array, W: Array, U: Array, c: Array) -> Array:
    """Return W Y - U c."""
    xp = namespace(Y)
    return xp.matmul(W, Y) - xp.matmul(U, c)


def _spectral_solution(B: Array, shifted: Array, U: Array) -> Array:
    """Return U diag(1 / shifted) U^H B."""
    return namespace(B).matmul(U, rmatvec(U, B) / shifted)


@part
class Spectrum(NamedTuple):
    """Eigenvalues, (..., n), and eigenvectors, (..., n, n), of G.

    G itself is there where derivatives may be asked for. Those of the inverse, and of sums over all
    eigenvalues, are derivatives by G.
    """

    values: Array
    U: Array
    back: Array | None = None  # as in `SpectralInverse`
    G: Array | None = None

    def inverse(self, damping: Any) -> tuple[SpectralInverse, Array]:
        """Return U diag(1 / (values + damping)) U^H and whether that is finite."""
        values, U, W = self.values, self.U, None
        if self.G is not None:
            values, U = detached(values), detached(U)
            W = self._damped(damping)
        xp = namespace(values)
        shifted = values + expanded(damping, 1)
        ok = xp.all(xp.isfinite(shifted), axis=-1)
        shifted = xp.expand_dims(shifted, axis=-1)
        return SpectralInverse(shifted if W is None else detached(shifted), U, self.back, W), ok

    def _damped(self, damping: Any) -> Array:
        """Return G + damping."""
        return add_to_diagonal(preserved(self.G), damping)

    def copy(self) -> Spectrum:
        """Return this, as nothing is used up."""
        return self

    def log_determinant(self, inverse: Any, damping: Array) -> Array:
        """Return sum_k log(values_k + damping)."""
        xp, values = namespace(damping), self.values
        if self.G is None:
            return xp.sum(xp.log(values + expanded(damping, 1)), axis=-1)
        sums = xp.sum(xp.log(detached(values + expanded(damping, 1))), axis=-1)
        return with_derivatives_of(_log_determinant, sums, (self._damped(damping),))

    def effective_dimension(self, inverse: Any, damping: Array) -> Array:
        """Return sum_k values_k / (values_k + damping)."""
        xp, values = namespace(damping), self.values
        if self.G is None:
            return xp.sum(values / (values + expanded(damping, 1)), axis=-1)
        sums = xp.sum(detached(values / (values + expanded(damping, 1))), axis=-1)
        return with_derivatives_of(_dimension, sums, (self.G, self._damped(damping)))


def _log_determinant(W: Array) -> Array:
    """Return log det W."""
    return general.logabsdet(W)


def _dimension(G: Array, W: Array) -> Array:
    """Return tr G W^-1."""
    return trace(general.solve(W, G))


def cast_inverse(inverse: Any, dtype: str) -> Any:
    """Return the inverse in another dtype, whatever its factor was computed in.

    Applied in lower precision, it would not be one Hermitian matrix, on which sweeps rely.
    """
    real = real_name(dtype)
    return type(inverse)(*(None if a is None else _cast(a, dtype, real) for a in inverse))


def _cast(a: Array, dtype: str, real: str) -> Array:
    """Return a floating array in another dtype; integers, such as pivots, as they are."""
    if dtype_name(a.dtype).startswith(("int", "uint")):
        return a
    return astype(a, dtype if is_complex(a) else real)

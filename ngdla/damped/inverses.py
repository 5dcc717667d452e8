"""The inverse of the small damped matrix, from the Gram matrix or from S itself.

Every method leads to the inverse of one Hermitian matrix, n x n or m x m, whichever is smaller:
W = S D^-1 S^H + damping with n < m, D^-1/2 S^H S D^-1/2 + damping with n >= m. It is applied by a
Cholesky factor, or by eigenvectors and shifted eigenvalues, which come from the Gram matrix
("eigh"), from an SVD of S, or from the R of a QR of S^H and its SVD. The latter two do not square
the condition number of S. Where the matrix is too large to be formed ("cg"), a Nystrom
approximation preconditions conjugate gradients. None forms L^-1 S or other matrices of the size
of S.

What costs a pass over S does not depend on the damping: it is an `Undamped`, from which the inverse
for any damping follows.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.checks import ValueChecks
from ngdla._backend.dtypes import astype, dtype_name, is_complex, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.products import add_to_diagonal, adjoint, preserved, rmatvec, trace
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.spectral import eigh, left_singular, qr_r
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.score_matrices.score_matrix import Vector

from .nystrom_preconditioner import Nystrom, NystromInverse, nystrom
from .precision import LIFT
from .problem import Setup
from .refinement import First

__all__ = [
    "CholeskyInverse",
    "GramMatrix",
    "Inverse",
    "Inverted",
    "SpectralInverse",
    "Spectrum",
    "Undamped",
    "inverse_of",
    "inverted",
    "is_null",
    "smallest_eigenvalue",
]


@part
class CholeskyInverse(NamedTuple):
    """(L L^H)^-1."""

    L: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return cho_solve(self.L, r)


@part
class SpectralInverse(NamedTuple):
    """U diag(1 / shifted) U^H, with shifted = eigenvalues + damping, (..., n, 1)."""

    shifted: Array
    U: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return namespace(r).matmul(self.U, rmatvec(self.U, r) / self.shifted)


@part
class GramMatrix(NamedTuple):
    """S S^H with n < m, else S^H S; lifted along null vectors."""

    K: Array

    def inverse(self, damping: Any) -> tuple[Inverse, Array]:
        """Return (K + damping)^-1 and whether it exists. K is used up."""
        L, ok = cholesky(add_to_diagonal(self.K, damping))
        return CholeskyInverse(L), ok

    def copy(self) -> GramMatrix:
        """Return a copy to be used up."""
        return GramMatrix(preserved(self.K))


@part
class Spectrum(NamedTuple):
    """Eigenvalues, (..., n), and eigenvectors, (..., n, n), of the same matrix."""

    values: Array
    U: Array

    def inverse(self, damping: Any) -> tuple[Inverse, Array]:
        """Return (U diag(values) U^H + damping)^-1 and whether it exists."""
        xp = namespace(self.values)
        shifted = self.values + expanded(damping, 1)
        inverse = SpectralInverse(xp.expand_dims(shifted, axis=-1), self.U)
        return inverse, xp.all(xp.isfinite(shifted), axis=-1)

    def copy(self) -> Spectrum:
        """Return this, as nothing is used up."""
        return self


Inverse = CholeskyInverse | SpectralInverse | NystromInverse
Undamped = GramMatrix | Spectrum | Nystrom


class Inverted(NamedTuple):
    """The inverse with what is known of the matrix."""

    inverse: Inverse
    undamped: Undamped | None  # to be kept for other dampings
    ok: Array  # (...): the factorisation succeeded, of legal arguments
    squared_norm: Array  # (...): |S|_F^2
    leak: Array | None  # (...): |S^H N|_F
    first: First  # products with what the iteration starts from


def inverse_of(
    given: Setup, checks: ValueChecks, start: tuple[Array | None, Vector | None], *, keep: bool
) -> Inverted:
    """Return the inverse of the small matrix, in one pass over S.

    `start`, an f and an x or None, are multiplied on the way: S x, or S^H (f - S x) with n >= m.
    """
    undamped, squared_norm, K, first = _undamped(given, start)
    leak = _leak(given, K if given.trusted else None)
    if isinstance(undamped, GramMatrix):
        undamped = GramMatrix(_lifted(undamped.K, squared_norm, given))
    kept = undamped.copy() if keep else None
    inverse, ok = inverted(undamped, given.damping, squared_norm, lifted=given.plan.lifted)
    if leak is not None and not given.trusted:
        legal = is_null(given, given.null, leak, squared_norm)
        checks.require(lambda: legal, _null_error)
        ok = ok & legal
    return Inverted(inverse, kept, ok & _legal(given), squared_norm, leak, first)


def inverted(
    undamped: Undamped, damping: Any, squared_norm: Array, *, lifted: bool
) -> tuple[Inverse, Array]:
    """Return the inverse for a damping; if `lifted`, for one above the roundings of S S^H."""
    xp, real = namespace(squared_norm), dtype_name(squared_norm.dtype)
    if not isinstance(damping, float):
        damping = astype(damping, real)
    if lifted:
        least = LIFT * unit_roundoff(real) * squared_norm
        damping = xp.where(least > damping, least, damping)
    return undamped.inverse(damping)


_INVERSE_ITERATIONS = 4


def smallest_eigenvalue(inverse: Inverse) -> Array:
    """Return an estimate of the smallest eigenvalue of the inverted matrix, (...), from above."""
    xp = namespace(inverse[0])
    if not isinstance(inverse, CholeskyInverse):
        return xp.min(inverse.shifted, axis=(-2, -1))
    z = xp.sin(xp.cumulative_sum(xp.ones_like(inverse.L[..., :1]), axis=-2) ** 2)
    for _ in range(_INVERSE_ITERATIONS):
        z = inverse(z / xp.linalg.vector_norm(z, axis=-2, keepdims=True))
    return 1 / xp.linalg.vector_norm(z, axis=(-2, -1))


def _undamped(
    given: Setup, start: tuple[Array | None, Vector | None]
) -> tuple[Undamped, Array, Array | None, First]:
    scores, dtype = given.scores, given.plan.factor
    f, x = start
    if given.plan.method == "cg":
        sketch, squared_norm = _sketch(given)
        return sketch, squared_norm, None, First()
    if given.plan.method in ("svd", "qr"):
        values, U = _singular(given)
        return Spectrum(values, U), namespace(values).sum(values, axis=-1), None, First()
    if scores.wide:
        K, Sx = scores.gram(dtype, x)
        first = First(S_start=Sx)
    else:
        K, gradient, Sx = scores.parameter_gram(dtype, f, x)
        first = First(Sx, gradient)
    squared_norm = trace(K)
    if given.plan.method != "eigh":
        return GramMatrix(K), squared_norm, K, first
    values, U = eigh(_lifted(K, squared_norm, given))
    return Spectrum(namespace(K).clip(values, min=0.0), U), squared_norm, K, first


def _sketch(given: Setup) -> tuple[Nystrom, Array]:
    """Return an approximation of the small matrix, and what |S|_F^2 is below, nearly certainly."""
    scores, dtype = given.scores, given.plan.factor

    def product(p: Array) -> Array:
        if scores.wide:
            return scores.add_rmatvec(None, p, product=True)[1]
        negative, _ = scores.gradient(None, scores.split(p))
        return -joined(list(negative), axis=-2)

    size = scores.rows if scores.wide else scores.columns
    rank = min(size, scores.sketched)
    sketch, squared_norm = nystrom(product, (*scores.batch, size, rank), scores.like, dtype)
    return sketch, squared_norm if rank == size else 2 * squared_norm


def _legal(given: Setup) -> Any:
    """Tell whether damping and metric are positive; under `jax.jit` the diagnostics say so."""
    legal: Any = True
    if not isinstance(given.damping, float):
        legal = legal & (given.damping > 0)
    for weights in given.metric or ():
        legal = legal & namespace(weights).all(weights > 0, axis=(-2, -1))
    return legal


def _singular(given: Setup) -> tuple[Array, Array]:
    """Return the eigenvalues sigma^2 and eigenvectors of the small matrix from S itself."""
    S = given.scores.to_dense(given.plan.factor)
    xp = namespace(S)
    wide = given.scores.wide
    if given.plan.method == "svd":
        s, U = left_singular(S if wide else xp.matrix_transpose(S))
        if not wide and is_complex(U):
            U = xp.conj(U)  # S^T has the conjugates of the right singular vectors of S
    elif wide:
        s, U = left_singular(xp.matrix_transpose(qr_r(xp.matrix_transpose(S))))
    else:
        s, U = left_singular(adjoint(qr_r(S)))
    return s * s, U


# --------------------------------------------------------------------------- null vectors


def _lifted(K: Array, squared_norm: Array, given: Setup) -> Array:
    """Return K + (tr K / n) N N^H with n < m: centred scores are no longer exactly singular."""
    if given.null is None or not given.scores.wide:
        return K
    N = astype(given.null, given.plan.factor)
    lift = expanded(squared_norm, 2) / K.shape[-1]
    return K + lift * namespace(K).matmul(N, adjoint(N))


def _leak(given: Setup, K: Array | None) -> Array | None:
    """Return |S^H N|_F by a pass over S, or from K = S S^H, which knows its square to u |S|^2."""
    N = given.null
    if N is None:
        return None
    xp = namespace(N)
    if K is not None and given.scores.wide:
        N = astype(N, given.plan.factor)
        squares = rmatvec(N, xp.matmul(K, N))
    else:
        squares = reduce(add, (rmatvec(piece, piece) for piece in given.scores.rmatvec(N)))
    squares = trace(squares)
    return xp.sqrt(xp.where(squares > 0, squares, xp.zeros_like(squares)))


# |S^H N| over sqrt(n) u |S|: centring leaves more of it where the mean is larger than the rest.
_LARGEST_LEAK = 1e4


def is_null(given: Setup, N: Array, leak: Array, squared_norm: Array) -> Array:
    """Tell whether N^H N = 1, and |S^H N| is at the level of roundings, (...)."""
    xp, n = namespace(leak), given.scores.rows
    u = max(unit_roundoff(given.plan.factor), unit_roundoff(dtype_name(N.dtype)))
    identity = rmatvec(N, N)
    skew = xp.abs(identity - xp.tril(xp.triu(xp.ones_like(xp.abs(identity)))))
    orthonormal = xp.all(skew <= 8 * n * u, axis=(-2, -1))
    size = xp.sqrt(squared_norm)
    # a NaN in S is reported as what it is: it must not fail here
    return orthonormal & ~(leak > _LARGEST_LEAK * n**0.5 * u * size)


def _null_error() -> Exception:
    return ValueError(
        "`null` must have orthonormal columns N with S^H N = 0, such as sqrt(p) for scores "
        "centred with probabilities p; centre the scores, or leave `null` out."
    )

"""The inverse of the small damped matrix, from the Gram matrix or from S itself.

Every method leads to the inverse of one Hermitian matrix, n x n or m x m, whichever is smaller:
W = S D^-1 S^H + damping with n < m, D^-1/2 S^H S D^-1/2 + damping with n >= m. It is applied by a
Cholesky factor, or by eigenvectors and shifted eigenvalues, which come from the Gram matrix
("eigh"), from an SVD of S, or from the R of a QR of S^H and its SVD. The latter two do not square
the condition number of S. None forms L^-1 S or other matrices of the size of S.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ._backend.checks import ValueChecks
from ._backend.namespace import Array, is_complex, namespace, unit_roundoff
from ._backend.products import add_to_diagonal, adjoint, rmatvec, trace
from ._backend.spectral import eigh, left_singular, qr_r
from ._backend.triangular import cho_solve, cholesky
from .damped_problem import Setup
from .refinement import expanded

__all__ = ["CholeskyInverse", "Inverse", "Inverted", "SpectralInverse", "inverse_of"]


class CholeskyInverse(NamedTuple):
    """(L L^H)^-1."""

    L: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return cho_solve(self.L, r)


class SpectralInverse(NamedTuple):
    """U diag(1 / shifted) U^H, with shifted = eigenvalues + damping, (..., n, 1)."""

    shifted: Array
    U: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        return namespace(r).matmul(self.U, rmatvec(self.U, r) / self.shifted)


Inverse = CholeskyInverse | SpectralInverse


class Inverted(NamedTuple):
    """The inverse with what is known of the matrix."""

    inverse: Inverse
    ok: Array  # (...): the factorisation succeeded, of legal arguments
    squared_norm: Array  # (...): |S|_F^2
    leak: Array | None  # (...): |S^H N|_F


def inverse_of(given: Setup, checks: ValueChecks) -> Inverted:
    """Return the inverse of the small matrix."""
    inverse: Inverse
    if given.method in ("svd", "qr"):
        values, U = _singular(given)
        squared_norm = namespace(values).sum(values, axis=-1)
        leak = _leak(given, None)
        inverse, ok = _spectral(values, U, given.damping)
    else:
        scores, dtype = given.scores, given.dtype
        K = scores.gram(dtype) if _wide(given) else scores.parameter_gram(dtype)
        squared_norm = trace(K)
        leak = _leak(given, K if given.trusted else None)
        inverse, ok = _gram_inverse(_lifted(K, squared_norm, given), given)
    if leak is not None and not given.trusted:
        legal = _is_null(given, leak, squared_norm)
        checks.require(lambda: legal, _null_error)
        ok = ok & legal
    return Inverted(inverse, ok & _legal(given), squared_norm, leak)


def _legal(given: Setup) -> Any:
    """Tell whether damping and metric are positive; under `jax.jit` the diagnostics say so."""
    legal: Any = True
    if not isinstance(given.damping, float):
        legal = legal & (given.damping > 0)
    for weights in given.metric or ():
        legal = legal & namespace(weights).all(weights > 0, axis=(-2, -1))
    return legal


def _wide(given: Setup) -> bool:
    return given.scores.rows < given.scores.columns


def _gram_inverse(K: Array, given: Setup) -> tuple[Inverse, Array]:
    if given.method == "eigh":
        values, U = eigh(K)
        return _spectral(namespace(K).clip(values, min=0.0), U, given.damping)
    L, ok = cholesky(add_to_diagonal(K, given.damping))
    return CholeskyInverse(L), ok


def _singular(given: Setup) -> tuple[Array, Array]:
    """Return the eigenvalues sigma^2 and eigenvectors of the small matrix from S itself."""
    S = given.scores.dense(given.dtype)
    xp = namespace(S)
    wide = _wide(given)
    if given.method == "svd":
        s, U = left_singular(S if wide else xp.matrix_transpose(S))
        if not wide and is_complex(U):
            U = xp.conj(U)  # S^T has the conjugates of the right singular vectors of S
    elif wide:
        s, U = left_singular(xp.matrix_transpose(qr_r(xp.matrix_transpose(S))))
    else:
        s, U = left_singular(adjoint(qr_r(S)))
    return s * s, U


def _spectral(values: Array, U: Array, damping: Any) -> tuple[Inverse, Array]:
    xp = namespace(values)
    shifted = values + expanded(damping, 1)
    inverse = SpectralInverse(xp.expand_dims(shifted, axis=-1), U)
    return inverse, xp.all(xp.isfinite(shifted), axis=-1)


# --------------------------------------------------------------------------- null vectors


def _lifted(K: Array, squared_norm: Array, given: Setup) -> Array:
    """Return K + (tr K / n) N N^H with n < m: centred scores are no longer exactly singular."""
    if given.null is None or not _wide(given):
        return K
    lift = expanded(squared_norm, 2) / K.shape[-1]
    return K + lift * namespace(K).matmul(given.null, adjoint(given.null))


def _leak(given: Setup, K: Array | None) -> Array | None:
    """Return |S^H N|_F by a pass over S, or from K = S S^H, which knows its square to u |S|^2."""
    N = given.null
    if N is None:
        return None
    xp = namespace(N)
    if K is not None and _wide(given):
        squares = rmatvec(N, xp.matmul(K, N))
    else:
        squares = reduce(add, (rmatvec(piece, piece) for piece in given.scores.rmatvec(N)))
    squares = trace(squares)
    return xp.sqrt(xp.where(squares > 0, squares, xp.zeros_like(squares)))


# |S^H N| over sqrt(n) u |S|: centring leaves more of it where the mean is larger than the rest.
_LARGEST_LEAK = 1e4


def _is_null(given: Setup, leak: Array, squared_norm: Array) -> Array:
    """Tell whether N^H N = 1, and |S^H N| is at the level of roundings, (...)."""
    xp, n = namespace(leak), given.scores.rows
    u = unit_roundoff(given.dtype)
    identity = rmatvec(given.null, given.null)
    skew = xp.abs(identity - xp.tril(xp.triu(xp.ones_like(identity))))
    orthonormal = xp.all(skew <= 8 * n * u, axis=(-2, -1))
    size = xp.sqrt(squared_norm + given.damping)
    # a NaN in S is reported as what it is: it must not fail here
    return orthonormal & ~(leak > _LARGEST_LEAK * n**0.5 * u * size)


def _null_error() -> Exception:
    return ValueError(
        "`null` must have orthonormal columns N with S^H N = 0, such as sqrt(p) for scores "
        "centred with probabilities p; centre the scores, or leave `null` out."
    )

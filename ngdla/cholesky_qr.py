"""Orthonormal columns by products and small Cholesky factors, several times cheaper than a QR."""

from __future__ import annotations

from ._backend.namespace import Array, dtype_name, is_complex, namespace, unit_roundoff
from ._backend.products import add_to_diagonal, adjoint, gram
from ._backend.triangular import cholesky, solve_triangular

__all__ = [
    "cholesky_qr",
    "column_gram",
    "equilibrated_cholesky",
    "inverse_triangular",
    "nearly_orthogonal",
]

_SWEEPS = 3
_SHRINK = 4.0  # of off-diagonal entries, in units of l roundings
_FAR = 0.7


def cholesky_qr(Y: Array) -> tuple[Array, Array]:
    """Return (Q, R) with Y = Q R for tall Y (..., d, l): Q orthonormal, R upper triangular.

    CholeskyQR2 leaves u cond(Y)^2 of non-orthogonality and fails where that exceeds 1. Here the
    first sweeps are shifted, so that none fails, and a third one makes up for the shift: shifted
    CholeskyQR3 of T. Fukaya et al., SIAM J. Sci. Comput. 42, A477 (2020). Columns that depend on
    others up to rounding become orthonormal noise as long as none is zero.

    Cost: 3 (d l^2 + 2 d l^2) flops in products.
    """
    Q, R = _sweep(Y)
    for _ in range(_SWEEPS - 1):
        Q, L = _sweep(Q)
        R = namespace(R).matmul(L, R)
    return Q, R


def _sweep(Y: Array) -> tuple[Array, Array]:
    xp = namespace(Y)
    L = equilibrated_cholesky(column_gram(Y))
    return xp.matmul(Y, adjoint(inverse_triangular(L))), adjoint(L)


def column_gram(Y: Array) -> Array:
    """Return Y^H Y, (..., l, l), in half the flops of a product where possible."""
    xp = namespace(Y)
    G = gram(xp.matrix_transpose(Y))
    return xp.conj(G) if is_complex(G) else G


def equilibrated_cholesky(G: Array) -> Array:
    """Return L with L L^H = G up to rounding, also where G is singular up to rounding.

    The columns that G is the Gram matrix of are scaled to norm 1 first, since their condition is
    what counts. Then off-diagonal entries shrink by 4 l u: unlike a shift of the diagonal, that
    changes nothing where columns are orthogonal already.
    """
    xp = namespace(G)
    shrink = _SHRINK * G.shape[-1] * unit_roundoff(dtype_name(G.dtype))
    norms = xp.sqrt(_diagonal(G))
    norms = xp.where(norms > 0, norms, xp.ones_like(norms))
    rows, columns = xp.expand_dims(norms, axis=-1), xp.expand_dims(norms, axis=-2)
    L, _ = cholesky(add_to_diagonal((1 - shrink) * (G / rows / columns), shrink))
    return rows * L


def _diagonal(G: Array) -> Array:
    xp = namespace(G)
    diagonal = xp.linalg.diagonal(G)
    return xp.real(diagonal) if is_complex(G) else diagonal


def nearly_orthogonal(L: Array) -> Array:
    """Return a 0-d flag: columns whose Gram matrix is L L^H are far from dependent."""
    xp = namespace(L)
    distances = xp.linalg.diagonal(L) / xp.linalg.vector_norm(L, axis=-1)  # each from those before
    return xp.all(xp.abs(distances) >= _FAR)


def inverse_triangular(L: Array) -> Array:
    """Return L^-1: the factors here are small, and products with them are faster than solves."""
    return solve_triangular(L, add_to_diagonal(namespace(L).zeros_like(L), 1.0))

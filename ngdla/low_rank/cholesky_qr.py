"""Orthonormal columns by products and small Cholesky factors, several times cheaper than a QR."""

from __future__ import annotations

from typing import Any

from ngdla._backend.dtypes import dtype_name, is_complex, unit_roundoff
from ngdla._backend.fused import all_of, in_one_kernel, plus_product
from ngdla._backend.gram import gram
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import roots_or_one
from ngdla._backend.products import add_to_diagonal, adjoint, real_diagonal, rmatvec
from ngdla._backend.tracing import choose_if_free, chooses, concrete, free_to_read, may_wait
from ngdla._backend.triangular import cholesky, inverse_triangular

__all__ = [
    "cholesky_qr",
    "column_gram",
    "equilibrated_cholesky",
    "nearly_orthogonal",
    "orthonormal",
    "orthonormal_beside",
    "project_out",
    "well_conditioned",
]

_SHRINK = 4.0  # of off-diagonal entries, in roundings
_LEAST_DISTANCE = 0.99  # of a column of norm 1 from the span of those before it
_LEAST_DISTANCE_OF_TWO = 0.9999  # shrinking what is not orthogonal costs less than a rounding


def cholesky_qr(Y: Array, first: Array | None = None) -> tuple[Array, Array]:
    """Return (Q, R) with Y = Q R for tall Y (..., d, l): Q orthonormal, R upper triangular.

    CholeskyQR2 leaves u cond(Y)^2 of non-orthogonality and fails where that exceeds 1. Here the
    first sweeps are shifted, so that none fails, and a third one makes up for the shift, unless the
    second one finds that it has nothing to make up for: shifted CholeskyQR3 of T. Fukaya et al.,
    SIAM J. Sci. Comput. 42, A477 (2020). Where the third one finds columns that are not nearly
    orthogonal yet, three more follow; on devices whose host would have to wait to see that, it is
    five in any case. Columns that depend on others up to rounding become orthonormal noise as long
    as none is zero.

    `first` is the factor of the first sweep, the equilibrated one of `column_gram(Y)`, if known.
    Cost: d l^2 + 2 d l^2 flops in products for each of two or three sweeps.
    """
    return _orthonormalised(Y, first, triangle=True)


def well_conditioned(Y: Array) -> Array:
    """Return columns with the range of Y whose condition is near 1, but that are not orthonormal.

    Two sweeps of the three of `cholesky_qr`, which is what products between orthonormal columns
    need: directions down to l u of the largest one are told apart.
    """
    return _swept(Y, 2, None)[0]


def orthonormal(Y: Array) -> Array:
    """Return the Q of `cholesky_qr`, without the products that R takes."""
    return _orthonormalised(Y, None, triangle=False)[0]


def orthonormal_beside(Q: Array, Y: Array) -> Array:
    """Return orthonormal columns P, orthogonal to those of Q, with the range of Y in [Q, P].

    Projected out twice: the first time, what is left may be as small as roundings of what is not.
    Where it was, what the second sweep finds is not orthonormal yet, and all is done again.
    """
    P = well_conditioned(project_out(Q, Y))
    P, _, L = _swept(project_out(Q, P), 1, None)

    def again() -> Array:
        return orthonormal(project_out(Q, P))

    return choose_if_free(nearly_orthogonal(L, _LEAST_DISTANCE), lambda: P, again)


def project_out(Q: Array, Y: Array) -> Array:
    """Return (1 - Q Q^H) Y for orthonormal columns Q."""
    return plus_product(Y, Q, rmatvec(Q, Y), -1.0)


def _orthonormalised(Y: Array, first: Array | None, *, triangle: bool) -> tuple[Array, Any]:
    """Return Q, and R or (): after two sweeps, three or, where these are not enough, six."""
    start = () if triangle else None
    if may_wait():  # for one flag: what has no factor is NaN
        Q, R, L = _swept(Y, 2, start, first, exists=True)
        if concrete(nearly_orthogonal(L, _LEAST_DISTANCE_OF_TWO)):
            return Q, R
    Q, R, L = _swept(Y, 2, start, first)

    def third() -> tuple[Array, Any]:
        P, T, M = _swept(Q, 1, R)
        return choose_if_free(
            nearly_orthogonal(M, _LEAST_DISTANCE), lambda: (P, T), lambda: _swept(P, 3, T)[:2]
        )

    if not (chooses(L) or free_to_read(L) or may_wait()):
        return _swept(Q, 3, R)[:2]
    return choose_if_free(nearly_orthogonal(L, _LEAST_DISTANCE_OF_TWO), lambda: (Q, R), third)


def _swept(
    Y: Array, sweeps: int, R: Any, first: Array | None = None, *, exists: bool = False
) -> tuple[Array, Any, Any]:
    """Return Q and R after some sweeps, and the last factor.

    R is what sweeps before have found, () if there were none, or None if it is not asked for. That
    factors `exists` may be taken for granted: what has none is NaN.
    """
    xp = namespace(Y)
    L: Any = first
    for i in range(sweeps):
        if i or first is None:
            L = equilibrated_cholesky(column_gram(Y), Y.shape[-2], exists=exists)
        Y = xp.matmul(Y, adjoint(inverse_triangular(L)))
        if R is not None:
            R = adjoint(L) if isinstance(R, tuple) else xp.matmul(adjoint(L), R)
    return Y, R, L


def column_gram(Y: Array) -> Array:
    """Return Y^H Y, (..., l, l), in half the flops of a product where possible."""
    xp = namespace(Y)
    G = gram(xp.matrix_transpose(Y))
    return xp.conj(G) if is_complex(G) else G


def equilibrated_cholesky(G: Array, terms: int, *, exists: bool = False) -> Array:
    """Return L with L L^H = G up to rounding, also where G is singular up to rounding.

    The columns that G is the Gram matrix of are scaled to norm 1 first, since their condition is
    what counts. Then off-diagonal entries shrink by 4 l u: unlike a shift of the diagonal, that
    changes nothing where columns are orthogonal already. Where it is not enough, they shrink by
    4 (l + terms) u, as sums of so many terms of one sign may err by, unless L `exists` for sure.
    """
    xp = namespace(G)
    size, u = G.shape[-1], unit_roundoff(dtype_name(G.dtype))
    norms = roots_or_one(real_diagonal(G))
    rows, columns = xp.expand_dims(norms, axis=-1), xp.expand_dims(norms, axis=-2)
    scaled = in_one_kernel(_equilibrated, G, rows, columns)

    def factor(roundings: int) -> tuple[Array, Array]:
        shrink = min(_SHRINK * roundings * u, 0.5)
        return cholesky(add_to_diagonal((1 - shrink) * scaled, shrink))

    L, ok = factor(size)
    if not exists:
        L = choose_if_free(
            all_of(ok), lambda: L, lambda: xp.where(ok[..., None, None], L, factor(size + terms)[0])
        )
    return rows * L


def _equilibrated(xp: Any, G: Array, rows: Array, columns: Array) -> Array:
    return G / rows / columns


def nearly_orthogonal(L: Array, least: float) -> Array:
    """Return a 0-d flag: each column, with Gram matrix L L^H, is that far from those before it."""
    xp = namespace(L)
    return xp.all(real_diagonal(L) >= least * xp.linalg.vector_norm(L, axis=-1))

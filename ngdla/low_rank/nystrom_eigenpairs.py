"""The eigenpairs of a Nystrom approximation Y (Omega^H Y)^-1 Y^H, from its root or from Y.

Only matrices of as many rows as Y has columns are decomposed. Names in parentheses are those of the
formulas in docs/theory/eigendecomposition.md.
"""

from __future__ import annotations

from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import eigh
from ngdla._backend.tracing import choose_if_free
from ngdla._backend.triangular import inverse_triangular

from .cholesky_qr import cholesky_qr, column_gram, equilibrated_cholesky, nearly_orthogonal
from .low_rank_eigh import clipped
from .nystrom_root import NystromRoot

__all__ = ["in_descending_order", "product_eigenpairs", "root_eigenpairs"]

_LEAST_DISTANCE = 0.7  # of a column of norm 1 from the span of those before it


def root_eigenpairs(root: NystromRoot, rank: int) -> tuple[Array, Array]:
    """Return all eigenvalues of B B^H - shift, (..., l), and the first eigenvectors.

    With B = Q R they are those of R R^H, so that the eigenvectors are orthonormal to rounding.
    """
    Q, R = cholesky_qr(root.B)  # (root)
    xp = namespace(Q)
    values, W = in_descending_order(*eigh(xp.matmul(R, adjoint(R))))  # R R^H = W diag(s) W^H
    return clipped(values - expanded(root.shift, 1)), xp.matmul(Q, W[..., :rank])


def product_eigenpairs(Y: Array, core: Array, terms: int) -> tuple[Array, Array]:
    """Return the eigenpairs of Y core^-1 Y^H for Y = M U and core = U^H M U.

    With Y = Q R and core^-1 = C^H C they are those of (C R^H)^H (C R^H), rotated by Q. The
    columns of U are eigenvectors of what M was before, and those of Y nearly orthogonal: then one
    Cholesky factor of their equilibrated Gram matrix is R, and one product with Y makes the
    vectors. Where many new directions came at once, Y is made orthonormal first.

    `core` is a Gram matrix of sums of so many `terms`.
    """
    xp = namespace(Y)
    L = equilibrated_cholesky(column_gram(Y), Y.shape[-2])  # Y^H Y = L L^H
    C = inverse_triangular(equilibrated_cholesky(core, terms))  # core^-1 = C^H C

    def at_once() -> tuple[Array, Array]:
        values, W = _rotation(C, L)  # R = L^H, Q = Y L^-H
        return values, xp.matmul(Y, xp.matmul(adjoint(inverse_triangular(L)), W))

    def safely() -> tuple[Array, Array]:
        Q, R = cholesky_qr(Y, L)
        values, W = _rotation(C, adjoint(R))
        return values, xp.matmul(Q, W)

    return choose_if_free(nearly_orthogonal(L, _LEAST_DISTANCE), at_once, safely)


def _rotation(C: Array, RH: Array) -> tuple[Array, Array]:
    """Return the eigenpairs of R C^H C R^H, in descending order."""
    return in_descending_order(*eigh(column_gram(namespace(C).matmul(C, RH))))


def in_descending_order(values: Array, U: Array) -> tuple[Array, Array]:
    """Return ascending eigenpairs in the other order."""
    xp = namespace(values)
    return xp.flip(values, axis=-1), xp.flip(U, axis=-1)

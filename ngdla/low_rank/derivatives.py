"""Derivatives of truncated decompositions, which are right or NaN.

Eigenvectors turn by u over the gap to the next eigenvalue, so that derivatives exist only where all
gaps are large enough. Where a sketch spans all of A, they are those of exact eigenpairs. Else they
are those of the sketch, through Cholesky factors whose roundings grow as u |A| over the smallest
eigenvalue that the sketch saw.
"""

from __future__ import annotations

from functools import partial

from ngdla._backend.dtypes import (
    astype,
    conjugate,
    dtype_name,
    is_complex,
    real_part,
    unit_roundoff,
)
from ngdla._backend.fused import bounded
from ngdla._backend.implicit import with_derivatives_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import (
    add_diagonal,
    hermitian_part,
    preserved,
    real_diagonal,
    rmatvec,
)
from ngdla._backend.spectral import apart, eigh, least_gap
from ngdla._backend.tracing import derivative_where, detached, differentiable
from ngdla._backend.triangular import inverse_triangular

from .operand import HermitianOperand

__all__ = ["exact_derivatives", "trusted", "trusted_root", "without_derivatives"]


def trusted(values: Array, kept: int, source: Array, *arrays: Array) -> tuple[Array, ...]:
    """Return arrays made of the `kept` first of eigenvalues, with NaN for derivatives in doubt.

    `source`, (..., a, b), is what the eigenvalues are computed from.
    """
    if not differentiable(values):
        return arrays
    ok = apart(values, kept) & (values[..., -1] > least_gap(values)[..., 0])
    return tuple(_derivative_where(ok, x, source) for x in arrays)


def trusted_root(B: Array, L: Array) -> Array:
    """Return the root B = Y L^-H, with NaN for derivatives where L is too close to singular."""
    if not differentiable(B):
        return B
    xp = namespace(L)
    most, least = (xp.linalg.matrix_norm(x) ** 2 for x in (L, inverse_triangular(L)))
    return _derivative_where(1 / least > least_gap(most[..., None])[..., 0], B)


def exact_derivatives(
    A: HermitianOperand, values: Array, U: Array, kept: int
) -> tuple[Array, Array]:
    """Return all eigenpairs of A / unit, in descending order, with the derivatives of exact ones.

    In the basis of the eigenvectors as they are, A is diagonal but for its derivatives.
    """
    if not differentiable(values):
        return values, U
    values, U = detached(values), detached(U)
    T = hermitian_part(rmatvec(U, A.times(U)))
    complete = kept == values.shape[-1]
    ok = apart(values, kept, rest=not complete)
    values = with_derivatives_of(_eigenvalues, values, (T,))
    U = with_derivatives_of(partial(_eigenvectors, kept=kept), U, (T, U))
    return _derivative_where(ok, values, T), _derivative_where(ok, U, T)


def without_derivatives(error: Array, source: Array) -> Array:
    """Return an error that is made of roundings, whose derivatives are NaN."""
    ok = namespace(error).zeros_like(error) > 0
    return _derivative_where(ok, error, source)


def _derivative_where(ok: Array, x: Array, source: Array | None = None) -> Array:
    """Return x, (..., k) or (..., d, k) or (...), with derivatives where a flag, (...), is set."""
    xp, axes = namespace(x), (1,) * (x.ndim - ok.ndim)
    if source is not None:
        source = xp.sum(real_part(source), axis=(-2, -1))
        source = xp.reshape(source, source.shape + axes)
    return derivative_where(xp.reshape(ok, ok.shape + axes), x, source)


def _eigenvalues(T: Array) -> Array:
    values, _ = eigh(T)
    return namespace(T).flip(values, axis=-1)


def _eigenvectors(T: Array, U: Array, *, kept: int) -> Array:
    """Return U W for the eigenvectors W of an almost diagonal T, with positive diagonal.

    Eigenvalues that are not kept are moved apart by roundings: libraries divide by their gaps.
    """
    xp, u = namespace(T), unit_roundoff(dtype_name(T.dtype))
    largest = detached(xp.real(T[..., :1, 0]) if is_complex(T) else T[..., :1, 0])
    order = xp.cumulative_sum(xp.ones_like(detached(real_diagonal(T))), axis=-1)
    apart_by = 2 * u * largest * bounded(order - kept, 0.0)
    W = xp.flip(eigh(add_diagonal(preserved(T), -apart_by))[1], axis=-1)
    diagonal = detached(xp.linalg.diagonal(W))
    length = xp.abs(diagonal)
    length = xp.where(length > 0, length, xp.ones_like(length))  # of equal eigenvalues: any W
    phases = conjugate(diagonal) / astype(length, dtype_name(W.dtype))
    return xp.matmul(U, W * xp.expand_dims(phases, axis=-2))

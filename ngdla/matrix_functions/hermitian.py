"""Logarithms and roots of Hermitian matrices, by eigenvectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import all_finite, opened
from ngdla._backend.checks import square_matrix
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint
from ngdla._backend.spectral import eigh

from .positive import not_finite_or_beyond, require_positive_values

__all__ = ["hermitian_function", "inv_sqrtm_psd", "logm_psd", "sqrtm_psd"]


def logm_psd(A: Array, *, check: bool = True) -> AnyArray:
    """Return the logarithm of a Hermitian positive definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues; only one triangle is read.
    check : bool, default True
        Refuse NaN, Inf and eigenvalues that are not positive: reads one flag on the host.

    Returns
    -------
    array, shape (..., d, d)
        log(A), Hermitian.

    Raises
    ------
    TypeError
        If `A` is no floating-point array.
    ValueError
        If `A` is not square, not positive definite beyond rounding, or contains NaN or Inf.

    Notes
    -----
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product; gradients are NaN where
    eigenvalues coincide. Errors of eigenvalues are u |A|, so that log(A) has errors of
    u |A| |A^-1|.

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.allclose(logm_psd(np.diag([1.0, np.e])), np.diag([0.0, 1.0])))
    True
    """
    return _psd_function(A, lambda xp, w: xp.log(w), check=check, definite=True)


def sqrtm_psd(A: Array, *, check: bool = True) -> AnyArray:
    """Return the square root of a Hermitian positive semi-definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, without eigenvalues that are negative beyond rounding; one triangle is read.
    check : bool, default True
        Refuse NaN, Inf and negative eigenvalues: reads one flag on the host.

    Returns
    -------
    array, shape (..., d, d)
        A^(1/2), Hermitian positive semi-definite.

    Raises
    ------
    TypeError
        If `A` is no floating-point array.
    ValueError
        If `A` is not square, has negative eigenvalues, or contains NaN or Inf.

    Notes
    -----
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product; gradients are NaN where
    eigenvalues coincide. The square of the result is A up to some u |A|.

    Examples
    --------
    >>> import numpy as np
    >>> sqrtm_psd(np.diag([4.0, 0.0]))
    array([[2., 0.],
           [0., 0.]])
    """
    return _psd_function(A, lambda xp, w: xp.sqrt(w), check=check, definite=False)


def inv_sqrtm_psd(A: Array, *, check: bool = True) -> AnyArray:
    """Return the inverse square root of a Hermitian positive definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues; only one triangle is read.
    check : bool, default True
        Refuse NaN, Inf and eigenvalues that are not positive: reads one flag on the host.

    Returns
    -------
    array, shape (..., d, d)
        A^(-1/2), Hermitian positive definite.

    Raises
    ------
    TypeError
        If `A` is no floating-point array.
    ValueError
        If `A` is not square, not positive definite beyond rounding, or contains NaN or Inf.

    Notes
    -----
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product; gradients are NaN where
    eigenvalues coincide, those of `inv_sqrtm_newton_schulz` are not.

    Examples
    --------
    >>> import numpy as np
    >>> inv_sqrtm_psd(np.diag([4.0, 1.0]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    return _psd_function(A, lambda xp, w: 1 / xp.sqrt(w), check=check, definite=True)


def hermitian_function(A: Array, f: Callable[[Array], Array]) -> Array:
    """Return U diag(f(w)) U^H for Hermitian A = U diag(w) U^H."""
    w, U = eigh(A)
    return _from_eigenpairs(f(w), U)


def _psd_function(
    A: Any, f: Callable[[Any, Array], Array], *, check: bool, definite: bool
) -> Array:
    """Return U diag(f(w)) U^H for a checked A = U diag(w) U^H."""
    A = square_matrix(A, "A")
    xp = namespace(A)
    with opened(A, check) as checks:
        w, U = eigh(A)
        checks.require(lambda: all_finite(w), not_finite_or_beyond)
        require_positive_values(w, "A", checks, definite=definite)
        positive = w if definite else xp.where(w < 0, xp.zeros_like(w), w)
        return _from_eigenpairs(f(xp, positive), U)


def _from_eigenpairs(values: Array, U: Array) -> Array:
    """Return U diag(values) U^H."""
    xp = namespace(U)
    return xp.matmul(U * xp.expand_dims(values, axis=-2), adjoint(U))

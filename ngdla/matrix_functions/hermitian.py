"""Logarithms and roots of Hermitian matrices, by eigenvectors.

Derivatives do not go through eigenvectors, which have none where eigenvalues are equal: they follow
from the equation that the function solves (N. J. Higham, "Functions of Matrices", SIAM 2008,
section 3), and from the divided differences of the function, in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, all_finite, opened
from ngdla._backend.checks import square_matrix
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.general import expm
from ngdla._backend.implicit import implicit
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, hermitian_part, rmatvec
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import eigh
from ngdla._backend.tracing import detached

from .positive import not_finite_or_beyond, positive_values

__all__ = ["inv_sqrtm_psd", "inverse_square_root", "logm_psd", "sqrtm_psd"]


def logm_psd(A: Array, *, check: Check = True) -> AnyArray:
    """Return the logarithm of a Hermitian positive definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues; not tested: one triangle is read, or in JAX the mean of
        both.
    check : {True, "nan", False}
        Refuse NaN, Inf and eigenvalues that are not positive: reads one flag on the host. "nan",
        and True where values cannot be read: what is refused is NaN.

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
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product. Derivatives of any order are
    right where eigenvalues are equal too. Errors of eigenvalues are u |A|, so that log(A) has
    errors of u |A| |A^-1|.

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.allclose(logm_psd(np.diag([1.0, np.e])), np.diag([0.0, 1.0])))
    True
    """
    return _psd_function(A, LOGARITHM, check=check)


def sqrtm_psd(A: Array, *, check: Check = True) -> AnyArray:
    """Return the square root of a Hermitian positive semi-definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, without eigenvalues that are negative beyond rounding; not tested: one triangle
        is read, or in JAX the mean of both.
    check : {True, "nan", False}
        Refuse NaN, Inf and negative eigenvalues: reads one flag on the host. "nan", and True where
        values cannot be read: what is refused is NaN.

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
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product. Derivatives of any order are
    right where eigenvalues are equal too, and NaN where two are 0 up to roundings, d u |A|: the
    root of 0 has none. The square of the result is A up to some u |A|. Eigenvalues down to
    -4 u |A|_F count as 0, for the roundoff u of the dtype in which `A` came.

    Examples
    --------
    >>> import numpy as np
    >>> sqrtm_psd(np.diag([4.0, 0.0]))
    array([[2., 0.],
           [0., 0.]])
    """
    return _psd_function(A, SQUARE_ROOT, check=check)


def inv_sqrtm_psd(A: Array, *, check: Check = True) -> AnyArray:
    """Return the inverse square root of a Hermitian positive definite matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues; not tested: one triangle is read, or in JAX the mean of
        both.
    check : {True, "nan", False}
        Refuse NaN, Inf and eigenvalues that are not positive: reads one flag on the host. "nan",
        and True where values cannot be read: what is refused is NaN.

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
    By eigenvectors: about 9 d^3 flops, and 2 d^3 for the product. Derivatives of any order are
    right where eigenvalues are equal too. The relative error is some u |A| |A^-1|.

    Examples
    --------
    >>> import numpy as np
    >>> inv_sqrtm_psd(np.diag([4.0, 1.0]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    return _psd_function(A, INVERSE_SQUARE_ROOT, check=check)


def inverse_square_root(A: Array, w: Array | None = None, U: Array | None = None) -> Array:
    """Return A^(-1/2) of a Hermitian positive definite matrix, from eigenpairs where known."""
    if w is None or U is None:
        w, U = eigh(detached(A))
    return _function_of(A, w, U, INVERSE_SQUARE_ROOT)


# ------------------------------------------------------------------------------- functions


class HermitianFunction(NamedTuple):
    """A function X = f(A), by eigenvalues, and the equation R(X, A) = 0 that it solves.

    `inverse_slopes(x, y)` are the eigenvalues of the inverse of the derivative of R by X, whose
    eigenvectors are u_i u_j^H, for eigenvalues x and y of A.
    """

    of_eigenvalues: Callable[[Array], Array]
    equation: Callable[[Array, Array], Array]
    inverse_slopes: Callable[[Array, Array], Array]
    definite: bool  # it is defined for positive eigenvalues only


def _square_root(w: Array) -> Array:
    return namespace(w).sqrt(w)


def _inverse_of_root(w: Array) -> Array:
    return 1 / namespace(w).sqrt(w)


def _logarithm(w: Array) -> Array:
    return namespace(w).log(w)


def _square_is(X: Array, A: Array) -> Array:
    """Return X^2 - A."""
    return namespace(A).matmul(X, X) - A


def _inverse_of_square_is(Z: Array, A: Array) -> Array:
    """Return Z A Z - 1, up to the constant 1, which has no derivative."""
    xp = namespace(A)
    return xp.matmul(xp.matmul(Z, A), Z)


def _exponential_is(X: Array, A: Array) -> Array:
    """Return exp(X) - A."""
    return expm(X) - A


def _roots_inverse_slopes(x: Array, y: Array) -> Array:
    """Return 1 / (x^(1/2) + y^(1/2)), of E -> A^(1/2) E + E A^(1/2)."""
    xp = namespace(x)
    return 1 / (xp.sqrt(x) + xp.sqrt(y))


def _logarithm_slopes(x: Array, y: Array) -> Array:
    """Return (log x - log y) / (x - y), and 1 / x where both are equal.

    With r = (x - y) / (x + y) it is 2 artanh(r) / r / (x + y): nothing cancels for close x and y.
    """
    xp = namespace(x)
    one, near = xp.ones_like(x + y), xp.abs(x - y) < (x + y) / 2
    r = xp.where(near & (x != y), (x - y) / (x + y), one / 2)
    slope = xp.where(x == y, one, xp.atanh(r) / r) / ((x + y) / 2)
    far = (xp.log(x) - xp.log(y)) / xp.where(near, one, x - y)
    return xp.where(near, slope, far)


SQUARE_ROOT = HermitianFunction(_square_root, _square_is, _roots_inverse_slopes, definite=False)
INVERSE_SQUARE_ROOT = HermitianFunction(
    _inverse_of_root, _inverse_of_square_is, _roots_inverse_slopes, definite=True
)
LOGARITHM = HermitianFunction(_logarithm, _exponential_is, _logarithm_slopes, definite=True)


def _psd_function(A: Array, f: HermitianFunction, *, check: Check) -> Array:
    """Return f(A) of an `A` with positive eigenvalues; with zeros too if f is not `definite`."""
    A, dtype = square_matrix(A, "A"), dtype_name(A.dtype)
    with opened(A, check, nan=True) as checks:
        w, U = eigh(detached(A))
        checks.require(lambda: all_finite(w), lambda: not_finite_or_beyond(A))
        w = positive_values(w, "A", dtype, checks, definite=f.definite)
        return _function_of(A, w, U, f)


def _function_of(A: Array, w: Array, U: Array, f: HermitianFunction) -> Array:
    """Return U diag(f(w)) U^H for A = U diag(w) U^H, with the derivatives of f(A)."""
    xp = namespace(U)
    value = xp.matmul(U * xp.expand_dims(f.of_eigenvalues(w), axis=-2), adjoint(U))
    equation = partial(_of_hermitian_part, f.equation)
    return implicit(equation, _divided, value, lambda: (U, _slopes(w, f)), (A,))


def _of_hermitian_part(equation: Callable[[Array, Array], Array], X: Array, A: Array) -> Array:
    return equation(X, hermitian_part(A))


def _slopes(w: Array, f: HermitianFunction) -> Array:
    """Return the inverse slopes of all pairs, (..., d, d).

    Those of two eigenvalues that are 0 up to roundings are NaN: a root has no derivative there.
    """
    xp = namespace(w)
    x, y = xp.expand_dims(w, axis=-1), xp.expand_dims(w, axis=-2)
    rounding = w.shape[-1] * unit_roundoff(dtype_name(w.dtype)) * xp.max(w, axis=-1)
    known = xp.maximum(x, y) > expanded(rounding, 2)
    slopes = f.inverse_slopes(x, y)
    return xp.where(known, slopes, xp.full_like(slopes, xp.nan))


def _divided(B: Array, U: Array, slopes: Array) -> Array:
    """Return U (slopes o U^H B U) U^H."""
    xp = namespace(B)
    inside = slopes * xp.matmul(rmatvec(U, B), U)
    return xp.matmul(xp.matmul(U, inside), adjoint(U))

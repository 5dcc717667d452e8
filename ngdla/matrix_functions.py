"""Exponentials, logarithms and roots of matrices, by eigenvectors or by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

from ._backend import general
from ._backend.checks import ValueChecks, all_finite, require_array, require_count
from ._backend.general import expm1_series
from ._backend.namespace import (
    Array,
    as_array,
    astype,
    computing,
    dtype_name,
    namespace,
    result_name,
    unit_roundoff,
)
from ._backend.products import add_to_diagonal, adjoint
from ._backend.spectral import eigh
from ._backend.tracing import choose_if_free
from .vectors import expanded

__all__ = [
    "InverseRoot",
    "SeriesResult",
    "expm",
    "expm_series",
    "hermitian_function",
    "inv_sqrtm_newton_schulz",
    "inv_sqrtm_psd",
    "logm_psd",
    "spectral_radius_bound",
    "sqrtm_psd",
]


class SeriesResult(NamedTuple):
    """A truncated exponential series, and what it leaves out.

    Attributes
    ----------
    value : array, shape (..., d, d)
        The sum of the first terms.
    remainder_bound : array, shape (...), real
        A bound on the Frobenius norm of all terms left out; Inf where that is beyond the dtype.
    """

    value: Array
    remainder_bound: Array


class InverseRoot(NamedTuple):
    """An inverse square root found by iteration, and how far it got.

    Attributes
    ----------
    value : array, shape (..., d, d)
        Z, close to A^(-1/2).
    residual_norm : array, shape (...), real
        |I - Y Z|_F / sqrt(d), where Y is the square root found along with Z: some u sqrt(|A|
        |A^-1|) once the iteration has converged.
    """

    value: Array
    residual_norm: Array


def expm(A: Array, *, check: bool = True) -> Array:
    """Return the exponential of a square matrix.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Any square matrices.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host.

    Returns
    -------
    array, shape (..., d, d)
        exp(A).

    Raises
    ------
    TypeError
        If `A` is no floating-point array.
    ValueError
        If `A` is not square, or contains NaN or Inf, or exp(A) is beyond its dtype.

    Notes
    -----
    By the function of the library itself: `torch.linalg.matrix_exp`, `jax.scipy.linalg.expm`,
    CuPy's (one matrix at a time, one host read each); for NumPy by a series and squarings of
    exp - 1, 2 (13 + log2 |A|) d^3 flops. Precision: some
    u max(1, |A|), but 1e-11 by torch in float64 (torch 2.13).

    References
    ----------
    N. J. Higham, "The scaling and squaring method for the matrix exponential revisited", SIAM J.
    Matrix Anal. Appl. 26 (2005) 1179.

    Examples
    --------
    >>> import numpy as np
    >>> expm(np.array([[0.0, 1.0], [0.0, 0.0]]))
    array([[1., 1.],
           [0., 1.]])
    """
    return _function(A, general.expm, check=check)


def expm_series(
    A: Array, order: int, *, check: bool = True, full_output: bool = False
) -> Array | SeriesResult:
    """Return the truncated exponential series I + A + A^2 / 2 + ... + A^p / p!.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Any square matrices.
    order : int
        p, 0 or more.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host.
    full_output : bool, default False
        Return the bound as well.

    Returns
    -------
    array, shape (..., d, d), or SeriesResult
        The sum; with `full_output`, the sum and a bound on the rest.

    Raises
    ------
    TypeError
        If `A` is no floating-point array, or `order` no integer.
    ValueError
        If `A` is not square, `order` is negative, or NaN or Inf is found.

    Notes
    -----
    Cost: 2 (p - 1) d^3 flops. With q = |A|_F, what is left out has a norm of at most
    q^(p+1) / (p+1)! / (1 - q / (p+2)) where q < p + 2, and of exp(q) in any case.

    Examples
    --------
    >>> import numpy as np
    >>> value, bound = expm_series(0.1 * np.eye(2), 3, full_output=True)
    >>> bool(np.linalg.norm(value - np.exp(0.1) * np.eye(2)) <= bound)
    True
    """
    require_count(order, "order")
    p = int(order)

    def series(A: Array) -> Array:
        terms = expm1_series(A, p, namespace(A).matmul) if p else namespace(A).zeros_like(A)
        return add_to_diagonal(terms, 1.0)

    value = _function(A, series, check=check)
    return SeriesResult(value, _remainder_bound(A, p)) if full_output else value


def logm_psd(A: Array, *, check: bool = True) -> Array:
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
    eigenvalues coincide. Errors of eigenvalues, u |A|,
    are relative to |A|: log(A) loses u |A| |A^-1|.

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.allclose(logm_psd(np.diag([1.0, np.e])), np.diag([0.0, 1.0])))
    True
    """
    return _psd_function(A, lambda xp, w: xp.log(w), check=check, definite=True)


def sqrtm_psd(A: Array, *, check: bool = True) -> Array:
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
    eigenvalues coincide. The square of the result is A up
    to some u |A|.

    Examples
    --------
    >>> import numpy as np
    >>> sqrtm_psd(np.diag([4.0, 0.0]))
    array([[2., 0.],
           [0., 0.]])
    """
    return _psd_function(A, lambda xp, w: xp.sqrt(w), check=check, definite=False)


def inv_sqrtm_psd(A: Array, *, check: bool = True) -> Array:
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


def inv_sqrtm_newton_schulz(
    A: Array, iterations: int, *, check: bool = True, full_output: bool = False
) -> Array | InverseRoot:
    """Return the inverse square root of a Hermitian positive definite matrix, by products alone.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues.
    iterations : int
        How many, 1 or more. From |A|_F |A^-1| = c, about 1.7 log2(c) + 5 reach double precision.
    check : bool, default True
        Refuse NaN and Inf, and what does not converge: reads one flag on the host.
    full_output : bool, default False
        Return the residual as well, and refuse only NaN and Inf.

    Returns
    -------
    array, shape (..., d, d), or InverseRoot
        Z, close to A^(-1/2); with `full_output`, Z and the residual.

    Raises
    ------
    TypeError
        If `A` is no floating-point array, or `iterations` no integer.
    ValueError
        If `A` is not square, `iterations` is less than 1, NaN or Inf is found, or the residual is
        not below 0.1: too few iterations, or `A` is not positive definite.

    Notes
    -----
    The coupled iteration T = (3 I - Z Y) / 2, Y = Y T, Z = T Z, from Y = A / |A|_F and Z = I.
    Each costs 6 d^3 flops in products, for processors on which those run much faster than an
    eigendecomposition. Precision: u |A|_F |A^-1|.

    References
    ----------
    N. J. Higham, "Functions of Matrices", SIAM 2008, equation (6.35).

    Examples
    --------
    >>> import numpy as np
    >>> Z = inv_sqrtm_newton_schulz(np.diag([4.0, 1.0]), 12)
    >>> bool(np.allclose(Z, np.diag([0.5, 1.0])))
    True
    """
    require_count(iterations, "iterations")
    if iterations < 1:
        msg = f"`iterations` is {iterations}; it must be 1 or more."
        raise ValueError(msg)
    A = _square(A)
    xp, d = namespace(A), A.shape[-1]
    checks = ValueChecks(enabled=check)
    with computing(xp):
        norm = expanded(_norm(A), 2)
        Y = A / norm
        Z = add_to_diagonal(xp.zeros_like(A), 1.0)
        for _ in range(int(iterations)):
            T = add_to_diagonal(-0.5 * xp.matmul(Z, Y), 1.5)
            Y, Z = xp.matmul(Y, T), xp.matmul(T, Z)
        residual = _norm(add_to_diagonal(-xp.matmul(Y, Z), 1.0)) / math.sqrt(d)
        value = Z / xp.sqrt(norm)
        checks.require(lambda: all_finite(norm), _not_finite)
        if not full_output:
            checks.require(lambda: residual < 0.1, lambda: _unconverged(iterations, residual))
        checks.raise_on_failure()
    return InverseRoot(value, residual) if full_output else value


def hermitian_function(A: Array, f: Callable[[Array], Array]) -> Array:
    """Return U diag(f(w)) U^H for Hermitian A = U diag(w) U^H."""
    w, U = eigh(A)
    return _with_values(f(w), U)


def spectral_radius_bound(A: Array, *, sufficient: Any = None) -> Array:
    """Return |A^8|_F^(1/8), (...), a bound on the modulus of all eigenvalues of A.

    For Hermitian A of rank r it is at most r^(1/16) times too large. Where |A|_F is not above
    `sufficient` it may be returned instead. Cost: 6 d^3 flops, or one pass.
    """
    norm = _norm(A)
    if sufficient is None:
        return _norm_of_power(A, norm)
    flag = namespace(A).all(norm <= sufficient)
    return choose_if_free(flag, lambda: norm, lambda: _norm_of_power(A, norm))


def _norm_of_power(A: Array, norm: Array, squarings: int = 3) -> Array:
    """Return |A^(2^s)|_F^(1 / 2^s) from |A|_F, normalising each square."""
    xp, bound, power = namespace(A), norm, 0.5
    for _ in range(squarings):
        A = A / expanded(xp.where(norm > 0, norm, xp.ones_like(norm)), 2)
        A = xp.matmul(A, A)
        norm = _norm(A)
        bound, power = bound * norm**power, power / 2
    return bound


# -------------------------------------------------------------------------------- helpers


def _square(A: Any) -> Array:
    require_array(A, "A", ndim=2, blocks=False)
    if A.shape[-1] != A.shape[-2]:
        msg = f"`A` has shape {tuple(A.shape)}; it must be square, (..., d, d)."
        raise ValueError(msg)
    return astype(A, result_name(dtype_name(A.dtype)))


def _norm(A: Array) -> Array:
    return as_array(namespace(A).linalg.matrix_norm(A))


def _function(A: Any, function: Callable[[Array], Array], *, check: bool) -> Array:
    A = _square(A)
    checks = ValueChecks(enabled=check)
    with computing(namespace(A)):
        value = function(A)
        size = _norm(value)
        checks.require(lambda: all_finite(size), _not_finite)
        checks.raise_on_failure()
    return value


def _psd_function(
    A: Any, f: Callable[[Any, Array], Array], *, check: bool, definite: bool
) -> Array:
    A = _square(A)
    xp, checks = namespace(A), ValueChecks(enabled=check)
    with computing(xp):
        w, U = eigh(A)
        rounding = A.shape[-1] * unit_roundoff(dtype_name(A.dtype)) * w[..., -1]
        least = w[..., 0]
        checks.require(lambda: all_finite(w), _not_finite)
        checks.require(
            lambda: least > rounding if definite else least >= -rounding,
            lambda: _not_positive(least, definite),
        )
        value = _with_values(f(xp, w if definite else xp.where(w < 0, xp.zeros_like(w), w)), U)
        checks.raise_on_failure()
    return value


def _with_values(values: Array, U: Array) -> Array:
    xp = namespace(U)
    return xp.matmul(U * xp.expand_dims(values, axis=-2), adjoint(U))


def _remainder_bound(A: Array, p: int) -> Array:
    """Return a bound on sum_{j > p} q^j / j! for q = |A|_F."""
    A = _square(A)
    xp = namespace(A)
    with computing(xp):
        q = _norm(A)
        first = reduce(lambda term, j: term * (q / j), range(1, p + 2), xp.ones_like(q))
        ratio = q / (p + 2)
        usual = ratio < 1
        geometric = first / (1 - xp.where(usual, ratio, xp.zeros_like(ratio)))
        return xp.where(usual & (geometric < xp.exp(q)), geometric, xp.exp(q))


def _not_finite() -> Exception:
    msg = "`A` contains NaN or Inf, or the result is beyond its dtype; pass finite values."
    return ValueError(msg)


def _not_positive(least: Array, definite: bool) -> Exception:
    kind, zero = ("definite", "") if definite else ("semi-definite", ", or clip its eigenvalues")
    msg = (
        f"`A` is not positive {kind}: its smallest eigenvalue is "
        f"{float(namespace(least).min(least)):.2e}, not positive beyond rounding. Pass A plus a "
        f"multiple of the identity{zero}."
    )
    return ValueError(msg)


def _unconverged(iterations: int, residual: Array) -> Exception:
    msg = (
        f"`iterations` is {iterations}, after which |I - Y Z| / sqrt(d) is still "
        f"{float(namespace(residual).max(residual)):.2e}: raise it, or pass a positive definite `A`"
        f"; full_output=True returns the residual instead."
    )
    return ValueError(msg)

"""Exponentials of matrices, and inverse roots by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

from ._backend import general
from ._backend.checks import ValueChecks, all_finite, require_count, square_matrix
from ._backend.general import expm1_series
from ._backend.namespace import Array, as_array, namespace
from ._backend.products import add_to_diagonal
from ._backend.settings import computing
from .vectors import expanded

__all__ = ["InverseRoot", "SeriesResult", "expm", "expm_series", "inv_sqrtm_newton_schulz"]


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
    u max(1, |A|), but up to 2e-11 by torch in float64 for |A| of 0.01 to 0.06 (torch 2.13).

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
    require_count(iterations, "iterations", least=1)
    A = square_matrix(A, "A")
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


# -------------------------------------------------------------------------------- helpers


def _norm(A: Array) -> Array:
    return as_array(namespace(A).linalg.matrix_norm(A))


def _function(A: Any, function: Callable[[Array], Array], *, check: bool) -> Array:
    A = square_matrix(A, "A")
    checks = ValueChecks(enabled=check)
    with computing(namespace(A)):
        value = function(A)
        size = _norm(value)
        checks.require(lambda: all_finite(size), _not_finite)
        checks.raise_on_failure()
    return value


def _remainder_bound(A: Array, p: int) -> Array:
    """Return a bound on sum_{j > p} q^j / j! for q = |A|_F."""
    A = square_matrix(A, "A")
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


def _unconverged(iterations: int, residual: Array) -> Exception:
    msg = (
        f"`iterations` is {iterations}, after which |I - Y Z| / sqrt(d) is still "
        f"{float(namespace(residual).max(residual)):.2e}: raise it, or pass a positive definite `A`"
        f"; full_output=True returns the residual instead."
    )
    return ValueError(msg)

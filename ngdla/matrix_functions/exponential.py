"""Exponentials of matrices, and their truncated series."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

from ngdla._backend import general
from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, all_finite, opened
from ngdla._backend.checks import require_count, require_flag, square_matrix
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.general import expm1_series
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.products import add_to_diagonal

from .positive import not_finite_or_beyond

__all__ = ["SeriesResult", "expm", "expm_series"]


class SeriesResult(NamedTuple):
    """A truncated exponential series, and what it leaves out.

    Attributes
    ----------
    value : array, shape (..., d, d)
        The sum of the first terms.
    remainder_bound : array, shape (...), real
        A bound on the Frobenius norm of all terms left out; Inf where that is beyond the dtype.
    """

    value: AnyArray
    remainder_bound: AnyArray


def expm(A: Array, *, check: bool = True) -> AnyArray:
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
    Method: exp(A) = e^mu exp(A - mu I), mu the mean of the diagonal where that makes the norm
    smaller; s squarings of 16 terms of the series for a matrix of norm 1/2 or less, on every
    library. The host reads s; inside `jax.jit`, `jax.vmap` and `torch.vmap` it cannot, and what
    needs more than 25 squarings (float32; 54 in float64, |A - mu I|_F > 1 / u) is NaN.
    Cost: 2 (6 + s) d^3 flops, s = 1 + log2 |A - mu I|_F, for d x d matrices; what is mapped by
    `jax.vmap` or `torch.vmap` makes all 25 or 54.
    Precision: some u max(1, |A|_F) relative to |exp(A)|_F, derivatives too.

    References
    ----------
    C. Moler and C. Van Loan, "Nineteen dubious ways to compute the exponential of a matrix,
    twenty-five years later", SIAM Rev. 45 (2003) 3, method 3.

    Examples
    --------
    >>> import numpy as np
    >>> expm(np.array([[0.0, 1.0], [0.0, 0.0]]))
    array([[1., 1.],
           [0., 1.]])
    """
    A = square_matrix(A, "A")
    with opened(A, check) as checks:
        value = general.expm(A)
        _require_finite(value, checks)
        return value


@overload
def expm_series(
    A: Array, order: int, *, check: bool = True, full_output: Literal[True]
) -> SeriesResult: ...
@overload
def expm_series(A: Array, order: int, *, check: bool = True, full_output: bool = False) -> Any: ...
def expm_series(A: Array, order: int, *, check: bool = True, full_output: bool = False) -> Any:
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
    require_flag(full_output, "full_output")
    A, p = square_matrix(A, "A"), int(order)
    with opened(A, check) as checks:
        # A + A^2 / 2 + ... + A^p / p!
        terms = expm1_series(A, p, namespace(A).matmul) if p else namespace(A).zeros_like(A)
        value = add_to_diagonal(terms, 1.0)
        _require_finite(value, checks)
        return SeriesResult(value, _remainder_bound(A, p)) if full_output else value


# -------------------------------------------------------------------------------- helpers


def _require_finite(value: Array, checks: ValueChecks) -> None:
    """Require a function of A to be finite."""
    checks.require(lambda: all_finite(value), lambda: not_finite_or_beyond(value))


def _remainder_bound(A: Array, p: int) -> Array:
    """Return a bound on sum_{j > p} q^j / j! for q = |A|_F: at most exp(q), Inf if that is.

    By logarithms: q^(p+1) or (p+1)! may leave the range where their ratio does not.
    """
    xp, q = namespace(A), frobenius_norm(A)
    zero = q == 0
    power = (p + 1) * xp.log(xp.where(zero, xp.ones_like(q), q))
    factorial, ratio = math.lgamma(p + 2), q / (p + 2)
    usual = ratio < 1
    # log of q^(p+1) / (p+1)! / (1 - q / (p+2))
    geometric = power - factorial - xp.log1p(-xp.where(usual, ratio, xp.zeros_like(ratio)))
    log = xp.where(usual & (geometric < q), geometric, q)
    rounding = 4 * unit_roundoff(dtype_name(q.dtype)) * (xp.abs(power) + factorial + 1)
    return xp.where(zero, xp.zeros_like(q), xp.exp(log + rounding))

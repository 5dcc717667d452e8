"""Inverse roots of matrices by products alone."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import all_finite, opened
from ngdla._backend.checks import require_count, require_flag, square_matrix
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.powers import power_of_two
from ngdla._backend.products import add_to_diagonal
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import largest_number

from .positive import not_finite_or_beyond

__all__ = ["InverseRoot", "inv_sqrtm_newton_schulz"]


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

    value: AnyArray
    residual_norm: AnyArray


@overload
def inv_sqrtm_newton_schulz(
    A: Array, iterations: int, *, check: bool = True, full_output: Literal[True]
) -> InverseRoot: ...
@overload
def inv_sqrtm_newton_schulz(
    A: Array, iterations: int, *, check: bool = True, full_output: bool = False
) -> Any: ...
def inv_sqrtm_newton_schulz(
    A: Array, iterations: int, *, check: bool = True, full_output: bool = False
) -> Any:
    """Return the inverse square root of a Hermitian positive definite matrix, by products alone.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian, of positive eigenvalues.
    iterations : int
        How many, 1 or more. From |A|_F |A^-1| = c, about 1.7 log2(c) + 5 are needed. No number
        helps where c is beyond 1 / u: 46 are the most that are of use in float32, 96 in float64.
    check : bool, default True
        Refuse NaN and Inf, and what does not converge: reads one flag on the host. Where values
        cannot be read, what does not converge is NaN.
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
        If `A` is not square, `iterations` is less than 1, NaN or Inf is found, or |I - Y Z|_F is
        not below 0.1: too few iterations, or `A` is singular to the precision of its dtype or not
        positive definite. The message says which.

    Notes
    -----
    The coupled iteration T = (3 I - Z Y) / 2, Y = Y T, Z = T Z, from Y = A / |A|_F and Z = I.
    Each costs 6 d^3 flops in products, for processors on which those run much faster than an
    eigendecomposition. A may be of any scale. Precision: u |A|_F |A^-1|, u = 6e-8 in float32 and
    1e-16 in float64: half of the digits are lost where |A|_F |A^-1| is 1 / sqrt(u).

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
    require_flag(full_output, "full_output")
    A = square_matrix(A, "A")
    with opened(A, check) as checks:
        value, residual = _iterate(A, int(iterations))
        checks.require(lambda: all_finite(A), lambda: not_finite_or_beyond(A))
        if full_output:
            return InverseRoot(value, residual)
        converged = _converged(A, residual)
        checks.require(lambda: converged, lambda: _not_converged(A, int(iterations), residual))
        return checks.or_nan(lambda: converged, value)


def _iterate(A: Array, iterations: int) -> tuple[Array, Array]:
    """Return the iterate Z close to A^(-1/2), and its residual."""
    xp, d = namespace(A), A.shape[-1]
    unit = power_of_two(xp.max(xp.abs(A), axis=(-2, -1)))  # norms of A itself may overflow
    A = A * expanded(1 / unit, 2)
    norm = frobenius_norm(A)
    Y = A / expanded(norm, 2)
    Z = add_to_diagonal(xp.zeros_like(A), 1.0)
    for _ in range(iterations):
        T = add_to_diagonal(-0.5 * xp.matmul(Z, Y), 1.5)  # (3 I - Z Y) / 2
        Y, Z = xp.matmul(Y, T), xp.matmul(T, Z)
    residual = frobenius_norm(add_to_diagonal(-xp.matmul(Y, Z), 1.0)) / math.sqrt(d)
    return Z / expanded(xp.sqrt(norm) * xp.sqrt(unit), 2), residual


def _converged(A: Array, residual: Array) -> Array:
    """Tell by |I - Y Z|_F, in which one eigenvalue that is missing counts, however many are not."""
    return residual * math.sqrt(A.shape[-1]) < 0.1


def _not_converged(A: Array, iterations: int, residual: Array) -> Exception:
    """Return the error of an iteration that did not reach a small residual.

    Iterations that are of use are made to see whether they help: residuals fall unseen while
    an eigenvalue is small.
    """
    dtype = dtype_name(A.dtype)
    most = math.ceil(5 - 1.7 * math.log2(unit_roundoff(dtype)))
    reached = f"|I - Y Z| / sqrt(d) is {largest_number(residual):.2e} after {iterations} iterations"
    converged = iterations < most and namespace(A).all(_converged(A, _iterate(A, most)[1]))
    if converged:
        msg = f"{reached}: raise `iterations`, up to {most} are of use in {dtype}"
    else:
        msg = (
            f"`A` is singular, or not positive definite, to the precision of {dtype}: {reached}, "
            f"and more do not help. Pass A plus a multiple of the identity"
        )
    return ValueError(f"{msg}; full_output=True returns the residual instead.")

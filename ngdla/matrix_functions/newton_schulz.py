"""Inverse roots of matrices by products alone."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import all_finite, opened
from ngdla._backend.checks import require_count, require_flag, square_matrix
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_to_diagonal, frobenius_norm
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
    require_flag(full_output, "full_output")
    A = square_matrix(A, "A")
    with opened(A, check) as checks:
        norm, value, residual = _iterate(A, int(iterations))
        checks.require(lambda: all_finite(norm), not_finite_or_beyond)
        if full_output:
            return InverseRoot(value, residual)
        checks.require(lambda: residual < 0.1, lambda: _not_converged(iterations, residual))
        return value


def _iterate(A: Array, iterations: int) -> tuple[Array, Array, Array]:
    """Return |A|_F, (..., 1, 1), the iterate Z close to A^(-1/2), and its residual."""
    xp, d = namespace(A), A.shape[-1]
    norm = expanded(frobenius_norm(A), 2)
    Y = A / norm
    Z = add_to_diagonal(xp.zeros_like(A), 1.0)
    for _ in range(iterations):
        T = add_to_diagonal(-0.5 * xp.matmul(Z, Y), 1.5)  # (3 I - Z Y) / 2
        Y, Z = xp.matmul(Y, T), xp.matmul(T, Z)
    residual = frobenius_norm(add_to_diagonal(-xp.matmul(Y, Z), 1.0)) / math.sqrt(d)
    return norm, Z / xp.sqrt(norm), residual


def _not_converged(iterations: int, residual: Array) -> Exception:
    """Return the error of an iteration that did not reach a small residual."""
    msg = (
        f"`iterations` is {iterations}, after which |I - Y Z| / sqrt(d) is still "
        f"{largest_number(residual):.2e}: raise it, or pass a positive definite `A`"
        f"; full_output=True returns the residual instead."
    )
    return ValueError(msg)

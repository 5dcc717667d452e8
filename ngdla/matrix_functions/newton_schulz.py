"""Inverse roots of matrices by products alone."""

from __future__ import annotations

import math
from typing import NamedTuple

from ngdla._backend.checks import ValueChecks, all_finite, require_count, square_matrix
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_to_diagonal, frobenius_norm
from ngdla._backend.settings import library_settings
from ngdla._backend.shapes import expanded

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

    value: Array
    residual_norm: Array


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
    with library_settings(xp):
        norm = expanded(frobenius_norm(A), 2)
        Y = A / norm
        Z = add_to_diagonal(xp.zeros_like(A), 1.0)
        for _ in range(int(iterations)):
            T = add_to_diagonal(-0.5 * xp.matmul(Z, Y), 1.5)
            Y, Z = xp.matmul(Y, T), xp.matmul(T, Z)
        residual = frobenius_norm(add_to_diagonal(-xp.matmul(Y, Z), 1.0)) / math.sqrt(d)
        value = Z / xp.sqrt(norm)
        checks.require(lambda: all_finite(norm), not_finite_or_beyond)
        if not full_output:
            checks.require(lambda: residual < 0.1, lambda: _unconverged(iterations, residual))
        checks.read()
    return InverseRoot(value, residual) if full_output else value


def _unconverged(iterations: int, residual: Array) -> Exception:
    msg = (
        f"`iterations` is {iterations}, after which |I - Y Z| / sqrt(d) is still "
        f"{float(namespace(residual).max(residual)):.2e}: raise it, or pass a positive definite `A`"
        f"; full_output=True returns the residual instead."
    )
    return ValueError(msg)

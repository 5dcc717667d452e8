"""Bounds on the modulus of all eigenvalues."""

from __future__ import annotations

from typing import Any

from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import frobenius_norm
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free

__all__ = ["spectral_radius_bound"]


def spectral_radius_bound(A: Array, *, sufficient: Any = None) -> Array:
    """Return |A^8|_F^(1/8), (...), a bound on the modulus of all eigenvalues of A.

    For Hermitian A of rank r it is at most r^(1/16) times too large. Where |A|_F is not above
    `sufficient` it may be returned instead. Cost: 6 d^3 flops, or one pass.
    """
    norm = frobenius_norm(A)
    if sufficient is None:
        return _norm_of_power(A, norm)
    flag = namespace(A).all(norm <= sufficient)
    return choose_if_free(flag, lambda: norm, lambda: _norm_of_power(A, norm))


def _norm_of_power(A: Array, norm: Array, squarings: int = 3) -> Array:
    """Return |A^(2^s)|_F^(1 / 2^s) from |A|_F, normalising each square."""
    xp, bound, power = namespace(A), norm, 0.5
    for _ in range(squarings):
        zero = norm == 0
        A = A / expanded(xp.where(zero, xp.ones_like(norm), norm), 2)
        A = xp.matmul(A, A)
        norm = frobenius_norm(A)
        zero = norm == 0  # of a power of a nilpotent A, where roots have no slope
        root = xp.where(zero, xp.ones_like(norm), norm) ** power
        bound, power = bound * xp.where(zero, xp.zeros_like(root), root), power / 2
    return bound

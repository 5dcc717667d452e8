"""Bounds on the modulus of all eigenvalues."""

from __future__ import annotations

from typing import Any

from ngdla._backend.fused import all_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free, known_to_be

__all__ = ["spectral_radius_bound"]


def spectral_radius_bound(A: Array, *, sufficient: Any = None) -> Array:
    """Return |A^8|_F^(1/8), (...), a bound on the modulus of all eigenvalues of A.

    For Hermitian A of rank r it is at most r^(1/16) times too large. The first of |A|_F,
    |A^2|_F^(1/2) and |A^4|_F^(1/4) that is not above `sufficient` may be returned instead. Cost:
    6 d^3 flops, or 2 d^3 for each square, or one pass.
    """
    norm = frobenius_norm(A)
    if sufficient is None:
        return _norm_of_power(A, norm, None)
    flag = all_of(norm <= sufficient)
    return choose_if_free(flag, lambda: norm, lambda: _norm_of_power(A, norm, sufficient))


def _norm_of_power(A: Array, norm: Array, sufficient: Any, squarings: int = 3) -> Array:
    """Return |A^(2^s)|_F^(1 / 2^s) from |A|_F, normalising each square."""
    xp, bound, power = namespace(A), norm, 0.5
    for i in range(squarings):
        if i and sufficient is not None and known_to_be(bound <= sufficient):
            break
        zero = norm == 0
        A = A / expanded(xp.where(zero, xp.ones_like(norm), norm), 2)
        A = xp.matmul(A, A)
        norm = frobenius_norm(A)
        zero = norm == 0  # of a power of a nilpotent A, where roots have no slope
        root = xp.where(zero, xp.ones_like(norm), norm) ** power
        bound, power = bound * xp.where(zero, xp.zeros_like(root), root), power / 2
    return bound

"""Bounds on the modulus of all eigenvalues."""

from __future__ import annotations

from typing import Any

from ngdla._backend.fused import all_of, in_one_kernel
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free, free_to_read, known_to_be

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
    bound, power = norm, 0.5
    looks = sufficient is not None and free_to_read(norm)
    for i in range(squarings):
        if i and looks and known_to_be(bound <= sufficient):
            break
        A = in_one_kernel(_divided, A, expanded(norm, 2))
        A = namespace(A).matmul(A, A)
        norm = frobenius_norm(A)
        bound, power = in_one_kernel(_times_root, bound, norm, power), power / 2
    return bound


def _divided(xp: Any, A: Any, norm: Any) -> Any:
    """Return A over its norm, or 0 as it is."""
    return A / xp.where(norm == 0, 1.0, norm)


def _times_root(xp: Any, bound: Any, norm: Any, power: float) -> Any:
    """Return bound norm^power, 0 of a power of a nilpotent A, where roots have no slope."""
    zero = norm == 0
    return bound * xp.where(zero, 0.0, xp.where(zero, 1.0, norm) ** power)

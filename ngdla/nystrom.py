"""The Nystrom approximation of a positive semi-definite matrix from one product."""

from __future__ import annotations

from typing import NamedTuple

from ._backend.namespace import Array, namespace
from ._backend.products import adjoint, rmatvec
from ._backend.triangular import cholesky, solve_triangular
from .vectors import expanded

__all__ = [
    "LEAST_SHIFT",
    "SHIFT",
    "NystromRoot",
    "nystrom_root",
    "positive_shift",
    "stabilising_shift",
]

SHIFT = 4.0  # in roundings
LEAST_SHIFT = 2.0**-56  # where A is zero: squares of it are normal in float32


class NystromRoot(NamedTuple):
    """B, (..., d, l), with B B^H the approximation of A + shift, (...).

    `core` is Omega^H (A + shift) Omega as it was computed, (..., l, l), L its Cholesky factor, and
    `ok` says whether that exists.
    """

    B: Array
    core: Array
    L: Array
    shift: Array
    ok: Array


def nystrom_root(omega: Array, Y: Array, roundoff: float) -> NystromRoot:
    """Return the root of the approximation from Y = A Omega, with columns of norm 1 in Omega.

    B B^H = (A + shift) Omega (Omega^H (A + shift) Omega)^-1 Omega^H (A + shift) is the largest
    positive semi-definite matrix below A + shift with that range. The shift, at the level of the
    roundings of Y, keeps the Cholesky factor from failing: algorithm 3 of J. A. Tropp et al.,
    "Fixed-rank approximation of a positive-semidefinite matrix from streaming data", NIPS 2017,
    arXiv:1706.05736. `roundoff` is that of the product with A.

    By a triangular solve: with the inverse of L, whose condition is (4 u)^-1/2 where A has lower
    rank, B B^H would exceed A + shift by up to thousands of shifts.
    """
    shift = stabilising_shift(Y, roundoff)
    shifted = Y + expanded(shift, 2) * omega
    core = rmatvec(omega, shifted)
    L, ok = cholesky((core + adjoint(core)) / 2)
    B = adjoint(solve_triangular(L, adjoint(shifted)))
    return NystromRoot(B, core, L, shift, ok)


def stabilising_shift(Y: Array, roundoff: float) -> Array:
    """Return 4 u |Y|_F, (...), or a tiny number where Y is zero."""
    return positive_shift(SHIFT * roundoff * namespace(Y).linalg.matrix_norm(Y))


def positive_shift(shift: Array) -> Array:
    """Return the shift, or a tiny number where it is zero."""
    xp = namespace(shift)
    return xp.where(shift > 0, shift, xp.full_like(shift, LEAST_SHIFT))

"""The Nystrom approximation of a positive semi-definite matrix from one product."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ngdla._backend.fused import all_of, filled, plus_multiple, plus_product
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, rmatvec
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free
from ngdla._backend.triangular import cholesky, inverse_triangular

from .cholesky_qr import column_gram

__all__ = [
    "LEAST_SHIFT",
    "SHIFT",
    "NystromRoot",
    "nystrom_root",
    "positive_shift",
    "stabilising_shift",
]

SHIFT = 4.0  # in roundings
_Factored = tuple[Array, Array, Array]
LEAST_SHIFT = 2.0**-24  # where A is zero: roundings of squares of it are normal in float32


class NystromRoot(NamedTuple):
    """B, (..., d, l), with B B^H the approximation of A + shift, (...).

    `core` is Omega^H A Omega as it was computed, (..., l, l), `overlap` Omega^H Omega, L the
    Cholesky factor of Omega^H (A + shift) Omega, and `ok` says whether that exists. `size` is
    |A Omega|_F, (...).
    """

    B: Array
    core: Array
    overlap: Array
    L: Array
    shift: Array
    ok: Array
    size: Array


def nystrom_root(omega: Array, Y: Array, roundoff: Any, rounded: float = 1.0) -> NystromRoot:
    """Return the root of the approximation from Y = A Omega, with columns of norm 1 in Omega.

    B B^H = (A + shift) Omega (Omega^H (A + shift) Omega)^-1 Omega^H (A + shift) is the largest
    positive semi-definite matrix below A + shift with that range. The shift, at the level of the
    roundings of Y, keeps the Cholesky factor from failing: algorithm 3 of J. A. Tropp et al.,
    "Fixed-rank approximation of a positive-semidefinite matrix from streaming data", NIPS 2017,
    arXiv:1706.05736. `roundoff` is that of the product with A, a number or an array (...).

    Where a factor does not exist, the shift grows to what sums of d terms may err by: sqrt(d)
    roundings, then d, as they do for terms of one sign, then parts of what A itself was
    `rounded` by, in roundings of products. The product with the inverse of L is
    corrected once, since B B^H would exceed A + shift by up to thousands of shifts otherwise.
    """
    xp, d = namespace(Y), Y.shape[-2]
    core, overlap = rmatvec(omega, Y), column_gram(omega)
    size = xp.linalg.matrix_norm(Y)
    least = positive_shift(SHIFT * roundoff * size)
    factored = _factor(core, overlap, least)
    stored = [part * rounded for part in (1 / 16, 1 / 4, 1.0)]
    for roundings in (math.sqrt(d), float(d), *(r for r in stored if r > d)):
        factored = _factored_again(factored, core, overlap, least * roundings)
    L, ok, shift = factored
    inverse, shifted = adjoint(inverse_triangular(L)), plus_multiple(Y, expanded(shift, 2), omega)
    B = xp.matmul(shifted, inverse)
    B = plus_product(B, plus_product(shifted, B, adjoint(L), -1.0), inverse)
    return NystromRoot(B, core, overlap, L, shift, ok, size)


def _factor(core: Array, overlap: Array, shift: Array) -> _Factored:
    """Return the Cholesky factor of core + shift * overlap, whether it exists, and the shift."""
    shifted = plus_multiple(core, expanded(shift, 2), overlap)
    return *cholesky((shifted + adjoint(shifted)) / 2), shift


def _factored_again(factored: _Factored, core: Array, overlap: Array, shift: Array) -> _Factored:
    """Return what there is, or where it failed what another shift gives."""
    _, ok, before = factored

    def again() -> _Factored:
        return _factor(core, overlap, namespace(core).where(ok, before, shift))

    return choose_if_free(all_of(ok), lambda: factored, again)


def stabilising_shift(Y: Array, roundoff: Any) -> Array:
    """Return 4 u |Y|_F, (...), or a tiny number where Y is zero."""
    return positive_shift(SHIFT * roundoff * namespace(Y).linalg.matrix_norm(Y))


def positive_shift(shift: Array) -> Array:
    """Return the shift, or a tiny number where it is zero."""
    return filled(shift, shift <= 0, LEAST_SHIFT)

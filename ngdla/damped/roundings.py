"""How much products with S err: the model on which bounds and judgements rest."""

from __future__ import annotations

from ngdla._backend.namespace import Array
from ngdla._backend.runs import length_in_lanes

__all__ = ["GIVEN", "rounding"]

# Errors of a v = S^H f that came rounded, over u_v |v|, as on real gradients.
GIVEN = 16.0


def rounding(u: float, length: int, like: Array | None = None) -> float:
    """Return the error of a product with S, sums of `length` terms, over |S|_F |x|.

    4 u covers the few operations of a term. Sums of many numbers of one sign, made in many lanes as
    BLAS does or in runs of sqrt(length) terms, err by up to about sqrt(length) u (measured to
    length 3e6). Every long sum of a product with stored scores is made so, in any layout, but by
    JAX, whose lanes are few, for arrays `like` its own; those of Dask and of the functions of an
    operator are as they come.
    """
    lanes = length if like is None else length_in_lanes(length, like)
    return 4.0 * u * max(1.0, lanes**0.5 / 4)

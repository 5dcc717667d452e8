"""Steps in the logarithm of a factor: how K follows a tangent m, and how far it may go.

All are functions of b = step m applied from the right, K f(b), and stay in the structure of K:
exp(-b) and what approximates it, or (I + 2 b)^(-1/2), which is the exact step of an exponential
average of (K K^H)^-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ngdla._backend.dtypes import result_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla.structures import StructuredMatrix
from ngdla.structures.sums import multiple_plus, plus_identity

__all__ = ["RETRACTIONS", "Guarded", "guarded", "largest_step", "retract", "stable_product"]

# The largest product of the step and of the largest eigenvalue of m for which f(b) is positive
# (exp: does not overshoot), and the part of it that a guarded step may use. In exact arithmetic
# "implicit" and "exact" have none; rounding of m by u |m| sets theirs.
_STABLE = {"series": 1.0, "expm": 1.0, "binomial": 0.5}
_ROUNDED = 2.0**-10
_USED = 0.5


def retract(
    K: StructuredMatrix, m: StructuredMatrix, step: Any, retraction: str, order: int
) -> StructuredMatrix:
    """Return K f(step m)."""
    return RETRACTIONS[retraction](K, m, step, order)


def _series(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I - b + b^2 / 2 - ...), the exponential series."""
    return _power_series(K, m, [-step / j for j in range(1, order + 1)])


def _binomial(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I - b + 3/2 b^2 - 5/2 b^3 + ...), the series of (I + 2 b)^(-1/2)."""
    return _power_series(K, m, [-step * (2 * j - 1) / j for j in range(1, order + 1)])


def _power_series(K: StructuredMatrix, m: StructuredMatrix, ratios: list[Any]) -> StructuredMatrix:
    """Return K (I + r_1 m (I + r_2 m (I + ...)))."""
    total = K
    for ratio in reversed(ratios):
        total = multiple_plus(total.matmul(m), ratio, K)
    return total


def _expm(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    return K.matmul(m.scaled(-step).expm())


def _implicit(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I + b)^-1."""
    return K.matmul(plus_identity(m.scaled(step), 1.0).inverse())


def _exact(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I + 2 b)^(-1/2)."""
    return K.matmul(plus_identity(m.scaled(2 * step), 1.0).inv_sqrtm())


RETRACTIONS: dict[str, Callable[..., StructuredMatrix]] = {
    "series": _series,
    "expm": _expm,
    "binomial": _binomial,
    "implicit": _implicit,
    "exact": _exact,
}


def largest_step(retraction: str, momentum: Any) -> Any:
    """Return the step below which I + b or I + 2 b is positive for whatever data, or None.

    No eigenvalue of a tangent with momentum is below -1 / (2 (1 - momentum)).
    """
    factor = {"implicit": 2.0, "exact": 1.0}.get(retraction)
    return None if factor is None else factor * (1.0 - momentum)


def stable_product(retraction: str, dtype: str) -> float:
    """Return what the step times the largest eigenvalue of m must stay below."""
    return _STABLE.get(retraction, _ROUNDED / unit_roundoff(dtype))


class Guarded(NamedTuple):
    """A step as it may be made.

    Attributes
    ----------
    bound : array, shape (...)
        On the eigenvalues of m, at most b^(1/16) times too large for blocks of size b.
    step : array, shape (...)
        As given where half of the stable range is not left, else what that takes of the bound.
    kept : array, shape (...)
        The part of m that later steps may remember, at most 1: all of them together must not go
        further than a guarded step. Otherwise a shortened step would be made up for later.
    """

    bound: Array
    step: Array
    kept: Array


def guarded(m: StructuredMatrix, step: Any, retraction: str, *, safeguard: bool) -> Guarded:
    """Return the step shortened where it is guarded."""
    limit = stable_product(retraction, result_name(m.dtype_name))
    allowed = (_USED if safeguard else 1.0) * limit
    remembered = min(allowed, _USED)
    bound = m.spectral_bound(sufficient=remembered / step)
    xp = namespace(bound)
    one = xp.ones_like(bound)
    b = bound * step
    divisor = xp.where(b > 0, b, one)
    if not safeguard:
        return Guarded(bound, one * step, one)
    shorter = xp.where(b > allowed, allowed / divisor, one)
    return Guarded(bound, step * shorter, xp.where(b > remembered, remembered / divisor, one))

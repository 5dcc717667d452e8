"""Steps in the logarithm of a factor: how K follows a tangent m, and how far it may go.

All are functions of b = step m applied from the right, K f(b), and stay in the structure of K:
exp(-b) and what approximates it, or (I + 2 b)^(-1/2), which is the exact step of an exponential
average of (K K^H)^-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._backend.namespace import Array, namespace
from .structures import StructuredMatrix
from .structures.sums import multiple_plus, plus_identity

__all__ = ["RETRACTIONS", "largest_step", "retract", "shortened", "stable_product"]

# The largest product of the step and of the largest eigenvalue of m for which f(b) is positive
# (exp: does not overshoot), and the part of it that a guarded step may use.
_STABLE = {"series": 1.0, "expm": 1.0, "binomial": 0.5}
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


def stable_product(retraction: str) -> float | None:
    """Return what the step times the largest eigenvalue of m must stay below, if anything."""
    return _STABLE.get(retraction)


def shortened(
    m: StructuredMatrix, step: Any, retraction: str, *, safeguard: bool
) -> tuple[Array, Array]:
    """Return a bound on the eigenvalues of m, and the step, shortened where it is guarded.

    The step is as given where half of the stable range is not left. Otherwise that is what it
    takes of the bound, which is at most b^(1/16) times too large for blocks of size b.
    """
    limit = stable_product(retraction)
    allowed = (_USED if safeguard else 1.0) * (1.0 if limit is None else limit)
    bound = m.spectral_bound(sufficient=allowed / step)
    xp = namespace(bound)
    wanted = xp.zeros_like(bound) + step
    if limit is None or not safeguard:
        return bound, wanted
    longest = allowed / xp.where(bound > 0, bound, xp.ones_like(bound))
    return bound, xp.where(wanted * bound > allowed, longest, wanted)

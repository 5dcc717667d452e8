"""Retractions: how a factor K follows its tangent m, and how far it may go in one step.

All are functions of b = step m applied from the right, K f(b), and stay in the structure of K:
exp(-b) and its approximations, or (I + 2 b)^(-1/2), which is the exact step of an exponential
average of (K K^H)^-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ngdla._backend.dtypes import result_name, unit_roundoff
from ngdla._backend.fused import in_one_kernel
from ngdla._backend.namespace import Array
from ngdla._backend.tracing import free_to_read, is_traced, known_to_be
from ngdla.structures import StructuredMatrix
from ngdla.structures.sums import multiple_plus, plus_identity

__all__ = [
    "RETRACTIONS",
    "GuardedStep",
    "Retraction",
    "guard_step",
    "largest_step",
    "retract",
    "stable_product",
]

Retraction = Literal["series", "expm", "binomial", "implicit", "exact"]

# A guarded step uses at most this part of the stable range.
_GUARDED_PART = 0.5
# A bound below this part of the limit is good enough where steps are not guarded.
_UNWARNED_PART = 0.99
# Rounding of m by u |m| limits the step times the largest eigenvalue of m to this over u.
_ROUNDING_LIMIT = 2.0**-10


def retract(
    K: StructuredMatrix, m: StructuredMatrix, step: Any, retraction: Retraction, order: int
) -> StructuredMatrix:
    """Return K f(step m)."""
    return RETRACTIONS[retraction].function(K, m, step, order)


# ------------------------------------------------------------------------------- functions


def _series(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I - b + b^2 / 2 - ...), the exponential series."""
    return _power_series(K, m, [step / -j for j in range(1, order + 1)])


def _binomial(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I - b + 3/2 b^2 - 5/2 b^3 + ...), the series of (I + 2 b)^(-1/2)."""
    return _power_series(K, m, [step * ((1 - 2 * j) / j) for j in range(1, order + 1)])


def _power_series(K: StructuredMatrix, m: StructuredMatrix, ratios: list[Any]) -> StructuredMatrix:
    """Return K (I + r_1 m (I + r_2 m (I + ...)))."""
    total = K
    for ratio in reversed(ratios):
        total = multiple_plus(total.matmul(m), ratio, K)
    return total


def _expm(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K exp(-b)."""
    return K.matmul(m.scaled(-step).expm())


def _implicit(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I + b)^-1."""
    return K.matmul(plus_identity(m.scaled(step), 1.0).inverse())


def _exact(K: StructuredMatrix, m: StructuredMatrix, step: Any, order: int) -> StructuredMatrix:
    """K (I + 2 b)^(-1/2)."""
    return K.matmul(plus_identity(m.scaled(2 * step), 1.0).inv_sqrtm())


class _Method(NamedTuple):
    """A retraction, and how far it may go.

    Attributes
    ----------
    function : callable
        (K, m, step, order) -> K f(step m).
    stable : float or None
        The largest product of the step and the largest eigenvalue of m for which f(b) is positive
        (exp: does not overshoot); None if only rounding limits it.
    largest : float or None
        The step below which I + b or I + 2 b is positive for any data, in units of 1 - momentum;
        None if there is no such step.
    """

    function: Callable[[StructuredMatrix, StructuredMatrix, Any, int], StructuredMatrix]
    stable: float | None = None
    largest: float | None = None


RETRACTIONS: dict[Retraction, _Method] = {
    "series": _Method(_series, stable=1.0),
    "expm": _Method(_expm, stable=1.0),
    "binomial": _Method(_binomial, stable=0.5),
    "implicit": _Method(_implicit, largest=2.0),
    "exact": _Method(_exact, largest=1.0),
}


# ----------------------------------------------------------------------------------- limits


def largest_step(retraction: Retraction, momentum: Any) -> Any:
    """Return the step below which I + b or I + 2 b is positive for any data, or None.

    No eigenvalue of a tangent with momentum is below -1 / (2 (1 - momentum)).
    """
    largest = RETRACTIONS[retraction].largest
    return None if largest is None else largest * (1.0 - momentum)


def stable_product(retraction: Retraction, dtype: str) -> float:
    """Return a limit on the product of the step and the largest eigenvalue of m."""
    stable = RETRACTIONS[retraction].stable
    return _ROUNDING_LIMIT / unit_roundoff(dtype) if stable is None else stable


class GuardedStep(NamedTuple):
    """A step that is safe to make.

    Attributes
    ----------
    bound : array, shape (...)
        On the eigenvalues of m: the largest Frobenius norm of a diagonal block where that is small
        enough, otherwise at most r^(1/16) times too large for diagonal blocks of r rows.
    step : float or array, shape (...)
        As given if step times bound is at most half of the stable product, else shortened to that.
    kept : float or array, shape (...)
        The part of m that later steps may remember, at most 1: all of them together must not go
        further than a guarded step. Otherwise later steps would make up for a shortened one.
    """

    bound: Array
    step: Any
    kept: Any


def guard_step(
    m: StructuredMatrix, step: Any, retraction: Retraction, *, safeguard: bool, warns: bool = True
) -> GuardedStep:
    """Return a step, shortened if `safeguard` is set and the step is not safe.

    Without it, `warns` says whether the bound decides about a warning.
    """
    if not safeguard and not (warns and not is_traced(m.leaves[0])):
        return GuardedStep(m.coarse_bound(), step, 1.0)
    limit = stable_product(retraction, result_name(m.dtype_name))
    allowed = _GUARDED_PART * limit
    remembered = min(allowed, _GUARDED_PART)
    # without a guard, the bound is for the report, and for a warning from the limit on
    enough = remembered if safeguard else _UNWARNED_PART * limit
    if free_to_read(m.leaves[0]) and not is_traced(m.leaves[0]):
        bound = m.coarse_bound()
        if known_to_be(bound * step <= enough):
            return GuardedStep(bound, step, 1.0)
    bound = m.spectral_bound(sufficient=enough / step)
    if not safeguard:
        return GuardedStep(bound, step, 1.0)
    shortened, kept = in_one_kernel(_shortened, bound, step, allowed, remembered)
    return GuardedStep(bound, shortened, kept)


def _shortened(
    xp: Any, bound: Any, step: Any, allowed: float, remembered: float
) -> tuple[Any, Any]:
    """Return the step for which step times bound is allowed, and the part that is remembered."""
    b = bound * step
    divisor = xp.where(b > 0, b, 1.0)
    shorter = xp.where(b > allowed, allowed / divisor, 1.0)
    return step * shorter, xp.where(b > remembered, remembered / divisor, 1.0)

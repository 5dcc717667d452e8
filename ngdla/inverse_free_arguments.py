"""What inverse-free updates ask of their arguments."""

from __future__ import annotations

from typing import Any

from ._backend.checks import ValueChecks, real_values, warn_caller
from ._backend.namespace import Array, astype, is_array, namespace
from ._backend.tracing import concrete
from .inverse_free_state import InverseFreeReport, InverseFreeState, InverseFreeStatistics
from .retractions import largest_step, stable_product

__all__ = [
    "StepSizeWarning",
    "checked_weights",
    "not_finite",
    "require_fitting",
    "require_range",
    "require_state",
    "warn_of_range",
]


class StepSizeWarning(UserWarning):
    """A step size is outside of the range in which a factor stays invertible."""


def require_state(state: Any) -> None:
    """Raise unless it is a state."""
    if not isinstance(state, InverseFreeState):
        msg = f"`state` is a {type(state).__name__}; it must be what inverse_free_init returned."
        raise TypeError(msg)


def require_fitting(statistics: Any, state: InverseFreeState) -> None:
    """Raise unless these are statistics of factors like those of the state."""
    if not isinstance(statistics, InverseFreeStatistics):
        msg = (
            f"`statistics` is a {type(statistics).__name__}; it must be what "
            f"inverse_free_statistics returned."
        )
        raise TypeError(msg)
    for name, H, factor in (("H_K", statistics.H_K, state.K), ("H_C", statistics.H_C, state.C)):
        if (H.structure, H.shape) != (factor.structure, factor.shape):
            msg = (
                f"`statistics` has {name} = {H!r}, but the factor is {factor!r}; pass statistics "
                f"that were taken with this state."
            )
            raise ValueError(msg)


def require_range(step_size: Any, momentum: Any, retraction: str, checks: ValueChecks) -> None:
    """Require what makes I + b or I + 2 b positive for whatever data."""
    largest = largest_step(retraction, momentum)
    if largest is None:
        return
    bound = "2 (1 - momentum)" if retraction == "implicit" else "1 - momentum"
    msg = (
        f"`step_size` is {step_size!r}; with retraction {retraction!r} it must be less than "
        f"{bound}."
    )
    within = step_size < largest
    if isinstance(within, bool):
        if not within:
            raise ValueError(msg)
        return
    checks.require(lambda: within, lambda: ValueError(msg))


def checked_weights(weights: Any, inputs: Array, dtype: str, checks: ValueChecks) -> Array:
    """Return the weights of rows in a real dtype."""
    if not is_array(weights):
        msg = f"`weights` is {weights!r}; it must be an array of real numbers, one for each row."
        raise TypeError(msg)
    w = real_values(weights, "weights", inputs, "inputs", dtype, tuple(inputs.shape[:-1]))
    w = astype(w, dtype)
    checks.finite("weights", w)
    msg = "`weights` holds negative numbers; each must be 0 or more."
    checks.require(lambda: w >= 0, lambda: ValueError(msg))
    return w


def not_finite() -> Exception:
    """Return the error of statistics that are not finite."""
    msg = (
        "`statistics` contains NaN or Inf, or numbers beyond the range of its dtype, or no row of "
        "positive weight; the state is left as it was. Scale the gradients, or leave the batch out."
    )
    return ValueError(msg)


def warn_of_range(report: InverseFreeReport, retraction: str) -> None:
    """Warn of a step that has left the range in which factors stay invertible."""
    limit = stable_product(retraction)
    if limit is None:
        return
    xp = namespace(report.bound_K)
    products = xp.maximum(report.bound_K * report.step_K, report.bound_C * report.step_C)
    if concrete(xp.any(products >= limit)):
        bound = xp.maximum(xp.max(report.bound_K), xp.max(report.bound_C))
        msg = (
            f"the eigenvalues of a tangent are bounded by {float(bound):.3g} only: for retraction "
            f"{retraction!r}, `step_size` must be below {limit / float(bound):.3g} for the factor "
            f"to stay invertible. Use safeguard=True, or retraction 'implicit'."
        )
        warn_caller(msg, StepSizeWarning)

"""What inverse-free updates ask of their arguments."""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

from ngdla._backend.checks import ValueChecks, require_count, require_like
from ngdla._backend.namespace import Array, astype, is_array, is_complex, namespace
from ngdla._backend.scalars import real_values
from ngdla.structures import StructuredMatrix

from .retractions import largest_step
from .state import InverseFreeReport, InverseFreeState, InverseFreeStatistics

__all__ = [
    "StepSizeWarning",
    "checked_weights",
    "legal_values",
    "not_finite",
    "out_of_range",
    "require_batch",
    "require_fitting",
    "require_kind",
    "require_range",
    "require_state",
    "too_large",
    "within_range",
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
        require_like(H.leaves[0], "statistics", factor.leaves[0], "state")


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
    if tuple(weights.shape) != tuple(inputs.shape[:-1]):
        msg = (
            f"`weights` has shape {tuple(weights.shape)}; it must be {tuple(inputs.shape[:-1])}, "
            f"one for each row of `inputs`."
        )
        raise ValueError(msg)
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


def out_of_range(report: InverseFreeReport, retraction: str, limit: float) -> Warning:
    """Return the warning of a step that has left the range in which factors stay invertible."""
    xp = namespace(report.bound_K)
    bound = float(xp.maximum(xp.max(report.bound_K), xp.max(report.bound_C)))
    return StepSizeWarning(
        f"the eigenvalues of a tangent are bounded by {bound:.3g} only: for retraction "
        f"{retraction!r}, `step_size` must be below {limit / bound:.3g} for the factor to stay "
        f"invertible. Use safeguard=True, or retraction 'implicit'."
    )


def within_range(report: InverseFreeReport, limit: float) -> Array:
    """Tell whether both factors are sure to stay invertible."""
    xp = namespace(report.bound_K)
    return xp.maximum(report.bound_K * report.step_K, report.bound_C * report.step_C) < limit


def legal_values(*values: Any) -> Array | bool:
    """Tell whether dampings and steps that could not be looked at are positive."""
    return reduce(and_, (x > 0 for x in values if not isinstance(x, float)), True)


def require_batch(batch: Any) -> None:
    """Raise unless these are leading axes."""
    if not isinstance(batch, (tuple, list)):
        msg = f"`batch` is {batch!r}; it must be a tuple of integers, such as (3,)."
        raise TypeError(msg)
    for size in batch:
        require_count(size, "batch", least=1)


def require_kind(x: Array, name: str, factor: StructuredMatrix) -> None:
    """Raise if an array is complex that a real factor has to follow."""
    if is_complex(x) and not is_complex(factor.leaves[0]):
        msg = (
            f"`{name}` is complex but the state is real; start it with a complex `like`, and no "
            f"real dtype."
        )
        raise TypeError(msg)


def too_large(state: InverseFreeState) -> Exception:
    """Return the error of factors or tangents that cannot be stored."""
    msg = (
        f"`statistics` lead beyond the range of {state.K.dtype_name}, or to a factor that rounding "
        f"has made singular; the state is left as it was. Scale the inputs, raise the damping, use "
        f"storage='float32', or start the state in a wider dtype."
    )
    return ValueError(msg)

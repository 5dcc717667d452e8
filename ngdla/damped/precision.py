"""In which precision a damped problem is factored and refined, and what to do where it is too low.

The Gram matrix of S errs by about u |S|_F^2, for the unit roundoff u of the dtype that it is
formed in: that, over the damping, is what a sweep of refinement leaves of an error. The rungs of
the ladder are

    native           everything in the dtype of the result,
    preconditioner   the same factor, while residuals and updates are in double precision,
    double           the Gram matrix, its factor, residuals and updates in double precision,
    qr               the same by a QR factorisation of S, which does not square its condition,

and `Plan` says for each what is computed in which dtype. "auto" starts with the first rung and
learns from damping / |S|_F^2, a by-product, whether that was enough.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from ngdla._backend.calls import warn_caller
from ngdla._backend.checks import require_choice
from ngdla._backend.dtypes import (
    SPLIT_TF32,
    double_name,
    has_double,
    is_double,
    real_name,
    single_name,
    unit_roundoff,
)
from ngdla._backend.namespace import Array, library
from ngdla._backend.pickles import part

from .methods import Method

__all__ = [
    "LIFT",
    "NATIVE",
    "Measured",
    "Plan",
    "Precision",
    "PrecisionWarning",
    "first_plan",
    "next_plan",
    "warn_of_precision",
]

Precision = Literal[
    "auto", "native", "mixed", "split-tf32", "float32", "float64", "complex64", "complex128"
]
_PRECISIONS = get_args(Precision)

# damping / |S|_F^2 in units of u. LIFT: from here a Cholesky factor of the Gram matrix exists, and
# conjugate gradients with it converge in some ten steps. NATIVE: from here one sweep in single
# precision leaves an error below 2e-5 (asv_benchmarks/claims/precision.py).
LIFT = 4.0
NATIVE = 256.0

_STEPS_FROM_A_SKETCH = 50


class PrecisionWarning(UserWarning):
    """`precision="auto"` took a higher precision, or refinement stopped before it converged."""


@part
class Plan(NamedTuple):
    """What is computed in which precision."""

    method: Method
    factor: str  # dtype of the Gram matrix and of its factor, or "split-tf32", in float32
    double: bool = False  # residuals and updates in double precision, whatever the result has
    lifted: bool = False  # the factor is of G + max(damping, 4 u |S|_F^2)
    iterate: bool = False  # refine until it converges, by conjugate gradients where need be
    steps: int = 10  # of conjugate gradients, where only the device can tell whether to take them
    blind_steps: int = 3  # of them, where nothing can tell
    least: float = 0.0  # damping / |S|_F^2 below which "auto" does not trust this plan
    rung: int | None = None  # of the ladder; None: the caller chose the precision


def first_plan(
    method: Method, precision: Any, dtype: str, like: Array, given: str | None = None
) -> Plan:
    """Return the plan to begin with, for work in `dtype`; a Gram matrix may be `given` in another.

    In single precision it only preconditions work in double precision, whatever is asked for.
    """
    require_choice(precision, "precision", _PRECISIONS)
    if given is not None and is_double(dtype) and not is_double(given):
        rung = 0 if precision == "auto" else None
        return _preconditioner(method, dtype)._replace(rung=rung)
    if precision == "auto":
        least, lifted = NATIVE, method.squares_condition
        if is_double(dtype):
            least = LIFT if lifted else 0.0
        plan = Plan(method, dtype, lifted=lifted, least=least * unit_roundoff(dtype), rung=0)
    else:
        plan = _chosen(method, precision, dtype, like)
    if method.exact:
        return plan
    plan = plan._replace(lifted=False, iterate=True, least=0.0)
    return plan._replace(steps=_STEPS_FROM_A_SKETCH, blind_steps=_STEPS_FROM_A_SKETCH)


def _chosen(method: Method, precision: str, dtype: str, like: Array) -> Plan:
    if precision == "native":
        return Plan(method, dtype)
    if precision == "mixed":
        return _preconditioner(method, dtype)
    if precision == SPLIT_TF32:
        plan = _preconditioner(method, dtype) if is_double(dtype) else Plan(method, dtype)
        return plan._replace(factor=SPLIT_TF32)
    if precision.startswith("complex") and not dtype.startswith("complex"):
        msg = (
            f"`precision` is {precision!r} but the problem is real; pass {real_name(precision)!r}."
        )
        raise ValueError(msg)
    factor = (double_name if real_name(precision) == "float64" else single_name)(dtype)
    if factor == double_name(dtype) and not has_double(like):
        raise ValueError(_no_double(precision, like))
    if factor == dtype:
        return Plan(method, factor)
    if factor == single_name(dtype):
        return _preconditioner(method, dtype)
    return Plan(method, factor, double=True)


def _no_double(precision: str, like: Array) -> str:
    if library(like) == "jax":
        remedy = (
            "JAX has only with jax.config.update('jax_enable_x64', True) or in jax.enable_x64()"
        )
    else:
        remedy = "this device does not have"
    return f"`precision` is {precision!r}, which {remedy}."


def _preconditioner(method: Method, dtype: str) -> Plan:
    lifted = method.squares_condition
    plan = Plan(method, single_name(dtype), lifted=lifted, iterate=True)
    return plan._replace(blind_steps=plan.steps)


class Measured(NamedTuple):
    """What is known of a factor that is not good enough."""

    ratio: float  # damping / |S|_F^2
    smallest: float  # smallest eigenvalue of the factored matrix over |S|_F^2, 0 if that failed


def next_plan(
    plan: Plan, measured: Measured, like: Array, *, dense: bool, regram: bool = True
) -> tuple[Plan, str] | None:
    """Return a plan for a problem that `plan` of "auto" is not good for, and what to warn of.

    `smallest` counts where it is not just the damping. `dense` tells whether S can be factored
    itself, without its Gram matrix, and `regram` whether that can be formed in higher precision.
    None is returned where nothing is next.
    """
    if plan.rung is None:
        return None
    last = plan.method.last_rung() if dense else None
    for rung, (higher, description) in enumerate(
        (
            _iterated(plan, measured),
            _residuals_in_double(plan, measured, like, regram=regram),
            _all_in_double(plan, measured, like, last, regram=regram),
            _by_last_method(plan, last, like),
            _preconditioned(plan),
        ),
        start=1,
    ):
        if rung > plan.rung and higher is not None:
            return higher._replace(rung=rung, least=0.0), description
    return None


Rung = tuple[Plan | None, str]  # None: of no use


def _iterated(plan: Plan, measured: Measured) -> Rung:
    """Sweep until it converges, where the small eigenvalues of the matrix are not the damping."""
    serves = measured.smallest >= NATIVE * unit_roundoff(plan.factor)
    return (plan._replace(iterate=True) if serves else None), ""


def _residuals_in_double(plan: Plan, measured: Measured, like: Array, *, regram: bool) -> Rung:
    u = unit_roundoff(plan.factor)
    serves = measured.ratio >= LIFT * u or measured.smallest >= 4 * LIFT * u or not regram
    if not (_single(plan, like) and measured.smallest > 0 and serves):
        return None, ""
    plan = plan._replace(double=True, iterate=True)
    return plan, "residuals were computed in double precision until they converged"


def _all_in_double(
    plan: Plan, measured: Measured, like: Array, last: Method | None, *, regram: bool
) -> Rung:
    doubled = double_name(plan.factor)
    direct = measured.ratio >= LIFT * unit_roundoff(doubled)
    if not (_single(plan, like) and regram and (direct or last is None)):
        return None, ""
    plan = plan._replace(factor=doubled, double=True, iterate=not direct)
    return plan, "the Gram matrix and its factor were computed in double precision"


def _by_last_method(plan: Plan, last: Method | None, like: Array) -> Rung:
    if last is None or not has_double(like):
        return None, ""
    plan = Plan(last, double_name(plan.factor), double=plan.double or _single(plan, like))
    return plan, f"S was factored by {last.name.upper()} in double precision, which copies S"


def _preconditioned(plan: Plan) -> Rung:
    if plan.iterate:
        return None, ""
    description = "the factor only preconditions conjugate gradients"
    return plan._replace(iterate=True), description


def _single(plan: Plan, like: Array) -> bool:
    """Tell whether there is a higher precision than that of the factor."""
    return plan.factor != double_name(plan.factor) and has_double(like)


def warn_of_precision(message: str) -> None:
    """Warn of more work than the dtype of the result, or of too little."""
    warn_caller(message, PrecisionWarning)

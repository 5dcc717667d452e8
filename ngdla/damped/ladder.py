"""The ladder of precisions: is a factor good enough, and if not, what next.

A factorisation that fails raises nothing: `cholesky` of `_backend/triangular.py` returns a flag
with its factor, which `factorise` keeps as `Factored.ok`. It is judged here: `_ask` makes it a
question, whose answer leads to the next rung, or where there is none a test, whose `LinAlgError` is
made here and raised when the checks are read. `precision.py` decides by numbers; here these are
measured, and the decision is carried out:

    the host can read     work on the first rung, ask in the one fused flag of the call whether
                          the factor exists and damping / |S|_F^2 was large enough, and if not,
                          work again on the next rung;
    JAX under `jit`       the device chooses between native residuals and those in double
                          precision, or conjugate gradients where there is none;
    nothing can be read   conjugate gradients for a fixed number of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from ngdla._backend.calls import ValueChecks
from ngdla._backend.dtypes import double_name, has_double, unit_roundoff
from ngdla._backend.namespace import Array, LinAlgError, namespace
from ngdla._backend.tracing import choose, chooses, is_traced, number

from .factorisation import Factor, Factorisation, damping_below, factorise, redamp
from .methods import NOTHING, FirstPass, Start
from .precision import LIFT, NATIVE, Plan, next_plan, warn_of_precision
from .problem import DampedProblem

__all__ = [
    "choose_rung",
    "climb",
    "with_damping",
]

Result = TypeVar("Result")


def climb(
    problem: DampedProblem,
    checks: ValueChecks,
    use: Callable[[Factorisation, FirstPass], Result],
    *,
    start: Start = NOTHING,
    keep: bool = False,
    in_row_space: bool = False,
) -> Result:
    """Read the checks, and return use(factor, first) for a factor whose precision suffices.

    Where they say that "auto" has to climb, everything is done again, but for a factor that serves
    on. The solution lies `in_row_space` of S where f is given; else S^H S + damping has the
    damping itself as an eigenvalue with n < m, however large those of the factored matrix are.
    """
    factor, first = factorise(problem, checks, start, keep=keep)
    _ask(factor, checks)
    result = use(factor, first)
    if checks.read():
        return result
    plan = _next_plan(factor, in_row_space=in_row_space)
    problem = problem.with_plan(plan)
    if (plan.factor, plan.method) == (factor.plan.factor, factor.plan.method):
        factor = dataclasses.replace(factor, problem=problem)
    else:
        factor, _ = factorise(problem, checks, NOTHING, keep=keep)
    _ask(factor, checks)
    return use(factor, FirstPass())


def _ask(factor: Factorisation, checks: ValueChecks) -> None:
    """Ask whether the factor is good enough, or require that it is one where nothing is next."""
    ok, least = factor.small.ok, factor.problem.plan.least
    if least > 0:
        checks.ask(lambda: ok & ~damping_below(factor, least))
    else:
        _require_definite(factor, checks)


def _require_definite(factor: Factorisation, checks: ValueChecks) -> None:
    """Require that the factorisation succeeded."""
    ok = factor.small.ok
    checks.require(lambda: ok, lambda: _indefinite_error(factor))


def _indefinite_error(factor: Factorisation) -> Exception:
    squared_norm, xp = factor.small.squared_norm, namespace(factor.small.squared_norm)
    ratio = factor.problem.damping / squared_norm
    worst = float(xp.min(xp.where(factor.small.ok, xp.full_like(ratio, xp.inf), ratio)))
    dtype, least = factor.plan.factor, LIFT * unit_roundoff(factor.plan.factor)
    return LinAlgError(
        f"the damped Gram matrix of `{factor.scores.name}` is not positive definite in {dtype}: "
        f"`damping` is {worst:.1e} of |S|_F^2, below the rounding errors of the Gram matrix. Raise "
        f"it to {least:.0e} |S|_F^2 or more, pass float64 arrays, name the null vectors of centred "
        f"scores by `null`, or use precision='auto' or method='qr'."
    )


# ------------------------------------------------------------------------------- next rung


def _next_plan(factor: Factorisation, *, in_row_space: bool) -> Plan:
    """Return a plan that the damping allows, and warn of it."""
    scores, before = factor.scores, factor.plan
    ratio, smallest = _measure(factor, in_row_space=in_row_space)
    plan, description = next_plan(
        before, ratio, smallest, scores.like, dense=scores.dense, regram=scores.regram
    )
    if description:
        _warn(
            factor,
            ratio,
            description,
            "choose `precision` and `method` yourself to be rid of this warning",
        )
    return plan


def with_damping(factor: Factor, damping: Any, checks: ValueChecks) -> Factor:
    """Read the checks, and return the factor for another damping, with its Gram matrix."""
    factor = redamp(factor, damping, checks)
    _require_definite(factor, checks)
    least = factor.plan.least
    if least > 0:
        checks.ask(lambda: ~damping_below(factor, least))
    return factor if checks.read() else _precondition(factor)


def _precondition(factor: Factor) -> Factor:
    """Return the factor with a plan that goes on with the Gram matrix at hand."""
    plan = factor.plan
    ratio, smallest = _measure(factor, in_row_space=False)
    higher, description = next_plan(plan, ratio, smallest, factor.scores.like, dense=False)
    if higher.factor != plan.factor:
        higher = plan._replace(double=True, iterate=True, least=0.0)
        description = f"a factor keeps its Gram matrix of {plan.factor}, which only preconditions"
    if description:
        _warn(factor, ratio, description, "factor anew with it by damped_factor")
    return dataclasses.replace(factor, problem=factor.problem.with_plan(higher))


def _warn(factor: Factorisation, ratio: float, description: str, remedy: str) -> None:
    warn_of_precision(
        f"`damping` is {ratio:.1e} of |{factor.scores.name}|_F^2, too small for "
        f"{factor.plan.factor} alone: {description}. Raise `damping`, or {remedy}."
    )


def _measure(factor: Factorisation, *, in_row_space: bool) -> tuple[float, float]:
    """Return damping and the smallest eigenvalue of the inverted matrix over |S|_F^2.

    The worst of a batch; the latter is 0 where the factorisation failed, and below what native
    precision is good for where not only the factored matrix counts.
    """
    small, xp = factor.small, namespace(factor.small.squared_norm)
    eigenvalue = small.inverse.smallest_eigenvalue() / small.squared_norm
    eigenvalue = xp.where(small.ok, eigenvalue, xp.zeros_like(eigenvalue))
    ratio, smallest = (
        number(xp.min(x)) for x in (factor.problem.damping / small.squared_norm, eigenvalue)
    )
    assert ratio is not None
    assert smallest is not None
    if factor.scores.wide and not in_row_space:
        smallest = min(smallest, NATIVE / 2 * unit_roundoff(factor.plan.factor))
    return ratio, smallest


# ---------------------------------------------------------------- where the host cannot read


def choose_rung(
    factor: Factorisation,
    first: FirstPass,
    checks: ValueChecks,
    use: Callable[[Factorisation, FirstPass, Array | bool], Result],
) -> Result:
    """Return use(factor, first, accelerate), on a rung that the device chooses if it has to.

    `accelerate`, possibly a flag on the device, tells whether "auto" needs conjugate gradients. In
    double precision it never does: there the certificate may refuse the step.
    """
    problem, like = factor.problem, factor.small.squared_norm
    plan, double = problem.plan, double_name(problem.plan.factor)
    asked = plan.least > 0 and plan.factor != double
    if not asked or (checks.enabled and not is_traced(like)):
        return use(factor, first, False)
    flags = damping_below(factor, plan.least)
    flag = namespace(flags).any(flags)
    if not (problem.refine and chooses(like) and has_double(like)):
        return use(factor, first, flag)
    plan = plan._replace(double=True, iterate=True, least=0.0)
    higher = dataclasses.replace(factor, problem=problem.with_plan(plan))
    return choose(flag, lambda: use(higher, FirstPass(), False), lambda: use(factor, first, False))

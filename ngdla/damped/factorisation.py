"""The factorisation of a damped problem, and what to do where its precision is too low."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from ngdla._backend.checks import ValueChecks
from ngdla._backend.dtypes import astype, real_name, unit_roundoff
from ngdla._backend.namespace import Array, LinAlgError, namespace
from ngdla._backend.tracing import number
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .inverses import Inverse, Undamped, inverse_of, inverted, is_null, smallest_eigenvalue
from .precision import LIFT, NATIVE, Plan, climbed, warn_of_climbing
from .problem import Setup
from .refinement import First

__all__ = [
    "Factorisation",
    "below",
    "climb",
    "factored",
    "preconditioning",
    "redamped",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Factorisation:
    """A factored damped problem; `DampedFactor` documents the fields."""

    scores: ScoreMatrix
    inverse: Inverse
    undamped: Undamped | None
    damping: Any
    squared_norm: Array
    null: Array | None
    leak: Array | None
    ok: Array
    plan: Plan
    refine: int
    check: bool


Factor = TypeVar("Factor", bound=Factorisation)


def factored(
    given: Setup,
    checks: ValueChecks,
    start: tuple[Array | None, Vector | None],
    *,
    keep: bool,
    check: bool,
) -> tuple[Factorisation, First]:
    """Return the factor of a checked problem, adding its value tests to `checks`."""
    if not isinstance(given.damping, float):
        checks.positive("damping", astype(given.damping, real_name(given.plan.factor)))
    checks.positive("metric", *(given.metric or ()))
    if given.null is not None:
        checks.finite("null", given.null)
    inverse, undamped, ok, squared_norm, leak, first = inverse_of(given, checks, start, keep=keep)
    factor = Factorisation(
        scores=given.scores,
        inverse=inverse,
        undamped=undamped,
        damping=given.damping,
        squared_norm=squared_norm,
        null=given.null,
        leak=leak,
        ok=ok,
        plan=given.plan,
        refine=given.refine,
        check=check,
    )
    consistent = given.scores.consistent(given.plan.factor) if check else None
    if consistent is not None:
        checks.require(lambda: consistent, given.scores.inconsistent)
    finite = namespace(squared_norm).isfinite
    checks.require(lambda: finite(squared_norm), lambda: given.scores.not_finite(given.plan.factor))
    if given.plan.least > 0:
        enough = ok & ~below(factor)
        checks.ask(lambda: enough)
    else:
        checks.require(lambda: ok, lambda: _factor_error(factor))
    return factor, first


def below(factor: Factorisation, least: float | None = None) -> Array:
    """Tell whether damping / |S|^2 is below `least`, or what the plan is good for, (...)."""
    damping = factor.damping
    if not isinstance(damping, float):
        damping = astype(damping, real_name(factor.plan.factor))
    return damping < (factor.plan.least if least is None else least) * factor.squared_norm


def climb(
    given: Setup, factor: Factorisation, *, in_row_space: bool = False
) -> tuple[Setup, Factorisation | None]:
    """Return the problem with a plan that its damping allows, and the factor if it serves on.

    The solution lies `in_row_space` of S where f is given; else S^H S + damping has the damping
    itself as an eigenvalue with n < m, however large those of the factored matrix are.
    """
    scores = given.scores
    ratio, smallest = _ratios(factor, in_row_space=in_row_space)
    plan, description = climbed(
        given.plan, ratio, smallest, scores.like, dense=scores.dense, regram=scores.regram
    )
    if description:
        warn_of_climbing(
            f"`damping` is {ratio:.1e} of |{scores.name}|_F^2, too small for {given.plan.factor} "
            f"alone: {description}. Raise `damping`, or choose `precision` and `method` yourself "
            f"to be rid of this warning."
        )
    same = plan.factor == given.plan.factor and plan.method == given.plan.method
    kept = dataclasses.replace(factor, plan=plan) if same else None
    return given._replace(plan=plan), kept


def _ratios(factor: Factorisation, *, in_row_space: bool) -> tuple[float, float]:
    """Return damping and the smallest eigenvalue of the inverted matrix over |S|_F^2.

    The worst of a batch; the latter is 0 where the factorisation failed, and below what native
    precision is good for where not only the factored matrix counts.
    """
    xp = namespace(factor.squared_norm)
    eigenvalue = smallest_eigenvalue(factor.inverse) / factor.squared_norm
    eigenvalue = xp.where(factor.ok, eigenvalue, xp.zeros_like(eigenvalue))
    ratio, smallest = (
        number(xp.min(x)) for x in (factor.damping / factor.squared_norm, eigenvalue)
    )
    assert ratio is not None
    assert smallest is not None
    if factor.scores.wide and not in_row_space:
        smallest = min(smallest, NATIVE / 2 * unit_roundoff(factor.plan.factor))
    return ratio, smallest


def redamped(factor: Factor, damping: Any, checks: ValueChecks) -> Factor:
    """Return the factor for a checked damping, adding its value tests to `checks`."""
    assert factor.undamped is not None
    scores, plan, squared_norm = factor.scores, factor.plan, factor.squared_norm
    if not isinstance(damping, float):
        checks.positive("damping", astype(damping, real_name(plan.factor)))
    inverse, ok = inverted(factor.undamped.copy(), damping, squared_norm, lifted=plan.lifted)
    ok = ok & (damping > 0)
    if factor.leak is not None:
        given = Setup(scores, damping, plan, factor.refine, None, factor.null, False)
        ok = ok & is_null(given, factor.null, factor.leak, squared_norm)
    if plan.lifted and not plan.iterate:
        plan = plan._replace(least=max(plan.least, LIFT * unit_roundoff(plan.factor)))
    changed = dataclasses.replace(factor, inverse=inverse, damping=damping, ok=ok, plan=plan)
    checks.require(lambda: ok, lambda: _factor_error(changed))
    if plan.least > 0:
        checks.ask(lambda: ~below(changed))
    return changed


def preconditioning(factor: Factor) -> Factor:
    """Return the factor with a plan that goes on with the Gram matrix at hand."""
    plan, like = factor.plan, factor.scores.like
    ratio, smallest = _ratios(factor, in_row_space=False)
    higher, description = climbed(plan, ratio, smallest, like, dense=False)
    if higher.factor != plan.factor:
        higher = plan._replace(double=True, iterate=True, least=0.0)
        description = f"a factor keeps its Gram matrix of {plan.factor}, which only preconditions"
    if description:
        warn_of_climbing(
            f"`damping` is {ratio:.1e} of |{factor.scores.name}|_F^2, too small for {plan.factor} "
            f"alone: {description}. Raise `damping`, or factor anew with it by damped_factor."
        )
    return dataclasses.replace(factor, plan=higher)


def _factor_error(factor: Factorisation) -> Exception:
    xp = namespace(factor.squared_norm)
    ratio = factor.damping / factor.squared_norm
    worst = float(xp.min(xp.where(factor.ok, xp.full_like(ratio, xp.inf), ratio)))
    name, least = factor.scores.name, LIFT * unit_roundoff(factor.plan.factor)
    return LinAlgError(
        f"the damped Gram matrix of `{name}` is not positive definite in {factor.plan.factor}: "
        f"`damping` is {worst:.1e} of |S|_F^2, below the rounding errors of the Gram matrix. Raise "
        f"it to {least:.0e} |S|_F^2 or more, pass float64 arrays, name the null vectors of centred "
        f"scores by `null`, or use precision='auto' or method='qr'."
    )

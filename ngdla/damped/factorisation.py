"""The factorisation of a damped problem: one pass over S, and the inverse of the small matrix."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeVar

from ngdla._backend.calls import ValueChecks
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla.score_matrices.score_matrix import ScoreMatrix

from .inverses import Inverse, SmallMatrix
from .methods import FirstPass, Start
from .null_vectors import are_null, leak_of, null_error
from .precision import LIFT, Plan
from .problem import DampedProblem

__all__ = ["Factored", "Factorisation", "damping_below", "damping_of", "factorise", "redamp"]


@part
class Factored(NamedTuple):
    """The small matrix, inverted with its damping."""

    inverse: Any  # `Inverse`, `ExactInverse` if the method is; of a lifted damping if that is small
    matrix: Any  # `SmallMatrix`, `ExactSmallMatrix` if the method is; None where it was not kept
    ok: Array  # (...): the factorisation succeeded, of legal arguments
    squared_norm: Array  # (...): |S|_F^2
    leak: Array | None  # (...): |S^H N|_F


@dataclasses.dataclass(frozen=True, eq=False)
class Factorisation:
    """A problem and its factored small matrix."""

    problem: DampedProblem
    small: Factored

    @property
    def scores(self) -> ScoreMatrix:
        """S D^-1/2."""
        return self.problem.scores

    @property
    def plan(self) -> Plan:
        """What is computed in which precision."""
        return self.problem.plan


Factor = TypeVar("Factor", bound=Factorisation)


def factorise(
    problem: DampedProblem, checks: ValueChecks, start: Start, *, keep: bool
) -> tuple[Factorisation, FirstPass]:
    """Return the factor of a checked problem, adding its value tests to `checks`.

    `keep` the small matrix for other dampings. Whether the factor is good enough is not asked.
    """
    scores, plan, null = problem.scores, problem.plan, problem.null
    problem.require_values(checks)
    lifted = null if scores.wide else None
    matrix, squared_norm, first, G = plan.method.small_problem(scores, plan.factor, lifted, start)
    ok, leak = problem.legal(), None
    if null is not None and (scores.wide or not problem.trusted):  # else nothing asks for it
        leak = leak_of(null, scores, G if problem.trusted else None)
        if not problem.trusted:
            legal = are_null(null, leak, squared_norm, plan.factor)
            checks.require(lambda: legal, null_error)
            ok = ok & legal
    kept = matrix.copy() if keep else None
    inverse, exists = _inverse(matrix, problem, squared_norm)
    consistent = scores.consistent(plan.factor) if checks.enabled else None
    if consistent is not None:
        checks.require(lambda: consistent, scores.inconsistent)
    finite = namespace(squared_norm).isfinite
    checks.require(lambda: finite(squared_norm), lambda: scores.not_finite(plan.factor))
    return Factorisation(problem, Factored(inverse, kept, exists & ok, squared_norm, leak)), first


def _inverse(
    matrix: SmallMatrix, problem: DampedProblem, squared_norm: Array
) -> tuple[Inverse, Array]:
    """Return the inverse and whether it exists; if lifted, with a damping above roundings of G."""
    real = dtype_name(squared_norm.dtype)
    damping = problem.damping_in(real)
    if problem.plan.lifted:
        xp = namespace(squared_norm)
        least = LIFT * unit_roundoff(problem.plan.factor) * squared_norm
        damping = xp.where(least > damping, least, damping)
    return matrix.inverse(damping)


def redamp(factor: Factor, damping: Any, checks: ValueChecks) -> Factor:
    """Return the factor for a checked damping, adding its value tests to `checks`."""
    small, plan = factor.small, factor.plan
    if plan.lifted and not plan.iterate:
        plan = plan._replace(least=max(plan.least, LIFT * unit_roundoff(plan.factor)))
    problem = dataclasses.replace(factor.problem, damping=damping, plan=plan)
    if not isinstance(damping, float):
        checks.positive("damping", problem.damping_in(plan.factor))
    inverse, ok = _inverse(small.matrix.copy(), problem, small.squared_norm)
    ok = ok & problem.legal()
    if small.leak is not None:
        assert problem.null is not None
        ok = ok & are_null(problem.null, small.leak, small.squared_norm, plan.factor)
    small = small._replace(inverse=inverse, ok=ok)
    return dataclasses.replace(factor, problem=problem, small=small)


def damping_below(factor: Factorisation, least: float) -> Array:
    """Tell whether damping / |S|_F^2 is below `least`, (...)."""
    damping = factor.problem.damping_in(factor.problem.plan.factor)
    return damping < least * factor.small.squared_norm


def damping_of(factor: Factorisation) -> Array:
    """Return the damping as an array, (...), in the real dtype of the factor."""
    squared_norm = factor.small.squared_norm
    damping = factor.problem.damping_in(dtype_name(squared_norm.dtype))
    return namespace(squared_norm).zeros_like(squared_norm) + damping

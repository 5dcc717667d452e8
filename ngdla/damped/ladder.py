"""The ladder of precisions: is a factor good enough, and if not, what next.

A factorisation that fails raises nothing: `cholesky` of `_backend/triangular.py` returns a flag
with its factor, which `factorise` keeps as `Factored.ok`. It is judged here: `_ask` makes it a
question, whose answer leads to the next rung, or where there is none a test, whose `LinAlgError` is
made here and raised when the checks are read. `precision.py` decides by numbers; here these are
measured, and the decision is carried out:

    the host can read     work on the first rung, and ask in the one fused flag of the call whether
                          the factor exists, damping / |S|_F^2 was large enough, and the step is
                          plainly right; if not, look closer (`refusal.py`), and work again on the
                          next rung, until a step is right or no rung is left;
    JAX under `jit`       the device takes what is plainly right on the first rung, and does all
                          else in double precision; where there is none, it does what has too small
                          a damping by conjugate gradients;
    nothing can be read   conjugate gradients for a fixed number of steps.

In the latter two a step that is not acceptable is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ngdla._backend.calls import ValueChecks
from ngdla._backend.dtypes import double_name, has_double, is_double, real_name, unit_roundoff
from ngdla._backend.namespace import Array, LinAlgError, namespace
from ngdla._backend.scalars import rounded_up
from ngdla._backend.tracing import choose, chooses, concrete, number

from .factorisation import Factor, Factorisation, damping_below, factorise, redamp
from .methods import NOTHING, FirstPass, Start
from .precision import LIFT, NATIVE, Measured, Plan, next_plan, warn_of_precision
from .problem import DampedProblem
from .refusal import Moves, acceptable, given_too_coarsely, unconverged, vanished

__all__ = ["Outcome", "choose_rung", "climb", "reuse", "with_damping"]


class Outcome(NamedTuple):
    """What a factor was used for, and how that was reached: None where it is not to be judged."""

    result: Any
    moves: Moves | None = None


# What a factor is used for, with the products of the first pass. `careful`: the right-hand side may
# be of any size, and all that is not right is required to be so; else it is asked for.
Use = Callable[[Factorisation, FirstPass, bool], Outcome]


def climb(
    problem: DampedProblem,
    checks: ValueChecks,
    use: Use,
    *,
    start: Start = NOTHING,
    keep: bool = False,
    in_row_space: bool = False,
) -> Any:
    """Read the checks, and return the result of `use` for a factor whose precision suffices.

    Where they say that it does not, everything is done again, but for a factor that serves on. The
    solution lies `in_row_space` of S where f is given; else S^H S + damping has the damping itself
    as an eigenvalue with n < m, however large those of the factored matrix are.
    """
    if not checks.readable:
        problem = problem.with_plan(_unlifted(problem.plan))
    factor, first = factorise(problem, checks, start, keep=keep)
    outcome = use(factor, first, False)
    if outcome.moves is None:
        _ask(factor, checks)
    if checks.read():
        return outcome.result

    def anew(plan: Plan) -> Factorisation:
        return factorise(problem.with_plan(plan), checks, NOTHING, keep=keep)[0]

    return _look_closer(factor, checks, use, anew, in_row_space=in_row_space)


def _unlifted(plan: Plan) -> Plan:
    """Return the first plan of "auto" where nothing can be read: lifted in single precision only.

    There conjugate gradients make up for it.
    """
    return plan._replace(lifted=False) if plan.rung == 0 and is_double(plan.factor) else plan


def reuse(factor: Factor, checks: ValueChecks, use: Use, *, in_row_space: bool) -> Any:
    """Read the checks, and return the result of `use` for a factor that is kept, whatever it is."""
    outcome = use(factor, FirstPass(), False)
    if checks.read():
        return outcome.result
    return _look_closer(factor, checks, use, None, in_row_space=in_row_space)


def _look_closer(
    factor: Factorisation,
    checks: ValueChecks,
    use: Use,
    anew: Callable[[Plan], Factorisation] | None,
    *,
    in_row_space: bool,
) -> Any:
    """Return the result of `use` on the first rung on which it is right, from this one upwards."""
    asked, description, outcome = factor, "", None
    while True:
        if _serves(factor):
            outcome = use(factor, FirstPass(), True)
            checks.read()
            if outcome.moves is None or _is_right(factor, outcome.moves):
                break
        plan = factor.plan
        dense, regram = (
            (factor.scores.dense, factor.scores.regram) if anew is not None else (False, False)
        )
        measured = _measure(factor, in_row_space=in_row_space)
        higher = next_plan(plan, measured, factor.scores.like, dense=dense, regram=regram)
        if higher is None:
            description = _give_up(factor, outcome)
            break
        next_one, description = higher
        if anew is None or (next_one.factor, next_one.method) == (plan.factor, plan.method):
            factor = dataclasses.replace(factor, problem=factor.problem.with_plan(next_one))
        else:
            factor = anew(next_one)
    if description:
        _warn(asked, description, anew is not None)
    elif outcome is not None:
        _warn_of_convergence(factor, outcome)
    assert outcome is not None
    _warn_of_rounding(factor, outcome)
    return outcome.result


def _ask(factor: Factorisation, checks: ValueChecks) -> None:
    """Ask whether the factor is good enough, or require that it is one where nothing is next.

    A step tells as much: without a factor it is NaN.
    """
    ok, least = factor.small.ok, factor.problem.plan.least
    if least > 0:
        checks.ask(lambda: ok & ~damping_below(factor, least))
    else:
        _require_definite(factor, checks)


def _require_definite(factor: Factorisation, checks: ValueChecks) -> None:
    """Require that the factorisation succeeded."""
    ok = factor.small.ok
    checks.require(lambda: ok, lambda: _indefinite_error(factor))


def _serves(factor: Factorisation) -> bool:
    """Tell whether the factor exists and is to be used for so small a damping."""
    ok, least = factor.small.ok, factor.plan.least
    if least > 0:
        ok = ok & ~damping_below(factor, least)
    return factor.scores.ranks.agreed(bool(concrete(namespace(ok).all(ok))))


def _is_right(factor: Factorisation, moves: Moves) -> bool:
    """Tell whether all steps are acceptable; raise where S is too small for any."""
    xp, ranks = namespace(moves.length), factor.scores.ranks
    if ranks.agreed(bool(concrete(xp.any(vanished(factor, moves))))):
        raise _underflow_error(factor)
    return ranks.agreed(bool(concrete(xp.all(acceptable(factor, moves)))))


def _give_up(factor: Factorisation, outcome: Outcome | None) -> str:
    """Return what to warn of where no rung is left; raise where the caller chose the precision."""
    if outcome is None or not _exists(factor):
        raise _indefinite_error(factor)
    if factor.plan.rung is None:
        raise _refusal_error(factor)
    return "the step may err by more than half of its length; look at SolveInfo.converged"


def _exists(factor: Factorisation) -> bool:
    ok = factor.small.ok
    return factor.scores.ranks.agreed(bool(concrete(namespace(ok).all(ok))))


def _underflow_error(factor: Factorisation) -> Exception:
    name, dtype = factor.scores.name, real_name(factor.plan.factor)
    return ValueError(
        f"the squared norm of `{name}` is below the range of {dtype}. Scale `{name}` up (and "
        f"`damping` by the square), or pass it as float64."
    )


def _refusal_error(factor: Factorisation) -> Exception:
    return LinAlgError(
        f"the step is refused: with `damping` at {_worst_ratio(factor):.1e} of "
        f"|{factor.scores.name}|_F^2 and in {factor.plan.factor} it may err by more than half of "
        f"its length. Raise `damping`, pass float64 arrays, or use precision='auto', a larger "
        f"`refine`, or method='qr'; damped_lstsq with f errs less than damped_solve with S^H f."
    )


def _indefinite_error(factor: Factorisation) -> Exception:
    dtype, least = factor.plan.factor, LIFT * unit_roundoff(factor.plan.factor)
    return LinAlgError(
        f"the damped Gram matrix of `{factor.scores.name}` is not positive definite in {dtype}: "
        f"`damping` is {_worst_ratio(factor):.1e} of |S|_F^2, below the rounding errors of the "
        f"Gram matrix. Raise it to {rounded_up(least)} |S|_F^2 or more, pass float64 arrays, name "
        f"the null vectors of centred scores by `null`, or use precision='auto' or method='qr'."
    )


def _worst_ratio(factor: Factorisation) -> float:
    """Return damping / |S|_F^2, the least of a batch, of what has no factor where that is some."""
    t2, ok = factor.small.squared_norm, factor.small.ok
    xp, ratios = namespace(t2), factor.problem.damping / t2
    if number(xp.min(xp.astype(ok, t2.dtype))) == 0:
        ratios = xp.where(ok, xp.full_like(ratios, xp.inf), ratios)
    ratio = number(xp.min(ratios))
    assert ratio is not None
    return ratio


# ------------------------------------------------------------------------------- next rung


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
    measured = _measure(factor, in_row_space=False)
    like = factor.scores.like
    higher = next_plan(factor.plan, measured, like, dense=False)
    if higher is None:
        return factor
    plan, description = higher
    if plan.factor != (kept := factor.plan.factor):
        plan = plan._replace(factor=kept, iterate=True)
        description = f"a factor keeps its Gram matrix of {kept}, which only preconditions"
    if description:
        _warn(factor, description, False)
    return dataclasses.replace(factor, problem=factor.problem.with_plan(plan))


def _warn(factor: Factorisation, description: str, anew: bool) -> None:
    """Warn of another rung than the one that was asked for."""
    remedy = "factor anew with it by damped_factor"
    if anew:
        remedy = "choose `precision` and `method` yourself to be rid of this warning"
    warn_of_precision(
        f"`damping` is too small for {factor.plan.factor} alone: {description}. Raise `damping`, "
        f"or {remedy}."
    )


def _warn_of_convergence(factor: Factorisation, outcome: Outcome) -> None:
    """Warn of an iteration that ended too early to be called converged."""
    moves = outcome.moves
    if moves is None or moves.left is None:
        return
    if concrete(namespace(moves.length).any(unconverged(moves))):
        warn_of_precision(
            f"refinement with `{factor.scores.name}` ended before it had converged. Look at "
            f"SolveInfo.converged; raise `damping`, or choose another `method` or a higher "
            f"`precision`."
        )


def _warn_of_rounding(factor: Factorisation, outcome: Outcome) -> None:
    """Warn of a solve for v that may be S^H f, rounded."""
    moves = outcome.moves
    if moves is None or moves.start is None or factor.plan.rung is None or not factor.scores.wide:
        return
    if concrete(namespace(moves.length).any(given_too_coarsely(moves))):
        warn_of_precision(
            "what `v` lost in rounding may be most of the solution, which it reaches divided by "
            "`damping`, if `v` is S^H f for some f: pass f to damped_lstsq, or row_space=True."
        )


def _measure(factor: Factorisation, *, in_row_space: bool) -> Measured:
    """Return damping and the smallest eigenvalue of the inverted matrix over |S|_F^2.

    The worst of a batch; the latter is 0 where the factorisation failed, and below what native
    precision is good for where not only the factored matrix counts.
    """
    small, xp = factor.small, namespace(factor.small.squared_norm)
    agreed = factor.scores.ranks.agreed
    if not factor.plan.method.exact:
        return Measured(agreed(_worst_ratio(factor)), 0.0)
    eigenvalue = small.inverse.smallest_eigenvalue() / small.squared_norm
    eigenvalue = xp.where(small.ok, eigenvalue, xp.zeros_like(eigenvalue))
    smallest = number(xp.min(eigenvalue))
    assert smallest is not None
    if factor.scores.wide and not in_row_space:
        smallest = min(smallest, NATIVE / 2 * unit_roundoff(factor.plan.factor))
    return Measured(agreed(_worst_ratio(factor)), agreed(smallest))


# ---------------------------------------------------------------- where the host cannot read

Result = TypeVar("Result")


def choose_rung(
    factor: Factorisation,
    first: FirstPass,
    use: Callable[[Factorisation, FirstPass, Array | bool], Result],
    at_a_glance: Callable[[Factorisation, FirstPass], tuple[Result, Array]],
    *,
    waits: bool,
) -> Result:
    """Return use(factor, first, accelerate), on a rung that the device chooses if it has to.

    `accelerate`, possibly a flag on the device, tells whether "auto" needs conjugate gradients. In
    double precision it never does: there a step may be refused. What is right `at_a_glance` needs
    neither, which is looked at first where a call `waits` for one flag of a GPU.
    """
    problem, like = factor.problem, factor.small.squared_norm
    plan, doubled = problem.plan, double_name(problem.plan.factor)
    if waits:
        result, right = at_a_glance(factor, first)
        if plan.least and plan.factor != doubled:
            right = right & ~namespace(like).any(damping_below(factor, plan.least))
        if concrete(right):
            return result
    if plan.least == 0 or plan.factor == doubled:
        return use(factor, first, False)
    flags = damping_below(factor, plan.least)
    flag = namespace(flags).any(flags)
    if not (chooses(like) and has_double(like)):
        return use(factor, first, flag if problem.refine else False)
    result, right = at_a_glance(factor, first)

    def higher() -> Factorisation:
        if factor.small.matrix is None and factor.scores.regram:  # no factor that is kept
            doubly = plan._replace(factor=doubled, double=True, lifted=False, least=0.0)
            unread = ValueChecks(enabled=False)
            return factorise(problem.with_plan(doubly), unread, NOTHING, keep=False)[0]
        again = problem.with_plan(plan._replace(double=True, iterate=True, least=0.0))
        return dataclasses.replace(factor, problem=again)

    return choose(right & ~flag, lambda: result, lambda: use(higher(), FirstPass(), False))

"""Solutions of damped problems, with a factorisation at hand or made for one right-hand side."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ngdla._backend.checks import ValueChecks, all_finite
from ngdla._backend.dtypes import (
    astype,
    double_name,
    has_double,
    is_complex,
    real_name,
    unit_roundoff,
)
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.settings import library_settings
from ngdla._backend.tracing import choose, chooses, is_traced
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .certificate import SolveInfo, certificate
from .factorisation import Factorisation, below, climb, factored
from .precision import Plan
from .problem import RightHandSide, Setup, setup
from .refinement import (
    First,
    ParameterSpace,
    Problem,
    SampleSpace,
    Space,
    converged,
    over_damping,
    refined,
)
from .right_hand_side import Layout

__all__ = ["inverse_in", "solution", "solved", "worked_in"]


def solved(
    scores: ScoreMatrix,
    rhs: RightHandSide,
    damping: Any,
    *,
    method: str = "auto",
    precision: str = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: bool = True,
    full_output: bool = False,
    checks: ValueChecks | None = None,
    trusted: bool = False,
) -> Any:
    """Factor in the working dtype of the right-hand side, solve, and read all checks once.

    `trusted` null vectors are those of this library's own scores, and are not tested. Where the
    checks say that "auto" has to climb, everything but a factor that serves on is done again.
    """
    checks = checks or ValueChecks(enabled=check)
    with library_settings(namespace(scores.like)):
        layout = rhs.layout(scores)
        options = (method, precision, refine, metric, null, layout.working)
        given = setup(scores, damping, *options, trusted=trusted)
        start = _start(given, rhs, layout)
        factor, first = factored(given, checks, start, keep=False, check=check)
        result = solution(factor, rhs, layout, checks, first, full_output)
        if not checks.read():
            given, kept = climb(given, factor, in_row_space=rhs.v is None)
            factor = kept or factored(given, checks, (None, None), keep=False, check=check)[0]
            result = solution(factor, rhs, layout, checks, First(), full_output)
            checks.read()
    return result


def _start(given: Setup, rhs: RightHandSide, layout: Layout) -> tuple[Array | None, Vector | None]:
    """Return f and the x from which the iteration starts, which a pass may multiply on the way."""
    if given.scores.dense:  # where a pass with one product more is no cheaper
        return None, None
    layout = worked_in(layout, given.plan)
    f, x0, v = _right_hand_side(given.scores, rhs, layout)
    if v is not None and given.scores.wide:
        x0 = over_damping(v, _damping_in(given.damping, layout))
    return f, x0


def solution(
    factor: Factorisation,
    rhs: RightHandSide,
    layout: Layout,
    checks: ValueChecks,
    first: First,
    full_output: bool,
) -> Any:
    """Return x, or (x, info), and add the tests of the right-hand side to `checks`."""
    if _climbs_on_device(factor):
        flags = below(factor)
        higher = factor.plan._replace(double=True, iterate=True, least=0.0)
        climbing = dataclasses.replace(factor, plan=higher)
        x, info = choose(
            namespace(flags).any(flags),
            lambda: _computed(climbing, rhs, layout, First(), full_output),
            lambda: _computed(factor, rhs, layout, first, full_output),
        )
    else:
        x, info = _computed(factor, rhs, layout, first, full_output)
    checks.require(lambda: all_finite(*x), lambda: _solution_error(factor.scores, rhs, layout))
    return (layout.leave(x), info) if full_output else layout.leave(x)


def _computed(
    factor: Factorisation, rhs: RightHandSide, layout: Layout, first: First, full_output: bool
) -> tuple[Vector, SolveInfo | None]:
    """Return x, rounded to the dtype of the result, and its certificate."""
    scores, plan = factor.scores, factor.plan
    layout = worked_in(layout, plan)
    problem = _problem(factor, rhs, layout)
    space: Space = SampleSpace(problem) if scores.wide else ParameterSpace(problem)
    inverse, start = inverse_in(factor, layout.working), space.first(first)
    low = plan.iterate or unit_roundoff(plan.factor) > problem.u
    if low and factor.check:
        found = converged(space, inverse, start, factor.refine, last_product=full_output)
    else:
        found = refined(
            space,
            inverse,
            start,
            factor.refine,
            last_product=full_output,
            accelerate=low or _accelerate(factor),
        )
    assert found.x is not None
    x = tuple(astype(piece, layout.rounded) for piece in scores.scaled(found.x))
    return x, certificate(space, found, factor.ok, layout) if full_output else None


def _cannot_climb(factor: Factorisation) -> bool:
    """Tell whether "auto" cannot read whether single precision is enough."""
    plan = factor.plan
    single = plan.least > 0 and plan.factor != double_name(plan.factor)
    return single and (not factor.check or is_traced(factor.squared_norm))


def _climbs_on_device(factor: Factorisation) -> bool:
    """Tell whether to let the device choose residuals in double precision."""
    like = factor.squared_norm
    return _cannot_climb(factor) and factor.refine > 0 and chooses(like) and has_double(like)


def _accelerate(factor: Factorisation) -> Array | bool:
    """Tell, possibly by a flag on the device, whether "auto" needs conjugate gradients.

    In double precision it never does: there the certificate may refuse the step.
    """
    if not _cannot_climb(factor):
        return False
    flags = below(factor)
    return namespace(flags).any(flags)


def _solution_error(scores: ScoreMatrix, rhs: RightHandSide, layout: Layout) -> Exception:
    """Return why x is not finite although S is and the factorisation succeeded."""
    arguments = rhs.named()
    for name, arrays in arguments:
        if not bool(all_finite(*arrays)):
            return ValueError(f"`{name}` contains NaN or Inf; pass finite values.")
    if fault := scores.fault(layout.working):
        return fault
    names = " and ".join(f"`{name}`" for name, _ in arguments)
    return ValueError(
        f"the solution exceeds the range of {layout.rounded}: {names} over `damping` is too large, "
        f"or refinement diverged as `damping` is below the rounding errors of the Gram matrix. "
        f"Scale {names} down, raise `damping`, or use float64."
    )


class _Vectors(NamedTuple):
    f: Array | None
    x0: Vector | None
    v: Vector | None


def _problem(factor: Factorisation, rhs: RightHandSide, layout: Layout) -> Problem:
    """Return the problem in the working dtype and in the coordinates D^(1/2) x."""
    f, x0, v = _right_hand_side(factor.scores, rhs, layout)
    working = real_name(layout.working)
    null, leak = factor.null, factor.leak
    if null is not None:
        null, leak = astype(null, layout.working), astype(leak, working)
    return Problem(
        scores=factor.scores,
        damping=_damping_in(factor.damping, layout),
        squared_norm=astype(factor.squared_norm, working),
        null=null,
        leak=leak,
        f=f,
        x0=x0,
        v=v,
        accuracy=unit_roundoff(layout.dtype),
        u=unit_roundoff(layout.working),
        steps=factor.plan.steps if chooses(factor.squared_norm) else factor.plan.blind_steps,
    )


def _right_hand_side(scores: ScoreMatrix, rhs: RightHandSide, layout: Layout) -> _Vectors:
    f = None if rhs.f is None else layout.enter(rhs.f)
    x0 = v = None
    if rhs.v is not None:
        v = scores.scaled(tuple(layout.enter(piece) for piece in rhs.v))
    if rhs.x0 is not None:
        x0 = scores.unscaled(tuple(layout.enter(piece) for piece in rhs.x0))
    return _Vectors(f, x0, v)


def _damping_in(damping: Any, layout: Layout) -> Any:
    return damping if isinstance(damping, float) else astype(damping, real_name(layout.working))


def worked_in(layout: Layout, plan: Plan) -> Layout:
    """Return the layout in which the plan works."""
    return dataclasses.replace(layout, double=True) if plan.double else layout


def inverse_in(factor: Factorisation, working: str) -> Any:
    """Return the inverse in the working dtype, whatever the factor was computed in.

    Applied in lower precision, it would not be one Hermitian matrix, on which sweeps rely.
    """
    inverse = factor.inverse
    if working == factor.plan.factor:
        return inverse
    dtypes = (real_name(working) if not is_complex(a) else working for a in inverse)
    return type(inverse)(*(astype(a, dtype) for a, dtype in zip(inverse, dtypes)))

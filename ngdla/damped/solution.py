"""What is done with a factor: solve, refine, certify, judge; refuse where nothing can be read."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks, all_finite, place_in_batch
from ngdla._backend.checks import require_flag
from ngdla._backend.dtypes import astype, real_name, stored_name, unit_roundoff
from ngdla._backend.fused import all_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.ranks import elsewhere
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import may_wait, nan_unless
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .certificate import SolveInfo, certificate
from .factorisation import Factorisation
from .inverses import cast_inverse
from .ladder import Outcome, choose_rung, climb
from .methods import NOTHING, FirstPass, Start
from .problem import DampedProblem, Options, damped_problem
from .refinement import sweep, sweep_until_converged
from .refusal import (
    Moves,
    acceptable,
    inverse_norm,
    least_eigenvalue,
    moderate,
    moves_of,
    plainly_right,
    vanished,
)
from .right_hand_side import Layout, LeastSquares, RightHandSide, Solve
from .spaces import ParameterSpace, SampleSpace, System
from .units import unit_of

__all__ = ["solution", "solve_problem"]


def solve_problem(
    scores: ScoreMatrix,
    rhs: RightHandSide,
    damping: Any,
    options: Options,
    checks: ValueChecks,
    *,
    full_output: bool,
) -> Any:
    """Return x, or (x, info): factor in the working dtype of the right-hand side, and solve."""
    if full_output is not True and full_output is not False:
        require_flag(full_output, "full_output")
    layout = rhs.layout(scores)
    problem = damped_problem(scores, damping, options, layout.working)
    solved = partial(solution, rhs=rhs, layout=layout, checks=checks, full_output=full_output)
    start = NOTHING if scores.dense else _start(problem, rhs, layout)
    return climb(problem, checks, solved, start=start, in_row_space=isinstance(rhs, LeastSquares))


def _start(problem: DampedProblem, rhs: RightHandSide, layout: Layout) -> Start:
    """Return f and the x from which the iteration starts, which a pass may multiply on the way.

    Where S is in memory, a pass with one product more is no cheaper than two.
    """
    if problem.plan.double:
        layout = layout.doubled(single=problem.metric is None)
    columns = rhs.to_columns(problem.scores, layout)
    if isinstance(columns, LeastSquares):
        return columns.f, columns.x0
    if not problem.scores.wide:
        return NOTHING
    return None, columns.start(problem.damping_in(layout.working))


def solution(
    factor: Factorisation,
    first: FirstPass,
    careful: bool,
    *,
    rhs: Any,
    layout: Layout,
    checks: ValueChecks,
    full_output: bool,
    judged: bool = True,
) -> Outcome:
    """Return x, or (x, info), and how it was reached; what has to be asked is added to `checks`.

    `rhs` is a `RightHandSide`, or what becomes one by `to_columns`.
    """
    judged = judged and checks.refuses
    if checks.readable:
        manner = _Manner(careful, judged, True)
        x, info, moves = _refine(
            factor, first, manner=manner, rhs=rhs, layout=layout, full_output=full_output
        )
        if careful:
            checks.require(lambda: all_finite(*x), partial(_solution_error, factor, rhs, layout))
        elif moves is not None:
            checks.ask(partial(plainly_right, factor, moves))
    else:
        manner = _Manner(judged or not moderate(factor), judged, checks.enabled)
        options = {"rhs": rhs, "layout": layout, "full_output": full_output}
        use = partial(_refused, manner=manner, **options)
        glance, moves = partial(_at_a_glance, **options), None
        waits = not checks.refuses and may_wait()
        x, info = choose_rung(factor, first, use, glance, waits=waits)
    result = layout.from_columns(x)
    return Outcome((result, info) if full_output else result, moves)


class _Manner(NamedTuple):
    """How a right-hand side is solved for."""

    careful: bool  # whatever its size
    judged: bool  # by how far corrections moved
    reads: bool  # values on the way


def _at_a_glance(
    factor: Factorisation, first: FirstPass, **options: Any
) -> tuple[tuple[Vector, SolveInfo | None], Array]:
    """Return x and its certificate, and a flag, 0-d: they are plainly right."""
    x, info, moves = _refine(factor, first, manner=_Manner(False, True, False), **options)
    assert moves is not None
    return (x, info), all_of(plainly_right(factor, moves)) & all_of(factor.small.ok)


def _refused(
    factor: Factorisation, first: FirstPass, accelerate: Array | bool, **options: Any
) -> tuple[Vector, SolveInfo | None]:
    """Return x, NaN where it is refused, and its certificate, where nothing can be read."""
    x, info, moves = _refine(factor, first, accelerate, **options)
    if moves is None:
        return x, info
    xp = namespace(moves.length)
    ok = acceptable(factor, moves) & ~vanished(factor, moves) & expanded(factor.small.ok, 1)
    if info is not None:
        info = info._replace(converged=info.converged & xp.reshape(ok, info.converged.shape))
    if x[0].shape[-1] != ok.shape[-1]:  # real and imaginary parts side by side
        ok = xp.concat([ok, ok], axis=-1)
    row = xp.expand_dims(ok, axis=-2)
    return tuple(piece * nan_unless(row, xp.real(piece[..., :1, :])) for piece in x), info


def _refine(
    factor: Factorisation,
    first: FirstPass,
    accelerate: Array | bool = False,
    *,
    manner: _Manner,
    rhs: Any,
    layout: Layout,
    full_output: bool,
) -> tuple[Vector, SolveInfo | None, Moves | None]:
    """Return x, rounded to the dtype of the result, its certificate, and how it was reached."""
    problem = factor.problem
    scores, plan, refine = problem.scores, problem.plan, problem.refine
    if plan.double:
        layout = layout.doubled(single=problem.metric is None)
    system = _system(factor, rhs, layout, manner)
    space = SampleSpace(system) if scores.wide else ParameterSpace(system)
    first = first if system.unit is None else first.over(system.unit)
    inverse, iterate = factor.small.inverse, space.begin(first)
    stored = stored_name(plan.factor)
    if layout.working != stored:
        inverse = cast_inverse(inverse, layout.working)
    low = plan.iterate or unit_roundoff(stored) > system.u
    if low and refine and manner.reads:
        iterate = sweep_until_converged(space, inverse, iterate, refine, last_product=full_output)
    else:
        iterate = sweep(
            space,
            inverse,
            iterate,
            refine,
            last_product=full_output,
            accelerate=low or accelerate,
        )
    assert iterate.x is not None
    moves = moves_of(system, iterate, rhs, low or accelerate) if manner.judged else None
    x = iterate.x if system.unit is None else tuple(p * system.unit for p in iterate.x)
    x = scores.scaled(x)
    if layout.working != layout.rounded:
        x = tuple(astype(piece, layout.rounded) for piece in x)
    if not full_output:
        return x, None, moves
    u_given = rhs.unit_roundoff() if isinstance(rhs, Solve) else 0.0
    return x, certificate(space, iterate, factor.small.ok, u_given), moves


def _system(factor: Factorisation, rhs: Any, layout: Layout, manner: _Manner) -> System:
    """Return the problem and its right-hand side in the working dtype, over its unit."""
    problem, small, dtype = factor.problem, factor.small, layout.working
    real, null, leak, unit = real_name(dtype), problem.null, small.leak, None
    if null is not None and leak is not None:
        null, leak = astype(null, dtype), astype(leak, real)
    damping, squared_norm = problem.damping_in(dtype), astype(small.squared_norm, real)
    columns = rhs.to_columns(problem.scores, layout)
    if manner.careful and not layout.roomy:
        wide = problem.scores.wide
        unit = unit_of(columns, layout, squared_norm, damping, wide=wide)
        columns = columns.over(unit)
    return System(
        scores=problem.scores,
        damping=damping,
        squared_norm=squared_norm,
        null=null,
        leak=leak,
        rhs=columns,
        start=columns.start(damping) if problem.scores.wide else columns.x0,
        unit=unit,
        careful=manner.careful,
        accuracy=unit_roundoff(layout.dtype),
        u=unit_roundoff(dtype),
        plan=problem.plan,
        layout=layout,
        judged=manner.judged,
        smallest=lambda: expanded(least_eigenvalue(factor, measured=manner.careful), 1),
        inverse_norm=partial(inverse_norm, factor),
    )


def _solution_error(factor: Factorisation, rhs: Any, layout: Layout) -> Exception:
    """Return why x is not finite although S is."""
    arguments = rhs.named()
    for name, arrays in arguments:
        if not bool(all_finite(*arrays)):
            place = place_in_batch(len(factor.scores.batch), *arrays, kind="vector")
            return ValueError(f"`{name}` contains NaN or Inf{place}; pass finite values.")
    if fault := factor.scores.fault(layout.working):
        return fault
    names = " and ".join(f"`{name}`" for name, _ in arguments)
    message = (
        f"the solution exceeds the range of {layout.rounded}: {names} over `damping` is too large, "
        f"or refinement diverged as `damping` is below the rounding errors of the Gram matrix. "
        f"Scale {names} down, raise `damping`, or use float64."
    )
    return elsewhere(message, factor.scores.ranks)

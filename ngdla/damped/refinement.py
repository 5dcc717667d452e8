"""Solves with an approximate inverse of the small damped matrix, and their refinement.

With n < m the work is done in the sample space, with W = S S^H + damping (n x n). Both problems,

    lstsq:  min |S x - f|^2 + damping |x - x0|^2       solve:  (S^H S + damping) x = v,

are  x = x0 + S^H y  with  W y = f - S x0,  where a solve has f = 0 and x0 = v / damping. A sweep is

    r = f - S x - damping y,    w = W^-1 r,    x <- x + S^H w,    y <- y + w,

one pass over S. Because the residual is formed with the current x, whose S x is small where S x0
is large, a sweep also repairs the cancellation in (v - S^H W^-1 S v) / damping. With n >= m the
work is done in the parameter space, with A = S^H S + damping (m x m), and a sweep is x <- x +
A^-1 r for the gradient r = S^H (f - S x) + damping (x0 - x), again one pass.

Where the inverse at hand is that of a matrix formed in lower precision, or of one with a larger
damping, sweeps contract slowly or not at all: w then comes from conjugate gradients on W or A,
preconditioned by that inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import rmatvec
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.tracing import choose, number
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .conjugate_gradients import conjugate_gradients
from .precision import warn_of_climbing
from .right_hand_side import column_norms

__all__ = [
    "First",
    "ParameterSpace",
    "Problem",
    "SampleSpace",
    "Solution",
    "Space",
    "converged",
    "over_damping",
    "refined",
    "without_null",
]

Inverse = Callable[[Array], Array]


class First(NamedTuple):
    """Products that were formed together with the Gram matrix, each None if not."""

    S_start: Array | None = None  # S x0 or S v / damping
    gradient: Vector | None = None  # S^H (f - S x0)


class Problem(NamedTuple):
    """min |S x - f|^2 + damping |x - x0|^2 + constant, or v = damping x0 given in its place."""

    scores: ScoreMatrix
    damping: Any  # Python float or array (...)
    squared_norm: Array  # tr S S^H, (...)
    null: Array | None  # (..., n, p): orthonormal, S^H N = 0
    leak: Array | None  # |S^H N|_F as measured, (...)
    f: Array | None  # (..., n, k)
    x0: Vector | None
    v: Vector | None
    accuracy: float  # unit roundoff of the result
    u: float  # unit roundoff of the work
    steps: int  # of conjugate gradients, where nothing can be read


class Solution(NamedTuple):
    """Where the iteration stands: in the sample space x = start + S^H sum w."""

    x: Vector | None
    corrections: tuple[Array, ...] = ()  # the w of all sweeps
    Sx: Array | None = None  # S x, where it came with x
    S_start: Array | None = None  # S x0, where x0 is given
    gradient: Vector | None = None  # S^H (f - S x), where it came with something else


# --------------------------------------------------------------------------------- sweeps

_FEW = 4  # sweeps; where more would be needed, conjugate gradients are the faster way
_SWEEPS = 8
_STEPS = 100
_FELT = 0.01  # error over length, from which a caller must know


def refined(
    space: Space,
    inverse: Inverse,
    solution: Solution,
    sweeps: int,
    *,
    last_product: bool,
    accelerate: Array | bool = False,
) -> Solution:
    """Return the solution after one solve and `sweeps` sweeps.

    `accelerate`, a 0-d flag, lets the first sweep use conjugate gradients.
    """
    for sweep in range(1 + sweeps):
        r, solution = space.residual(solution)
        if sweep == 1 and accelerate is not False:
            w = _accelerated(space, inverse, r, solution, accelerate)
        else:
            w = inverse(r)
        solution = space.moved(solution, w, product=last_product or sweep < sweeps)
    return solution


def _accelerated(
    space: Space, inverse: Inverse, r: Array, solution: Solution, flag: Array | bool = True
) -> Array:
    """Return W^-1 r or A^-1 r by a fixed number of steps, if `flag` is set."""
    steps = partial(
        conjugate_gradients,
        space.product,
        inverse,
        steps=space.problem.steps,
        target=_as_row(space.target(solution)),
        early=False,
    )
    return steps(r) if flag is True else choose(flag, lambda: steps(r), lambda: inverse(r))


def _as_row(norms: Array) -> Array:
    return namespace(norms).expand_dims(norms, axis=-2)


def converged(
    space: Space, inverse: Inverse, solution: Solution, sweeps: int, *, last_product: bool
) -> Solution:
    """Return the solution after as many sweeps as it needs, at least one where `sweeps` > 0.

    Where the contraction that is seen asks for more than a few, or where values cannot be read,
    their w comes from conjugate gradients.
    """
    if sweeps == 0:
        return refined(space, inverse, solution, 0, last_product=last_product)
    r, solution = space.residual(solution)
    # a solve starts from v / damping, whose S x is far larger than any later residual
    pace = _Pace(None if space.problem.f is None else column_norms((r,)))
    solution = space.moved(solution, inverse(r), product=True)
    while not pace.over:
        r, solution = space.residual(solution)
        pace = pace.at(column_norms((r,)), space.target(solution))
        if pace.distance is None:
            return _continued(space, inverse, solution, sweeps, last_product=last_product)
        if pace.distance <= 1:
            break
        if pace.slow:
            target = _as_row(space.target(solution))
            w = conjugate_gradients(space.product, inverse, r, steps=_STEPS, target=target)
        else:
            w = inverse(r)
        solution = space.moved(solution, w, product=last_product or not pace.over)
    if pace.exhausted:
        _warn_of_error(space, solution, pace)
    return solution


def _warn_of_error(space: Space, solution: Solution, pace: _Pace) -> None:
    """Warn where what is left of the residual may be felt in the step."""
    assert solution.x is not None
    assert pace.size is not None
    error = number(_largest(space.error(pace.size), column_norms(solution.x)))
    if error is not None and not error <= _FELT:
        name = space.problem.scores.name
        warn_of_climbing(
            f"refinement with `{name}` ended before it had converged: the solution may err by "
            f"{error:.0e} of its length. Look at SolveInfo.converged; raise `damping`, or choose "
            f"another `method` or a higher `precision`."
        )


class _Pace(NamedTuple):
    """How far |r| is from its target, and how much of it a sweep leaves."""

    size: Array | None  # |r| of each column before the last sweep
    distance: float | None = math.inf  # the largest |r| / target; None where it cannot be read
    contraction: float = 0.0
    sweeps: int = 0
    slow: bool = False
    tried: int = 0  # sweeps by conjugate gradients

    def at(self, size: Array, target: Array) -> _Pace:
        """Return the pace at the next residual."""
        distance, contraction = number(_largest(size, target)), 0.0
        if self.size is not None:
            contraction = number(_largest(size, self.size, size > target)) or 0.0
        slow = self.slow or (self.sweeps > 0 and contraction > 0.5)
        slow = slow or (distance is not None and distance * contraction**_FEW > 1)
        return _Pace(size, distance, contraction, self.sweeps + 1, slow, self.tried + slow)

    @property
    def exhausted(self) -> bool:
        """Tell whether the sweep that follows is the last one for want of progress."""
        if self.distance is None or not self.distance < math.inf or not self.slow:
            return False
        return self.sweeps >= _SWEEPS or (self.tried > 2 and self.contraction > 0.5)

    @property
    def over(self) -> bool:
        """Tell whether the sweep that follows this residual is the last one."""
        if self.distance is None or not self.distance < math.inf:
            return self.sweeps > 0
        if self.slow:
            return self.exhausted
        # the first solve contracts more than sweeps do
        return self.sweeps > 1 and self.distance * self.contraction <= 0.1


def _continued(
    space: Space, inverse: Inverse, solution: Solution, sweeps: int, *, last_product: bool
) -> Solution:
    """Return the solution after conjugate gradients with a fixed number of steps, and sweeps."""
    for sweep in range(sweeps):
        r, solution = space.residual(solution)
        w = inverse(r) if sweep else _accelerated(space, inverse, r, solution)
        solution = space.moved(solution, w, product=last_product or sweep < sweeps - 1)
    return solution


def _largest(size: Array, other: Array, counted: Array | None = None) -> Array:
    """Return the largest size / other of the columns that are counted and not 0."""
    xp = namespace(size)
    counted = size > 0 if counted is None else counted
    return xp.max(xp.where(counted, size / other, xp.zeros_like(size)))


# --------------------------------------------------------------------------- sample space


class SampleSpace(NamedTuple):
    """x = start + S^H y with W y = f - S start, for n < m."""

    problem: Problem

    def first(self, first: First) -> Solution:
        """Return the solution before anything is solved."""
        problem = self.problem
        x = problem.x0
        if problem.v is not None:
            x = over_damping(problem.v, problem.damping)
        return Solution(x, Sx=first.S_start)

    def residual(self, solution: Solution) -> tuple[Array, Solution]:
        """Return r = f - S x - damping y for y = the sum of the corrections.

        The part along null vectors is left out: as S^H N = 0 it does not reach x, while W^-1 would
        blow it up.
        """
        r, solution = self.whole_residual(solution)
        return without_null(r, self.problem.null), solution

    def whole_residual(self, solution: Solution) -> tuple[Array, Solution]:
        """Return r with its part along null vectors."""
        problem, Sx = self.problem, solution.Sx
        if Sx is None and solution.x is not None:
            Sx = problem.scores.matvec(solution.x)
            solution = solution._replace(Sx=Sx)
        if not solution.corrections and problem.x0 is not None:
            solution = solution._replace(S_start=Sx)
        r = problem.f
        if Sx is not None:
            r = -Sx if r is None else r - Sx
        assert r is not None
        if solution.corrections:
            r = r - expanded(problem.damping, 2) * reduce(add, solution.corrections)
        return r, solution

    def moved(self, solution: Solution, w: Array, *, product: bool) -> Solution:
        """Return x + S^H w."""
        x, Sx = self.problem.scores.add_rmatvec(solution.x, w, product=product)
        return solution._replace(x=x, corrections=(*solution.corrections, w), Sx=Sx)

    def product(self, p: Array) -> Array:
        """Return W p = S S^H p + damping p."""
        _, SSp = self.problem.scores.add_rmatvec(None, p, product=True)
        assert SSp is not None
        return SSp + expanded(self.problem.damping, 2) * p

    def error(self, size: Array) -> Array:
        """Return what |x| errs by at most for a residual of this size, |S^H W^-1| |r|."""
        _, damping = _size(self.problem)
        return size / (2 * damping**0.5)

    def target(self, solution: Solution) -> Array:
        """Return the |r| that moves x by a rounding."""
        problem = self.problem
        t, damping = _size(problem)
        assert solution.x is not None
        length = column_norms(solution.x)
        return 2 * damping**0.5 * problem.accuracy * length + problem.u * t * length


def over_damping(v: Vector, damping: Any) -> Vector:
    """Return v / damping, from which a solve starts."""
    return tuple(piece / expanded(damping, 2) for piece in v)


def without_null(r: Array, null: Array | None) -> Array:
    """Return r - N N^H r."""
    return r if null is None else r - null @ rmatvec(null, r)


# ------------------------------------------------------------------------ parameter space


class ParameterSpace(NamedTuple):
    """A x = S^H f + damping x0, for n >= m."""

    problem: Problem

    def first(self, first: First) -> Solution:
        """Return the solution before anything is solved."""
        return Solution(self.problem.x0, Sx=first.S_start, gradient=first.gradient)

    def residual(self, solution: Solution) -> tuple[Array, Solution]:
        """Return r = S^H (f - S x) + damping (x0 - x), where v stands for damping x0."""
        pieces, solution = self.gradient(solution)
        return joined(list(pieces), axis=-2), solution

    def gradient(self, solution: Solution) -> tuple[Vector, Solution]:
        """Return r in pieces."""
        problem, x, r = self.problem, solution.x, solution.gradient
        if r is None and (problem.f is not None or x is not None):
            r, Sx = problem.scores.gradient(problem.f, x)
            solution = solution._replace(gradient=r, Sx=Sx)
        if solution.S_start is None and x is problem.x0:
            solution = solution._replace(S_start=solution.Sx)
        if problem.v is not None:
            r = problem.v if r is None else _plus(r, problem.v)
        assert r is not None
        damping = expanded(problem.damping, 2)
        if x is not None and problem.x0 is not None and x is not problem.x0:
            r = tuple(a + damping * (b - c) for a, b, c in zip(r, problem.x0, x))
        elif x is not None and problem.x0 is None:
            r = tuple(a - damping * c for a, c in zip(r, x))
        return r, solution

    def moved(self, solution: Solution, w: Array, *, product: bool) -> Solution:
        """Return x + w."""
        step = self.problem.scores.split(w)
        x = step if solution.x is None else _plus(solution.x, step)
        return solution._replace(x=x, Sx=None, gradient=None)

    def product(self, p: Array) -> Array:
        """Return A p = S^H S p + damping p."""
        negative, _ = self.problem.scores.gradient(None, self.problem.scores.split(p))
        return expanded(self.problem.damping, 2) * p - joined(list(negative), axis=-2)

    def error(self, size: Array) -> Array:
        """Return what |x| errs by at most for a residual of this size, |A^-1| |r|."""
        return size / _size(self.problem)[1]

    def target(self, solution: Solution) -> Array:
        """Return the |r| that moves x by a rounding."""
        problem = self.problem
        t, damping = _size(problem)
        assert solution.x is not None
        assert solution.Sx is not None
        rounding = problem.u * t * column_norms((solution.Sx,))
        return damping * problem.accuracy * column_norms(solution.x) + rounding


Space = SampleSpace | ParameterSpace


def _size(problem: Problem) -> tuple[Array, Any]:
    """Return |S|_F and the damping, each (..., 1) or a number."""
    return expanded(problem.squared_norm, 1) ** 0.5, expanded(problem.damping, 1)


def _plus(x: Vector, y: Vector) -> Vector:
    return tuple(a + b for a, b in zip(x, y))

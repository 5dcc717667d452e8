"""Whether a step is to be refused: an estimate of its error, without a pass over S.

The factor errs by about 4 u |S|_F^2 (4 u |S|_F sqrt(mu) where it is made of singular vectors), for
its unit roundoff u. Over mu, the smallest eigenvalue of the matrix that it inverts, that is theta,
what a sweep leaves of an error. A step is refused where

    theta |dx_last| > |x| / 2         with theta <= 1/2,
    max_k |dx_k| > |x| / 2            else, where sweeps say little of what is left, or where the
                                      last residual but one allows for more than that,

for the corrections dx_k of the sweeps, or x - x0 without a sweep. Roundings that no correction
shows are added: 4 u |x0| of a solve with n < m, which starts from x0 = v / damping, 4 u |v| / mu
where singular vectors solve with n >= m, and, with dampings below 256 u |S|_F^2, u |S| |y| of
x = x0 + S^H y where f is given. Where one iterated until it converged, or by conjugate gradients,
the residual that is left is judged instead. Each right-hand side by itself.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

from ngdla._backend.dtypes import astype, dtype_name, normal_range, stored_name, unit_roundoff
from ngdla._backend.fused import in_one_kernel
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import as_flag, at_hand, choose_if_free, number_if_free

from .factorisation import Factorisation
from .inverses import eigenvalue_below
from .precision import LIFT, NATIVE, Plan
from .right_hand_side import Solve
from .roundings import GIVEN, rounding
from .spaces import Iterate, System

__all__ = [
    "Moves",
    "acceptable",
    "given_too_coarsely",
    "inverse_norm",
    "least_eigenvalue",
    "moderate",
    "moves_of",
    "plainly_right",
    "unconverged",
    "vanished",
]


class Moves(NamedTuple):
    """Sizes, (..., k), of a solution and of how it was reached.

    For `plainly_right` they are squared lengths, for the others lengths.
    """

    length: Array  # |x|
    last: Any  # |dx| of the last sweep, or of the solve where there is none; None: not counted
    largest: Any  # the largest of those
    dtype: str  # of the result
    u: float  # unit roundoff of the work
    first: Array | None = None  # of the solve, where it was asked for
    start: Array | None = None  # |v| over the damping, or the smallest eigenvalue with n >= m
    multipliers: Array | None = None  # |y| of x = x0 + S^H y, with n < m where f is given
    u_given: float = 0.0  # unit roundoff of the dtype in which v came
    bound: Array | None = None  # of the error before the last sweep
    left: Array | None = None  # the error, never squared, that a residual shows
    iterated: Array | bool = False  # that counts


# Squares of |x| and |S| for which no multiplier leaves the range of the dtype.
_SINGLE, _DOUBLE = (2.0**-80, 2.0**80), (2.0**-640, 2.0**640)
_MODERATE = {
    "float32": _SINGLE,
    "complex64": _SINGLE,
    "float64": _DOUBLE,
    "complex128": _DOUBLE,
}
_NOTICEABLE = 0.01  # error over length where one iterated, from which a caller must know


def plainly_right(factor: Factorisation, moves: Moves) -> Any:
    """Tell at a glance, (..., k), that steps are right, well within the range of the dtype.

    A no asks for another look, as does a factorisation that failed, after which they are NaN.
    """
    problem, t2 = factor.problem, factor.small.squared_norm
    dtype, damping = problem.plan.factor, problem.damping_in(problem.plan.factor)
    if moves.length.ndim > 1:  # one number beside all right-hand sides of a problem
        t2, damping = expanded(t2, 1), expanded(damping, 1)
    t2, length, last = at_hand(t2), at_hand(moves.length), at_hand(moves.last)
    start = None if moves.start is None else at_hand(moves.start)
    sizes = (t2, damping, length, last, start, moves.left)
    u = GIVEN * max(moves.u, moves.u_given)
    limits = (unit_roundoff(dtype), u, *_MODERATE[stored_name(dtype)], *_MODERATE[moves.dtype])
    formula = _by_matrix if problem.plan.method.squares_condition else _by_factors
    return as_flag(in_one_kernel(formula, *sizes, *limits))


def _by_matrix(xp: Any, *sizes: Any) -> Any:
    return _is_plainly_right(*sizes, squares=True)


def _by_factors(xp: Any, *sizes: Any) -> Any:
    return _is_plainly_right(*sizes, squares=False)


def _is_plainly_right(*sizes: Any, squares: bool) -> Any:
    t2, damping, length, last, start, left, u_factor, u, *limits = sizes
    ok = (t2 >= limits[0]) & (t2 <= limits[1])
    if left is None:
        ratio = t2 / damping
        theta = LIFT * u_factor * (ratio if squares else ratio**0.5)
        ok = ok & (damping >= NATIVE * u_factor * t2)
        error = (4.0 * theta * theta) * last  # (2 error)^2
    else:
        error = (left / _NOTICEABLE) * (left / _NOTICEABLE)
    if start is not None:  # (a + b)^2 <= 2 a^2 + 2 b^2
        error = 2.0 * error + 8.0 * u * u * start
    return ok & (error <= length) & (length >= limits[2]) & (length <= limits[3])


def moderate(factor: Factorisation) -> bool:
    """Tell whether |S|^2 is known to be well within the range of its dtype, at no cost."""
    t2 = factor.small.squared_norm
    xp = namespace(t2)
    low, high = (number_if_free(x) for x in (xp.min(t2), xp.max(t2)))
    least, most = _MODERATE[stored_name(factor.plan.factor)]
    return low is not None and high is not None and least <= low and high <= most


def acceptable(factor: Factorisation, moves: Moves) -> Array:
    """Tell, (..., k), of steps whose estimated error is at most half of their length."""
    xp = namespace(moves.length)
    if moves.iterated is True:
        error = moves.left
    else:
        error = _of_sweeps(factor, moves)
        if moves.left is not None:
            error = xp.where(moves.iterated, moves.left, error)
    if moves.start is not None:
        error = error + 4.0 * moves.u * moves.start
    if moves.multipliers is not None:
        t2, damping = factor.small.squared_norm, factor.problem.damping_in(factor.plan.factor)
        size = xp.where(_above_roundings(factor.plan, t2, damping), 0 * t2, xp.sqrt(t2))
        error = error + moves.u * _like(size, moves) * moves.multipliers
    return (error <= moves.length / 2) & xp.isfinite(moves.length)


def moves_of(system: System, iterate: Iterate, rhs: Any, iterated: Array | bool) -> Moves:
    """Return how an iterate was reached for a right-hand side, as the caller gave it."""
    layout, start, u_given, x = system.layout, None, 0.0, iterate.x
    assert x is not None
    if isinstance(rhs, Solve):
        u_given = rhs.unit_roundoff()
        start = _start(system)
    length = system.size(x) if iterate.length is None else iterate.length
    moves, first = iterate.moves, None
    if system.bounds and moves:
        first, moves = moves[0], moves[1:] or moves
    return Moves(
        length=length,
        last=moves[-1] if moves else None,
        largest=reduce(namespace(length).maximum, moves) if moves else None,
        dtype=layout.rounded,
        u=system.u,
        first=first,
        start=start,
        multipliers=_multipliers(system, iterate),
        u_given=u_given,
        bound=iterate.bound,
        left=iterate.left,
        iterated=iterated if iterate.left is not None else False,
    )


def _multipliers(system: System, iterate: Iterate) -> Array | None:
    """Return |y| after the first solve, to which sweeps add little."""
    if not (iterate.corrections and system.bounds) or isinstance(system.rhs, Solve):
        return None
    return system.size(iterate.corrections[0])


def _start(system: System) -> Array | None:
    """Return the size of |A^-1| |v|, whose roundings no correction shows.

    With n >= m they are those of V^H v, where singular vectors err less than a Gram matrix.
    """
    if system.scores.wide:
        return system.size(system.start or ())
    if system.plan.method.squares_condition or not isinstance(system.rhs, Solve):
        return None
    v = system.size(system.rhs.v)
    if not system.careful:
        return v / expanded(system.damping, 1) / expanded(system.damping, 1)
    return v / system.smallest()


def _of_sweeps(factor: Factorisation, moves: Moves) -> Array:
    xp = namespace(moves.length)
    if not factor.plan.method.exact:  # nothing is known of what the factor leaves
        return moves.largest
    theta = _like(_theta(factor.plan, factor.small.squared_norm, least_eigenvalue(factor)), moves)
    contracting = theta <= 0.5
    theta = xp.where(contracting, theta, xp.ones_like(theta))
    largest = moves.largest if moves.bound is None else xp.maximum(moves.largest, moves.bound)
    return xp.where(contracting, theta * moves.last, largest)


def _like(x: Array, moves: Moves) -> Array:
    """Return numbers (...) beside those of right-hand sides, (..., 1)."""
    return astype(expanded(x, 1), dtype_name(moves.length.dtype))


def given_too_coarsely(moves: Moves) -> Array:
    """Tell, (..., k), of solves that what v lost when it was rounded may be most of x."""
    assert moves.start is not None
    return 2.0 * GIVEN * moves.u_given * moves.start > moves.length


def unconverged(moves: Moves) -> Array:
    """Tell, (..., k), of iterations that ended with a noticeable error."""
    return moves.left > _NOTICEABLE * moves.length


def vanished(factor: Factorisation, moves: Moves) -> Array:
    """Tell, (..., k), of steps that move although |S|^2 is below the range of its dtype."""
    t2 = factor.small.squared_norm
    least, _ = normal_range(dtype_name(t2.dtype))
    assert moves.first is not None
    return expanded(t2 < least, 1) & (moves.first > 0)


def least_eigenvalue(factor: Factorisation, *, measured: bool = False) -> Array:
    """Return what the smallest eigenvalue of the damped matrix is at least, about, (...).

    It is the damping where that is far above the roundings of the Gram matrix, else, or where it is
    to be `measured`, half of what inverse iterations with the factor give, less what the factor was
    lifted by.
    """
    small, plan = factor.small, factor.plan
    xp, t2 = namespace(small.squared_norm), small.squared_norm
    damping = xp.zeros_like(t2) + factor.problem.damping_in(plan.factor)
    if not plan.method.exact:
        return damping
    normal = _theta(plan, t2, damping) <= LIFT / NATIVE
    if measured:
        normal = normal & ~normal

    def by_iterations() -> Array:
        return xp.real(small.inverse.smallest_eigenvalue()) / 2

    mu = choose_if_free(xp.all(normal), lambda: damping, by_iterations)
    if plan.lifted:
        lift = LIFT * unit_roundoff(plan.factor) * t2 - damping
        mu = mu - xp.where(lift > 0, lift, xp.zeros_like(lift))
    if plan.lifted or measured:
        mu = xp.where(mu > damping, mu, damping)
    return xp.where(normal, damping, mu)


def inverse_norm(factor: Factorisation, certain: Array) -> Array:
    """Return an upper bound of |A^-1|, (...): 1 / damping, which does where `certain` is set.

    Elsewhere it is the reciprocal of what the factor proves of the smallest eigenvalue of A, where
    that is positive: its own less lifting and roundings.
    """
    small, plan, scores = factor.small, factor.plan, factor.scores
    xp, t2 = namespace(small.squared_norm), small.squared_norm
    damping = xp.zeros_like(t2) + factor.problem.damping_in(plan.factor)
    if not plan.method.exact:
        return 1 / damping

    def proved() -> Array:
        u = unit_roundoff(plan.factor)
        lift = LIFT * u * t2 - damping if plan.lifted else xp.zeros_like(t2)
        roundings = sum(rounding(u, length, t2) for length in (scores.rows, scores.columns)) * t2
        least = eigenvalue_below(small.inverse) - roundings - xp.where(lift > 0, lift, 0 * lift)
        return 1 / xp.where(least > damping, least, damping)

    return choose_if_free(certain, lambda: 1 / damping, proved)


def _above_roundings(plan: Plan, squared_norm: Array, damping: Any) -> Any:
    """Tell where the damping is far above the roundings of a Gram matrix."""
    return damping >= NATIVE * unit_roundoff(plan.factor) * squared_norm


def _theta(plan: Plan, squared_norm: Array, mu: Any) -> Array:
    """Return theta, (...), not cut at 1, for the smallest eigenvalue mu."""
    u, ratio = LIFT * unit_roundoff(plan.factor), squared_norm / mu
    return u * ratio if plan.method.squares_condition else u * ratio**0.5

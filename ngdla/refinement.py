"""Iterative refinement of damped solves, and certificates of what was reached.

With n < m the work is done in the sample space, with W = S S^H + damping (n x n). Both problems,

    lstsq:  min |S x - f|^2 + damping |x - x0|^2       solve:  (S^H S + damping) x = v,

are  x = x0 + S^H y  with  W y = f - S x0,  where a solve has f = 0 and x0 = v / damping. A sweep is

    w = W^-1 (f - S x - damping y),    x <- x + S^H w,    y <- y + w,

one product with S and one with S^H. Because the residual is formed with the current x, whose S x
is small where S x0 is large, a sweep also repairs the cancellation in (v - S^H W^-1 S v) / damping.
With n >= m the work is done in the parameter space, with A = S^H S + damping (m x m), and a sweep
is x <- x + A^-1 r for the gradient r = S^H (f - S x) + damping (x0 - x).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ._backend.namespace import Array, as_array, namespace, unit_roundoff
from ._backend.products import rmatvec
from .streaming import ColumnBlocks, Vector
from .vectors import Layout

__all__ = [
    "Problem",
    "Solution",
    "SolveInfo",
    "parameter_certificate",
    "parameter_refinement",
    "rounded_bound",
    "sample_certificate",
    "sample_refinement",
]


def _rounding(u: float, length: int) -> float:
    """Return the error of a product with S, sums of `length` terms, over |S|_F |x|.

    4 u covers the few operations of a term. Sums of many numbers of one sign, accumulated in a few
    dozen lanes as BLAS does, err by up to about sqrt(length) u (measured to length 3e6).
    """
    return 4.0 * u * max(1.0, length**0.5 / 4)


class SolveInfo(NamedTuple):
    """What is known of a solution, one value for each right-hand side.

    Attributes
    ----------
    residual_norm : array
        With n < m, |f - S x0 - W y| for least squares; otherwise the norm of the gradient,
        |v - A x|.
    backward_error : array
        The residual over the size of the terms that it is the difference of: at the unit roundoff
        or below where the factorisation succeeded, refined or not.
    error_bound : array
        Upper bound of |computed x - exact x|, rounding errors included; a worst case, typically
        far above the error.
    step_norm : array
        |S (x - x0)|, or |S x| for a solve: the length of the step in the Fubini-Study (Fisher)
        metric.
    converged : array of bool
        The factorisation succeeded and error_bound <= |x| / 2, so that the step is certified to
        be neither twice too long nor half too short.

    Notes
    -----
    With a metric D the norms of x are |D^(1/2) x|, and that of the gradient |D^(-1/2) r|.
    """

    residual_norm: Array
    backward_error: Array
    error_bound: Array
    step_norm: Array
    converged: Array


class Problem(NamedTuple):
    """min |S x - f|^2 + damping |x - x0|^2 + constant, or v = damping x0 given in its place."""

    scores: ColumnBlocks
    damping: Any  # Python float or array (...)
    squared_norm: Array  # tr S S^H, (...)
    null: Array | None  # (..., n, p): orthonormal, S^H N = 0
    leak: Array | None  # |S^H N|_F as measured, (...)
    f: Array | None  # (..., n, k)
    x0: Vector | None
    v: Vector | None


class Solution(NamedTuple):
    """Refined x, and the corrections w of all sweeps: in the sample space x = x0 + S^H sum w."""

    x: Vector
    corrections: tuple[Array, ...]


def sample_refinement(problem: Problem, inverse: Callable[[Array], Array], sweeps: int) -> Solution:
    """Return x after one solve and `sweeps` sweeps with `inverse` = W^-1, for n < m."""
    x = _start(problem)
    corrections: tuple[Array, ...] = ()
    for _ in range(1 + sweeps):
        r, _ = _sample_residual(problem, x, corrections)
        w = inverse(_without_null(r, problem.null))
        step = problem.scores.rmatvec(w)
        x = step if x is None else _plus(x, step)
        corrections += (w,)
    assert x is not None
    return Solution(x, corrections)


def _start(problem: Problem) -> Vector | None:
    if problem.v is None:
        return problem.x0
    damping = expanded(problem.damping, 2)
    return tuple(piece / damping for piece in problem.v)


def _sample_residual(
    problem: Problem, x: Vector | None, corrections: tuple[Array, ...]
) -> tuple[Array, Array | None]:
    """Return f - S x - damping y for y = the sum of the corrections, and S x."""
    Sx = None if x is None else problem.scores.matvec(x)
    r = problem.f
    if Sx is not None:
        r = -Sx if r is None else r - Sx
    assert r is not None
    if corrections:
        r = r - expanded(problem.damping, 2) * reduce(add, corrections)
    return r, Sx


def _without_null(r: Array, null: Array | None) -> Array:
    """Return r - N N^H r: as S^H N = 0 this part does not reach x, while W^-1 would blow it up."""
    return r if null is None else r - null @ rmatvec(null, r)


def parameter_refinement(
    problem: Problem, inverse: Callable[[Array], Array], sweeps: int
) -> Solution:
    """Return x after one solve and `sweeps` sweeps with `inverse` = A^-1, for n >= m."""
    x = problem.x0
    for _ in range(1 + sweeps):
        r = _gradient(problem, x, None if x is None else problem.scores.matvec(x))
        step = _split(inverse(_joined(r)), r)
        x = step if x is None else _plus(x, step)
    assert x is not None
    return Solution(x, ())


def _gradient(problem: Problem, x: Vector | None, Sx: Array | None) -> Vector:
    """Return r = S^H (f - S x) + damping (x0 - x), where v stands for damping x0."""
    damping = expanded(problem.damping, 2)
    g = problem.f
    if Sx is not None:
        g = -Sx if g is None else g - Sx
    r = problem.v
    if g is not None:
        r = problem.scores.rmatvec(g) if r is None else _plus(r, problem.scores.rmatvec(g))
    assert r is not None
    if x is not None and problem.x0 is not None and x is not problem.x0:
        r = tuple(a + damping * (b - c) for a, b, c in zip(r, problem.x0, x))
    elif x is not None and problem.x0 is None:
        r = tuple(a - damping * c for a, c in zip(r, x))
    return r


# ---------------------------------------------------------------------------- certificates


def sample_certificate(
    problem: Problem, solution: Solution, ok: Array, layout: Layout
) -> SolveInfo:
    """Return what is known of a solution that was found in the sample space.

    The exact solution is x0 + S^H (y + W^-1 r) for the residual r of the exact x0 + S^H y, and
    |S^H W^-1| <= 1 / (2 sqrt(damping)); the other terms are the roundings of r and of x.
    """
    x, corrections = solution
    r, Sx = _sample_residual(problem, x, corrections)
    size = _sizes(problem, layout)
    t, damping = size.t, size.damping
    x_norm, r_norm = layout.norm(x), layout.norm(_without_null(r, problem.null))
    # of all sweeps, also of those that diverged and were taken back
    y_norm = reduce(add, (layout.norm(w) for w in corrections))
    by_rows = _rounding(size.u, problem.scores.rows)
    by_columns = _rounding(size.u, problem.scores.columns)
    by_one = _rounding(size.u, 1)
    lost = _lost(problem, r, by_columns * t, layout) / damping
    rounding_r = by_columns * t * x_norm + by_one * (size.f + damping * y_norm)
    rounding_x = by_rows * t * y_norm + by_one * size.start
    error = (r_norm + rounding_r) / (2 * damping**0.5) + rounding_x + lost
    error = rounded_bound(error, x_norm, size.u)
    if problem.v is None:
        residual, scale = r_norm, (t * t + damping) * y_norm + size.f + t * size.start
    else:
        residual = layout.norm(_gradient(problem, x, Sx))
        scale = (t * t + damping) * x_norm + damping * size.start
    return _info(residual, scale, error, _step_norm(problem, Sx, layout), x_norm, ok, layout)


def parameter_certificate(
    problem: Problem, solution: Solution, ok: Array, layout: Layout
) -> SolveInfo:
    """Return what is known of a solution that was found in the parameter space.

    |A^-1| <= 1 / damping for the gradient, to which the rounding of its terms is added.
    """
    Sx = problem.scores.matvec(solution.x)
    r = _gradient(problem, solution.x, Sx)
    size = _sizes(problem, layout)
    t, damping = size.t, size.damping
    x_norm, residual = layout.norm(solution.x), layout.norm(r)
    scale = (t * t + damping) * x_norm + t * size.f + damping * size.start
    length = max(problem.scores.rows, problem.scores.columns)
    error = (residual + _rounding(size.u, length) * scale) / damping
    error = rounded_bound(error, x_norm, size.u)
    return _info(residual, scale, error, _step_norm(problem, Sx, layout), x_norm, ok, layout)


def rounded_bound(error_bound: Array, x_norm: Array, u: float) -> Array:
    """Return the error bound of a solution that was rounded to a dtype with unit roundoff u."""
    return error_bound + u * x_norm / (1 - u)


def _lost(problem: Problem, r: Array, rounding: Array, layout: Layout) -> Any:
    """Return |S^H N| |N^H r|: what of the residual was left out although S^H N is not quite 0."""
    if problem.null is None:
        return 0.0
    leak = expanded(problem.leak, 0 if layout.vector else 1)
    return (leak + rounding) * layout.norm(rmatvec(problem.null, r))


class _Sizes(NamedTuple):
    """Norms that bound the terms of a residual, each a number or of the shape of the info."""

    u: float
    damping: Any
    t: Array  # |S|_F
    f: Any
    start: Any  # |x0|, or |v| / damping


def _sizes(problem: Problem, layout: Layout) -> _Sizes:
    trailing = 0 if layout.vector else 1
    damping = expanded(problem.damping, trailing)
    t = expanded(problem.squared_norm, trailing) ** 0.5
    f: Any = 0.0 if problem.f is None else layout.norm(problem.f)
    start: Any = 0.0
    if problem.v is not None:
        start = layout.norm(problem.v) / damping
    elif problem.x0 is not None:
        start = layout.norm(problem.x0)
    return _Sizes(unit_roundoff(layout.working), damping, t, f, start)


def _step_norm(problem: Problem, Sx: Array | None, layout: Layout) -> Array:
    """Return |S (x - x0)|."""
    assert Sx is not None
    if problem.x0 is not None:
        Sx = Sx - problem.scores.matvec(problem.x0)
    return layout.norm(Sx)


def _info(
    residual: Array,
    scale: Array,
    error: Array,
    step: Array,
    x_norm: Array,
    ok: Array,
    layout: Layout,
) -> SolveInfo:
    xp = namespace(residual)
    backward = residual / xp.where(scale > 0, scale, xp.ones_like(scale))
    certain = xp.isfinite(error) & (error <= x_norm / 2)
    converged = expanded(ok, 0 if layout.vector else 1) & certain
    fields = (residual, backward, error, step, converged)
    return SolveInfo(*map(as_array, fields))


# --------------------------------------------------------------------------------- pieces


def expanded(value: Any, trailing: int) -> Any:
    """Return an array (...) with `trailing` more axes of length 1; a Python number as it is."""
    if isinstance(value, float):
        return value
    return namespace(value).reshape(value, value.shape + (1,) * trailing)


def _plus(x: Vector, y: Vector) -> Vector:
    return tuple(a + b for a, b in zip(x, y))


def _joined(x: Vector) -> Array:
    return x[0] if len(x) == 1 else namespace(x[0]).concat(list(x), axis=-2)


def _split(x: Array, like: Vector) -> Vector:
    if len(like) == 1:
        return (x,)
    pieces, start = [], 0
    for piece in like:
        stop = start + piece.shape[-2]
        pieces.append(x[..., start:stop, :])
        start = stop
    return tuple(pieces)

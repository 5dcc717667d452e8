"""Certificates: what is known of a computed solution, from its residual and the roundings of that.

They use the residual, the norms of its terms and whether the factorisation succeeded, and so hold
for every method and precision.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.dtypes import astype, dtype_name, normal_range, real_name
from ngdla._backend.fused import in_one_kernel
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import inner_columns
from ngdla._backend.products import rmatvec
from ngdla._backend.shapes import expanded
from ngdla.score_matrices.score_matrix import Vector

from .null_vectors import without_null
from .right_hand_side import Solve
from .roundings import GIVEN, rounding
from .spaces import Iterate, ParameterSpace, SampleSpace, System

__all__ = ["SolveInfo", "certificate", "rounded_bound"]


class SolveInfo(NamedTuple):
    """What is known of a solution, one value for each right-hand side.

    Attributes
    ----------
    residual_norm : array
        With n < m, |f - S x0 - W y| for least squares; otherwise the norm of the gradient,
        |v - A x|.
    backward_error : array
        Residual norm divided by the norms of its terms. It is at roundoff level whenever the
        factorisation succeeded, so it does not show whether refinement converged.
    error_bound : array
        Upper bound of |computed x - exact x|, rounding errors included by a model of them that
        was measured; a worst case, typically far above the error.
    step_norm : array
        |S x|: the length of the step in the Fubini-Study (Fisher) metric, x0 included.
    converged : array of bool
        The factorisation succeeded and error_bound <= |x| / 2, so that the step is certified to
        be neither twice too long nor half too short. For `damped_solve` also what v = S^H f lost
        when it was rounded is less than that: error_bound + 16 u |v| |A^-1| <= |x| / 2, with the
        unit roundoff u of the dtype in which v came. False where |S|^2 or x leave the range of
        their dtype.
    gain : array
        Re f^H S x, for a solve Re v^H x: a step eta x changes |S d - f|^2 by
        eta^2 step_norm^2 - 2 eta gain.
    misfit_norm : array
        |f - S x|; Inf for a solve, which does not know f.

    Notes
    -----
    With a metric D the norms of x are |D^(1/2) x|, and that of the gradient |D^(-1/2) r|.
    """

    residual_norm: AnyArray
    backward_error: AnyArray
    error_bound: AnyArray
    step_norm: AnyArray
    converged: AnyArray
    gain: AnyArray
    misfit_norm: AnyArray


def certificate(
    space: SampleSpace | ParameterSpace, iterate: Iterate, ok: Array, u_given: float
) -> SolveInfo:
    """Return what is known of a solution whose factorisation succeeded where `ok` is set.

    `u_given` is the unit roundoff of the dtype in which v came, 0 for least squares.
    """
    if isinstance(space, SampleSpace):
        return _sample_certificate(space, iterate, ok, u_given)
    return _parameter_certificate(space, iterate, ok, u_given)


def _sample_certificate(
    space: SampleSpace, iterate: Iterate, ok: Array, u_given: float
) -> SolveInfo:
    """Return what is known of a solution that was found in the sample space.

    The exact solution is x0 + S^H (y + W^-1 r) for the residual r of the exact x0 + S^H y, and
    |S^H W^-1| <= 1 / (2 sqrt(damping)); the other terms are the roundings of r and of x.
    """
    system = space.system
    layout = system.layout
    whole, iterate = space.whole_residual(iterate)
    assert iterate.x is not None
    size = _norms(system)
    t = size.t
    x_norm = layout.norm(iterate.x)
    r_norm = layout.norm(without_null(whole, system.null))
    # of all sweeps, also of those that diverged and were taken back
    y_norm = reduce(add, (layout.norm(w) for w in iterate.corrections))
    by_rows = rounding(system.u, system.scores.rows, t)
    by_columns = rounding(system.u, system.scores.columns, t)
    by_one = rounding(system.u, 1)
    lost = _lost(system, whole, by_columns * t) if system.null is not None else 0.0
    norms, roundings = (*size, x_norm, y_norm, r_norm), (by_rows, by_columns, by_one)
    error = in_one_kernel(_sample_error, *norms, lost, *roundings)
    if isinstance(system.rhs, Solve):
        residual = layout.norm(_gradient(system, system.rhs.v, iterate))
        scale = in_one_kernel(_scale_of_solve, *norms)
    else:
        residual, scale = r_norm, in_one_kernel(_scale_of_lstsq, *norms)
    given = GIVEN * u_given * size.start if u_given else 0.0  # |v| / damping
    return _info(system, iterate, _Sizes(residual, scale, error, given, x_norm), ok)


def _sample_error(xp: Any, *numbers: Any) -> Any:
    """Return (|r| + roundings) / (2 sqrt(damping)), with the roundings of S^H y and of x0."""
    damping, t, f, start, x, y, r, lost, by_rows, by_columns, by_one = numbers
    rounding_r = by_columns * t * x + by_one * (f + damping * y)
    rounding_x = by_rows * t * y + by_one * start
    return (r + rounding_r) / (2 * damping**0.5) + rounding_x + lost / damping


def _scale_of_solve(xp: Any, *norms: Any) -> Any:
    """Return the size of the terms of v - A x."""
    damping, t, _, start, x, *_ = norms
    return (t * t + damping) * x + damping * start


def _scale_of_lstsq(xp: Any, *norms: Any) -> Any:
    """Return the size of the terms of f - S x - damping y."""
    damping, t, f, start, _, y, _ = norms
    return (t * t + damping) * y + f + t * start


def _gradient(system: System, v: Vector, iterate: Iterate) -> Vector:
    """Return v - A x from the S x that is known."""
    assert iterate.x is not None
    assert iterate.Sx is not None
    damping = expanded(system.damping, 2)
    back = system.scores.rmatvec(iterate.Sx)
    return tuple(in_one_kernel(_less_all, *abx, damping) for abx in zip(v, back, iterate.x))


def _less_all(xp: Any, v: Array, back: Array, x: Array, damping: Any) -> Array:
    return v - back - damping * x


def _parameter_certificate(
    space: ParameterSpace, iterate: Iterate, ok: Array, u_given: float
) -> SolveInfo:
    """Return what is known of a solution that was found in the parameter space.

    |A^-1| times the gradient, to which the rounding of its terms is added. |A^-1| is 1 / damping at
    most, and less where the factor shows that S has full rank, which is looked at where the damping
    does not certify.
    """
    system = space.system
    layout = system.layout
    r, iterate = space.gradient(iterate)
    assert iterate.x is not None
    size = _norms(system)
    t, damping = size.t, size.damping
    x_norm, residual = layout.norm(iterate.x), layout.norm(r)
    scale = (t * t + damping) * x_norm + t * size.f + damping * size.start
    length = max(system.scores.rows, system.scores.columns)
    error = residual + rounding(system.u, length, t) * scale
    given = 0.0
    if isinstance(system.rhs, Solve):
        given = GIVEN * u_given * layout.norm(system.rhs.v)
    certain = (error + given) / damping <= x_norm / 2
    norm = layout.per_column(system.inverse_norm(namespace(certain).all(certain)))
    return _info(system, iterate, _Sizes(residual, scale, error * norm, given * norm, x_norm), ok)


def rounded_bound(error_bound: Array, x_norm: Array, u: float) -> Array:
    """Return the error bound of a solution that was rounded to a dtype with unit roundoff u."""
    return error_bound + u * x_norm / (1 - u)


def _lost(system: System, r: Array, rounding: Array) -> Any:
    """Return |S^H N| |N^H r|: what of the residual was left out although S^H N is not quite 0."""
    layout = system.layout
    leak = layout.per_column(system.leak)
    return (leak + rounding) * layout.norm(rmatvec(system.null, r))


class _Norms(NamedTuple):
    """Norms that bound the terms of a residual, each a number or of the shape of the info."""

    damping: Any
    t: Array  # |S|_F
    f: Any
    start: Any  # |x0|, or |v| / damping


def _norms(system: System) -> _Norms:
    layout = system.layout
    damping = layout.per_column(system.damping)
    t = layout.per_column(system.squared_norm) ** 0.5
    return _Norms(damping, t, *system.rhs.norms(layout, damping))


class _Sizes(NamedTuple):
    """Norms of a residual, of its terms, and of errors of x, each of the shape of the info."""

    residual: Array
    scale: Array
    error: Array  # without that of rounding x
    given: Any  # what v may have lost when it was rounded
    x: Array


def _info(system: System, iterate: Iterate, sizes: _Sizes, ok: Array) -> SolveInfo:
    """Return the certificate in the units of the caller and the real dtype of the result."""
    layout, rhs = system.layout, system.rhs
    residual, x_norm = sizes.residual, sizes.x
    assert iterate.Sx is not None
    xp = namespace(residual)
    u = system.accuracy if layout.working != layout.rounded else 0.0
    backward, error, certain = in_one_kernel(_verdict, *sizes, system.accuracy, u)
    gain = _gain(system, iterate)
    if isinstance(rhs, Solve):
        misfit = xp.full_like(residual, xp.inf)
    else:
        misfit = layout.norm(rhs.misfit(iterate.Sx))
    step = layout.norm(iterate.Sx)
    if system.unit is not None:
        unit = layout.of_columns(system.unit)
        error, x_norm = error * unit, x_norm * unit
        residual, step, misfit, gain = (x * unit for x in (residual, step, misfit, gain * unit))
    if system.careful:
        error, certain = _within_range(system, error, certain, x_norm)
    real = real_name(layout.dtype)
    fields = (astype(as_array(x), real) for x in (residual, backward, error, step, gain, misfit))
    residual, backward, error, step, gain, misfit = fields
    converged = layout.per_column(ok) & certain
    return SolveInfo(residual, backward, error, step, as_array(converged), gain, misfit)


def _verdict(
    xp: Any, residual: Any, scale: Any, error: Any, given: Any, x: Any, accuracy: float, u: float
) -> tuple[Any, Any, Any]:
    """Return the backward error, the bound, not rounded down, and whether it certifies."""
    backward = residual / xp.where(scale > 0, scale, 0 * scale + 1)
    error = rounded_bound(error, x, accuracy) * (1 + 2 * u)
    return backward, error, xp.isfinite(error) & (error + given <= x / 2)


def _gain(system: System, iterate: Iterate) -> Array:
    """Return Re f^H S x, or Re v^H x."""
    layout, rhs = system.layout, system.rhs
    if isinstance(rhs, Solve):
        terms = (inner_columns(v, x) for v, x in zip(rhs.v, iterate.x or ()))
        products = layout.ranks.merged(reduce(add, terms), add)
        return layout.without_k(layout.merged(products, add))
    return layout.without_k(layout.merged(inner_columns(rhs.f, iterate.Sx), add))


def _within_range(
    system: System, error: Array, certain: Array, x_norm: Array
) -> tuple[Array, Array]:
    """Return a bound and a verdict that allow for numbers below the range of the dtype.

    Entries of x below the smallest normal number are rounded to multiples of a smaller one, or to
    0, and where |S|^2 is below it nothing is known.
    """
    xp, layout = namespace(error), system.layout
    least, _ = normal_range(real_name(layout.rounded))
    floor = least * system.scores.columns**0.5
    error = xp.where(error > 0, error + floor, error)
    t2 = layout.per_column(system.squared_norm)
    enough = t2 >= normal_range(dtype_name(t2.dtype))[0]
    error = xp.where(enough, error, xp.full_like(error, xp.inf))
    return error, certain & (error <= x_norm / 2) & enough

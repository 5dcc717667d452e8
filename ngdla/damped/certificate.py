"""Certificates: what is known of a computed solution, from its residual and the roundings of that.

They use the residual, the norms of its terms and whether the factorisation succeeded, and so hold
for every method and precision.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.dtypes import astype, real_name
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.products import rmatvec
from ngdla._backend.shapes import expanded
from ngdla.score_matrices.score_matrix import Vector

from .null_vectors import without_null
from .right_hand_side import Layout, Solve
from .spaces import Iterate, ParameterSpace, SampleSpace, Space, System

__all__ = ["SolveInfo", "certificate", "rounded_bound"]


def _rounding(u: float, length: int) -> float:
    """Return the error of a product with S, sums of `length` terms, over |S|_F |x|.

    4 u covers the few operations of a term. Sums of many numbers of one sign, made in many lanes as
    BLAS does or in runs of sqrt(length) terms, err by up to about sqrt(length) u (measured to
    length 3e6). Every long sum of a product with stored scores is made so, in any layout; those of
    Dask and of the functions of an operator are as they come.
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
        Residual norm divided by the norms of its terms. It is at roundoff level whenever the
        factorisation succeeded, so it does not show whether refinement converged.
    error_bound : array
        Upper bound of |computed x - exact x|, rounding errors included by a model of them that
        was measured; a worst case, typically far above the error.
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

    residual_norm: AnyArray
    backward_error: AnyArray
    error_bound: AnyArray
    step_norm: AnyArray
    converged: AnyArray


def certificate(space: Space, iterate: Iterate, ok: Array, layout: Layout) -> SolveInfo:
    """Return what is known of a solution whose factorisation succeeded where `ok` is set."""
    if isinstance(space, SampleSpace):
        return _sample_certificate(space, iterate, ok, layout)
    return _parameter_certificate(space, iterate, ok, layout)


def _sample_certificate(
    space: SampleSpace, iterate: Iterate, ok: Array, layout: Layout
) -> SolveInfo:
    """Return what is known of a solution that was found in the sample space.

    The exact solution is x0 + S^H (y + W^-1 r) for the residual r of the exact x0 + S^H y, and
    |S^H W^-1| <= 1 / (2 sqrt(damping)); the other terms are the roundings of r and of x.
    """
    system = space.system
    whole, iterate = space.whole_residual(iterate)
    assert iterate.x is not None
    size = _norms(system, layout)
    t, damping = size.t, size.damping
    x_norm = layout.norm(iterate.x)
    r_norm = layout.norm(without_null(whole, system.null))
    # of all sweeps, also of those that diverged and were taken back
    y_norm = reduce(add, (layout.norm(w) for w in iterate.corrections))
    by_rows = _rounding(system.u, system.scores.rows)
    by_columns = _rounding(system.u, system.scores.columns)
    by_one = _rounding(system.u, 1)
    lost = _lost(system, whole, by_columns * t, layout) / damping
    rounding_r = by_columns * t * x_norm + by_one * (size.f + damping * y_norm)
    rounding_x = by_rows * t * y_norm + by_one * size.start
    error = (r_norm + rounding_r) / (2 * damping**0.5) + rounding_x + lost
    if isinstance(system.rhs, Solve):
        residual = layout.norm(_gradient(system, system.rhs.v, iterate))
        scale = (t * t + damping) * x_norm + damping * size.start
    else:
        residual, scale = r_norm, (t * t + damping) * y_norm + size.f + t * size.start
    return _info(system, iterate, residual, scale, error, ok, layout)


def _gradient(system: System, v: Vector, iterate: Iterate) -> Vector:
    """Return v - A x from the S x that is known."""
    assert iterate.x is not None
    assert iterate.Sx is not None
    damping = expanded(system.damping, 2)
    back = system.scores.rmatvec(iterate.Sx)
    return tuple(a - g - damping * x for a, g, x in zip(v, back, iterate.x))


def _parameter_certificate(
    space: ParameterSpace, iterate: Iterate, ok: Array, layout: Layout
) -> SolveInfo:
    """Return what is known of a solution that was found in the parameter space.

    |A^-1| <= 1 / damping for the gradient, to which the rounding of its terms is added.
    """
    system = space.system
    r, iterate = space.gradient(iterate)
    assert iterate.x is not None
    size = _norms(system, layout)
    t, damping = size.t, size.damping
    x_norm, residual = layout.norm(iterate.x), layout.norm(r)
    scale = (t * t + damping) * x_norm + t * size.f + damping * size.start
    length = max(system.scores.rows, system.scores.columns)
    error = (residual + _rounding(system.u, length) * scale) / damping
    return _info(system, iterate, residual, scale, error, ok, layout)


def rounded_bound(error_bound: Array, x_norm: Array, u: float) -> Array:
    """Return the error bound of a solution that was rounded to a dtype with unit roundoff u."""
    return error_bound + u * x_norm / (1 - u)


def _lost(system: System, r: Array, rounding: Array, layout: Layout) -> Any:
    """Return |S^H N| |N^H r|: what of the residual was left out although S^H N is not quite 0."""
    if system.null is None:
        return 0.0
    leak = layout.per_column(system.leak)
    return (leak + rounding) * layout.norm(rmatvec(system.null, r))


class _Norms(NamedTuple):
    """Norms that bound the terms of a residual, each a number or of the shape of the info."""

    damping: Any
    t: Array  # |S|_F
    f: Any
    start: Any  # |x0|, or |v| / damping


def _norms(system: System, layout: Layout) -> _Norms:
    damping = layout.per_column(system.damping)
    t = layout.per_column(system.squared_norm) ** 0.5
    return _Norms(damping, t, *system.rhs.norms(layout, damping))


def _info(
    system: System,
    iterate: Iterate,
    residual: Array,
    scale: Array,
    error: Array,
    ok: Array,
    layout: Layout,
) -> SolveInfo:
    assert iterate.x is not None
    xp, x_norm = namespace(residual), layout.norm(iterate.x)
    error = rounded_bound(error, x_norm, system.accuracy)
    backward = residual / xp.where(scale > 0, scale, xp.ones_like(scale))
    assert iterate.Sx is not None
    step = layout.norm(system.rhs.step(iterate.Sx, iterate.S_start))
    real = real_name(layout.dtype)
    if layout.working != layout.rounded:  # the bound must not be rounded down
        error = error * (1 + 2 * system.accuracy)
    fields = (astype(as_array(field), real) for field in (residual, backward, error, step))
    residual, backward, error, step = fields
    certain = xp.isfinite(error) & (error <= astype(as_array(x_norm), real) / 2)
    converged = layout.per_column(ok) & certain
    return SolveInfo(residual, backward, error, step, as_array(converged))

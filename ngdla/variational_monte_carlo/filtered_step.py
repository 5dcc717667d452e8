"""Steps whose parts along the eigenvectors of S S^H are damped and filtered one by one.

With G = S S^H = U diag(g) U^H and residuals r = f - S x0,

    x = x0 + S^H U diag(kept / (g + damping)) U^H r,

where `kept`, between 0 and 1, leaves out what is lost in the noise of the samples
(`noise_filter.py`) and what a pseudo-inverse is to leave out: with a `cutoff` also the factor

    1 / (1 + (cutoff g_max / g)^6).

With n >= m all of this is done with S^H S, and the eigenvectors of that.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from functools import partial
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_count
from ngdla._backend.dtypes import (
    astype,
    double_name,
    dtype_name,
    has_double,
    real_name,
    unit_roundoff,
)
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import inner_columns
from ngdla._backend.pickles import part
from ngdla._backend.products import rmatvec
from ngdla._backend.scalars import as_float, damping_values, known_or_array
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.tracing import nan_unless
from ngdla.damped.certificate import SolveInfo
from ngdla.damped.factorisation import Factorisation
from ngdla.damped.ladder import Outcome, climb
from ngdla.damped.methods import Eigenvectors, FirstPass
from ngdla.damped.null_vectors import lift, without_null
from ngdla.damped.precision import Plan
from ngdla.damped.problem import DampedProblem, Options, damped_problem
from ngdla.damped.right_hand_side import Layout, LeastSquares
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .noise_filter import Amplitudes, SNRInfo, noise_filter

__all__ = ["Filters", "filtered_step"]

_FARTHEST = 2.0**20  # cutoff g_max / g from where on nothing is kept: its 6th power fits
_CERTAIN = 16.0  # of the damping and the cutoff, in units of u |S|_F^2


class Filters(NamedTuple):
    """What leaves out parts of a step, each None if it is not wanted."""

    snr: Any = None
    cutoff: Any = None


def filtered_step(
    scores: ScoreMatrix,
    rhs: LeastSquares,
    damping: Any,
    filters: Filters,
    options: Options,
    checks: ValueChecks,
    *,
    full_output: bool,
) -> Any:
    """Return x, or the pair (x, SNRInfo), without a signal-to-noise ratio (x, SolveInfo).

    `rhs` is one f, with or without x0. The null vectors sqrt(p) of centred scores give the
    probabilities, and two of them tell that rows are stacked. Two passes over S; memory 4 n^2.
    """
    _require_options("cutoff" if filters.snr is None else "snr", options)
    layout = rhs.layout(scores)
    filters = Filters(*map(partial(_limit, like=scores.like), filters._fields, filters))
    dtype, shift = layout.working, None
    if filters.cutoff is not None:
        shift = _not_negative(damping, scores, dtype, checks)
    problem = _problem(scores, damping if shift is None else 1.0, options, dtype)
    if problem.plan.double:
        layout = layout.doubled(single=problem.metric is None)
    for name, arrays in rhs.named():
        checks.finite(name, *arrays, batch=len(scores.batch), kind="vector")
    columns = rhs.to_columns(problem.scores, layout)
    use = partial(
        _filtered,
        rhs=columns,
        filters=filters,
        damping=shift,
        layout=layout,
        full_output=full_output,
    )
    return climb(problem, checks, use, start=(columns.f, columns.x0), keep=True)


def _require_options(wanted: str, options: Options) -> None:
    method, precision = (options.method, Eigenvectors.name), (options.precision, "native")
    for name, (value, other) in (("method", method), ("precision", precision)):
        if not isinstance(value, str) or value not in ("auto", other):
            msg = f"`{name}` is {shown(value)}; with `{wanted}` it must be 'auto' or {other!r}."
            raise ValueError(msg)
    require_count(options.refine, "refine")
    if options.refine:
        msg = (
            f"`refine` is {options.refine}, but steps filtered by `{wanted}` are not refined; "
            f"leave it out."
        )
        raise ValueError(msg)


def _limit(name: str, value: Any, *, like: Array) -> float | Array | None:
    """Return a checked number as a float, or where torch.compile holds a symbol as an array."""
    if value is None:
        return None
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        msg = f"`{name}` is {shown(value)}; it must be a number, not negative, or None for none."
        raise TypeError(msg)
    value = known_or_array(value, like)
    if not isinstance(value, numbers.Real):
        return value * nan_unless((value >= 0) & (value < math.inf), value)
    if not 0 <= as_float(value) < math.inf:
        msg = f"`{name}` is {shown(value)}; it must be finite and not negative; None is for none."
        raise ValueError(msg)
    return float(value)


def _not_negative(
    damping: Any, scores: ScoreMatrix, dtype: str, checks: ValueChecks
) -> float | Array:
    """Return a damping that may be 0, as a float or an array (...)."""
    if isinstance(damping, numbers.Real) and not isinstance(damping, bool):
        if damping == 0:
            return 0.0
        if damping < 0:
            msg = f"`damping` is {shown(damping)}; with `cutoff` it must be finite, positive or 0."
            raise ValueError(msg)
    real = real_name(dtype)
    values = damping_values(damping, scores.like, scores.name, real, scores.batch)
    if isinstance(values, float):
        return values
    legal = (values >= 0) & namespace(values).isfinite(values)
    message = "`damping` must be finite and not negative."
    checks.require(lambda: legal, lambda: ValueError(message))
    return values * nan_unless(legal, values)


def _problem(scores: ScoreMatrix, damping: Any, options: Options, dtype: str) -> DampedProblem:
    """Return the checked problem.

    With precision "auto" the Gram matrix and its eigenvectors are in double precision, where it can
    be formed in that: filters are for what is small.
    """
    double = options.precision == "auto" and has_double(scores.like) and scores.regram
    options = options._replace(method=_NullVectorsFirst(), precision="native")
    problem = damped_problem(scores, damping, options, dtype)
    if not double:
        return problem
    assert problem.null is not None
    plan = Plan(problem.plan.method, double_name(dtype), double=True)
    return dataclasses.replace(problem, plan=plan, null=astype(problem.null, plan.factor))


@part
class _NullVectorsFirst(Eigenvectors):
    """Eigenvectors with null vectors below all others, so that they are the first ones."""

    def with_null_apart(self, G: Array, null: Array, height: Array) -> Array:
        """Return G with eigenvalues along null vectors that are below all others."""
        return lift(G, null, -height)


def _filtered(
    factor: Factorisation,
    first: FirstPass,
    careful: bool,
    *,
    rhs: LeastSquares,
    filters: Filters,
    damping: float | Array | None,
    layout: Layout,
    full_output: bool,
) -> Outcome:
    """Return x, or x and what is known of it; the damping is that of the problem if None."""
    amplitudes = _amplitudes(factor, first, rhs)
    kept, ratio = _kept(factor, amplitudes, filters)
    damping = _damping(factor, damping)
    y = _solved(amplitudes, kept, damping)
    x = _moved(factor.scores, rhs.x0, y)
    scaled = tuple(astype(piece, layout.rounded) for piece in factor.scores.scaled(x))
    result = layout.from_columns(scaled)
    if not full_output:
        return Outcome(result)
    info: SolveInfo | SNRInfo
    if ratio is None:
        step = _Step(amplitudes, kept, x, y, damping)
        info = _solve_info(factor, first, rhs, step, filters, layout)
    else:
        norm = layout.norm(_moved_samples(factor, first, amplitudes, y, rhs.x0))
        info = SNRInfo(ratio, amplitudes.values, kept, norm)
    return Outcome((result, _rounded(info, real_name(layout.dtype))))


def _rounded(info: Any, real: str) -> Any:
    """Return what is known of a step, with its numbers in this dtype."""
    fields = map(as_array, info)
    return type(info)(*(x if dtype_name(x.dtype) == "bool" else astype(x, real) for x in fields))


# ------------------------------------------------------------------------ in the eigenbasis


def _amplitudes(factor: Factorisation, first: FirstPass, rhs: LeastSquares) -> Amplitudes:
    """Return the residuals and their amplitudes along the eigenvectors."""
    values, X = factor.small.matrix.values, factor.small.matrix.U
    r = without_null(rhs.misfit(first.S_start), factor.problem.null)
    right = r if factor.scores.wide else joined(list(first.gradient or ()), axis=-2)
    return Amplitudes(values, X, r, rmatvec(X, right))


def _kept(
    factor: Factorisation, amplitudes: Amplitudes, filters: Filters
) -> tuple[Array, Array | None]:
    """Return the part of each amplitude that is kept, (..., d), and signal-to-noise ratios."""
    scores, null, values = factor.scores, factor.problem.null, amplitudes.values
    assert null is not None
    kept, ratio = namespace(values).ones_like(values), None
    if filters.snr is not None:
        kept, ratio = noise_filter(scores, null, amplitudes, filters.snr)
    if filters.cutoff is not None:
        kept = kept * _above(values, filters.cutoff)
    return kept, ratio


def _above(values: Array, cutoff: float | Array) -> Array:
    """Return 1 / (1 + (cutoff g_max / g)^6), and 0 where g <= 0.

    What is not chosen is finite: its gradient would be NaN otherwise.
    """
    xp = namespace(values)
    limit = cutoff * xp.max(values, axis=-1, keepdims=True)
    some = (values > 0) & (values >= limit / _FARTHEST)
    ratio = limit / xp.where(some, values, xp.ones_like(values))
    zero = xp.zeros_like(values)
    return xp.where(some, 1 / (1 + xp.where(some, ratio, zero) ** 6), zero)


def _damping(factor: Factorisation, own: float | Array | None) -> Any:
    """Return the damping in the precision of the factor, NaN if illegal where that cannot raise."""
    if own is None:
        own = factor.problem.damping
        own = own if isinstance(own, float) else own * nan_unless(own > 0, own)
    return own if isinstance(own, float) else astype(own, real_name(factor.plan.factor))


def _solved(amplitudes: Amplitudes, kept: Array, damping: Any) -> Array:
    """Return y = X (kept / (g + damping)) rho."""
    xp = namespace(kept)
    shifted = amplitudes.values + expanded(damping, 1)
    weights = kept / xp.where(kept > 0, shifted, xp.ones_like(shifted))
    return xp.matmul(amplitudes.X, xp.expand_dims(weights, axis=-1) * amplitudes.rho)


def _moved(scores: ScoreMatrix, x0: Vector | None, y: Array) -> Vector:
    """Return x0 + S^H y, with n >= m x0 + y."""
    if scores.wide:
        return scores.samples.add_rmatvec(x0, y, product=False)[0]
    pieces = scores.split(y)
    return pieces if x0 is None else tuple(map(add, x0, pieces))


def _moved_samples(
    factor: Factorisation, first: FirstPass, amplitudes: Amplitudes, y: Array, x0: Vector | None
) -> Array:
    """Return S x in the eigenbasis, or with n < m as it is, (..., d, k)."""
    xp, (values, X, *_) = namespace(y), amplitudes
    if factor.scores.wide:
        moved = xp.matmul(X, xp.expand_dims(values, axis=-1) * rmatvec(X, y))
        return moved if first.S_start is None else first.S_start + moved
    if x0 is not None:
        y = y + joined(list(x0), axis=-2)
    return xp.expand_dims(xp.sqrt(values), axis=-1) * rmatvec(X, y)


# ------------------------------------------------------------------------- what is known


class _Step(NamedTuple):
    """A step, and from what it was made."""

    amplitudes: Amplitudes
    kept: Array
    x: Vector
    y: Array
    damping: float | Array


def _solve_info(
    factor: Factorisation,
    first: FirstPass,
    rhs: LeastSquares,
    step: _Step,
    filters: Filters,
    layout: Layout,
) -> SolveInfo:
    """Return what is known of x: what a filter does to errors of S is not."""
    Sx, residual, scale = _residual(factor, first, rhs, step, layout)
    xp, norm = namespace(Sx), layout.norm(residual)
    values = step.amplitudes.values
    least = filters.cutoff * xp.max(values, axis=-1) + step.damping
    u = unit_roundoff(factor.scores.gram_dtype or factor.plan.factor)
    certain = layout.per_column(least >= _CERTAIN * u * factor.small.squared_norm)
    gain = layout.without_k(layout.merged(inner_columns(rhs.f, Sx), add))
    return SolveInfo(
        residual_norm=norm,
        backward_error=norm / xp.where(scale > 0, scale, xp.ones_like(scale)),
        error_bound=xp.full_like(norm, xp.inf),
        step_norm=layout.norm(Sx),
        converged=certain & xp.isfinite(layout.norm(step.x)),
        gain=gain,
        misfit_norm=layout.norm(rhs.misfit(Sx)),
    )


def _residual(
    factor: Factorisation, first: FirstPass, rhs: LeastSquares, step: _Step, layout: Layout
) -> tuple[Array, Array, Array]:
    """Return S x, the residual of W y = X kept rho, and the norms of its terms.

    With n >= m of A (x - x0) = X kept rho, by gradients S^H (f - S x).
    """
    scores, (amplitudes, kept, x, y, damping) = factor.scores, step
    xp = namespace(y)
    right = xp.matmul(amplitudes.X, xp.expand_dims(kept, axis=-1) * amplitudes.rho)
    if scores.wide:
        Sx = scores.matvec(x)
        product = Sx if first.S_start is None else Sx - first.S_start
    else:
        after, moved = scores.parameters.gradient(rhs.f, x)
        assert moved is not None
        Sx, before = moved, joined(list(first.gradient or ()), axis=-2)
        product = before - joined(list(after), axis=-2)
    largest = xp.max(amplitudes.values, axis=-1) + damping
    scale = layout.norm(right) + layout.per_column(largest) * layout.norm(y)
    return Sx, right - product - expanded(damping, 2) * y, scale

"""Inverse-free natural gradient: IKFAC, INGD and SINGD."""

from __future__ import annotations

import dataclasses
import math
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks, opened, place_in_batch
from ngdla._backend.checks import require_choice, require_count, require_flag
from ngdla._backend.dtypes import astype, dtype_name, result_name, where
from ngdla._backend.fused import all_of, filled, in_one_kernel
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pytrees import mapped
from ngdla._backend.scalars import eigenvalue_damping, fraction_values, positive_values
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free, is_traced, without_graph
from ngdla.structures import StructuredMatrix

from .retractions import (
    RETRACTIONS,
    GuardedStep,
    Retraction,
    guard_step,
    largest_step,
    retract,
    stable_product,
)
from .state import (
    InverseFreeReport,
    InverseFreeState,
    Part,
    StoredFactor,
    require_state,
    rounded_to,
    store,
    stored_factors,
)
from .statistics import InverseFreeStatistics, require_fitting, stale_statistics, taken_elsewhere
from .tangents import RULES, Rule, add_momentum, tangents

__all__ = ["StepSizeWarning", "inverse_free_update"]


class StepSizeWarning(UserWarning):
    """A step size is outside of the range in which a factor stays invertible."""


def inverse_free_update(
    state: InverseFreeState,
    statistics: InverseFreeStatistics,
    *,
    damping: Any,
    step_size: Any,
    momentum: Any = 0.0,
    rule: Rule = "ingd",
    retraction: Retraction = "series",
    order: int = 1,
    safeguard: bool = True,
    check: bool = True,
) -> InverseFreeState:
    """Return the state after a step of IKFAC or INGD (SINGD in a structure).

    Parameters
    ----------
    state : InverseFreeState
        The current state. It is not changed.
    statistics : InverseFreeStatistics
        Statistics that were taken with this state.
    damping : float or array, shape () or (...)
        Positive. In "ikfac" it is added to each second moment, in units of its eigenvalues; in
        "ingd" it belongs to their Kronecker product.
    step_size : float or array, shape () or (...)
        Positive: 1 - decay of the exponential average of KFAC that "ikfac" follows.
    momentum : float or array, shape () or (...)
        The part of the last tangent that is added to the new one, in [0, 1).
    rule : {"ingd", "ikfac"}
        "ikfac": the factors do not interact. "ingd": curvature and damping of each factor are
        weighted by traces of the other, so that only the product of the factors matters.
    retraction : {"series", "expm", "binomial", "implicit", "exact"}
        K (I - b + b^2 / 2 - ...), K exp(-b), the series of (I + 2 b)^(-1/2), K (I + b)^-1 and
        K (I + 2 b)^(-1/2), for b = step m. The last one is KFAC itself, for dense K and "ikfac".
    order : int
        Number of terms of the series, 1 or more. "binomial" of order p agrees with KFAC up to
        step^(p + 1).
    safeguard : bool, default True
        Limit the step of each factor so that step times the bound on its tangent's eigenvalues is
        at most half of the stability limit, and scale the stored momentum down likewise (to at most
        1/2). If False, steps are taken as given, and one beyond the limit issues a
        `StepSizeWarning`.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host. If False, and under tracing, such
        statistics leave the state as it was, and `report.skipped` says so.

    Returns
    -------
    InverseFreeState
        The new state, stored as the old one.

    Raises
    ------
    TypeError
        If an argument has the wrong type or library.
    ValueError
        If `statistics` contains NaN or Inf or belongs to factors of another shape, a number is out
        of range, or momentum is asked of a state that was made without.

    Warns
    -----
    StepSizeWarning
        If `safeguard` is off and a step leaves the range where the factor stays invertible.

    Notes
    -----
    Method: with H the statistics divided by their rows and Pi the projection,
    m_K = momentum m_K + (Pi(K^H U K) + damping Pi(K^H K) - I) / 2 for "ikfac"; for "ingd" the
    first term is multiplied by tr(H_C) / d_out and the second by tr(C^H C) / d_out. The mirror
    image for C, from the old K.
    Stability: I - b has positive eigenvalues if and only if those of b, which are those of the
    diagonal blocks of m, are below 1. The safeguard keeps a bound on them below 1/2, whatever the
    batch. I + b and I + 2 b are positive for whatever batch below the largest `step_size` of
    "implicit" and "exact", 2 (1 - momentum) and 1 - momentum, for a momentum that does not fall;
    up to rounding, so that the safeguard keeps their b below 2^-11 / u.
    Cost: `project_gram` of both factors, and `order` structured products K @ m each ("expm": some
    20; "implicit": an inverse; "exact": 20 inverses, or 9 d^3 for dense blocks).

    References
    ----------
    W. Lin et al., "Structured inverse-free natural gradient descent", arXiv:2312.05705, figure 3.
    W. Lin, V. Duruisseaux, M. Leok, F. Nielsen, M. E. Khan, M. Schmidt, "Simplifying momentum-based
    positive-definite submanifold optimization", arXiv:2302.09738 (INGD).

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla import inverse_free_init, inverse_free_statistics
    >>> rng = np.random.default_rng(0)
    >>> a, g = rng.standard_normal((50, 4)), rng.standard_normal((50, 3))
    >>> state = inverse_free_init(4, 3, like=a)
    >>> for _ in range(200):
    ...     statistics = inverse_free_statistics(state, a, g)
    ...     state = inverse_free_update(
    ...         state, statistics, damping=0.1, step_size=0.1, rule="ikfac"
    ...     )
    >>> K = state.K.to_dense()
    >>> bool(np.allclose(np.linalg.inv(K @ K.T), a.T @ a / 50 + 0.1 * np.eye(4)))
    True
    """
    require_state(state)
    require_choice(rule, "rule", tuple(RULES))
    require_choice(retraction, "retraction", tuple(RETRACTIONS))
    require_count(order, "order", least=1)
    require_flag(safeguard, "safeguard")
    require_fitting(statistics, state)
    with opened(state.step, check) as checks:
        like, batch = state.K.leaves[0], state.K.batch
        damping = eigenvalue_damping(damping, like, "statistics", batch, checks)
        step_size = positive_values(step_size, "step_size", like, "K", batch, checks)
        momentum = fraction_values(momentum, "momentum", like, "K", batch, checks)
        _require_range(step_size, momentum, retraction, checks)
        options = _Options(step_size, momentum, retraction, order, safeguard, check)
        old_K, old_C = stored_factors(state)
        K, C = old_K.value(), old_C.value()
        H = statistics.H_K, statistics.H_C  # Pi(K^H U K), Pi(C^H G C)
        grams = K.project_gram(), C.project_gram()  # Pi(K^H K), Pi(C^H C)
        m_K, m_C = tangents(rule, H, grams, statistics.rows, damping)
        new_K = _update_factor(old_K, K, m_K, options)
        new_C = _update_factor(old_C, C, m_C, options)
        lengths = new_K.staleness, new_C.staleness
        largest = new_K.largest, new_C.largest
        finite, fits = in_one_kernel(_pairs_finite, *lengths, *largest)
        fresh = ~taken_elsewhere(statistics, state)
        checks.require(lambda: finite, lambda: _not_finite(*lengths))
        checks.require(lambda: fits, lambda: _too_large(state))
        checks.require(lambda: fresh, stale_statistics)
        made = None  # is all where that is read
        if not check or any(map(is_traced, (finite, fits, fresh))):
            made = reduce(and_, (finite, fits, fresh, *_positive(damping, step_size)))
        report = _report(new_K, new_C, made, dtype_name(state.report.step_K.dtype))
        if not safeguard:
            _require_stable(report, retraction, result_name(state.K.dtype_name), checks)
        new = _state(new_K.stored, new_C.stored, state.step + 1, report)
        if made is not None:
            new = _unless_skipped(new, state, made)
        return without_graph(new, state.step)


# ---------------------------------------------------------------------------- of one factor


class _Options(NamedTuple):
    """How both factors follow their tangents."""

    step_size: Any
    momentum: Any
    retraction: Retraction
    order: int
    safeguard: bool
    check: bool


class _NewFactor(NamedTuple):
    """One factor after an update, and what is said of it."""

    stored: StoredFactor
    step: GuardedStep
    staleness: Array
    largest: Array  # modulus of all that is stored, NaN or Inf where it does not fit


def _update_factor(
    old: StoredFactor, K: StructuredMatrix, m: StructuredMatrix, options: _Options
) -> _NewFactor:
    """Return K or C after a step along its tangent, which is consumed.

    arXiv:2312.05705, figure 3; K <- K (I - step m) there, the retraction "series" of order 1.
    """
    step_size, momentum, retraction, order, safeguard, check = options
    staleness = m.frobenius_norm() * (2 / math.sqrt(m.dimension))  # |2 m|_F / sqrt(d)
    m = add_momentum(m, momentum, old.momentum)  # m <- momentum m_last + m
    step = guard_step(m, step_size, retraction, safeguard=safeguard, warns=check)
    K = retract(K, m, step.step, retraction, order)  # K <- K f(step m)
    matrix, compensation = store(K, old.matrix, old.compensation)
    kept = _tangent_to_keep(m, step.kept, old.momentum)
    moduli = [M.max_abs() for M in (matrix, *_narrowed(kept))]
    largest = reduce(namespace(moduli[0]).maximum, moduli)
    return _NewFactor(StoredFactor(matrix, kept, compensation), step, staleness, largest)


def _tangent_to_keep(m: StructuredMatrix, part: Any, last: Part) -> Part:
    """Return a part of a tangent in the dtype of the last one, or () if the state keeps none."""
    if not last:
        return ()
    if isinstance(part, float):  # which is 1
        return rounded_to(m, last.dtype_name)
    whole = all_of(part == 1)
    kept: StructuredMatrix = choose_if_free(whole, lambda: m, lambda: m.scaled(part))
    return rounded_to(kept, last.dtype_name)


def _narrowed(m: Part) -> list[StructuredMatrix]:
    """Return the tangent if it is stored in a smaller range than that in which it was finite."""
    return [] if not m or m.computed() is m else [m]


def _pairs_finite(xp: Any, *moduli: Any) -> tuple[Any, Any]:
    """Tell, (...), where the first two moduli, or norms, are finite, and where the others are."""
    first, second, third, fourth = moduli
    return xp.maximum(first, second) < math.inf, xp.maximum(third, fourth) < math.inf


# -------------------------------------------------------------------------- of both factors


def _report(K: _NewFactor, C: _NewFactor, made: Array | None, dtype: str) -> InverseFreeReport:
    """Return what an update did, or that it was skipped, in the dtype of the last report."""
    xp, bounds = namespace(K.step.bound), (K.step.bound, C.step.bound)
    steps = [
        xp.full_like(bound, F.step.step) if isinstance(F.step.step, float) else F.step.step
        for F, bound in zip((K, C), bounds)
    ]
    skipped = xp.zeros_like(bounds[0], dtype=xp.bool) if made is None else ~made
    if made is not None:
        steps = [filled(step, skipped, 0.0) for step in steps]
    numbers = (*bounds, *steps, K.staleness, C.staleness)
    return InverseFreeReport(*[*(astype(x, dtype) for x in numbers), skipped])


def _state(
    K: StoredFactor, C: StoredFactor, step: Array, report: InverseFreeReport
) -> InverseFreeState:
    """Return the state of two factors."""
    return InverseFreeState(
        K=K.matrix,
        C=C.matrix,
        momentum_K=K.momentum,
        momentum_C=C.momentum,
        compensation_K=K.compensation,
        compensation_C=C.compensation,
        step=step,
        report=report,
    )


def _unless_skipped(new: InverseFreeState, old: InverseFreeState, ok: Array) -> InverseFreeState:
    """Return the old factors where `ok` is not set, with the report of the new ones."""

    def chosen(made: Array, kept: Array) -> Array:
        return where(expanded(ok, made.ndim - ok.ndim), made, kept)

    names = [field.name for field in dataclasses.fields(new) if field.name != "report"]
    parts = {name: mapped(chosen, getattr(new, name), getattr(old, name)) for name in names}
    return dataclasses.replace(new, **parts)


# ---------------------------------------------------------------------------------- checks


def _require_range(
    step_size: Any, momentum: Any, retraction: Retraction, checks: ValueChecks
) -> None:
    """Require a step for which I + b or I + 2 b is positive for any data."""
    largest = largest_step(retraction, momentum)
    if largest is None:
        return
    bound = "2 (1 - momentum)" if largest_step(retraction, 0.0) == 2 else "1 - momentum"

    def error() -> Exception:
        msg = (
            f"`step_size` is {shown(step_size)}; with retraction {retraction!r} it must be less "
            f"than {bound}."
        )
        return ValueError(msg)

    within = step_size < largest
    if isinstance(within, bool):
        if not within:
            raise error()
        return
    checks.require(lambda: within, error)


def _positive(*values: Any) -> list[Array]:
    """Tell where dampings and steps in arrays, whose values may be unread, are positive."""
    return [x > 0 for x in values if not isinstance(x, float)]


def _not_finite(*lengths: Array) -> Exception:
    """Return the error of statistics that are not finite, as numbers (...) made of them tell."""
    place = place_in_batch(lengths[0].ndim, *lengths)
    msg = (
        f"`statistics` contains NaN or Inf{place}, or numbers beyond the range of its dtype, or no "
        f"row of positive weight; the state is left as it was. Scale the gradients, or leave the "
        f"batch out."
    )
    return ValueError(msg)


def _too_large(state: InverseFreeState) -> Exception:
    """Return the error of factors or tangents that cannot be stored."""
    msg = (
        f"`statistics` lead beyond the range of {state.K.dtype_name}, or to a factor that rounding "
        f"has made singular; the state is left as it was. Scale the inputs, raise the damping, use "
        f"storage='float32', or start the state in a wider dtype."
    )
    return ValueError(msg)


def _require_stable(
    report: InverseFreeReport, retraction: Retraction, dtype: str, checks: ValueChecks
) -> None:
    """Warn unless both factors are sure to stay invertible."""
    xp = namespace(report.bound_K)
    limit = stable_product(retraction, dtype)

    def stable() -> Array:
        return xp.maximum(report.bound_K * report.step_K, report.bound_C * report.step_C) < limit

    def warning() -> Warning:  # without numbers of this batch, so that it is shown once
        return StepSizeWarning(
            f"a factor may become singular: for retraction {retraction!r}, `step_size` times the "
            f"bounds on the eigenvalues of the tangents, `report.bound_K` and `report.bound_C`, "
            f"must be below {limit:.3g}. Use safeguard=True, or retraction 'implicit'."
        )

    checks.require(stable, warning)

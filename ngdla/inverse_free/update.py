"""Inverse-free natural gradient: IKFAC, INGD and SINGD."""

from __future__ import annotations

import math
from functools import reduce
from operator import and_
from typing import Any

from ngdla._backend.checks import ValueChecks, require_choice, require_count
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.scalars import eigenvalue_damping, fraction_values, positive_values
from ngdla._backend.settings import library_settings
from ngdla._backend.tracing import choose_if_free, is_traced
from ngdla.structures import StructuredMatrix

from .retractions import RETRACTIONS, guarded, largest_step, retract, stable_product
from .state import InverseFreeReport, InverseFreeState, factor_values, require_state, stored
from .statistics import InverseFreeStatistics, require_fitting
from .tangents import RULES, tangents, with_momentum

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
    rule: str = "ingd",
    retraction: str = "series",
    order: int = 1,
    safeguard: bool = True,
    check: bool = True,
) -> InverseFreeState:
    """Return the state after a step of IKFAC or INGD (SINGD in a structure).

    Parameters
    ----------
    state : InverseFreeState
        Left as it is.
    statistics : InverseFreeStatistics
        Taken with this state.
    damping : float or array, shape () or (...)
        Positive. In "ikfac" it is added to each second moment, in units of its eigenvalues; in
        "ingd" it belongs to their Kronecker product.
    step_size : float or array, shape () or (...)
        Positive: 1 - decay of the exponential average of KFAC that "ikfac" follows.
    momentum : float or array, shape () or (...)
        The part of the last tangent that is added to this one, in [0, 1).
    rule : {"ingd", "ikfac"}
        "ikfac": both factors by themselves. "ingd": each with the curvature and the damping
        weighted by the traces of the other, so that only the product of the factors matters.
    retraction : {"series", "expm", "binomial", "implicit", "exact"}
        K (I - b + b^2 / 2 - ...), K exp(-b), the series of (I + 2 b)^(-1/2), K (I + b)^-1 and
        K (I + 2 b)^(-1/2), for b = step m. The last one is KFAC itself, for dense K and "ikfac".
    order : int
        Of the series, 1 or more. An order p of "binomial" agrees with KFAC up to step^(p + 1).
    safeguard : bool, default True
        Shorten steps where half of their stable range would be left, factor by factor, and what is
        remembered of a tangent, which is never more than a step of 1/2. Without it, a step outside
        of the range warns.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host. Where it is not read, under tracing, such
        statistics leave the state as it was, and `report.skipped` says so.

    Returns
    -------
    InverseFreeState
        The new state, stored as the old one.

    Raises
    ------
    TypeError
        If an argument has the wrong kind or library.
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
    require_fitting(statistics, state)
    checks = ValueChecks(enabled=check)
    with library_settings(namespace(state.step)):
        like, batch = state.K.leaves[0], state.K.batch
        damping = eigenvalue_damping(damping, like, "statistics", batch, checks)
        step_size = positive_values(step_size, "step_size", like, "K", batch, checks)
        momentum = fraction_values(momentum, "momentum", like, "K", batch, checks)
        _require_range(step_size, momentum, retraction, checks)
        K, C = factor_values(state)
        H, grams = (statistics.H_K, statistics.H_C), (K.project_gram(), C.project_gram())
        m_K, m_C = tangents(rule, H, grams, statistics.rows, damping)
        stale_K, stale_C = (2 * m.frobenius_norm() / math.sqrt(m.dimension) for m in (m_K, m_C))
        m_K, m_C = with_momentum(m_K, m_C, state, momentum)
        xp = namespace(stale_K)
        ok = xp.isfinite(stale_K) & xp.isfinite(stale_C)
        checks.require(lambda: ok, _not_finite)
        ok = ok & _legal_values(damping, step_size)
        guard_K = guarded(m_K, step_size, retraction, safeguard=safeguard)
        guard_C = guarded(m_C, step_size, retraction, safeguard=safeguard)
        K, compensation_K = stored(
            retract(K, m_K, guard_K.step, retraction, order), state.K, state.compensation_K
        )
        C, compensation_C = stored(
            retract(C, m_C, guard_C.step, retraction, order), state.C, state.compensation_C
        )
        kept_K = _remembered(m_K, guard_K.kept, state.momentum_K)
        kept_C = _remembered(m_C, guard_C.kept, state.momentum_C)
        fits = reduce(and_, (_fits(M) for M in (K, C, *_narrowed(kept_K, kept_C))))
        checks.require(lambda: fits, lambda: _too_large(state))
        made = ok & fits
        report = InverseFreeReport(
            bound_K=guard_K.bound,
            bound_C=guard_C.bound,
            step_K=xp.where(made, guard_K.step, 0 * guard_K.step),
            step_C=xp.where(made, guard_C.step, 0 * guard_C.step),
            staleness_K=stale_K,
            staleness_C=stale_C,
            skipped=~made,
        )
        if not safeguard:
            limit = stable_product(retraction, result_name(state.K.dtype_name))
            checks.require(
                lambda: _within_range(report, limit),
                lambda: _out_of_range(report, retraction, limit),
            )
        checks.read()
        step = state.step + 1
        new = InverseFreeState(K, C, kept_K, kept_C, compensation_K, compensation_C, step, report)
        return new if check and not is_traced(made) else _unless_skipped(new, state, made)


def _require_range(step_size: Any, momentum: Any, retraction: str, checks: ValueChecks) -> None:
    """Require what makes I + b or I + 2 b positive for whatever data."""
    largest = largest_step(retraction, momentum)
    if largest is None:
        return
    bound = "2 (1 - momentum)" if retraction == "implicit" else "1 - momentum"
    msg = (
        f"`step_size` is {step_size!r}; with retraction {retraction!r} it must be less than "
        f"{bound}."
    )
    within = step_size < largest
    if isinstance(within, bool):
        if not within:
            raise ValueError(msg)
        return
    checks.require(lambda: within, lambda: ValueError(msg))


def _legal_values(*values: Any) -> Array | bool:
    """Tell whether dampings and steps that could not be looked at are positive."""
    return reduce(and_, (x > 0 for x in values if not isinstance(x, float)), True)


def _not_finite() -> Exception:
    """Return the error of statistics that are not finite."""
    msg = (
        "`statistics` contains NaN or Inf, or numbers beyond the range of its dtype, or no row of "
        "positive weight; the state is left as it was. Scale the gradients, or leave the batch out."
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


def _within_range(report: InverseFreeReport, limit: float) -> Array:
    """Tell whether both factors are sure to stay invertible."""
    xp = namespace(report.bound_K)
    return xp.maximum(report.bound_K * report.step_K, report.bound_C * report.step_C) < limit


def _out_of_range(report: InverseFreeReport, retraction: str, limit: float) -> Warning:
    """Return the warning of a step that has left the range in which factors stay invertible."""
    xp = namespace(report.bound_K)
    bound = float(xp.maximum(xp.max(report.bound_K), xp.max(report.bound_C)))
    return StepSizeWarning(
        f"the eigenvalues of a tangent are bounded by {bound:.3g} only: for retraction "
        f"{retraction!r}, `step_size` must be below {limit / bound:.3g} for the factor to stay "
        f"invertible. Use safeguard=True, or retraction 'implicit'."
    )


def _remembered(
    m: StructuredMatrix, part: Array, last: StructuredMatrix | None
) -> StructuredMatrix | None:
    """Return a part of a tangent as the state stores it, if it does."""
    if last is None:
        return None
    whole = namespace(part).all(part == 1)
    kept: StructuredMatrix = choose_if_free(whole, lambda: m, lambda: m.scaled(part))
    return kept.astype(last.dtype_name)


def _narrowed(*tangents: StructuredMatrix | None) -> list[StructuredMatrix]:
    """Return those that are stored in a smaller range than that in which they were finite."""
    return [m for m in tangents if m is not None and m.computed() is not m]


def _fits(M: StructuredMatrix) -> Array:
    """Tell whether a matrix as it is stored is finite."""
    return namespace(M.leaves[0]).isfinite(M.frobenius_norm())


def _unless_skipped(new: InverseFreeState, old: InverseFreeState, ok: Array) -> InverseFreeState:
    """Return the old factors where `ok` is not set, with the report of the new ones."""
    matrices: dict[str, Any] = {
        name: None if made is None else made.where(ok, getattr(old, name))
        for name, made in zip(new._fields[:6], new[:6])
    }
    made = astype(namespace(ok).any(ok), dtype_name(old.step.dtype))
    return new._replace(**matrices, step=old.step + made)

"""Inverse-free natural gradient: IKFAC, INGD and SINGD."""

from __future__ import annotations

import math
from functools import reduce
from operator import and_
from typing import Any

from ngdla._backend.checks import (
    DTYPES,
    ValueChecks,
    require_array,
    require_choice,
    require_count,
    require_like,
)
from ngdla._backend.creation import zeros
from ngdla._backend.namespace import Array, astype, dtype_name, namespace, real_name, result_name
from ngdla._backend.scalars import eigenvalue_damping, fraction_values, positive_values
from ngdla._backend.settings import computing
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import choose_if_free, is_traced
from ngdla.structures import StructuredMatrix, structure_from

from .arguments import (
    checked_weights,
    legal_values,
    not_finite,
    out_of_range,
    require_batch,
    require_fitting,
    require_kind,
    require_range,
    require_state,
    too_large,
    within_range,
)
from .retractions import RETRACTIONS, guarded, retract, stable_product
from .state import (
    STORAGES,
    InverseFreeReport,
    InverseFreeState,
    InverseFreeStatistics,
    stored,
    value,
)
from .tangents import RULES, tangents, with_momentum

__all__ = [
    "inverse_free_apply",
    "inverse_free_init",
    "inverse_free_statistics",
    "inverse_free_update",
]


def inverse_free_init(
    d_in: int,
    d_out: int,
    *,
    structures: Any = ("dense", "dense"),
    like: Array,
    dtype: str | None = None,
    storage: str = "native",
    momentum: bool = True,
    batch: tuple[int, ...] = (),
) -> InverseFreeState:
    """Return the state of an inverse-free preconditioner (IKFAC, INGD, SINGD) before any batch.

    Parameters
    ----------
    d_in, d_out : int
        Numbers of columns and of rows of the weight.
    structures : pair
        Of K, for the inputs, and of C, for the output gradients. Each is a structure, its name, or
        (name, options), such as ("hierarchical", {"k1": 15, "k2": 15}).
    like : array
        Gives the library and the device.
    dtype : str, optional
        In which factors and momenta are stored; that of `like` by default. float16 and bfloat16
        (of NumPy: with ml_dtypes) are stored only: all arithmetic is in float32.
    storage : {"native", "float32", "compensated"}
        How factors of half precision keep steps that are smaller than their rounding. "native":
        not at all, steps below 2^-9 (bfloat16) get lost. "float32": the factors are kept in
        float32. "compensated": with a second number of half precision for each.
    momentum : bool, default True
        Keep running tangents, as momentum > 0 needs; without, the state has half the size.
    batch : tuple of int
        Leading axes, as for layers of equal shape.

    Returns
    -------
    InverseFreeState
        With K = C = I.

    Raises
    ------
    TypeError
        If a dimension is no integer, a structure is none, or `like` no floating-point array.
    ValueError
        If a dimension is less than 1, or a name or an option is out of range.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (the initial values of IKFAC and SINGD).

    Examples
    --------
    >>> import numpy as np
    >>> state = inverse_free_init(4, 3, structures=("diagonal", "dense"), like=np.zeros(1))
    >>> state.K.size, state.C.size
    (4, 9)
    """
    require_count(d_in, "d_in", least=1)
    require_count(d_out, "d_out", least=1)
    require_batch(batch)
    require_choice(storage, "storage", STORAGES)
    require_array(like, "like", blocks=False)
    name = dtype_name(like.dtype) if dtype is None else dtype
    require_choice(name, "dtype", DTYPES)
    if not isinstance(structures, (tuple, list)) or len(structures) != 2:
        msg = f"`structures` is {structures!r}; it must be a pair, for K and for C."
        raise TypeError(msg)
    if storage == "compensated" and name not in ("float16", "bfloat16"):
        msg = (
            f"`storage` is 'compensated' with dtype {name}; it must be 'native' there: factors are "
            f"stored as they are computed."
        )
        raise ValueError(msg)
    kept = result_name(name) if storage == "float32" else name
    pair = [
        (structure_from(given, f"structures[{i}]"), d)
        for i, (given, d) in enumerate(zip(structures, (d_in, d_out)))
    ]
    K, C = (s.identity(d, like=like, dtype=kept, batch=batch) for s, d in pair)
    empty = [s.zeros(d, like=like, dtype=name, batch=batch) for s, d in pair]
    m_K, m_C = empty if momentum else (None, None)
    compensation_K, compensation_C = empty if storage == "compensated" else (None, None)
    zero = zeros(batch, like, real_name(result_name(name)))
    report = InverseFreeReport(zero, zero, zero, zero, zero, zero, zeros(batch, like, "bool"))
    step = zeros((), like, "int32")
    return InverseFreeState(K, C, m_K, m_C, compensation_K, compensation_C, step, report)


def inverse_free_statistics(
    state: InverseFreeState,
    inputs: Array,
    output_gradients: Array,
    *,
    weights: Array | None = None,
    loss_scale: Any = 1.0,
    check: bool = True,
) -> InverseFreeStatistics:
    """Return the curvature of a batch in the coordinates of a state, for `inverse_free_update`.

    Parameters
    ----------
    state : InverseFreeState
        Whose factors the batch is seen through; the one that is updated afterwards.
    inputs : array, shape (..., N, d_in)
        a, rows are samples, or samples and positions.
    output_gradients : array, shape (..., N, d_out)
        g, of each sample by itself: not divided by the number of samples, as a mean loss does.
    weights : array, shape (..., N), optional
        w >= 0, of each row; 1 by default.
    loss_scale : float or array, shape () or (...)
        The factor by which the loss, and so g, was multiplied; it is divided out.
    check : bool, default True
        Refuse weights and scales in arrays that are negative, NaN or Inf: reads one flag on the
        host. Inputs and gradients are looked at by the update.

    Returns
    -------
    InverseFreeStatistics
        Sums: those of parts of a batch add up, by ``+``, to those of the batch.

    Raises
    ------
    TypeError
        If arguments are no floating-point arrays of the library of the state.
    ValueError
        If shapes do not fit, or weights are negative, NaN or Inf.

    Notes
    -----
    Cost: `StructuredMatrix.project_inner` of both factors. Neither second moment is formed.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (H_K and H_C).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> state = inverse_free_init(4, 3, like=np.zeros(1))
    >>> a, g = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    >>> parts = [inverse_free_statistics(state, a[i], g[i]) for i in (slice(4), slice(4, 6))]
    >>> whole = inverse_free_statistics(state, a, g)
    >>> bool(np.allclose((parts[0] + parts[1]).H_K.to_dense(), whole.H_K.to_dense()))
    True
    """
    require_state(state)
    for x, name, factor in (
        (inputs, "inputs", state.K),
        (output_gradients, "output_gradients", state.C),
    ):
        require_array(x, name, ndim=2, blocks=False)
        factor._require_rows(x, name, "N")
        require_kind(x, name, factor)
    if inputs.shape[-2] != output_gradients.shape[-2]:
        msg = (
            f"`inputs` has {inputs.shape[-2]} rows and `output_gradients` "
            f"{output_gradients.shape[-2]}; they must be of the same samples."
        )
        raise ValueError(msg)
    checks = ValueChecks(enabled=check)
    xp, batch = namespace(inputs), state.K.batch
    real = real_name(result_name(dtype_name(inputs.dtype), state.K.dtype_name))
    with computing(xp):
        like = state.K.leaves[0]
        scale = positive_values(loss_scale, "loss_scale", like, "K", batch, checks)
        a, g = inputs, output_gradients
        if weights is None:
            rows = zeros(batch, inputs, real) + float(inputs.shape[-2])
        else:
            w = checked_weights(weights, inputs, real, checks)
            rows, root = xp.sum(w, axis=-1), xp.expand_dims(xp.sqrt(w), axis=-1)
            a, g = _scaled(a, root), _scaled(g, root)
        if not isinstance(scale, float) or scale != 1.0:
            g = _scaled(g, expanded(1 / scale, 2))
        K, C = _values(state)
        statistics = InverseFreeStatistics(K.project_inner(a), C.project_inner(g), rows)
        checks.raise_on_failure()
    return statistics


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
    with computing(namespace(state.step)):
        like, batch = state.K.leaves[0], state.K.batch
        damping = eigenvalue_damping(damping, like, "statistics", batch, checks)
        step_size = positive_values(step_size, "step_size", like, "K", batch, checks)
        momentum = fraction_values(momentum, "momentum", like, "K", batch, checks)
        require_range(step_size, momentum, retraction, checks)
        K, C = _values(state)
        H, grams = (statistics.H_K, statistics.H_C), (K.project_gram(), C.project_gram())
        m_K, m_C = tangents(rule, H, grams, statistics.rows, damping)
        stale_K, stale_C = (2 * m.frobenius_norm() / math.sqrt(m.dimension) for m in (m_K, m_C))
        m_K, m_C = with_momentum(m_K, m_C, state, momentum)
        xp = namespace(stale_K)
        ok = xp.isfinite(stale_K) & xp.isfinite(stale_C)
        checks.require(lambda: ok, not_finite)
        ok = ok & legal_values(damping, step_size)
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
        checks.require(lambda: fits, lambda: too_large(state))
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
                lambda: within_range(report, limit), lambda: out_of_range(report, retraction, limit)
            )
        checks.raise_on_failure()
        step = state.step + 1
        new = InverseFreeState(K, C, kept_K, kept_C, compensation_K, compensation_C, step, report)
        return new if check and not is_traced(made) else _unless_skipped(new, state, made)


def inverse_free_apply(state: InverseFreeState, V: Array) -> Array:
    """Return the preconditioned gradient C C^H V K K^H.

    Parameters
    ----------
    state : InverseFreeState
        With the factors K and C.
    V : array, shape (..., d_out, d_in), real or complex
        Such as the gradient of the weight. Not checked for NaN and Inf.

    Returns
    -------
    array, shape (..., d_out, d_in)
        In the dtype that V and the factors promote to, float32 or wider.

    Raises
    ------
    TypeError
        If `V` is no floating-point array of the library of the state.
    ValueError
        If `V` has another shape.

    Notes
    -----
    Cost: `StructuredMatrix.square_matmul` of K for d_out columns and of C for d_in columns.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (last line of each update).

    Examples
    --------
    >>> import numpy as np
    >>> state = inverse_free_init(3, 2, like=np.zeros(1))
    >>> inverse_free_apply(state, np.ones((2, 3)))
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    require_state(state)
    require_array(V, "V", ndim=2, blocks=False)
    require_like(V, "V", state.K.leaves[0], "state")
    expected = (*state.K.batch, state.C.dimension, state.K.dimension)
    if tuple(V.shape) != expected:
        msg = f"`V` has shape {tuple(V.shape)}; for this state it must be {expected}."
        raise ValueError(msg)
    K, C = _values(state)
    with computing(namespace(V)):
        return C.square_matmul(K.square_rmatmul(V))


def _values(state: InverseFreeState) -> tuple[StructuredMatrix, StructuredMatrix]:
    """Return both factors in the compute dtype."""
    return value(state.K, state.compensation_K), value(state.C, state.compensation_C)


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


def _scaled(x: Array, factor: Any) -> Array:
    """Return x times a real number or array, in float32 or wider."""
    return astype(x, result_name(dtype_name(x.dtype))) * factor

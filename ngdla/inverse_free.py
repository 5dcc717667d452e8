"""Inverse-free natural gradient: IKFAC, INGD and SINGD."""

from __future__ import annotations

import math
import numbers
from typing import Any

from ._backend.checks import (
    DTYPES,
    EIGENVALUES,
    ValueChecks,
    damping_values,
    real_values,
    require_array,
    require_choice,
    require_like,
    warn_caller,
)
from ._backend.namespace import (
    Array,
    astype,
    computing,
    dtype_name,
    is_array,
    namespace,
    real_name,
    result_name,
    zeros,
)
from ._backend.tracing import concrete, is_traced
from .inverse_free_state import (
    STORAGES,
    InverseFreeReport,
    InverseFreeState,
    InverseFreeStatistics,
    stored,
    value,
)
from .retractions import RETRACTIONS, largest_step, retract, shortened, stable_product
from .structures import StructuredMatrix, structure_from
from .structures.base import require_integer
from .structures.sums import plus_identity, plus_multiple
from .vectors import expanded

__all__ = [
    "StepSizeWarning",
    "inverse_free_apply",
    "inverse_free_init",
    "inverse_free_statistics",
    "inverse_free_update",
]


class StepSizeWarning(UserWarning):
    """A step size is outside of the range in which a factor stays invertible."""


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
    require_integer(d_in, "d_in", 1)
    require_integer(d_out, "d_out", 1)
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
    _require_state(state)
    for x, name, factor in (
        (inputs, "inputs", state.K),
        (output_gradients, "output_gradients", state.C),
    ):
        require_array(x, name, ndim=2, blocks=False)
        factor._require_rows(x, name, "N")
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
        scale = _positive(loss_scale, "loss_scale", state.K, checks)
        a, g = inputs, output_gradients
        if weights is None:
            rows = zeros(batch, inputs, real) + float(inputs.shape[-2])
        else:
            w = _checked_weights(weights, inputs, real, checks)
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
        Shorten the steps of "series", "expm" and "binomial" where half of their stable range would
        be left, factor by factor. Without it, a step outside of the range warns.
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
    batch.
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
    _require_state(state)
    require_choice(rule, "rule", tuple(_RULES))
    require_choice(retraction, "retraction", tuple(RETRACTIONS))
    require_integer(order, "order", 1)
    _require_fitting(statistics, state)
    checks = ValueChecks(enabled=check)
    with computing(namespace(state.step)):
        damping = _damping(damping, state.K, checks)
        step_size = _positive(step_size, "step_size", state.K, checks)
        momentum = _momentum(momentum, state, checks)
        _require_range(step_size, momentum, retraction, checks)
        K, C = _values(state)
        H, grams = (statistics.H_K, statistics.H_C), (K.project_gram(), C.project_gram())
        weights = _RULES[rule](H, grams, statistics.rows, damping)
        m_K, m_C = map(_tangent, H, grams, weights)
        stale_K, stale_C = (2 * m.frobenius_norm() / math.sqrt(m.dimension) for m in (m_K, m_C))
        m_K, m_C = _with_momentum(m_K, m_C, state, momentum)
        xp = namespace(stale_K)
        ok = xp.isfinite(stale_K) & xp.isfinite(stale_C)
        checks.require(lambda: ok, _not_finite)
        bound_K, step_K = shortened(m_K, step_size, retraction, safeguard=safeguard)
        bound_C, step_C = shortened(m_C, step_size, retraction, safeguard=safeguard)
        checks.raise_on_failure()
        report = InverseFreeReport(bound_K, bound_C, step_K, step_C, stale_K, stale_C, ~ok)
        if check and not safeguard:
            _warn_of_range(report, retraction)
        K, compensation_K = stored(
            retract(K, m_K, step_K, retraction, order), state.K, state.compensation_K
        )
        C, compensation_C = stored(
            retract(C, m_C, step_C, retraction, order), state.C, state.compensation_C
        )
        new = InverseFreeState(
            K,
            C,
            _kept(m_K, state.momentum_K),
            _kept(m_C, state.momentum_C),
            compensation_K,
            compensation_C,
            state.step + 1,
            report,
        )
        return new if check and not is_traced(ok) else _unless_skipped(new, state, ok)


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
    Cost: two products with K for d_out columns and two with C for d_in columns.

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
    _require_state(state)
    require_array(V, "V", ndim=2, blocks=False)
    require_like(V, "V", state.K.leaves[0], "state")
    expected = (*state.K.batch, state.C.dimension, state.K.dimension)
    if tuple(V.shape) != expected:
        msg = f"`V` has shape {tuple(V.shape)}; for this state it must be {expected}."
        raise ValueError(msg)
    K, C = _values(state)
    with computing(namespace(V)):
        return C.matmul(C.H.matmul(K.H.rmatmul(K.rmatmul(V))))


# ----------------------------------------------------------------------------------- rules

Pair = tuple[StructuredMatrix, StructuredMatrix]
Weights = tuple[Any, Any]


def _tangent(H: StructuredMatrix, gram: StructuredMatrix, weights: Weights) -> StructuredMatrix:
    """Return (h H + c gram - I) / 2."""
    h, c = weights
    m = plus_multiple(H.scaled(0.5 * h), 0.5 * c, gram)
    return plus_identity(m, -0.5)


def _ikfac(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return the weights of H and of K^H K in the tangent of K, and those for C."""
    return (1 / rows, damping), (1 / rows, damping)


def _ingd(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return those of "ikfac" times the mean eigenvalues of H and C^H C, and their mirror.

    Means in place of traces, so that nothing is as large as a dimension.
    """
    mean_K, mean_C = (M.trace() / (rows * M.dimension) for M in H)
    gram_K, gram_C = (M.trace() / M.dimension for M in grams)
    return (mean_C / rows, damping * gram_C), (mean_K / rows, damping * gram_K)


_RULES = {"ingd": _ingd, "ikfac": _ikfac}


def _values(state: InverseFreeState) -> Pair:
    """Return both factors in the compute dtype."""
    return value(state.K, state.compensation_K), value(state.C, state.compensation_C)


def _with_momentum(
    m_K: StructuredMatrix, m_C: StructuredMatrix, state: InverseFreeState, momentum: Any
) -> Pair:
    """Return the tangents plus what is left of the last ones. The given ones are used up."""
    if isinstance(momentum, float) and momentum == 0.0:
        return m_K, m_C
    if state.momentum_K is None or state.momentum_C is None:
        msg = "`momentum` is asked of a state without; start with inverse_free_init(momentum=True)."
        raise ValueError(msg)
    return (
        plus_multiple(m_K, momentum, state.momentum_K),
        plus_multiple(m_C, momentum, state.momentum_C),
    )


def _kept(m: StructuredMatrix, last: StructuredMatrix | None) -> StructuredMatrix | None:
    """Return a tangent as the state stores it, if it does."""
    return None if last is None else m.astype(last.dtype_name)


def _unless_skipped(new: InverseFreeState, old: InverseFreeState, ok: Array) -> InverseFreeState:
    """Return the old factors where `ok` is not set, with the report of the new ones."""
    matrices: dict[str, Any] = {
        name: None if made is None else made.where(ok, getattr(old, name))
        for name, made in zip(new._fields[:6], new[:6])
    }
    made = astype(namespace(ok).any(ok), dtype_name(old.step.dtype))
    return new._replace(**matrices, step=old.step + made)


# ---------------------------------------------------------------------------------- checks


def _require_state(state: Any) -> None:
    if not isinstance(state, InverseFreeState):
        msg = f"`state` is a {type(state).__name__}; it must be what inverse_free_init returned."
        raise TypeError(msg)


def _require_fitting(statistics: Any, state: InverseFreeState) -> None:
    if not isinstance(statistics, InverseFreeStatistics):
        msg = (
            f"`statistics` is a {type(statistics).__name__}; it must be what "
            f"inverse_free_statistics returned."
        )
        raise TypeError(msg)
    for name, H, factor in (("H_K", statistics.H_K, state.K), ("H_C", statistics.H_C, state.C)):
        if (H.structure, H.shape) != (factor.structure, factor.shape):
            msg = (
                f"`statistics` has {name} = {H!r}, but the factor is {factor!r}; pass statistics "
                f"that were taken with this state."
            )
            raise ValueError(msg)


def _real_name(K: StructuredMatrix) -> str:
    return real_name(result_name(K.dtype_name))


def _damping(damping: Any, K: StructuredMatrix, checks: ValueChecks) -> Any:
    like, dtype = K.leaves[0], _real_name(K)
    damping = damping_values(damping, like, "U", dtype, K.batch, EIGENVALUES)
    if isinstance(damping, float):
        return damping
    checks.positive("damping", damping)
    return astype(damping, dtype)


def _positive(given: Any, name: str, K: StructuredMatrix, checks: ValueChecks) -> Any:
    """Return a positive number as a float, or as an array of the shape of the batch."""
    if isinstance(given, numbers.Real) and not isinstance(given, bool):
        if not 0 < float(given) < math.inf:
            msg = f"`{name}` is {given!r}; it must be positive and finite."
            raise ValueError(msg)
        return float(given)
    dtype = _real_name(K)
    values = astype(real_values(given, name, K.leaves[0], "K", dtype, K.batch), dtype)
    checks.positive(name, values)
    return values


def _momentum(given: Any, state: InverseFreeState, checks: ValueChecks) -> Any:
    msg = f"`momentum` is {given!r}; it must be in [0, 1)."
    if isinstance(given, numbers.Real) and not isinstance(given, bool):
        if not 0 <= float(given) < 1:
            raise ValueError(msg)
        return float(given)
    dtype = _real_name(state.K)
    values = real_values(given, "momentum", state.K.leaves[0], "K", dtype, state.K.batch)
    values = astype(values, dtype)
    checks.require(lambda: (values >= 0) & (values < 1), lambda: ValueError(msg))
    return values


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


def _checked_weights(weights: Any, inputs: Array, dtype: str, checks: ValueChecks) -> Array:
    if not is_array(weights):
        msg = f"`weights` is {weights!r}; it must be an array of real numbers, one for each row."
        raise TypeError(msg)
    w = real_values(weights, "weights", inputs, "inputs", dtype, tuple(inputs.shape[:-1]))
    w = astype(w, dtype)
    checks.finite("weights", w)
    msg = "`weights` holds negative numbers; each must be 0 or more."
    checks.require(lambda: w >= 0, lambda: ValueError(msg))
    return w


def _scaled(x: Array, factor: Any) -> Array:
    """Return x times a real number or array, in float32 or wider."""
    return astype(x, result_name(dtype_name(x.dtype))) * factor


def _not_finite() -> Exception:
    msg = (
        "`statistics` contains NaN or Inf, or numbers beyond the range of its dtype, or no row of "
        "positive weight; the state is left as it was. Scale the gradients, or leave the batch out."
    )
    return ValueError(msg)


def _warn_of_range(report: InverseFreeReport, retraction: str) -> None:
    limit = stable_product(retraction)
    if limit is None:
        return
    xp = namespace(report.bound_K)
    products = xp.maximum(report.bound_K * report.step_K, report.bound_C * report.step_C)
    if concrete(xp.any(products >= limit)):
        bound = xp.maximum(xp.max(report.bound_K), xp.max(report.bound_C))
        msg = (
            f"the eigenvalues of a tangent are bounded by {float(bound):.3g} only: for retraction "
            f"{retraction!r}, `step_size` must be below {limit / float(bound):.3g} for the factor "
            f"to stay invertible. Use safeguard=True, or retraction 'implicit'."
        )
        warn_caller(msg, StepSizeWarning)

"""Statistics of a batch in the coordinates of a state of inverse-free updates."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, opened
from ngdla._backend.checks import require_array, require_dense, require_like
from ngdla._backend.creation import full
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.fused import in_one_kernel
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array, namespace
from ngdla._backend.positions import require_positions
from ngdla._backend.scalars import positive_values, real_values
from ngdla._backend.shapes import expanded
from ngdla._backend.states import state_class
from ngdla._backend.tracing import number_if_free, without_graph
from ngdla.structures import StructuredMatrix
from ngdla.structures.operands import require_rows

from .state import InverseFreeState, factor_values, require_state

__all__ = [
    "InverseFreeStatistics",
    "inverse_free_statistics",
    "require_fitting",
    "stale_statistics",
    "taken_elsewhere",
]


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class InverseFreeStatistics:
    """Curvature of a batch in the coordinates of a state. Sums: those of parts of a batch add up.

    Attributes
    ----------
    H_K : StructuredMatrix
        Pi(K^H U K) of the weighted sum U = sum_i w_i a_i a_i^H of inputs.
    H_C : StructuredMatrix
        Pi(C^H G C) of the weighted sum G = sum_i w_i g_i g_i^H of output gradients.
    rows : array, shape (...), real
        The sum of the weights, by which an update divides both.
    step_rows : array, shape (...), real
        The number of updates behind the state, modulo 64, times `rows`. An update refuses
        statistics of another step, and sums of which a part of more than 1/64 of the rows is of
        another one. That the state is another one of the same step, it does not see.

    Notes
    -----
    ``statistics + others``, or ``sum(parts)``, is the statistics of all, if they were taken with
    the same state; on several devices, sum the leaves of this pytree over the devices. No autograd
    graph is kept in it.
    """

    H_K: StructuredMatrix
    H_C: StructuredMatrix
    rows: AnyArray
    step_rows: AnyArray

    def __add__(self, other: Any) -> InverseFreeStatistics:
        if not isinstance(other, InverseFreeStatistics):
            return NotImplemented
        return InverseFreeStatistics(
            self.H_K + other.H_K,
            self.H_C + other.H_C,
            self.rows + other.rows,
            self.step_rows + other.step_rows,
        )

    def __radd__(self, other: Any) -> InverseFreeStatistics:
        """Return the statistics themselves as a sum that starts from 0, as that of `sum`."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def inverse_free_statistics(
    state: InverseFreeState,
    inputs: Array,
    output_gradients: Array,
    *,
    positions: bool | None = None,
    weights: Array | None = None,
    loss_scale: Any = 1.0,
    check: bool = True,
) -> InverseFreeStatistics:
    """Return the curvature of a batch in the coordinates of a state, for `inverse_free_update`.

    Parameters
    ----------
    state : InverseFreeState
        The state that is updated afterwards; its factors give the coordinates.
    inputs : array, shape (..., N, d_in), or (..., M, T, d_in) with positions
        a, rows are samples. There may be none: they add zero.
    output_gradients : array, shape (..., N, d_out), or (..., M, T, d_out) with positions
        g, gradients of per-sample losses. If the loss is a mean over M samples, multiply by M.
    positions : bool, optional
        Whether each of M samples has T positions: (..., M, T, d). All of them are then rows, and
        output gradients are multiplied by sqrt(T); see Notes. From three axes on it must be given:
        False is a stack of layers, (..., N, d).
    weights : array, shape (..., N), or (..., M) with positions, optional
        w >= 0, one per sample; 1 by default.
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
        If arguments are no floating-point arrays of the library of the state, or `positions` is
        missing.
    ValueError
        If shapes do not fit, or weights are negative, NaN or Inf.

    Notes
    -----
    Cost: `StructuredMatrix.project_inner` of both factors. Neither second moment is formed.
    Positions (sequences, patches of convolutions): an update divides both sums by the rows, M T of
    them, but the curvature of a sample is a sum over its T positions; hence sqrt(T), without which
    G is T times too small. It is multiplied here. What a backward pass leaves is the caller's to
    multiply by M for a mean over samples, and by M sqrt(T) for a mean over samples and positions,
    where each token is a sample.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (H_K and H_C).
    R. Eschenhagen, A. Immer, R. E. Turner, F. Schneider, P. Hennig, "Kronecker-factored approximate
    curvature for modern neural network architectures", arXiv:2311.00636 (KFAC-expand).

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla import inverse_free_init
    >>> rng = np.random.default_rng(0)
    >>> state = inverse_free_init(4, 3, like=np.zeros(1))
    >>> a, g = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    >>> parts = [inverse_free_statistics(state, a[i], g[i]) for i in (slice(4), slice(4, 6))]
    >>> whole = inverse_free_statistics(state, a, g)
    >>> bool(np.allclose((parts[0] + parts[1]).H_K.to_dense(), whole.H_K.to_dense()))
    True
    """
    require_state(state)
    positions = _require_samples(inputs, output_gradients, positions, state)
    batch, like = state.K.batch, state.K.leaves[0]
    M, T = inputs.shape[-3:-1] if positions else (inputs.shape[-2], 1)
    real = real_name(result_name(dtype_name(inputs.dtype), state.K.dtype_name))
    with opened(inputs, check) as checks:
        scale = positive_values(loss_scale, "loss_scale", like, "K", batch, checks)
        a, g = without_graph((inputs, output_gradients), inputs)
        if weights is None:
            rows = full(batch, float(M * T), inputs, real)
        else:
            w = _checked_weights(weights, (*batch, M), inputs, real, checks)
            rows, root = T * namespace(w).sum(w, axis=-1), namespace(w).sqrt(w)
            a, g = (_multiply(x, expanded(root, x.ndim - root.ndim)) for x in (a, g))
        factor = T**0.5 / scale
        if not isinstance(factor, float) or factor != 1.0:
            g = _multiply(g, expanded(factor, g.ndim - len(batch)))
        if positions:
            a, g = (namespace(x).reshape(x, (*batch, M * T, x.shape[-1])) for x in (a, g))
        K, C = factor_values(state)
        # Pi(K^H U K) with U = sum_i w_i a_i a_i^H, and Pi(C^H G C)
        H_K, H_C = K.project_inner(a), C.project_inner(g)
        step_rows = rows * _place(state, dtype_name(rows.dtype))
        return without_graph(InverseFreeStatistics(H_K, H_C, rows, step_rows), inputs)


def require_fitting(statistics: Any, state: InverseFreeState) -> None:
    """Raise unless these are statistics of factors like those of the state."""
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
        require_like(H.leaves[0], "statistics", factor.leaves[0], "state")


_STEPS = 64  # after which counted steps start again, so that float32 tells one from the next
_STALE_PART = 2.0**-6  # of the rows; sums of n parts in float32 are off by up to n 2^-18


def _place(state: InverseFreeState, dtype: str) -> Any:
    """Return the number of updates behind a state, a float or (...), modulo some."""
    known = None if state.step.ndim else number_if_free(state.step)
    return astype(state.step % _STEPS, dtype) if known is None else known % _STEPS


def taken_elsewhere(statistics: InverseFreeStatistics, state: InverseFreeState) -> Array:
    """Tell, (...), where a part of the statistics was taken with another state than this one."""
    rows = statistics.rows
    own = _place(state, dtype_name(rows.dtype))
    return in_one_kernel(_is_elsewhere, statistics.step_rows, rows, own)


def _is_elsewhere(xp: Any, step_rows: Any, rows: Any, own: Any) -> Any:
    return xp.abs(step_rows - rows * own) > _STALE_PART * rows  # NaN is not stale


def stale_statistics() -> Exception:
    """Return the error of statistics that are not of the state they are to update."""
    return ValueError(
        "`statistics`, or a part of them, were taken with another state, before or after other "
        "updates: they are in its coordinates. Pass some that are taken with this `state`; "
        "accumulate parts between two updates only."
    )


def _require_samples(
    inputs: Any, output_gradients: Any, positions: Any, state: InverseFreeState
) -> bool:
    """Return whether samples have positions, or raise unless they fit the factors of the state."""
    axes: tuple[str, ...] = ()
    for x, name, factor in (
        (inputs, "inputs", state.K),
        (output_gradients, "output_gradients", state.C),
    ):
        require_array(x, name, ndim=2, blocks=False, empty=True)
        axes = axes or (("M", "T") if require_positions(x, positions, name) else ("N",))
        require_rows(x, name, factor, *axes)
        _require_kind(x, name, factor)
    if inputs.shape[:-1] != output_gradients.shape[:-1]:
        msg = (
            f"`inputs` has shape {tuple(inputs.shape)} and `output_gradients` "
            f"{tuple(output_gradients.shape)}; they must be of the same samples, and positions."
        )
        raise ValueError(msg)
    return len(axes) == 2


def _checked_weights(
    weights: Any, shape: tuple[int, ...], inputs: Array, dtype: str, checks: ValueChecks
) -> Array:
    """Return the weights of samples in a real dtype."""
    if not is_array(weights):
        msg = (
            f"`weights` is {shown(weights)}; it must be an array of real numbers, one for each "
            f"sample."
        )
        raise TypeError(msg)
    require_dense(weights, "weights", blocks=False)
    if tuple(weights.shape) != shape:
        msg = (
            f"`weights` has shape {tuple(weights.shape)}; it must be {shape}, one for each sample "
            f"of `inputs`."
        )
        raise ValueError(msg)
    w = real_values(weights, "weights", inputs, "inputs", dtype, shape)
    w = astype(w, dtype)
    checks.finite("weights", w, batch=w.ndim - 1, kind="vector")
    msg = "`weights` holds negative numbers; each must be 0 or more."
    checks.require(lambda: w >= 0, lambda: ValueError(msg))
    return w


def _require_kind(x: Array, name: str, factor: StructuredMatrix) -> None:
    """Raise if an array is complex that a real factor has to follow."""
    if is_complex(x) and not is_complex(factor.leaves[0]):
        msg = (
            f"`{name}` is complex but the state is real; start it with a complex `like`, and no "
            f"real dtype."
        )
        raise TypeError(msg)


def _multiply(x: Array, factor: Any) -> Array:
    """Return x times a real number or array, in float32 or wider."""
    return astype(x, result_name(dtype_name(x.dtype))) * factor

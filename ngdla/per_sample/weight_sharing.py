"""Per-sample weights that are computed for some batches and shared with others (FNGD)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import opened
from ngdla._backend.checks import require_choice, require_count, require_flag, require_like
from ngdla._backend.dtypes import real_part
from ngdla._backend.fused import filled, finite_along
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import expanded
from ngdla._backend.states import state_class
from ngdla._backend.tracing import detached

from .gradients import checked_gram
from .layer_samples import LayerSamples, layer_samples
from .weights import cosine, solve_weights

__all__ = ["POLICIES", "Policy", "WeightSharing", "weight_sharing_init", "weight_sharing_step"]

Policy = Literal["exact", "every", "shared", "table", "mean"]
Weights = AnyArray | tuple[Any, ...]


@state_class(
    static=("policy", "M", "period"),
    counted=("batches", "age", "averaged", "layer"),
    grown=("weights", "cosine", "skipped"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class WeightSharing:
    """State of shared weights of one layer, a value.

    Saved and restored by `state_dict` and `load_state_dict`. Weights are kept without their
    gradients. Parts that are not there are ``()``.

    Attributes
    ----------
    policy : str
        "exact", "every", "shared", "table" or "mean".
    M : int
        Samples in a full batch.
    period : int or None
        Number of batches from one computation to the next, or of an epoch. None for "exact".
    batches : int
        Number of batches seen.
    age : int
        Number of batches that were given `weights` since these changed, the one that changed them
        included.
    averaged : int
        Number of full batches whose mean `weights` is, for "mean"; 0 for other policies.
    layer : tuple of int
        Leading axes, d_in and d_out of the batches; () before the first one.
    weights : array, shape (..., M), or tuple
        The last weights that were computed for a full batch; for "mean" their mean over the first
        epoch. () as long as there are none. For "table" a tuple of `period` entries, one for each
        index of a batch: arrays (..., M_i), or () where there are none yet.
    cosine : array, shape (...), real, or ()
        Cosine between the direction of the last step and that of exact weights, if diagnosed.
    skipped : array, shape (...), bool, or ()
        Whether the last weights that were computed to be kept were NaN or Inf, which
        ``check=False`` and compiled code let pass: the last ones were kept in their place, or
        weights of 1 / M if there were none.
    """

    policy: Policy
    M: int
    period: int | None = None
    batches: int = 0
    age: int = 0
    averaged: int = 0
    layer: tuple[int, ...] = ()
    weights: Weights = ()
    cosine: Weights = ()
    skipped: Weights = ()


def weight_sharing_init(policy: Policy, M: int, *, period: int | None = None) -> WeightSharing:
    """Return a state that says for which batches per-sample weights are computed (FNGD).

    Parameters
    ----------
    policy : {"exact", "every", "shared", "table", "mean"}
        When weights are computed, and what other batches get:

        * "exact": computed for every batch. For 128 samples of a layer that is thousands wide, this
          adds a tenth to a quarter to the time of a weight gradient.
        * "every": computed for one of `period` batches; the others get the last ones.
        * "shared": computed for the `period` batches of the first epoch; all later batches get the
          weights of the last full one.
        * "table": computed for the `period` batches of the first epoch and kept by the index of the
          batch in the epoch; in later epochs, each batch gets the weights of its index.
        * "mean": computed for the `period` batches of the first epoch; all later batches get the
          mean of the weights of the full ones.

        The last three are readings of the paper, which shares the weights of the first epoch.
    M : int
        Samples in a full batch.
    period : int, optional
        1 or more. Needed by all policies but "exact", which refuses it.

    Returns
    -------
    WeightSharing
        The state of one layer, before its first batch.

    Raises
    ------
    TypeError
        If `M` or `period` is no integer.
    ValueError
        If `policy` is none of these, or a number is missing, of no use or less than 1.

    Notes
    -----
    What sharing does: in shuffled batches any sample may stand in any place, so that a shared
    weight has nothing to do with the sample it multiplies. On average U v is then the mean gradient
    times the sum of v, and its noise grows with the spread of v: stochastic gradient descent with a
    step of its own for each layer. The mean of many weights has the smallest spread. If batches are
    the same in each epoch, a table gives each sample its own weight, computed with the parameters
    of the first epoch. `weight_sharing_step` measures what is lost by `diagnose=True`.

    Memory: M numbers for each layer; for "table" one for each sample of an epoch.

    References
    ----------
    FNGD, arXiv:2403.03473 (weight sharing).

    Examples
    --------
    >>> weight_sharing_init("shared", 128, period=10).policy
    'shared'
    """
    require_choice(policy, "policy", tuple(POLICIES))
    require_count(M, "M", least=1)
    if POLICIES[policy].period is None:
        if period is not None:
            msg = f'`period` is {shown(period)}, which "{policy}" has no use for; leave it away.'
            raise ValueError(msg)
        return WeightSharing(policy, int(M))
    if period is None:
        msg = f"`period` is missing; {policy!r} needs the number of {POLICIES[policy].period}."
        raise ValueError(msg)
    require_count(period, "period", least=1)
    weights = ((),) * int(period) if policy == "table" else ()
    return WeightSharing(policy, int(M), int(period), weights=weights)


def weight_sharing_step(
    state: WeightSharing,
    inputs: Array,
    output_gradients: Array,
    damping: Any,
    *,
    batch: int | None = None,
    positions: bool | None = None,
    relative: bool = True,
    diagnose: bool = False,
    check: bool = True,
) -> tuple[AnyArray, WeightSharing]:
    """Return normalized weights of the samples of a batch, computed or shared, and the next state.

    Parameters
    ----------
    state : WeightSharing
        The state of this layer. It is not changed.
    inputs : array, shape (..., M, d_in) or (..., M, T, d_in), real or complex
        As for `sample_gram`. The number of positions may change from batch to batch.
    output_gradients : array, shape (..., M, d_out) or (..., M, T, d_out)
        As for `sample_gram`.
    damping : float or array, shape () or (...)
        As for `sample_weights`; not checked if weights are shared.
    batch : int, optional
        For the policy "table" only: the index of the batch in its epoch, from 0 to period - 1. By
        default the number of batches seen, modulo the period.
    positions : bool, optional
        As for `sample_gram`.
    relative : bool, default True
        As for `sample_weights`.
    diagnose : bool, default False
        Always compute K, and from it the cosine between the direction of the weights given and that
        of exact weights.
    check : bool, default True
        Refuse NaN and Inf, and a K that is not positive definite with its damping, where weights
        are computed: reads one flag on the host.

    Returns
    -------
    weights : array, shape (..., M)
        v, if computed those of ``sample_weights(K, damping, normalized=True)``. A batch with fewer
        samples than the shared weights gets the first of them, rescaled to the full sum. If new
        weights are due, it gets its own; a "table" keeps these, other policies discard them. A
        table computes new ones for a batch with more samples than it has weights. Zero samples
        get weights (..., 0).
    state : WeightSharing
        The next state. A batch of zero samples is counted in `batches` and changes nothing else.

    Raises
    ------
    TypeError
        If an argument has the wrong kind or library, or `positions` is missing.
    ValueError
        If the batch has more samples than the state is made for, or belongs to a layer of another
        shape; if `batch` is out of range, or the policy is not "table"; and as `sample_gram` and
        `sample_weights` do.

    Notes
    -----
    Cost: that of `sample_gram` and `sample_weights` if weights are computed or diagnosed, and
    next to nothing if they are shared.
    The host decides which: under `jax.jit` each batch is another program.

    References
    ----------
    FNGD, arXiv:2403.03473.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> state = weight_sharing_init("every", 32, period=2)
    >>> from ngdla import weighted_gradient
    >>> for _ in range(4):
    ...     a, g = rng.standard_normal((32, 20)), rng.standard_normal((32, 10))
    ...     v, state = weight_sharing_step(state, a, g, 0.005, diagnose=True)
    ...     gradient = weighted_gradient(a, g, v)
    ...     print(f"{float(state.cosine):.3f}")
    1.000
    0.899
    1.000
    0.942
    """
    if not isinstance(state, WeightSharing):
        msg = f"`state` is a {type(state).__name__}; it must come from `weight_sharing_init`."
        raise TypeError(msg)
    require_flag(relative, "relative")
    require_flag(diagnose, "diagnose")
    index = _index_of_batch(state, batch)
    samples = layer_samples(inputs, output_gradients, positions)
    _require_fitting(state, samples)
    stored, sharing = _stored(state, index), POLICIES[state.policy]
    due = samples.M > 0 and (isinstance(stored, tuple) or sharing.due(state, stored, samples.M))
    angle: Weights = ()
    with opened(samples.a, check) as checks:
        if due or diagnose or not samples.M:  # zero samples have no weights to share
            K = checked_gram(samples, checks)
            exact, _ = solve_weights(K, damping, checks, relative=relative, normalized=True)
        weights = exact if due or not samples.M else _share(stored, samples.M)
        if diagnose:
            angle = detached(cosine(K, weights, exact))
        changed: dict[str, Any] = {"batches": state.batches + 1, "cosine": angle}
        if due and (state.policy == "table" or samples.M == state.M):
            kept, skipped = _kept(weights, stored)
            changed |= {
                "layer": samples.layer,
                "skipped": skipped,
                **sharing.keep(state, kept, index),
            }
        elif samples.M:
            changed |= {"layer": samples.layer, "age": state.age + (not due)}
    return weights, dataclasses.replace(state, **changed)


def _kept(weights: Array, stored: Any) -> tuple[Array, Array]:
    """Return a copy of new weights, without gradients, and where they are NaN or Inf, (...).

    These are replaced by what would be shared, or where there is none by those of a mean.
    """
    new, M = detached(weights), weights.shape[-1]
    finite = finite_along(new, -1)
    skipped = ~finite
    if isinstance(stored, tuple) or stored.shape[-1] != M:
        return filled(new, expanded(skipped, 1), 1 / M), skipped
    return namespace(new).where(expanded(finite, 1), new, stored), skipped


# --------------------------------------------------------------------------------- policies


class _Sharing(NamedTuple):
    """Which batches get weights of their own, once there are some to share, and what is kept.

    Attributes
    ----------
    due : callable
        Whether they are computed for the next batch, from a state, the weights that it would share
        and the number of samples.
    keep : callable
        What changes in a state that keeps new weights of a batch with this index.
    period : str or None
        The number of what the option `period` is; None if there is none.
    """

    due: Callable[[WeightSharing, Array, int], bool]
    keep: Callable[[WeightSharing, Array, int], dict[str, Any]]
    period: str | None


def _period(state: WeightSharing) -> int:
    """Return the period of a policy that has one."""
    assert state.period is not None
    return state.period


def _in_first_epoch(state: WeightSharing, stored: Array, M: int) -> bool:
    return state.batches < _period(state)


def _keep_last(state: WeightSharing, new: Array, index: int) -> dict[str, Any]:
    return {"weights": new, "age": 1}


def _keep_mean(state: WeightSharing, new: Array, index: int) -> dict[str, Any]:
    """Keep the mean of all weights so far."""
    count = state.averaged + 1
    mean = state.weights + (new - state.weights) / count if state.averaged else new
    return {"weights": mean, "age": 1, "averaged": count}


def _keep_entry(state: WeightSharing, new: Array, index: int) -> dict[str, Any]:
    """Keep new weights for the batches of one index."""
    table = (*state.weights[:index], new, *state.weights[index + 1 :])
    return {"weights": table, "age": 1}


_EPOCH = "batches of the first epoch"
POLICIES: dict[Policy, _Sharing] = {
    "exact": _Sharing(lambda state, stored, M: True, _keep_last, None),
    "every": _Sharing(
        lambda state, stored, M: state.age >= _period(state), _keep_last, "batches between two"
    ),
    "shared": _Sharing(_in_first_epoch, _keep_last, _EPOCH),
    "table": _Sharing(
        lambda state, stored, M: stored.shape[-1] < M, _keep_entry, "batches of an epoch"
    ),
    "mean": _Sharing(_in_first_epoch, _keep_mean, _EPOCH),
}


def _stored(state: WeightSharing, index: int) -> Any:
    """Return the weights that a batch of this index would share, () where there are none."""
    return state.weights[index] if state.policy == "table" else state.weights


def _share(weights: Array, count: int) -> Array:
    """Return the first weights, multiplied to have the sum of all.

    If they have less than half of their share of the sum, all are equal.
    """
    M = weights.shape[-1]
    if count == M:
        return 1 * weights
    xp, first = namespace(weights), weights[..., :count]
    total, part = (real_part(xp.sum(x, axis=-1, keepdims=True)) for x in (weights, first))
    usual = part > total * (count / (2 * M))
    factor = total / xp.where(usual, part, xp.ones_like(part))
    return xp.where(usual, first * factor, xp.zeros_like(first) + total / count)


def _index_of_batch(state: WeightSharing, batch: Any) -> int:
    """Return the index of a batch in its epoch; 0 for policies without a table."""
    if state.policy != "table":
        if batch is not None:
            msg = (
                f"`batch` is {shown(batch)}, which the policy {state.policy!r} has no use for; "
                f'leave it away, or use "table".'
            )
            raise ValueError(msg)
        return 0
    period = _period(state)
    if batch is None:
        return state.batches % period
    require_count(batch, "batch")
    if batch >= period:
        msg = f"`batch` is {shown(batch)}; in an epoch of {period} batches it must be less."
        raise ValueError(msg)
    return int(batch)


def _require_fitting(state: WeightSharing, samples: LayerSamples) -> None:
    """Raise unless the batch belongs to the layer of the state, and is not larger than its."""
    if samples.M > state.M:
        msg = (
            f"`inputs` has {samples.M} samples; `state` was made for batches of {state.M}. "
            f"Make another one by weight_sharing_init."
        )
        raise ValueError(msg)
    entries = state.weights if isinstance(state.weights, tuple) else (state.weights,)
    for weights in entries:
        if not isinstance(weights, tuple):
            require_like(samples.a, "inputs", weights, "state")
            break
    if state.layer and samples.layer != state.layer:
        msg = (
            f"`inputs` and `output_gradients` are of a layer (..., d_in, d_out) = {samples.layer}, "
            f"`state` of one of {state.layer}; keep a state for each layer."
        )
        raise ValueError(msg)

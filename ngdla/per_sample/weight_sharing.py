"""Per-sample weights that are computed for some batches and shared with others (FNGD)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import opened
from ngdla._backend.checks import require_choice, require_count, require_flag, require_like
from ngdla._backend.dtypes import real_part
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.tracing import detached

from .gradients import checked_gram
from .layer_samples import LayerSamples, layer_samples
from .weights import cosine, solve_weights

__all__ = ["POLICIES", "Policy", "WeightSharing", "weight_sharing_init", "weight_sharing_step"]

Policy = Literal["exact", "every", "shared"]


@register_pytree(static=("policy", "M", "period", "batches", "age", "layer"))
@dataclasses.dataclass(frozen=True, eq=False)
class WeightSharing:
    """State of shared weights of one layer, a value.

    Saved by pickle, or as `dataclasses.asdict` without the fields that are None, from which
    ``WeightSharing(**fields)`` makes it anew. Weights are kept without their gradients.

    Attributes
    ----------
    policy : str
        "exact", "every" or "shared".
    M : int
        Samples in a full batch.
    period : int or None
        Number of batches from one computation to the next, or of the first epoch.
    batches : int
        Number of batches seen.
    age : int
        Number of batches that were given `weights`.
    layer : tuple of int, or None
        Leading axes, d_in and d_out of the batches.
    weights : array, shape (..., M), or None
        The last weights that were computed for a full batch.
    cosine : array, shape (...), real, or None
        Cosine between the direction of the last step and that of exact weights, if diagnosed.
    """

    policy: Policy
    M: int
    period: int | None = None
    batches: int = 0
    age: int = 0
    layer: tuple[int, ...] | None = None
    weights: AnyArray | None = None
    cosine: AnyArray | None = None


def weight_sharing_init(policy: Policy, M: int, *, period: int | None = None) -> WeightSharing:
    """Return a state that says for which batches per-sample weights are computed (FNGD).

    Parameters
    ----------
    policy : {"exact", "every", "shared"}
        "exact": for every batch. For 128 samples of a layer that is thousands wide, this adds a
        tenth to a quarter to the time of a weight gradient.
        "every": for one of `period` batches. "shared": for the `period` batches of the first
        epoch; the weights of the last full one are shared with all later batches, as in the paper.
    M : int
        Samples in a full batch.
    period : int, optional
        1 or more. Needed by "every" and "shared", refused by "exact".

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
    step of its own for each layer. `weight_sharing_step` measures this by `diagnose=True`.

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
    elif period is None:
        msg = f"`period` is missing; {policy!r} needs the number of {POLICIES[policy].period}."
        raise ValueError(msg)
    else:
        require_count(period, "period", least=1)
    return WeightSharing(policy, int(M), None if period is None else int(period))


def weight_sharing_step(
    state: WeightSharing,
    inputs: Array,
    output_gradients: Array,
    damping: Any,
    *,
    relative: bool = True,
    diagnose: bool = False,
    check: bool = True,
) -> tuple[AnyArray, WeightSharing]:
    """Return normalized weights of the samples of a batch, computed or shared, and the next state.

    Parameters
    ----------
    state : WeightSharing
        The state of this layer. It is not changed.
    inputs : array, shape (M, d_in), (M, T, d_in) or (..., M, T, d_in), real or complex
        As for `sample_gram`. The number of positions may change from batch to batch.
    output_gradients : array, shape (M, d_out), (M, T, d_out) or (..., M, T, d_out)
        As for `sample_gram`.
    damping : float or array, shape () or (...)
        As for `sample_weights`; not checked if weights are shared.
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
        v, if computed those of ``sample_weights(K, damping, normalized=True)``. A smaller batch
        than the state is made for gets its own weights if new ones are due, and these are then
        discarded. Otherwise it gets the first of the shared weights, rescaled to the full sum.
    state : WeightSharing
        The next state.

    Raises
    ------
    TypeError
        If an argument has the wrong kind or library.
    ValueError
        If the batch has more samples than the state is made for, or belongs to a layer of another
        shape; and as `sample_gram` and `sample_weights` do.

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
    samples = layer_samples(inputs, output_gradients)
    _require_fitting(state, samples)
    due = state.weights is None or POLICIES[state.policy].due(state)
    angle = None
    with opened(samples.a, check) as checks:
        if due or diagnose:
            K = checked_gram(samples, checks)
            exact = solve_weights(K, damping, checks, relative=relative, normalized=True)
        if due or state.weights is None:
            weights = exact
        else:
            weights = _share(state.weights, samples.M)
        if diagnose:
            angle = cosine(K, weights, exact)
    kept = due and samples.M == state.M
    last = 1 * detached(weights) if kept else state.weights  # which live on by themselves
    return weights, dataclasses.replace(
        state,
        batches=state.batches + 1,
        age=1 if kept else state.age + (not due),
        layer=samples.layer,
        weights=last,
        cosine=None if angle is None else detached(angle),
    )


class _Sharing(NamedTuple):
    """Which batches get weights of their own, once there are some to share.

    Attributes
    ----------
    due : callable
        Whether they are computed for the next batch of a state.
    period : str or None
        The number of what the option `period` is; None if there is none.
    """

    due: Callable[[WeightSharing], bool]
    period: str | None


def _period(state: WeightSharing) -> int:
    """Return the period of a policy that has one."""
    assert state.period is not None
    return state.period


POLICIES: dict[Policy, _Sharing] = {
    "exact": _Sharing(lambda state: True, None),
    "every": _Sharing(lambda state: state.age >= _period(state), "batches between two"),
    "shared": _Sharing(lambda state: state.batches < _period(state), "batches of the first epoch"),
}


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


def _require_fitting(state: WeightSharing, samples: LayerSamples) -> None:
    """Raise unless the batch belongs to the layer of the state, and is not larger than its."""
    if samples.M > state.M:
        msg = (
            f"`inputs` has {samples.M} samples; `state` was made for batches of {state.M}. "
            f"Make another one by weight_sharing_init."
        )
        raise ValueError(msg)
    if state.weights is not None:
        require_like(samples.a, "inputs", state.weights, "state")
    if state.layer is not None and samples.layer != state.layer:
        msg = (
            f"`inputs` and `output_gradients` are of a layer (..., d_in, d_out) = {samples.layer}, "
            f"`state` of one of {state.layer}; keep a state for each layer."
        )
        raise ValueError(msg)

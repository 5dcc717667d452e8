"""FNGD for optax: gradients of layers as weighted sums of gradients of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from ngdla._backend.checks import require_choice, require_count, require_flag
from ngdla._backend.states import state_class
from ngdla.per_sample.gradients import sample_gram, weighted_gradient
from ngdla.per_sample.weight_sharing import POLICIES, Policy, weight_sharing_init
from ngdla.per_sample.weights import sample_weights

from .optax_layers import (
    Layer,
    at_step,
    layerwise,
    naming,
    require_excluded,
    require_positive,
    state_dtype,
    when,
)

__all__ = ["FNGDState", "fngd"]


@state_class(static=("layers",))
@dataclasses.dataclass(frozen=True, eq=False)
class FNGDState:
    """State of `fngd`: named layers, the weights that each shares, and the number of steps."""

    layers: tuple[str, ...]
    weights: tuple[Any, ...]
    step: Any


def fngd(
    damping: Any,
    *,
    policy: Policy = "exact",
    samples: int | None = None,
    period: int | None = None,
    relative: bool = True,
    exclude: Sequence[str] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Return FNGD as a transformation of optax: natural gradients of layers by sample weights.

    Updates of each layer become sum_i v_i u_i, for the gradients u_i of the samples of a batch and
    the normalized weights v of `ngdla.sample_weights`, of which each is 1 / M for a large damping.
    The updates that come in are not used, apart from those of other parameters. Chain it as
    ``optax.chain(fngd(...), optax.trace(0.9), optax.scale_by_learning_rate(0.1))``.

    Parameters
    ----------
    damping : float, array or schedule
        Positive, as for `ngdla.sample_weights`.
    policy : {"exact", "every", "shared", "table", "mean"}
        For which batches weights are computed, and what others get, as for
        `ngdla.weight_sharing_init`.
    samples : int, optional
        Samples in each batch; needed by all policies but "exact".
    period : int, optional
        Batches of an epoch, for "every" from one computation to the next; needed likewise.
    relative : bool, default True
        Whether `damping` is relative to the norm of K.
    exclude : sequence of str
        As for `kfac`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its update takes ``rows=``, a tree with a pair (a, g) in the place of each layer: (M, d),
        or (M, T, d) with positions, as of `ngdla.layer_rows` with sharing="none". Layers are as for
        `kfac`. Other parameters are passed on.

    Raises
    ------
    TypeError, ValueError
        Options that are none. From init and update, with the name of the layer: rows that are
        missing, that belong to no layer, have other widths, or, where weights are shared, are not
        of `samples` samples.

    Notes
    -----
    In compiled code the policy is a branch of the program, taken by the number of the step, so that
    all batches are one program. Weights that are NaN or Inf are not kept: batches that would share
    them get the last ones, or 1 / M.

    References
    ----------
    FNGD, arXiv:2403.03473.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from ngdla.adapters.optax import fngd
    >>> params = {"dense": {"kernel": jnp.ones((3, 2))}}
    >>> optimizer = fngd(1e-2)
    >>> state = optimizer.init(params)
    >>> a, g = jnp.eye(4, 3), jnp.eye(4, 2)
    >>> updates, state = optimizer.update(params, state, rows={"dense": (a, g)})
    >>> updates["dense"]["kernel"].shape
    (3, 2)
    """
    require_positive(damping, "damping")
    require_flag(relative, "relative")
    _require_policy(policy, samples, period)

    def init(layers: tuple[Layer, ...]) -> FNGDState:
        weights = [_equal_weights(policy, samples, period, state_dtype(layer)) for layer in layers]
        return FNGDState(
            tuple(layer.name for layer in layers), tuple(weights), jnp.zeros((), "int32")
        )

    def step(
        state: FNGDState, updates: list[Any], rows: list[tuple[Any, Any]]
    ) -> tuple[list[Any], FNGDState]:
        steps, kept = [], []
        shift = at_step(damping, state.step)
        sharing = _Sharing(policy, state.step, period)
        for name, stored, (a, g) in zip(state.layers, state.weights, rows):
            with naming(name):
                _require_samples(a, stored)
                positions = None if a.ndim == 2 else True

                def weights(a: Any = a, g: Any = g, positions: bool | None = positions) -> Any:
                    K = sample_gram(a, g, positions=positions)
                    return sample_weights(K, shift, relative=relative, normalized=True)

                v, stored = sharing.step(weights, stored)
                steps.append(weighted_gradient(a, g, v, positions=positions))
                kept.append(stored)
        return steps, FNGDState(state.layers, tuple(kept), optax.safe_increment(state.step))

    return layerwise(init, step, exclude=require_excluded(exclude), positions=True)


class _Sharing(NamedTuple):
    """What `ngdla.weight_sharing_step` does for full batches, by the number of the step alone."""

    policy: Policy
    index: Any
    period: int | None

    def step(self, weights: Callable[[], Any], stored: Any) -> tuple[Any, Any]:
        """Return the weights of this batch, and those to share."""
        if self.period is None:
            return weights(), stored
        place = self.index % self.period
        due = place == 0 if self.policy == "every" else self.index < self.period
        shared = stored[place] if self.policy == "table" else stored

        def computed() -> tuple[Any, Any]:
            v = weights()
            new = jnp.where(jnp.all(jnp.isfinite(v)), v, shared)
            if self.policy == "table":
                return v, stored.at[place].set(new)
            if self.policy == "mean":
                return v, stored + (new - stored) / (self.index + 1)
            return v, new

        return when(due, computed, (shared, stored))


def _equal_weights(policy: Policy, samples: int | None, period: int | None, dtype: Any) -> Any:
    """Return what is shared before any weights were computed."""
    if period is None or samples is None:
        return ()
    shape = (period, samples) if policy == "table" else (samples,)
    return jnp.full(shape, 1 / samples, dtype)


def _require_policy(policy: Any, samples: Any, period: Any) -> None:
    require_choice(policy, "policy", tuple(POLICIES))
    if policy != "exact" and samples is None:
        msg = f"`samples` is missing; {policy!r} needs the number of samples of a batch."
        raise ValueError(msg)
    if samples is not None:
        require_count(samples, "samples", least=1)
    weight_sharing_init(policy, samples or 1, period=period)


def _require_samples(a: Any, stored: Any) -> None:
    if not isinstance(stored, tuple) and a.shape[0] != stored.shape[-1]:
        msg = (
            f"`rows` have {a.shape[0]} samples, but weights are shared by batches of "
            f"{stored.shape[-1]}, as `samples` says; leave out a batch that is not full."
        )
        raise ValueError(msg)

"""SINGD, INGD and IKFAC for optax: factors of the inverse, updated by products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.states import state_class
from ngdla.inverse_free.state import (
    InverseFreeState,
    Storage,
    inverse_free_apply,
    inverse_free_init,
)
from ngdla.inverse_free.statistics import inverse_free_statistics
from ngdla.inverse_free.tangents import RULES, Rule
from ngdla.inverse_free.update import inverse_free_update

from .optax_layers import (
    Layer,
    at_step,
    layerwise,
    limited,
    naming,
    require_excluded,
    require_positive,
    when,
)

__all__ = ["SINGDState", "singd"]


@state_class(static=("layers",))
@dataclasses.dataclass(frozen=True, eq=False)
class SINGDState:
    """State of `singd`: named layers, the factors of each, and the number of steps."""

    layers: tuple[str, ...]
    factors: tuple[InverseFreeState, ...]
    step: Any


def singd(
    damping: Any,
    *,
    step_size: Any,
    structures: Any = ("dense", "dense"),
    momentum: Any = 0.0,
    rule: Rule = "ingd",
    refresh: int = 1,
    dtype: str | None = None,
    storage: Storage = "native",
    kl: Any = None,
    learning_rate: Any = 1.0,
    exclude: Sequence[str] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Return SINGD, INGD or IKFAC as a transformation of optax.

    Updates V of each layer become C C^T V K K^T, for factors K and C that follow the damped
    inverses of a^T a / N and g^T g / N by `ngdla.inverse_free_update`. Chain it as
    ``optax.chain(singd(...), optax.trace(0.9), optax.scale_by_learning_rate(0.01))``.

    Parameters
    ----------
    damping : float, array or schedule
        Positive, as for `ngdla.inverse_free_update`.
    step_size : float, array or schedule
        Positive: the step of the factors, 1 - decay of the average that they follow.
    structures : pair
        The structures of K and of C, as for `ngdla.inverse_free_init`.
    momentum : float or array
        Part of the last tangent of the factors that is added to the new one, in [0, 1).
    rule : {"ingd", "ikfac"}
        As for `ngdla.inverse_free_update`. SINGD is "ingd" in a structure.
    refresh : int
        Factors are updated at the first and then at every `refresh`-th step, T of the paper.
    dtype, storage
        As for `ngdla.inverse_free_init`; by default the dtype of the layer.
    kl, learning_rate, exclude
        As for `kfac`. Without `kl` transformers were seen to diverge.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its update takes ``rows=``, as that of `kfac` does.

    Raises
    ------
    TypeError, ValueError
        Options that are none. From init and update, with the name of the layer: rows that are
        missing, that belong to no layer, or have other widths.

    Warns
    -----
    StepSizeWarning
        As `ngdla.inverse_free_update`.

    Notes
    -----
    NaN and Inf in rows: an error, in compiled code factors that stay as they were;
    `report.skipped` of the factors says so.
    With `optax.inject_hyperparams`, name `refresh` in its `static_args`; the state then holds
    tangents, whatever the momentum is.

    References
    ----------
    W. Lin et al., arXiv:2312.05705.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from ngdla.adapters.optax import singd
    >>> params = {"dense": {"kernel": jnp.ones((3, 2))}}
    >>> optimizer = singd(1e-2, step_size=0.1, structures=("diagonal", "dense"), kl=1e-3)
    >>> state = optimizer.init(params)
    >>> a, g = jnp.eye(4, 3), jnp.eye(4, 2)
    >>> updates, state = optimizer.update(params, state, rows={"dense": (a, g)})
    >>> updates["dense"]["kernel"].shape
    (3, 2)
    """
    numbers = (damping, "damping"), (step_size, "step_size"), (learning_rate, "learning_rate")
    for value, name in numbers:
        require_positive(value, name)
    if kl is not None:
        require_positive(kl, "kl")
    require_count(refresh, "refresh", least=1)
    require_choice(rule, "rule", tuple(RULES))
    method = _SINGD(
        damping, step_size, structures, momentum, rule, refresh, dtype, storage, kl, learning_rate
    )
    return layerwise(method.init, method.step, exclude=require_excluded(exclude))


@dataclasses.dataclass(frozen=True, eq=False)
class _SINGD:
    """The options, checked, and what they make of states and updates."""

    damping: Any
    step_size: Any
    structures: Any
    momentum: Any
    rule: Rule
    refresh: int
    dtype: str | None
    storage: Storage
    kl: Any
    learning_rate: Any

    def init(self, layers: tuple[Layer, ...]) -> SINGDState:
        """Return the state before any batch."""
        factors = [
            inverse_free_init(
                layer.d_in,
                layer.d_out,
                structures=self.structures,
                like=jnp.zeros(1, layer.dtype),
                dtype=self.dtype,
                storage=self.storage,
                momentum=hasattr(self.momentum, "dtype") or self.momentum != 0,
            )
            for layer in layers
        ]
        names = tuple(layer.name for layer in layers)
        return SINGDState(names, tuple(factors), jnp.zeros((), "int32"))

    def step(
        self, state: SINGDState, updates: list[Any], rows: list[tuple[Any, Any]]
    ) -> tuple[list[Any], SINGDState]:
        """Return steps and the next state."""
        due = self.refresh == 1 or state.step % self.refresh == 0
        factors = when(due, lambda: self._updated(state, rows), state.factors)
        steps = []
        for name, layer, V in zip(state.layers, factors, updates):
            with naming(name):
                steps.append(inverse_free_apply(layer, V))
        steps = limited(steps, updates, self.kl, at_step(self.learning_rate, state.step))
        return steps, SINGDState(state.layers, factors, optax.safe_increment(state.step))

    def _updated(
        self, state: SINGDState, rows: list[tuple[Any, Any]]
    ) -> tuple[InverseFreeState, ...]:
        """Return the factors of all layers after a batch."""
        damping, step_size = (at_step(x, state.step) for x in (self.damping, self.step_size))
        factors = []
        for name, layer, (a, g) in zip(state.layers, state.factors, rows):
            with naming(name):
                statistics = inverse_free_statistics(layer, a, g)
                factors.append(
                    inverse_free_update(
                        layer,
                        statistics,
                        damping=damping,
                        step_size=step_size,
                        momentum=self.momentum,
                        rule=self.rule,
                    )
                )
        return tuple(factors)

"""KFAC for optax: averages of Kronecker factors, their eigenpairs, and damped solves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.messages import shown
from ngdla._backend.states import state_class
from ngdla.kronecker.solve import COUPLINGS, Coupling, ema, kronecker_solve
from ngdla.low_rank.low_rank_eigh import LowRankEigh
from ngdla.low_rank.randomized_eigh import randomized_eigh

from .optax_layers import (
    Layer,
    at_step,
    layerwise,
    limited,
    naming,
    require_excluded,
    require_positive,
    state_dtype,
    when,
)

__all__ = ["KFACFactor", "KFACLayer", "KFACState", "kfac"]

_OVERSAMPLE = 10


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class KFACFactor:
    """Average of a Kronecker factor, and its eigenpairs as they were at the last refresh."""

    average: Any
    eigh: LowRankEigh


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class KFACLayer:
    """Factors of one layer, and how many batches are in their averages."""

    inputs: KFACFactor
    outputs: KFACFactor
    batches: Any


@state_class(static=("layers",))
@dataclasses.dataclass(frozen=True, eq=False)
class KFACState:
    """State of `kfac`: named layers, their factors, and the number of steps."""

    layers: tuple[str, ...]
    factors: tuple[KFACLayer, ...]
    step: Any


def kfac(
    damping: Any,
    *,
    rank: int | None,
    decay: Any = 0.95,
    refresh: int = 10,
    coupling: Coupling = "joint",
    kl: Any = None,
    learning_rate: Any = 1.0,
    exclude: Sequence[str] = (),
    rng: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Return KFAC, also randomized (RS-KFAC), as a transformation of optax.

    Updates V of each layer become X with G X A + damping X = V, for exponential averages of
    A = a^T a / N and G = g^T g / N over the N rows of each batch. Chain it before what makes steps
    of gradients: ``optax.chain(kfac(...), optax.trace(0.9), optax.scale_by_learning_rate(0.1))``.

    Parameters
    ----------
    damping : float, array or schedule
        Positive, in units of products of an eigenvalue of A and one of G.
    rank : int or None
        Eigenpairs kept of each factor, found by `ngdla.randomized_eigh` from those of the last
        refresh; the mean of the other eigenvalues stands for each of them. None, or a rank that
        is not less than the size of a factor: complete eigendecompositions.
    decay : float or array
        Weight of the past in the averages, in [0, 1). Batch t has the weight of the past
        min(decay, 1 - 1 / t), so that averages need no correction of their start.
    refresh : int
        Eigenpairs are computed at the first and then at every `refresh`-th step.
    coupling : {"joint", "factored"}
        How the damping is shared by both factors, as in `ngdla.kronecker_solve`.
    kl : float or array, optional
        Bound on twice the predicted Kullback-Leibler divergence of a step: all X are multiplied by
        min(1, sqrt(kl / (learning_rate^2 s))), where s is the sum over all layers of <X, V>. A
        common value is 1e-3. None: no bound, with which transformers were seen to diverge.
    learning_rate : float, array or schedule
        For `kl` only: that of the chain. With the default of 1 `kl` is in units of
        learning_rate^2. Momentum that follows is not counted.
    exclude : sequence of str
        Layers, or what holds layers, that are left out, such as ``["decoder/Dense_3"]``.
    rng : int
        Seed of the random columns.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its update takes ``rows=``, a tree with a pair (a, g) of `ngdla.layer_rows`, expanded or
        reduced, in the place of each layer. Layers are the subtrees of the parameters with a
        "kernel" (..., d_in, d_out) and perhaps a "bias". Other parameters are passed on.

    Raises
    ------
    TypeError, ValueError
        Options that are none. From init and update, with the name of the layer: rows that are
        missing, that belong to no layer, or have other widths.

    Notes
    -----
    NaN and Inf in rows: an error, in compiled code averages that stay as they were and, as the
    updates are usually NaN then, steps of NaN; see `optax.apply_if_finite`.
    With `optax.inject_hyperparams`, name `rank`, `refresh` and `rng` in its `static_args`.
    State: two d x d averages and their eigenpairs for each layer, float32 or wider; a pytree of
    fixed form, saved by `ngdla.state_dict`, orbax, or leaf by leaf.

    References
    ----------
    J. Martens, R. Grosse, ICML 2015, arXiv:1503.05671.
    C. O. Puiu, "Randomized K-FACs", arXiv:2206.15397.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from ngdla.adapters.optax import kfac
    >>> params = {"dense": {"kernel": jnp.ones((3, 2))}, "scale": jnp.ones(2)}
    >>> optimizer = optax.chain(kfac(1e-2, rank=None), optax.scale_by_learning_rate(0.1))
    >>> state = optimizer.init(params)
    >>> a, g = jnp.eye(4, 3), jnp.eye(4, 2)
    >>> updates, state = optimizer.update(params, state, params, rows={"dense": (a, g)})
    >>> updates["dense"]["kernel"].shape
    (3, 2)
    """
    for value, name in ((damping, "damping"), (learning_rate, "learning_rate")):
        require_positive(value, name)
    if kl is not None:
        require_positive(kl, "kl")
    if rank is not None:
        require_count(rank, "rank", least=1)
    require_count(refresh, "refresh", least=1)
    require_count(rng, "rng")
    require_choice(coupling, "coupling", tuple(COUPLINGS))
    _require_decay(decay)

    method = _KFAC(damping, rank, decay, refresh, coupling, kl, learning_rate, rng)
    return layerwise(method.init, method.step, exclude=require_excluded(exclude))


@dataclasses.dataclass(frozen=True, eq=False)
class _KFAC:
    """The options, checked, and what they make of states and updates."""

    damping: Any
    rank: int | None
    decay: Any
    refresh: int
    coupling: Coupling
    kl: Any
    learning_rate: Any
    rng: int

    def init(self, layers: tuple[Layer, ...]) -> KFACState:
        """Return the state before any batch."""
        draws = np.random.default_rng(self.rng)
        factors = [
            KFACLayer(
                _blank(layer.d_in, self.rank, layer, draws),
                _blank(layer.d_out, self.rank, layer, draws),
                jnp.zeros((), "int32"),
            )
            for layer in layers
        ]
        names = tuple(layer.name for layer in layers)
        return KFACState(names, tuple(factors), jnp.zeros((), "int32"))

    def step(
        self, state: KFACState, updates: list[Any], rows: list[tuple[Any, Any]]
    ) -> tuple[list[Any], KFACState]:
        """Return steps and the next state."""
        factors = []
        for name, layer, (a, g) in zip(state.layers, state.factors, rows):
            with naming(name):
                factors.append(_averaged(layer, a, g, self.decay))
        due = self.refresh == 1 or state.step % self.refresh == 0
        factors = when(due, lambda: self._refreshed(state.step, factors), factors)
        steps, damping = [], at_step(self.damping, state.step)
        for name, layer, V in zip(state.layers, factors, updates):
            with naming(name):
                A, G = layer.inputs.eigh, layer.outputs.eigh
                steps.append(kronecker_solve(A, G, V, damping, coupling=self.coupling))
        steps = limited(steps, updates, self.kl, at_step(self.learning_rate, state.step))
        return steps, KFACState(state.layers, tuple(factors), optax.safe_increment(state.step))

    def _refreshed(self, step: Any, layers: list[KFACLayer]) -> list[KFACLayer]:
        """Return all layers with eigenpairs of their averages as they are now."""
        factors = [factor for layer in layers for factor in (layer.inputs, layer.outputs)]
        numbers = max((f.average.shape[0] * _fresh_columns(f) for f in factors), default=0)
        normals = jnp.zeros(0)
        if numbers:  # one draw for all: to compile one takes as long as some products
            key = jax.random.fold_in(jax.random.key(self.rng), step)
            normals = jax.random.normal(key, (numbers,))
        new = [KFACFactor(factor.average, _eigenpairs(factor, normals)) for factor in factors]
        pairs = zip(new[::2], new[1::2])
        return [KFACLayer(*pair, layer.batches) for pair, layer in zip(pairs, layers)]


def _blank(d: int, rank: int | None, layer: Layer, draws: np.random.Generator) -> KFACFactor:
    """Return a factor of zeros, with random orthonormal vectors for a first refresh to start from.

    Unit vectors would be a poor start: many inputs are 0 in every sample.
    """
    dtype = state_dtype(layer)
    kept = d if rank is None else min(rank, d)
    vectors = np.eye(d) if kept == d else np.linalg.qr(draws.standard_normal((d, kept)))[0]
    zero = (jnp.zeros((), dtype) for _ in range(3))  # no two that share memory, to be donated
    eigh = LowRankEigh(jnp.zeros(kept, dtype), jnp.asarray(vectors, dtype), *zero)
    return KFACFactor(jnp.zeros((d, d), dtype), eigh)


def _averaged(layer: KFACLayer, a: Any, g: Any, decay: Any) -> KFACLayer:
    """Return both averages with a batch, or, where it is not finite, without."""
    A, G, root = layer.inputs.average, layer.outputs.average, a.shape[0] ** 0.5
    past = jnp.minimum(jnp.asarray(decay, A.dtype), 1 - 1 / (layer.batches + 1).astype(A.dtype))
    new_A, bad_A = ema(A, a / root, decay=past, full_output=True)
    new_G, bad_G = ema(G, g / root, decay=past, full_output=True)
    skipped = bad_A | bad_G
    return KFACLayer(
        dataclasses.replace(layer.inputs, average=jnp.where(skipped, A, new_A)),
        dataclasses.replace(layer.outputs, average=jnp.where(skipped, G, new_G)),
        jnp.where(skipped, layer.batches, layer.batches + 1),
    )


def _fresh_columns(factor: KFACFactor) -> int:
    """Return how many columns `randomized_eigh` draws beside its basis, in two passes."""
    d, rank = factor.eigh.eigenvectors.shape
    return min(rank + 2 * _OVERSAMPLE, d) - rank


@jax.jit  # so that factors of equal size are traced once
def _eigenpairs(factor: KFACFactor, normals: Any) -> LowRankEigh:
    """Return as many eigenpairs of the average as are kept, from these to start from."""
    A, basis = factor.average, factor.eigh.eigenvectors
    d, rank = basis.shape
    if rank < d:
        columns = normals[: d * _fresh_columns(factor)].reshape(d, -1).astype(A.dtype)
        return randomized_eigh(A, rank, basis=basis, rng=columns, oversample=_OVERSAMPLE)
    values, vectors = jnp.linalg.eigh(A)
    zero = jnp.zeros_like(values[0])
    values = jnp.maximum(values[::-1], 0)
    return LowRankEigh(values, vectors[:, ::-1], zero, jnp.trace(A), zero)


def _require_decay(decay: Any) -> None:
    if not hasattr(decay, "dtype") and not (isinstance(decay, (int, float)) and 0 <= decay < 1):
        msg = f"`decay` is {shown(decay)}; it must be in [0, 1)."
        raise ValueError(msg)

"""Natural gradients of a batch by its single samples."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace

import ngdla
from training_study.clock import Clock
from training_study.networks import Array, Tape
from training_study.stored import as_dtype

FIRST_EPOCH = 16
"""Batches of 64 of the 1000 training images: the first epoch, after which weights are shared."""


class FNGD:
    """Weights of samples; one weighted gradient, and no mean gradient."""

    momentum = 0.9

    def __init__(
        self, weights: list[Array], settings: dict[str, Any], dtype: str, *, policy: str
    ) -> None:
        self.damping, self.policy = settings["damping"], policy
        self.states: list[ngdla.WeightSharing] = []

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        if not self.states:
            M, period = tapes[0].inputs.shape[0], {"shared": FIRST_EPOCH}.get(self.policy)
            self.states = [ngdla.weight_sharing_init(self.policy, M, period=period) for _ in tapes]
        with clock("decomposition"):
            pairs = [
                ngdla.weight_sharing_step(
                    state, *tape, self.damping, positions=tape.inputs.ndim > 2
                )
                for state, tape in zip(self.states, tapes)
            ]
            self.states = [state for _, state in pairs]
        with clock("application"):
            return [
                ngdla.weighted_gradient(*tape, v, positions=tape.inputs.ndim > 2)
                for tape, (v, _) in zip(tapes, pairs)
            ]

    def arrays(self) -> list[Array]:
        return [state.weights for state in self.states if not isinstance(state.weights, tuple)]


class DampedSolve:
    """The natural gradient of each layer, from the gradients of its samples."""

    momentum = 0.9

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.damping = settings["damping"]

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("statistics"):
            scores = [sample_gradients(tape) for tape in tapes]
        with clock("application"):
            return [self._direction(S).reshape(W.shape) for S, W in zip(scores, weights)]

    def _direction(self, S: Array) -> Array:
        """Return (F + damping)^-1 S^T 1 / M with F = S^T S / M."""
        root = math.sqrt(S.shape[0])
        ones = array_namespace(S).ones_like(S[:, 0])
        return ngdla.damped_lstsq(S / root, ones / root, self.damping, precision="native")

    def arrays(self) -> list[Array]:
        return []


def sample_gradients(tape: Tape) -> Array:
    """Return the gradients of single samples as rows, in float32."""
    xp = array_namespace(tape.inputs)
    a, g = (as_dtype(x, "float32") for x in tape)
    if a.ndim == 2:
        gradients = xp.expand_dims(g, axis=2) * xp.expand_dims(a, axis=1)
    else:
        gradients = xp.matmul(xp.matrix_transpose(g), a)
    return xp.reshape(gradients, (a.shape[0], -1))

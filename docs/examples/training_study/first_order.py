"""Optimisers that use the mean gradient alone."""

from __future__ import annotations

from typing import Any

from training_study.clock import Clock
from training_study.networks import Array, Tape, mean_gradient
from training_study.stored import as_dtype


class SGD:
    """The mean gradient, with heavy-ball momentum."""

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.momentum = settings["momentum"]

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            return [mean_gradient(tape) for tape in tapes]

    def arrays(self) -> list[Array]:
        return []


class AdamW:
    """Adam with decoupled weight decay (I. Loshchilov, F. Hutter, arXiv:1711.05101)."""

    momentum = 0.0
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.decay, self.dtype, self.step = settings["weight_decay"], dtype, 0
        self.first = [as_dtype(0 * W, dtype) for W in weights]
        self.second = list(self.first)

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [as_dtype(mean_gradient(tape), "float32") for tape in tapes]
        with clock("application"):
            self.step += 1
            return [self._direction(i, W, V) for i, (W, V) in enumerate(zip(weights, gradients))]

    def _direction(self, i: int, W: Array, V: Array) -> Array:
        first = averaged(self.first[i], V, self.beta_1)
        second = averaged(self.second[i], V * V, self.beta_2)
        self.first[i], self.second[i] = as_dtype(first, self.dtype), as_dtype(second, self.dtype)
        mean = first / (1 - self.beta_1**self.step)
        root = (second / (1 - self.beta_2**self.step)) ** 0.5
        return mean / (root + self.epsilon) + self.decay * W

    def arrays(self) -> list[Array]:
        return [*self.first, *self.second]


def averaged(average: Array, x: Array, decay: float) -> Array:
    """Return decay average + (1 - decay) x, in float32."""
    return decay * as_dtype(average, "float32") + (1 - decay) * x

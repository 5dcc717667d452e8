"""IKFAC, INGD and SINGD: factors of the inverses themselves."""

from __future__ import annotations

from typing import Any

import ngdla
from training_study.clock import Clock
from training_study.moments import DECAY, flattened
from training_study.networks import Array, Tape, mean_gradient


class InverseFree:
    """IKFAC, INGD and SINGD: factors of the inverse, in structures."""

    momentum = 0.9

    def __init__(
        self,
        weights: list[Array],
        settings: dict[str, Any],
        dtype: str,
        *,
        rule: str,
        structures: Any,
    ) -> None:
        damping = settings["damping"]
        self.options = {"rule": rule, "damping": damping**0.5 if rule == "ikfac" else damping}
        self.states = [
            ngdla.inverse_free_init(
                W.shape[1], W.shape[0], structures=structures, like=W, dtype=dtype, momentum=False
            )
            for W in weights
        ]
        self.step = 0

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("statistics"):
            statistics = [
                ngdla.inverse_free_statistics(state, *flattened(tape))
                for state, tape in zip(self.states, tapes)
            ]
        self.step += 1
        with clock("decomposition"):
            # equal weights for the first batches: identities are forgotten soon
            step_size = max(1 - DECAY, 1 / (1 + self.step))
            self.states = [
                ngdla.inverse_free_update(state, batch, step_size=step_size, **self.options)
                for state, batch in zip(self.states, statistics)
            ]
        with clock("application"):
            return [ngdla.inverse_free_apply(s, V) for s, V in zip(self.states, gradients)]

    def arrays(self) -> list[Array]:
        return [x for state in self.states for M in (state.K, state.C) for x in M.leaves]

"""IKFAC, INGD and SINGD for torch modules: factors of the inverse, updated by products alone."""

from __future__ import annotations

from typing import Any

import torch

import ngdla
from ngdla.adapters.torch_modules import Recording
from optimizers.steps import Kept, mean_of_processes, refuse_embeddings, usable, write_bounded

__all__ = ["SINGD"]


class SINGD(Kept):
    """SINGD: makes C C^T V K K^T of gradients V, for an optimizer of torch.

    >>> singd, sgd = SINGD(1e-2), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> for x, y in batches:
    ...     sgd.zero_grad()
    ...     with record(model, skip=[torch.nn.Embedding]) as layers:
    ...         torch.nn.functional.cross_entropy(model(x), y).backward()
    ...     singd.precondition(layers, lr=0.1)
    ...     sgd.step()

    Once in `refresh` steps, K and C move by `step_size`, first by more: 1 / (1 + t) in update t.
    More options: ngdla.inverse_free_init and inverse_free_update. `kl` bounds lr^2 <step, V>;
    `communicator` is a TorchCommunicator, for DistributedDataParallel.
    """

    kept = ("steps", "states")

    def __init__(
        self,
        damping: float,
        *,
        structures: Any = ("dense", "dense"),
        rule: str = "ingd",
        step_size: float = 0.05,
        warm_up: bool = True,
        momentum: float = 0.0,
        refresh: int = 1,
        dtype: str | None = None,
        storage: str = "native",
        kl: float | None = 1e-3,
        sharing: str = "expand",
        loss: str = "mean",
        communicator: Any = None,
        **update: Any,
    ) -> None:
        self.step_size, self.warm_up, self.refresh, self.kl = step_size, warm_up, refresh, kl
        self.update = {"damping": damping, "rule": rule, "momentum": momentum, **update}
        self.stored = {"structures": structures, "dtype": dtype, "storage": storage}
        self.options, self.communicator = {"sharing": sharing, "loss": loss}, communicator
        self.steps, self.states = 0, {}

    def precondition(
        self, layers: Recording, lr: float, *, loss_scale: float = 1.0, check: bool = True
    ) -> None:
        """Write steps over gradients, which are still multiplied by `loss_scale`; so are steps.

        With ``check=False``, a batch that overflowed changes nothing: GradScaler skips its step.
        """
        gradients = {name: layers.gradient(name) for name in layers}
        if not usable(layers, gradients, check):
            return
        if self.steps % self.refresh == 0 or not gradients.keys() <= self.states.keys():
            rows = layers.rows(**self.options, loss_scale=loss_scale, check=False)
            refuse_embeddings(layers)
            self.states = self.states | {k: self._updated(k, *rows[k], check) for k in rows}
        self.steps += 1
        steps = {k: ngdla.inverse_free_apply(self.states[k], V) for k, V in gradients.items()}
        write_bounded(layers, steps, gradients, lr / loss_scale, self.kl)

    def _updated(self, name: str, a: torch.Tensor, g: torch.Tensor, check: bool) -> Any:
        """Return the state of a layer after a batch."""
        if (state := self.states.get(name)) is None:
            kept = {"momentum": self.update["momentum"] > 0, "batch": tuple(a.shape[:-2])}
            state = ngdla.inverse_free_init(a.shape[-1], g.shape[-1], like=a, **kept, **self.stored)
        statistics = ngdla.inverse_free_statistics(state, a, g, positions=False)
        statistics = mean_of_processes(self.communicator, statistics)
        first = 1 / (2 + self.steps // self.refresh) if self.warm_up else 0.0
        options = {"step_size": max(self.step_size, first), "check": check, **self.update}
        return ngdla.inverse_free_update(state, statistics, **options)

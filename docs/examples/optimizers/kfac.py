"""KFAC for torch modules: averaged Kronecker factors, decomposed now and then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import ngdla
from ngdla.adapters.torch_modules import Recording
from optimizers.steps import Kept, mean_of_processes, usable, write_bounded

__all__ = ["KFAC", "eigenpairs"]

Factor = Any  # eigenvalues and eigenvectors, or a LowRankEigh


class KFAC(Kept):
    """KFAC: makes (A kron G + damping)^-1 V of gradients V, for an optimizer of torch.

    >>> kfac, sgd = KFAC(1e-2), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> for x, y in batches:
    ...     sgd.zero_grad()
    ...     with record(model) as layers:
    ...         torch.nn.functional.cross_entropy(model(x), y).backward()
    ...     kfac.precondition(layers, lr=0.1)
    ...     sgd.step()

    `decay` is the weight of the past in averages of A and G. In each of the first `refresh` steps,
    then once in `refresh`, they are decomposed: completely, to `rank` eigenpairs, or by
    ``decompose(factor, last, steps)``. `kl` bounds lr^2 <step, V>; `sharing` and `loss` are those
    of ``layers.rows``; `communicator` is for DistributedDataParallel: a TorchCommunicator.
    """

    kept = ("steps", "factors", "decomposed")

    def __init__(
        self,
        damping: float,
        *,
        decay: float = 0.95,
        refresh: int = 10,
        rank: int | None = None,
        decompose: Callable[[torch.Tensor, Any, int], Factor] | None = None,
        kl: float | None = 1e-3,
        sharing: str = "expand",
        loss: str = "mean",
        communicator: Any = None,
    ) -> None:
        self.damping, self.decay, self.refresh, self.kl = damping, decay, refresh, kl
        self.decompose = decompose or partial(eigenpairs, rank=rank)
        self.options, self.communicator = {"sharing": sharing, "loss": loss}, communicator
        self.steps, self.factors, self.decomposed = 0, {}, {}

    def precondition(
        self, layers: Recording, lr: float, *, loss_scale: float = 1.0, check: bool = True
    ) -> None:
        """Write steps over gradients, which are still multiplied by `loss_scale`; so are steps.

        With ``check=False``, a batch that overflowed changes nothing: GradScaler skips its step.
        """
        gradients = {name: layers.gradient(name) for name in layers}
        if not usable(layers, gradients, check):
            return
        rows = layers.rows(**self.options, loss_scale=loss_scale, check=False)
        options = {"decay": self.decay, "check": check}
        new = {k: averaged(self.factors.get(k), *rows[k], V, options) for k, V in gradients.items()}
        self.factors = self.factors | mean_of_processes(self.communicator, new)
        self.steps += 1
        due = self.steps <= self.refresh or self.steps % self.refresh == 0
        made = {k: self._decomposed(k) for k in new if due or k not in self.decomposed}
        self.decomposed = self.decomposed | made
        steps = {k: self.solved(*self.decomposed[k], V) for k, V in gradients.items()}
        write_bounded(layers, steps, gradients, lr / loss_scale, self.kl)

    def _decomposed(self, name: str) -> list[Factor]:
        """Return A and G as decompositions; of an embedding, A is a diagonal and stays one."""
        A, G, weight = self.factors[name]
        pairs = zip((A / weight, G / weight), self.decomposed.get(name, (None, None)))
        return [self.decompose(F, last, self.steps) if F.ndim > 1 else F for F, last in pairs]

    def solved(self, A: Factor, G: Factor, V: torch.Tensor) -> torch.Tensor:
        """Return X with G X A + damping X = V."""
        solve = solved_embedding if isinstance(A, torch.Tensor) else ngdla.kronecker_solve
        return solve(A, G, V, self.damping)


def averaged(
    last: Any, a: torch.Tensor, g: torch.Tensor, V: torch.Tensor, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return averages of A and G with those of a batch, and the weight of all batches so far.

    A = a^T a / rows, G = g^T g / rows.
    """
    rows = g.shape[-2]
    if last is None:
        d_out, d_in = V.shape[-2:]
        shape = (*V.shape[:-2], d_in, d_in) if a.is_floating_point() else (d_in,)
        last = g.new_zeros(shape), g.new_zeros(*V.shape[:-1], d_out), g.new_zeros(())
    weight = last[2].lerp(torch.ones_like(last[2]), 1 - options["decay"])
    G = ngdla.ema(last[1], g / rows**0.5, **options)
    if a.is_floating_point():
        return ngdla.ema(last[0], a / rows**0.5, **options), G, weight
    counts = torch.bincount(a, minlength=V.shape[-1]).to(G.dtype)  # the diagonal of a^T a
    return last[0].lerp(counts / rows, 1 - options["decay"]), G, weight


def eigenpairs(F: torch.Tensor, last: Any, steps: int, *, rank: int | None = None) -> Factor:
    """Return all eigenpairs, or some, from those of the last time."""
    if rank is None or 2 * rank >= F.shape[-1]:
        values, vectors = complete_eigh(F)
        return values.clamp(min=0), vectors  # rounding makes some negative
    warm = {} if last is None else {"passes": 1, "basis": last.eigenvectors}
    return ngdla.randomized_eigh(F, rank, rng=steps, **warm)


def complete_eigh(F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all eigenpairs, made in double where float32 fails: many inputs are always zero."""
    try:
        values, vectors = torch.linalg.eigh(F)
    except torch.linalg.LinAlgError:
        values = F.new_full((), torch.nan)
    if values.isnan().any():  # which may be all that is seen of a failure
        values, vectors = (x.to(F.dtype) for x in torch.linalg.eigh(F.double()))
    return values, vectors


def solved_embedding(A: torch.Tensor, G: Factor, V: torch.Tensor, damping: float) -> torch.Tensor:
    """Return X with G X diag(A) + damping X = V, in the eigenbasis of G."""
    low_rank = isinstance(G, ngdla.LowRankEigh)
    values, W = (G.eigenvalues, G.eigenvectors) if low_rank else G
    inside = W.mT @ V
    X = W @ (inside / (values[:, None] * A + damping))
    return X + (V - W @ inside) / (G.tail * A + damping) if low_rank else X

"""Damped natural gradient for torch modules, from the gradients of all samples (SPRING)."""

from __future__ import annotations

import torch

import ngdla
from ngdla.adapters.torch_modules import Recording
from optimizers.steps import Kept, refuse_embeddings

__all__ = ["NaturalGradient"]

Tensors = dict[str, torch.Tensor]


class NaturalGradient(Kept):
    """Makes (S^T S / M + damping)^-1 S^T f / M of scores S of M samples, for an optimizer of torch.

    >>> natural, sgd = NaturalGradient(1e-2), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for x, y in batches:
    ...     sgd.zero_grad()
    ...     with record(model, skip=[torch.nn.Embedding]) as layers:
    ...         layers.backward(torch.nn.functional.cross_entropy(model(x), y))
    ...     natural.precondition(layers)
    ...     sgd.step()

    If rows of S are gradients of losses, f is one for each sample: empirical Fisher matrix. If they
    are gradients of outputs, by ``layers.backward(outputs.sum())`` with ``loss="sum"``, f are the
    residuals of least squares: Gauss-Newton. `momentum` is that of SPRING: steps are corrections of
    so much of the last one. S, M times the parameters, is formed, for all recorded layers together.
    """

    kept = ("last",)

    def __init__(self, damping: float, *, momentum: float = 0.0, loss: str = "mean") -> None:
        self.damping, self.momentum, self.loss = damping, momentum, loss
        self.last: Tensors = {}

    def precondition(
        self,
        layers: Recording,
        lr: float | None = None,
        *,
        residuals: torch.Tensor | None = None,
    ) -> None:
        """Write steps into ``.grad``. `lr` is not used: other classes bound their steps by it."""
        rows = layers.rows(sharing="none", loss=self.loss)
        refuse_embeddings(rows)
        scores = {name: gradients_of_samples(name, *pair) for name, pair in rows.items()}
        for name, step in self.step(scores, residuals).items():
            layers.write(name, step)

    def step(self, scores: Tensors, residuals: torch.Tensor | None = None) -> Tensors:
        """Return the step from scores (M, ...), as of torch.func.vmap, one entry a parameter."""
        first = next(iter(scores.values()))
        f = first.new_ones(len(first)) if residuals is None else residuals.detach().to(first.dtype)
        root = len(first) ** 0.5
        x0 = {name: self.momentum * x for name, x in self.last.items()} or None
        S = {name: x / root for name, x in scores.items()}
        step = ngdla.damped_lstsq(S, f / root, self.damping, x0=x0)
        self.last = step if self.momentum else {}
        return step


def gradients_of_samples(name: str, a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each sample, (M, ..., d_out, d_in), summed over positions."""
    if a.ndim - ("|" in name) == 2:  # no positions; joined names are those of a stack
        a, g = a[..., None, :], g[..., None, :]
    return (g.mT @ a).movedim(-3, 0)

"""Damped natural gradient for torch modules, from the gradients of all samples (SPRING)."""

from __future__ import annotations

import torch

import ngdla
from ngdla.adapters.torch_modules import Recording
from optimizers.steps import Kept, all_finite, refuse_embeddings, write_bounded

__all__ = ["NaturalGradient"]

Tensors = dict[str, torch.Tensor]


class NaturalGradient(Kept):
    """Makes (S^T S / M + damping)^-1 S^T f / M of scores S of M samples, for an optimizer of torch.

    >>> natural, sgd = NaturalGradient(1e-2), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for x, y in batches:
    ...     sgd.zero_grad()
    ...     with record(model, skip=[torch.nn.Embedding]) as layers:
    ...         layers.backward(torch.nn.functional.cross_entropy(model(x), y))
    ...     natural.precondition(layers, lr=0.1)
    ...     sgd.step()

    If rows of S are gradients of losses, f is one for each sample: empirical Fisher matrix. If they
    are gradients of outputs, by ``layers.backward(outputs.sum())`` with ``loss="sum"``, f are the
    residuals of least squares: Gauss-Newton. `momentum` is that of SPRING: steps are corrections of
    so much of the last one. `kl` bounds lr^2 <step, S^T f / M>. S, M times the parameters, is
    formed, for all recorded layers together. `loss` is that of ``layers.rows``.
    """

    kept = ("last",)

    def __init__(
        self,
        damping: float,
        *,
        momentum: float = 0.0,
        kl: float | None = 1e-3,
        loss: str = "mean",
    ) -> None:
        self.damping, self.momentum, self.kl, self.loss = damping, momentum, kl, loss
        self.last: Tensors = {}

    def precondition(
        self,
        layers: Recording,
        lr: float,
        *,
        residuals: torch.Tensor | None = None,
        loss_scale: float = 1.0,
        check: bool = True,
    ) -> None:
        """Write steps into ``.grad``, multiplied by `loss_scale`, as other gradients are.

        With ``check=False``, a batch that overflowed writes NaN: a GradScaler skips its step.
        """
        rows = layers.rows(sharing="none", loss=self.loss, loss_scale=loss_scale, check=check)
        refuse_embeddings(layers)
        S = {name: gradients_of_samples(*pair) for name, pair in rows.items()}
        steps, V = self.step_and_gradient(S, residuals, check=check)
        self.last = steps if self.momentum and (check or all_finite(steps)) else self.last
        scaled = [{name: loss_scale * x for name, x in part.items()} for part in (steps, V)]
        write_bounded(layers, *scaled, lr / loss_scale, self.kl)

    def step_and_gradient(
        self, S: Tensors, residuals: torch.Tensor | None = None, *, check: bool = True
    ) -> tuple[Tensors, Tensors]:
        """Return the step, and S^T f / M, of scores (M, ...), one entry a layer or parameter."""
        first = next(iter(S.values()))
        f = first.new_ones(len(first)) if residuals is None else residuals.detach().to(first.dtype)
        root, f = len(first) ** 0.5, f / len(first) ** 0.5
        S = {name: x / root for name, x in S.items()}
        zeros = {name: torch.zeros_like(x[0]) for name, x in S.items()}
        x0 = {name: self.momentum * self.last.get(name, zero) for name, zero in zeros.items()}
        step = ngdla.damped_lstsq(S, f, self.damping, x0=x0, check=check or "nan")
        return step, {name: torch.tensordot(f, x, dims=1) for name, x in S.items()}


def gradients_of_samples(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each sample, (M, ..., d_out, d_in), summed over positions."""
    return (g.mT @ a).movedim(-3, 0)

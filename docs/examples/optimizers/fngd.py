"""FNGD for torch modules: a weighted sum of the gradients of samples in place of their mean."""

from __future__ import annotations

import ngdla
from ngdla.adapters.torch_modules import Recording
from optimizers.steps import Kept, all_finite, refuse_embeddings

__all__ = ["FNGD"]


class FNGD(Kept):
    """FNGD: weighs the gradients of samples, for an optimizer of torch.

    >>> fngd, sgd = FNGD(5e-3), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> for x, y in batches:
    ...     sgd.zero_grad()
    ...     with record(model, skip=[torch.nn.Embedding]) as layers:
    ...         layers.backward(torch.nn.functional.cross_entropy(model(x), y))
    ...     fngd.precondition(layers)
    ...     sgd.step()

    ``layers.backward(loss)`` leaves out the mean gradients of recorded layers, which FNGD does not
    need. `damping` is a part of |K|_F of each layer. `policy` and `period` say for which batches
    weights are computed, and what others get: see ngdla.weight_sharing_init. Weights are
    normalized: steps have the length of gradients. `loss` is that of ``layers.rows``.
    """

    kept = ("states",)

    def __init__(
        self,
        damping: float,
        *,
        policy: str = "exact",
        period: int | None = None,
        loss: str = "mean",
    ) -> None:
        self.damping, self.policy, self.period, self.loss = damping, policy, period, loss
        self.states: dict[str, ngdla.WeightSharing] = {}

    def precondition(
        self,
        layers: Recording,
        lr: float | None = None,
        *,
        batch: int | None = None,
        loss_scale: float = 1.0,
        check: bool = True,
    ) -> None:
        """Write steps into ``.grad``, multiplied by `loss_scale`, as other gradients are.

        `batch` is the index of the batch in its epoch, for the policy "table". `lr` is not used:
        other classes bound their steps by it. With ``check=False``, a batch that overflowed writes
        NaN or Inf, and changes nothing else: a GradScaler skips its step.
        """
        rows = layers.rows(sharing="none", loss=self.loss, loss_scale=loss_scale, check=check)
        refuse_embeddings(layers)
        states, steps, options = {}, {}, {"batch": batch, "check": check}
        for name, (a, g) in rows.items():
            state = self.states.get(name) or ngdla.weight_sharing_init(
                self.policy, a.shape[-3], period=self.period
            )
            v, states[name] = ngdla.weight_sharing_step(
                state, a, g, self.damping, positions=True, **options
            )
            v = loss_scale * v
            steps[name] = [  # of the weight, and of the bias; v is checked already
                ngdla.weighted_gradient(x, g, v, positions=True, check=False)
                for x in layers.columns(name, a)
            ]
        for name, step in steps.items():
            layers.write(name, *step, copy=False)
        parts = {(name, i): x for name, step in steps.items() for i, x in enumerate(step)}
        if check or all_finite(parts):
            self.states = self.states | states

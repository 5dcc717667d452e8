"""What several classes need: bounded steps, averages over processes, and a clear refusal."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ngdla.adapters.torch_modules import Recording

__all__ = [
    "Kept",
    "all_finite",
    "mean_of_processes",
    "refuse_embeddings",
    "usable",
    "write_bounded",
]

Tensors = dict[str, torch.Tensor]


class Kept:
    """What has a state for ``torch.save``: the attributes named in `kept`."""

    kept: tuple[str, ...]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes; ``torch.load(weights_only=True)`` reads it."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, bit for bit."""
        for name in self.kept:
            setattr(self, name, state[name])


def write_bounded(
    layers: Recording, steps: Tensors, gradients: Tensors, length: float, kl: float | None
) -> None:
    """Write steps into ``.grad``, all multiplied by min(1, sqrt(kl / (length^2 sum <step, V>))).

    A step x changes the distributions of a model by a divergence of length^2 <x, F x> / 2, with the
    Fisher matrix F, and (F + damping) x = V: that is less than half of what is bounded here.
    """
    if kl is not None:
        change = length**2 * sum((steps[name] * V).sum() for name, V in gradients.items())
        scale = (kl / change.clamp(min=torch.finfo(change.dtype).tiny)).sqrt().clamp(max=1.0)
        steps = {name: scale * step for name, step in steps.items()}
    for name, step in steps.items():
        layers.write(name, step)


def all_finite(tensors: Tensors) -> bool:
    """Tell whether there is neither NaN nor Inf, by one flag on the host if so."""
    wide = [(x, torch.promote_types(x.dtype, torch.float32)) for x in tensors.values()]
    if torch.stack([x.sum(dtype=dtype) for x, dtype in wide]).isfinite().all():
        return True
    return all(bool(x.isfinite().all()) for x, _ in wide)  # sums of large numbers


def usable(layers: Recording, gradients: Tensors, check: bool) -> bool:
    """Tell whether gradients are finite, or with `check` name the layer where NaN comes from."""
    finite = all_finite(gradients)
    if check and not finite:
        layers.rows()  # which looks at all layers in turn
        msg = "gradients contain NaN or Inf; lower the learning rate, or scale the loss."
        raise ValueError(msg)
    return finite


def mean_of_processes(communicator: Any, tree: Any) -> Any:
    """Return a state, or another tree of tensors, averaged over processes by one message."""
    if communicator is None:
        return tree
    leaves, form = tree_flatten(tree)
    total = communicator.all_reduce_sum(torch.cat([x.ravel() for x in leaves]))
    parts = (total / communicator.size).split([x.numel() for x in leaves])
    return tree_unflatten([p.view_as(x).to(x.dtype) for p, x in zip(parts, leaves)], form)


def refuse_embeddings(layers: Recording) -> None:
    """Raise if a layer is an embedding, whose rows are indices."""
    for name in layers.embeddings:
        msg = (
            f"`{name}` is an embedding, whose inputs are indices; leave it to the plain "
            f"gradient by record(model, skip=[torch.nn.Embedding])."
        )
        raise ValueError(msg)

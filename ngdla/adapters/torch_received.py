"""What backward passes leave of the layers of a torch module: rows, unless they are none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from ngdla.per_sample.layer_rows import Loss, Sharing

from .torch_layers import Layer, Rows

__all__ = [
    "LayerRows",
    "plain_gradients",
    "require_finite",
    "require_received",
    "require_same_samples",
    "set_gradient",
]


class LayerRows(Mapping[str, Rows]):
    """The rows of layers, or of stacks of them, by name, formed where they are asked for.

    So those of one layer at a time take memory. What was received later does not count.
    """

    def __init__(
        self, stacks: dict[str, list[Layer]], sharing: Sharing, loss: Loss, loss_scale: float
    ) -> None:
        for layers in stacks.values():
            _require_rows(layers, sharing)
        self._received = {
            name: [(layer, tuple(layer.parts)) for layer in layers]
            for name, layers in stacks.items()
        }
        self._sharing: Sharing = sharing
        self._loss, self._loss_scale = loss, loss_scale

    def __getitem__(self, name: str) -> Rows:
        rows = [self._of(*received) for received in self._received[name]]
        if len(rows) == 1:
            return rows[0]
        a, g = (torch.stack(x) for x in zip(*rows))
        return a, g

    def __iter__(self) -> Iterator[str]:
        return iter(self._received)

    def __len__(self) -> int:
        return len(self._received)

    def _of(self, layer: Layer, parts: tuple[Rows, ...]) -> Rows:
        """Return the rows of all backward passes together, as of one of all samples."""
        sizes = [layer.sizes(g) for _, g in parts]
        samples, tokens = sum(M for M, _ in sizes), sum(M * T for M, T in sizes)
        rows = []
        for (a, g), (_, T) in zip(parts, sizes):
            mean = tokens / math.sqrt(max(T, 1))
            factor = {"sum": 1.0, "mean": samples, "token-mean": mean}[self._loss]
            rows.append(layer.rows(a, g, self._sharing, factor / self._loss_scale))
        if len(rows) == 1:
            return rows[0]
        behind = 3 if self._sharing == "none" else 2  # axes from that of samples on
        a, g = (torch.cat(x, dim=max(x[0].ndim - behind, 0)) for x in zip(*rows))
        return a, g


def _require_rows(layers: list[Layer], sharing: Sharing) -> None:
    """Raise if a layer, or equal layers together, have no rows of this kind."""
    counts = {}
    for layer in layers:
        layer.require_sharing(sharing)
        sizes = [layer.sizes(g) for _, g in layer.parts]
        positions = {T for _, T in sizes}
        if sharing == "none" and len(positions) > 1:
            msg = (
                f"`{layer.path}` has several numbers of positions in several backward passes: "
                f'their samples make no array, so that sharing="none" is not possible.'
            )
            raise ValueError(msg)
        of_samples = sum(M for M, _ in sizes)
        counts[layer.name] = {
            "expand": sum(M * T for M, T in sizes),
            "reduce": of_samples,
            "none": (of_samples, *positions),
        }[sharing]
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        msg = f"layers of one stack have several numbers of rows ({found}): pass stack=False."
        raise ValueError(msg)


def plain_gradients(layer: Layer) -> list[torch.Tensor]:
    """Return the gradients of the weight and of the bias."""
    gradients = [p.grad for p in layer.parameters()]
    if any(g is None for g in gradients):
        msg = (
            f"`{layer.path}` has no gradient: call loss.backward(), and not layers.backward(loss), "
            f"which leaves out the gradients of recorded layers."
        )
        raise ValueError(msg)
    return [g for g in gradients if g is not None]


def set_gradient(p: torch.Tensor, x: torch.Tensor, copy: bool) -> None:
    """Make `x` the gradient of a parameter, itself if it needs no copy."""
    fits = (x.stride(), x.dtype, x.device) == (p.stride(), p.dtype, p.device)
    if p.grad is None and fits and not copy:
        p.grad = x
        return
    if p.grad is None:
        p.grad = torch.empty_like(p)
    p.grad.copy_(x)


def require_received(layer: Layer) -> None:
    """Raise if no backward pass came through a layer."""
    if layer.parts:
        return
    reason = "was not called"
    if layer.called_without_gradient:
        reason = "was called under torch.no_grad() alone"
    elif layer.waiting:
        reason = "was called, but no backward pass came through it"
    msg = (
        f"`{layer.path}` {reason}, so that it has no rows: its output must reach the loss, and "
        f"loss.backward() be called within the context; or leave it out by skip=[{layer.name!r}]."
    )
    raise ValueError(msg)


def require_finite(layers: list[Layer]) -> None:
    """Raise if there is NaN or Inf, naming the layer where it comes from, if all are in order."""
    inputs = [
        (x, a, "inputs")
        for x in layers
        for a, _ in x.parts
        if a.is_floating_point() or a.is_complex()  # indices are neither
    ]
    gradients = [(x, g, "output gradients") for x in reversed(layers) for _, g in x.parts]
    # a sum in float32 or wider shows them: one pass, and no array of flags
    sums = [
        x.sum(dtype=torch.promote_types(x.dtype, torch.float32))
        for _, x, _ in [*inputs, *gradients]
    ]
    finite = torch.stack([torch.isfinite(total).to(sums[0].device) for total in sums])
    if bool(finite.all()):
        return
    layer, _, what = [*inputs, *gradients][finite.tolist().index(False)]
    msg = (
        f"{what} of `{layer.path}` contain NaN or Inf; lower the learning rate, or, with loss "
        f"scaling, leave the step out or pass check=False to functions that skip it."
    )
    raise ValueError(msg)


def require_same_samples(layers: list[Layer]) -> None:
    """Raise if layers saw different numbers of samples, as where positions came first."""
    first, *others = [(x, sum(x.sizes(g)[0] for _, g in x.parts)) for x in layers]
    for layer, M in others:
        if first[1] != M:
            msg = (
                f"`{layer.path}` has {M} samples and `{first[0].path}` {first[1]}: samples must be "
                f"axis `batch_axis` of all inputs, not be joined with positions, and all reach "
                f"each layer; leave one of them out by skip=."
            )
            raise ValueError(msg)

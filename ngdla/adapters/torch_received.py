"""What backward passes leave of the layers of a torch module: rows, unless they are none."""

from __future__ import annotations

import math

import torch

from ngdla.per_sample.layer_rows import Loss, Sharing

from .torch_layers import Layer, Rows

__all__ = [
    "plain_gradients",
    "require_finite",
    "require_received",
    "require_same_samples",
    "rows_of_parts",
    "set_gradient",
    "stacked",
]


def rows_of_parts(layer: Layer, sharing: Sharing, loss: Loss, loss_scale: float) -> Rows:
    """Return the rows of all backward passes together, as of one of all samples."""
    sizes = [layer.sizes(g) for _, g in layer.parts]
    samples, tokens = sum(M for M, _ in sizes), sum(M * T for M, T in sizes)
    rows = []
    for (a, g), (_, T) in zip(layer.parts, sizes):
        factor = {"sum": 1.0, "mean": samples, "token-mean": tokens / math.sqrt(max(T, 1))}[loss]
        rows.append(layer.rows(a, g, sharing, factor / loss_scale))
    if len(rows) == 1:
        return rows[0]
    if sharing == "none" and len({T for _, T in sizes}) > 1:
        msg = (
            f"`{layer.path}` has several numbers of positions in several backward passes: their "
            f'samples make no array, so that sharing="none" is not possible.'
        )
        raise ValueError(msg)
    behind = 3 if sharing == "none" else 2  # axes from that of samples on
    a, g = (torch.cat(x, dim=max(x[0].ndim - behind, 0)) for x in zip(*rows))
    return a, g


def stacked(name: str, layers: list[Layer], rows: dict[str, Rows]) -> Rows:
    """Return the rows of equal layers with an axis more in front."""
    if len(layers) == 1:
        return rows[layers[0].name]
    pairs = [rows[layer.name] for layer in layers]
    if len({tuple(x.shape for x in pair) for pair in pairs}) > 1:
        shapes = ", ".join(f"{x.name} {tuple(rows[x.name][0].shape)}" for x in layers)
        msg = f"layers of one stack have rows of several shapes ({shapes}): pass stack=False."
        raise ValueError(msg)
    a, g = (torch.stack(x) for x in zip(*pairs))
    return a, g


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

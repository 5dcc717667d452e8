"""What backward passes leave of the layers of a torch module: rows, unless they are none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from ngdla._backend.messages import shown
from ngdla.per_sample.layer_rows import Loss, Sharing

from .torch_layers import Layer, Received, Rows

__all__ = [
    "LayerRows",
    "plain_gradients",
    "require_finite",
    "require_received",
    "require_same_samples",
    "require_step",
    "set_gradient",
    "unknown_name",
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
        if name not in self._received:
            raise unknown_name(name, self._received)
        rows = [self._of(*received) for received in self._received[name]]
        if len(rows) == 1:
            return rows[0]
        a, g = (torch.stack(x) for x in zip(*rows))
        return a, g

    def __iter__(self) -> Iterator[str]:
        return iter(self._received)

    def __len__(self) -> int:
        return len(self._received)

    def _of(self, layer: Layer, parts: tuple[Received, ...]) -> Rows:
        """Return the rows of all backward passes together, as of one of all samples."""
        _require_unchanged(layer, parts)
        sizes = [layer.sizes(part.output_gradients) for part in parts]
        samples, tokens = sum(M for M, _ in sizes), sum(M * T for M, T in sizes)
        rows = []
        for (a, g, _), (_, T) in zip(parts, sizes):
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
        _require_unchanged(layer, layer.parts)
        sizes = [layer.sizes(part.output_gradients) for part in layer.parts]
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


def _require_unchanged(layer: Layer, parts: Sequence[Received]) -> None:
    """Raise if inputs are no longer what the layer was given."""
    if any(part.inputs._version != part.version for part in parts):
        msg = (
            f"inputs of `{layer.path}` were changed in place after the backward pass, so that its "
            f"rows are lost: take rows before, or give the module a copy."
        )
        raise ValueError(msg)


def unknown_name(name: object, names: Iterable[str]) -> KeyError:
    """Return the error for a name that no layer has."""
    return KeyError(f"`name` is {shown(name)}; recorded are {', '.join(map(repr, names))}.")


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
        p.grad = torch.empty_like(p).copy_(x)
    else:
        p.grad.copy_(x)


def require_step(name: str, layers: list[Layer], step: tuple[torch.Tensor, ...]) -> None:
    """Raise, before anything is written, if a step does not fit the parameters of its layers."""
    weight = layers[0].parameters()[0]
    for part in step:
        if not isinstance(part, torch.Tensor):
            msg = f"`step` of `{name}` has a {type(part).__name__}; it must be a torch.Tensor."
            raise TypeError(msg)
        if part.is_complex() and not weight.is_complex():
            msg = f"`step` of `{name}` is complex, its weight {weight.dtype}; take the real part."
            raise TypeError(msg)
        if part.device != weight.device:
            msg = (
                f"`step` of `{name}` is on {part.device}, its weight on {weight.device}; move the "
                f"step there."
            )
            raise ValueError(msg)
    lead = (len(layers),) if len(layers) > 1 else ()
    allowed = [[(*lead, *part) for part in parts] for parts in layers[0].step_shapes]
    given = [tuple(part.shape) for part in step]
    if given not in allowed:
        msg = (
            f"`step` has shape {', '.join(map(str, given)) or 'of nothing'}; one of `{name}` must "
            f"have the shape of layers.gradient(name), {allowed[0][0]}, or of its columns."
        )
        raise ValueError(msg)


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
        (x, part.inputs, "inputs")
        for x in layers
        for part in x.parts
        if part.inputs.is_floating_point() or part.inputs.is_complex()  # indices are neither
    ]
    gradients = [
        (x, part.output_gradients, "output gradients") for x in reversed(layers) for part in x.parts
    ]
    received = [*inputs, *gradients]
    # a sum in float32 or wider shows them: one pass, and no array of flags
    sums = [x.sum(dtype=torch.promote_types(x.dtype, torch.float32)) for _, x, _ in received]
    finite = torch.stack([torch.isfinite(total).to(sums[0].device) for total in sums])
    if bool(finite.all()):
        return
    bad = [one for one in received if not torch.isfinite(one[1]).all()]
    if not bad:  # sums of large numbers
        return
    layer, _, what = bad[0]
    msg = (
        f"{what} of `{layer.path}` contain NaN or Inf; lower the learning rate, or, with loss "
        f"scaling, leave the step out or pass check=False to functions that skip it."
    )
    raise ValueError(msg)


def require_same_samples(layers: list[Layer]) -> None:
    """Raise if layers saw different numbers of samples, as where positions came first."""
    first, *others = [
        (x, sum(x.sizes(part.output_gradients)[0] for part in x.parts)) for x in layers
    ]
    for layer, M in others:
        if first[1] != M:
            msg = (
                f"`{layer.path}` has {M} samples and `{first[0].path}` {first[1]}: samples must be "
                f"axis `batch_axis` of all inputs, not be joined with positions, and all reach "
                f"each layer; leave one of them out by skip=."
            )
            raise ValueError(msg)

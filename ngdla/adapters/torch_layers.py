"""Layers of torch: how inputs and output gradients become rows, and a step its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from ngdla.per_sample.layer_rows import Sharing, rows_of
from ngdla.per_sample.layer_samples import LayerSamples, layer_samples
from ngdla.per_sample.patches import patch_means, patches

__all__ = ["KINDS", "Layer", "Received", "Rows"]

Rows = tuple[torch.Tensor, torch.Tensor]


class Received(NamedTuple):
    """What a backward pass left of a call: tensors of the user, which may change in place."""

    inputs: torch.Tensor
    output_gradients: torch.Tensor
    version: int
    """How often inputs had been changed in place."""


class Layer:
    """A module, and what backward passes brought of it: linear, or one that is made linear.

    Parameters
    ----------
    name : str
        Its path.
    module : torch.nn.Module
    batch_axis : int
        The axis of samples, where the module takes any number of axes.
    """

    indexed = False
    """Whether inputs are indices."""

    def __init__(self, name: str, module: Any, batch_axis: int = 0) -> None:
        self.name, self.module, self.batch_axis = name, module, batch_axis
        self.clear()

    def clear(self) -> None:
        """Forget what was received."""
        self.parts: list[Received] = []
        self.called_without_gradient = self.waiting = False

    def receiver(self) -> Callable[[torch.Tensor, torch.Tensor], None]:
        """Return what takes the gradients of a call; those of several losses of it add up."""
        parts: list[Received] = self.parts
        place: list[int] = []

        def receive(inputs: torch.Tensor, output_gradients: torch.Tensor) -> None:
            if torch.is_grad_enabled():  # the derivatives of this pass are no products of rows
                msg = (
                    f"a backward pass with create_graph=True came through `{self.path}`: its "
                    f"gradient is no sum over rows then. Leave it out by skip=[{self.name!r}], or "
                    f"go through a penalty on gradients out of the context."
                )
                raise ValueError(msg)
            self.waiting = False
            if place:
                total = parts[place[0]].output_gradients + output_gradients
                parts[place[0]] = parts[place[0]]._replace(output_gradients=total)
            else:
                place.append(len(parts))
                parts.append(Received(inputs, output_gradients, inputs._version))

        return receive

    @property
    def path(self) -> str:
        """The name for messages; that of its class if the recorded module is the layer."""
        return self.name or type(self.module).__name__

    @property
    def bias(self) -> bool:
        """Whether there is a bias."""
        return getattr(self.module, "bias", None) is not None

    def parameters(self) -> list[torch.Tensor]:
        """Return the weight, and the bias if there is one."""
        return [self.module.weight, self.module.bias] if self.bias else [self.module.weight]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (..., d_out, d_in) of the weight, without the column of the bias."""
        return tuple(self.module.weight.shape)

    @property
    def step_shapes(self) -> list[list[tuple[int, ...]]]:
        """The shapes that a step may have, first that of gradients; then those of its columns."""
        *lead, d_in = self.shape
        if not self.bias:
            return [[self.shape]]
        return [[(*lead, d_in + 1)], [self.shape, (*lead, 1)]]

    def columns(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the columns of inputs, or of a step, of the weight, and that of the bias."""
        sizes = [self.shape[-1], 1] if self.bias else [self.shape[-1]]
        if x.shape[-1] != sum(sizes):
            msg = f"`x` has {x.shape[-1]} columns; those of `{self.path}` are {sum(sizes)}."
            raise ValueError(msg)
        return x.split(sizes, dim=-1)

    def joined(self, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        """Return a copy of a gradient as (..., d_out, d_in), with a bias (..., d_out, d_in + 1)."""
        return torch.cat([x.reshape(*self.shape[:-1], -1) for x in (weight, *bias)], dim=-1)

    def split(self, *step: torch.Tensor) -> list[torch.Tensor]:
        """Return a step, whole or in columns, as the weight and the bias have it."""
        parts = self.columns(step[0]) if len(step) == 1 else step
        return [part.reshape(x.shape) for part, x in zip(parts, self.parameters())]

    # ---------------------------------------------------------------------------------- rows

    def require_sharing(self, sharing: Sharing) -> None:
        """Raise if the layer has no such rows."""

    def rows(self, a: torch.Tensor, g: torch.Tensor, sharing: Sharing, factor: float) -> Rows:
        """Return the rows of a part, as `ngdla.layer_rows` does."""
        return rows_of(self.samples(a, g), sharing, bias=self.bias, factor=factor)

    def samples(self, a: torch.Tensor, g: torch.Tensor) -> LayerSamples:
        """Return inputs (..., M, T, d_in) and output gradients (..., M, T, d_out)."""
        return layer_samples(self.along_positions(a), self.along_positions(g), positions=True)

    def along_positions(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (*, d) of any number of axes as (M, T, d)."""
        if x.ndim > 2 and self.batch_axis >= x.ndim - 1:
            msg = (
                f"`batch_axis` is {self.batch_axis}, and `{self.path}` has tensors of shape "
                f"{tuple(x.shape)}: axes of samples and positions come before that of features."
            )
            raise ValueError(msg)
        x = x.movedim(self.batch_axis, 0) if x.ndim > 2 else x
        M, *positions = x.shape[:-1] if x.ndim > 1 else (1,)
        return x.reshape(M, math.prod(positions), x.shape[-1])

    def sizes(self, g: torch.Tensor) -> tuple[int, int]:
        """Return the numbers of samples and of positions of output gradients."""
        M, T, _ = self.along_positions(g).shape
        return M, T


class Convolution(Layer):
    """A convolution: linear in the patches of its input."""

    @property
    def shape(self) -> tuple[int, ...]:
        d_out, *patch = self.module.weight.shape
        groups = self.module.groups
        lead = (groups, d_out // groups) if groups > 1 else (d_out,)
        return (*lead, math.prod(patch))

    def rows(self, a: torch.Tensor, g: torch.Tensor, sharing: Sharing, factor: float) -> Rows:
        if sharing != "reduce":
            return super().rows(a, g, sharing, factor)
        means = patch_means(*self._padded(a), **self._options)
        samples = layer_samples(means[..., None, :], self._gradients(g).sum(-2, True), True)
        return rows_of(samples, "expand", bias=self.bias, factor=factor)

    def samples(self, a: torch.Tensor, g: torch.Tensor) -> LayerSamples:
        unfolded = patches(*self._padded(a), **self._options)
        return layer_samples(unfolded, self._gradients(g), positions=True)

    def sizes(self, g: torch.Tensor) -> tuple[int, int]:
        *_, M, T, _ = self._gradients(g).shape
        return M, T

    def _gradients(self, g: torch.Tensor) -> torch.Tensor:
        """Return output gradients (M, d_out, *space) as ([groups,] M, T, d_out)."""
        g = self._batched(g)
        by_group = g.reshape(g.shape[0], *self.shape[:-1], math.prod(g.shape[2:])).mT
        return by_group.movedim(1, 0) if self.module.groups > 1 else by_group

    def _padded(self, a: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return the input, padded unless with zeros, and the size of the kernel."""
        m, a = self.module, self._batched(a)
        if m.padding_mode != "zeros":
            a = nn.functional.pad(a, m._reversed_padding_repeated_twice, m.padding_mode)
        return a, m.kernel_size

    def _batched(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.ndim == self.module.weight.ndim else x[None]

    @property
    def _options(self) -> dict[str, Any]:
        m = self.module
        padding = m.padding if m.padding_mode == "zeros" else 0
        named = {name: getattr(m, name) for name in ("stride", "dilation", "groups")}
        return {**named, "padding": padding}


class Norm(Layer):
    """A scale, and a bias, of each normalized feature: a stack of layers with one output each.

    With ``sharing="none"`` the gradients of samples themselves are inputs, with output gradients of
    one: their products are those of a single layer.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.module.weight.numel(), 1, 1)

    @property
    def step_shapes(self) -> list[list[tuple[int, ...]]]:
        gradient, *columns = super().step_shapes
        only: list[list[tuple[int, ...]]] = [[(1, math.prod(gradient[0]))]]  # of the only layer
        if self.bias and self.shape[0] == 1:  # whose columns are those of the only feature
            only.append([(1, 1), (1, 1)])
        return [gradient, *columns, *only]

    def columns(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of_features = x.shape[-1] == 1 + self.bias  # else whole gradients, of the only layer
        return super().columns(x) if of_features else (x,)

    def split(self, *step: torch.Tensor) -> list[torch.Tensor]:
        if len(step) == 1:
            step = (step[0].reshape(*self.shape[:-1], -1),)
        return super().split(*step)

    def rows(self, a: torch.Tensor, g: torch.Tensor, sharing: Sharing, factor: float) -> Rows:
        if sharing != "none":
            return super().rows(a, g, sharing, factor)
        normalized, gradients = self.samples(a, g)
        columns = [normalized * gradients, gradients] if self.bias else [normalized * gradients]
        each = torch.cat(columns, dim=-1).sum(dim=-2)  # (d, M, 2)
        u = each.movedim(0, 1).flatten(1)[:, None]
        return u, torch.full_like(u[..., :1], factor)

    def samples(self, a: torch.Tensor, g: torch.Tensor) -> LayerSamples:
        a, g = (x.to(torch.promote_types(a.dtype, torch.float32)) for x in (a, g))
        features = [self.along_positions(x) for x in (self._normalized(a), g)]
        return LayerSamples(*(x.movedim(-1, 0)[..., None] for x in features))

    def along_positions(self, x: torch.Tensor) -> torch.Tensor:
        return super().along_positions(x.flatten(x.ndim - len(self.module.normalized_shape)))

    def _normalized(self, a: torch.Tensor) -> torch.Tensor:
        m = self.module
        if isinstance(m, nn.LayerNorm):
            return nn.functional.layer_norm(a, m.normalized_shape, eps=m.eps)
        return nn.functional.rms_norm(a, m.normalized_shape, eps=m.eps)


class Embedding(Layer):
    """A table of vectors, linear in rows with a single one, of which only the index is kept."""

    bias = False
    indexed = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(reversed(self.module.weight.shape))

    def columns(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)

    def joined(self, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        return weight.mT.clone()

    def split(self, *step: torch.Tensor) -> list[torch.Tensor]:
        return [step[0].mT]

    def require_sharing(self, sharing: Sharing) -> None:
        if sharing == "reduce":
            msg = (
                f"`{self.path}` is an embedding, and the mean of its inputs is no index: use "
                f'sharing="expand", or leave it out by skip=[torch.nn.Embedding].'
            )
            raise ValueError(msg)

    def rows(self, a: torch.Tensor, g: torch.Tensor, sharing: Sharing, factor: float) -> Rows:
        g = self.along_positions(g).to(torch.promote_types(g.dtype, torch.float32))
        indices = (a.movedim(self.batch_axis, 0) if a.ndim > 1 else a).reshape(g.shape[:2])
        if (pad := self.module.padding_idx) is not None:
            g = g.masked_fill((indices == pad)[..., None], 0.0)
        if sharing == "expand":
            return indices.reshape(-1), factor * math.sqrt(g.shape[1]) * g.reshape(-1, g.shape[2])
        return indices, factor * g


KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Layer,
    nn.Conv1d: Convolution,
    nn.Conv2d: Convolution,
    nn.Conv3d: Convolution,
    nn.LayerNorm: Norm,
    nn.RMSNorm: Norm,
    nn.Embedding: Embedding,
}

"""Inputs and output gradients of a linear layer, per sample."""

from __future__ import annotations

from typing import Any, NamedTuple

from ngdla._backend.checks import require_array, require_like
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, namespace

__all__ = ["LayerSamples", "layer_samples"]


class LayerSamples(NamedTuple):
    """Inputs a (..., M, T, d_in) and output gradients g (..., M, T, d_out), of one dtype."""

    a: Array
    g: Array

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading axes."""
        return tuple(self.a.shape[:-3])

    @property
    def M(self) -> int:
        """The number of samples."""
        return int(self.a.shape[-3])

    @property
    def T(self) -> int:
        """The number of positions of each sample."""
        return int(self.a.shape[-2])

    @property
    def layer(self) -> tuple[int, ...]:
        """The sizes that all samples of a layer share: leading axes, d_in, d_out."""
        return (*self.batch, int(self.a.shape[-1]), int(self.g.shape[-1]))

    def halves(self) -> tuple[LayerSamples, LayerSamples]:
        """Return the first and the second half of the samples."""
        half = self.M // 2
        first = (x[..., :half, :, :] for x in self)
        second = (x[..., half:, :, :] for x in self)
        return LayerSamples(*first), LayerSamples(*second)

    def rows(self) -> tuple[Array, Array]:
        """Return a and g with all positions of all samples as rows."""
        xp = namespace(self.a)
        shape = (*self.batch, self.M * self.T)
        return xp.reshape(self.a, (*shape, -1)), xp.reshape(self.g, (*shape, -1))


def layer_samples(inputs: Any, output_gradients: Any) -> LayerSamples:
    """Return checked samples of a layer; without positions, T is 1."""
    pair = (inputs, output_gradients)
    for x, name in zip(pair, ("inputs", "output_gradients")):
        require_array(x, name, ndim=2, blocks=False)
    require_like(output_gradients, "output_gradients", inputs, "inputs")
    if inputs.shape[:-1] != output_gradients.shape[:-1]:
        msg = (
            f"`inputs` has shape {tuple(inputs.shape)} and `output_gradients` "
            f"{tuple(output_gradients.shape)}; they must be of the same samples, and positions: "
            f"(M, d_in) and (M, d_out), or (M, T, d_in) and (M, T, d_out)."
        )
        raise ValueError(msg)
    dtype = result_name(*(dtype_name(x.dtype) for x in pair))
    a, g = (astype(x, dtype) for x in pair)
    if a.ndim == 2:
        xp = namespace(a)
        a, g = xp.expand_dims(a, axis=-2), xp.expand_dims(g, axis=-2)
    return LayerSamples(a, g)

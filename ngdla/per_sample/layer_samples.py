"""Inputs and output gradients of a linear layer, per sample."""

from __future__ import annotations

from typing import Any, NamedTuple

from ngdla._backend.checks import require_array, require_dense, require_like
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.positions import require_positions, with_positions

__all__ = ["LayerSamples", "layer_samples", "require_per_sample"]


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

    @property
    def empty(self) -> bool:
        """Whether there are no samples, or none of them has positions."""
        return 0 in self.a.shape

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
        a, g = (xp.reshape(x, (*shape, x.shape[-1])) for x in self)
        return a, g


def layer_samples(
    inputs: Any, output_gradients: Any, positions: bool | None = None
) -> LayerSamples:
    """Return checked samples of a layer; without positions, T is 1."""
    pair = (inputs, output_gradients)
    for x, name in zip(pair, ("inputs", "output_gradients")):
        require_array(x, name, ndim=2, blocks=False, empty=True)
    require_like(output_gradients, "output_gradients", inputs, "inputs")
    positions = require_positions(inputs, positions, "inputs")
    if inputs.shape[:-1] != output_gradients.shape[:-1]:
        axes = "..., M, T" if positions else "..., M"
        msg = (
            f"`inputs` has shape {tuple(inputs.shape)} and `output_gradients` "
            f"{tuple(output_gradients.shape)}; they must be of the same samples"
            f"{' and positions' if positions else ''}: ({axes}, d_in) and ({axes}, d_out)."
        )
        raise ValueError(msg)
    dtype = result_name(*(dtype_name(x.dtype) for x in pair))
    a, g = (with_positions(astype(x, dtype), positions) for x in pair)
    return LayerSamples(a, g)


def require_per_sample(x: Any, name: str, *, ndim: int = 0) -> None:
    """Raise unless `x` is an array (..., M) or (..., M, M), where M may be 0."""
    require_dense(x, name, blocks=False)
    if x.ndim >= ndim and 0 in x.shape:
        x = namespace(x).expand_dims(x, axis=-1)  # so that M is not the last axis
    require_array(x, name, ndim=ndim, blocks=False, empty=True)

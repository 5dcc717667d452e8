"""Where the kernel of a convolution stands, and what it sees there, along each axis of space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ngdla._backend.checks import require_array, require_choice, require_count
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array

__all__ = ["Channels", "Padding", "Sizes", "Window", "windows_of"]

Channels = Literal["first", "last"]
Sizes = int | Sequence[int]
Padding = Sizes | Sequence[tuple[int, int]] | Literal["valid", "same"]


class Window(NamedTuple):
    """The positions of a kernel along one axis."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def positions(self) -> int:
        """How many positions there are."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.before + self.after - reach) // self.stride + 1

    def seen(self, place: int) -> slice:
        """Return what a place of the kernel sees of a padded axis, position by position."""
        start = place * self.dilation
        return slice(start, start + (self.positions - 1) * self.stride + 1, self.stride)

    def seen_inside(self, place: int) -> slice:
        """Return what a place of the kernel sees of the axis itself, beside the zeros around it."""
        seen = self.seen(place)
        start, stop = seen.start - self.before, min(max(seen.stop - self.before, 0), self.size)
        return slice(min(start if start >= 0 else start % self.stride, stop), stop, self.stride)


def windows_of(
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    channels: Any,
) -> list[Window]:
    """Return the checked positions of a convolution along each axis of space."""
    require_array(x, "x", ndim=3, blocks=False, empty="all")
    require_choice(channels, "channels", ("first", "last"))
    require_count(groups, "groups", least=1)
    space = tuple(x.shape[2:] if channels == "first" else x.shape[1:-1])
    c = x.shape[1 if channels == "first" else -1]
    if c % groups:
        msg = f"`groups` is {groups}; it must divide the {c} channels of `x`, {tuple(x.shape)}."
        raise ValueError(msg)
    kernels = _sizes(kernel, "kernel", space, x)
    strides, dilations = _sizes(stride, "stride", space, x), _sizes(dilation, "dilation", space, x)
    pads = _pads(padding, list(zip(space, kernels, strides, dilations)), x)
    windows = [Window(*along) for along in zip(space, kernels, strides, dilations, *zip(*pads))]
    if any(window.positions < 1 for window in windows):
        msg = (
            f"`kernel` {kernels} with dilation {dilations} does not fit into `x` of shape "
            f"{tuple(x.shape)} with padding {pads}; pass a smaller one, or more padding."
        )
        raise ValueError(msg)
    return windows


def _sizes(
    value: Any, name: str, space: tuple[int, ...], x: Array, least: int = 1
) -> tuple[int, ...]:
    """Return a size for each axis of space, from one for all of them or one each."""
    sizes = tuple(value) if _several(value) else (value,)
    if len(sizes) == 1:
        sizes *= len(space)
    if len(sizes) != len(space):
        msg = (
            f"`{name}` is {shown(value)}; `x` of shape {tuple(x.shape)} has {space} beside samples "
            f"and channels: pass one int for all of these axes, or one for each."
        )
        raise ValueError(msg)
    for size in sizes:
        require_count(size, name, least=least)
    return tuple(map(int, sizes))


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _pads(padding: Any, sizes: list[tuple[int, int, int, int]], x: Array) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis of space."""
    if isinstance(padding, str):
        require_choice(padding.lower(), "padding", ("valid", "same"))
        return [_same(*along) if padding.lower() == "same" else (0, 0) for along in sizes]
    if not (_several(padding) and any(map(_several, padding))):
        space = tuple(size for size, *_ in sizes)
        return [(pad, pad) for pad in _sizes(padding, "padding", space, x, least=0)]
    if len(padding) != len(sizes) or not all(_several(pad) and len(pad) == 2 for pad in padding):
        msg = (
            f"`padding` is {shown(padding)}; for `x` of shape {tuple(x.shape)} it must be one int, "
            f"{len(sizes)} of them, or {len(sizes)} pairs (before, after)."
        )
        raise ValueError(msg)
    for pad in itertools.chain(*padding):
        require_count(pad, "padding")
    return [(int(before), int(after)) for before, after in padding]


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the zeros with which there are ceil(size / stride) positions."""
    reach = dilation * (kernel - 1) + 1
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2

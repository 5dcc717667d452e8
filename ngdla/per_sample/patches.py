"""Patches of a convolution: the inputs of the linear layer that it is at each position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import opened
from ngdla._backend.checks import require_array, require_choice, require_count
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import moved, padded

__all__ = ["Channels", "Padding", "patch_means", "patches"]

Channels = Literal["first", "last"]
Sizes = int | Sequence[int]
Padding = Sizes | Sequence[tuple[int, int]] | Literal["valid", "same"]


def patches(
    x: Array,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    channels: Channels = "first",
) -> AnyArray:
    """Return the patches of images that a convolution multiplies by its weight.

    Parameters
    ----------
    x : array, shape (M, c, *space), or (M, *space, c) with ``channels="last"``
        M images, or sequences or volumes: `space` has as many axes as `kernel`.
    kernel : int or tuple of int
        The size of the kernel along each axis of `space`; an int for one axis, or the same size
        along all of them.
    stride, dilation : int or tuple of int
        Of the positions, and within a patch.
    padding : int, tuple of int, tuple of pairs, "valid" or "same"
        Zeros on both sides of each axis, or before and after it. "valid" is 0; "same" gives
        ceil(size / stride) positions, the odd zero behind.
    groups : int, default 1
        Of channels; each has a weight of its own.
    channels : {"first", "last"}, default "first"
        Where the channels of `x` are, and the order of features in a patch: (c, *kernel), that of
        ``weight.reshape(d_out, -1)`` in PyTorch, or (*kernel, c), that of
        ``kernel.reshape(-1, d_out)`` in flax.

    Returns
    -------
    array, shape (M, T, d_in), or (groups, M, T, d_in / groups) if there are several groups
        T positions in the order of the convolution's output, d_in = c prod(kernel); a stack of
        layers, one per group. Of the dtype of `x`.

    Raises
    ------
    TypeError
        If `x` is no floating-point array, or a size is no int.
    ValueError
        If sizes do not fit `x` or are out of range, or the kernel is larger than the padded `x`.

    Notes
    -----
    Output gradients (M, d_out, ...) of the convolution become those of the patches, (M, T, d_out),
    by ``g.reshape(M, d_out, T).swapaxes(1, 2)``; of several groups, (groups, M, T, d_out / groups),
    by ``g.reshape(M, groups, d_out // groups, T)`` and its axes in the order 1, 0, 3, 2.

    Cost: one copy of T d_in numbers per sample, about prod(kernel) / prod(stride) times `x`, in the
    order of the convolution's output: with channels first the last two axes are swapped in memory.
    `patch_means` has their means without it, and `weighted_gradient` says how a framework's own
    backward pass does without patches.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.arange(18.0).reshape(1, 2, 3, 3)
    >>> a = patches(images, 2)
    >>> a.shape
    (1, 4, 8)
    >>> a[0, 0]
    array([ 0.,  1.,  3.,  4.,  9., 10., 12., 13.])
    """
    windows = _windows(x, kernel, stride, padding, dilation, groups, channels)
    with opened(x):
        x = _padded(x, windows, channels)
        positions = math.prod([window.positions for window in windows])
        return _features(_unfolded(x, windows, channels), groups, channels, positions)


def patch_means(
    x: Array,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    channels: Channels = "first",
) -> AnyArray:
    """Return the mean patch of each image, the inputs of ``sharing="reduce"``, without unfolding.

    Parameters
    ----------
    x : array, shape (M, c, *space), or (M, *space, c) with ``channels="last"``
        As for `patches`.
    kernel, stride, dilation : int or tuple of int
        As for `patches`.
    padding : int, tuple of int, tuple of pairs, "valid" or "same"
        As for `patches`.
    groups : int, default 1
        As for `patches`.
    channels : {"first", "last"}, default "first"
        As for `patches`.

    Returns
    -------
    array, shape (M, d_in), or (groups, M, d_in / groups) if there are several groups
        ``patches(x, ...)`` averaged over positions, of the dtype of `x`, float32 or wider.

    Raises
    ------
    TypeError
        If `x` is no floating-point array, or a size is no int.
    ValueError
        If sizes do not fit `x` or are out of range, or the kernel is larger than the padded `x`.

    Notes
    -----
    Method: a place of the kernel sees every stride-th pixel of an axis. These are summed, place by
    place, along one axis after the other.
    Cost: kernel / stride sums over `x` for the first axis, fewer for the others; no patch is
    formed, and `x` is not padded.
    Precision: that of a sum of the library along each axis. Half precision is converted to float32.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    >>> means = patch_means(x, 3, stride=2, padding=1)
    >>> bool(np.allclose(means, patches(x, 3, stride=2, padding=1).mean(axis=1)))
    True
    """
    windows = _windows(x, kernel, stride, padding, dilation, groups, channels)
    with opened(x):
        x = astype(x, result_name(dtype_name(x.dtype)))
        for axis, window in enumerate(windows, start=2 if channels == "first" else 1):
            x = _sums(x, axis, window) / window.positions
        return _features(x, groups, channels, positions=1)[..., 0, :]


class _Window(NamedTuple):
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


def _padded(x: Array, windows: list[_Window], channels: Channels) -> Array:
    """Return x with zeros around it."""
    pairs = [(window.before, window.after) for window in windows]
    if not any(map(sum, pairs)):
        return x
    others = [(0, 0)]
    width = [*others, *others, *pairs] if channels == "first" else [*others, *pairs, *others]
    return padded(x, width)


def _unfolded(x: Array, windows: list[_Window], channels: Channels) -> Array:
    """Return a view of a padded x per place of the kernel, (M, c, K, *T) or (M, *T, K, c)."""
    views = []
    for places in itertools.product(*(range(window.kernel) for window in windows)):
        seen = tuple(window.seen(place) for window, place in zip(windows, places))
        views.append(x[:, :, *seen] if channels == "first" else x[:, *seen, :])
    return namespace(x).stack(views, axis=2 if channels == "first" else -2)


def _sums(x: Array, axis: int, window: _Window) -> Array:
    """Return the sums over positions of what each place of the kernel sees of an axis."""
    xp, before = namespace(x), (slice(None),) * axis
    seen = [x[*before, window.seen_inside(place), ...] for place in range(window.kernel)]
    return xp.stack([xp.sum(part, axis=axis) for part in seen], axis=axis)


def _features(x: Array, groups: int, channels: Channels, positions: int) -> Array:
    """Return (M, T, d_in), or a stack of groups, from (M, c, *K, *T) or (M, *T, *K, c)."""
    xp, axis = namespace(x), 1 if channels == "first" else x.ndim - 1
    c = x.shape[axis] // groups
    # groups first, as an axis that is split off by itself: Dask reshapes one axis at a time
    x = xp.reshape(x, (*x.shape[:axis], groups, c, *x.shape[axis + 1 :]))
    x = moved(x, axis, 0)
    M, d_in = x.shape[1], math.prod(x.shape[2:]) // positions
    if channels == "first":
        features = xp.matrix_transpose(xp.reshape(x, (groups, M, d_in, positions)))
    else:
        features = xp.reshape(x, (groups, M, positions, d_in))
    return features if groups > 1 else features[0, ...]


# ------------------------------------------------------------------------------- arguments


def _windows(
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    channels: Any,
) -> list[_Window]:
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
    windows = [_Window(*along) for along in zip(space, kernels, strides, dilations, *zip(*pads))]
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

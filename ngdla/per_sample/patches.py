"""Patches of a convolution: the inputs of the linear layer that it is at each position."""

from __future__ import annotations

import itertools
import math

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import opened
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import moved, padded

from .windows import Channels, Padding, Sizes, Window, windows_of

__all__ = ["patch_means", "patches"]


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
    x : array, shape ``(M, c, *space)``, or ``(M, *space, c)`` with ``channels="last"``
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
        Where the channels of `x` are, and the order of features in a patch: ``(c, *kernel)``, that
        of ``weight.reshape(d_out, -1)`` in PyTorch, or ``(*kernel, c)``, that of
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
    windows = windows_of(x, kernel, stride, padding, dilation, groups, channels)
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
    x : array, shape ``(M, c, *space)``, or ``(M, *space, c)`` with ``channels="last"``
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
    windows = windows_of(x, kernel, stride, padding, dilation, groups, channels)
    with opened(x):
        x = astype(x, result_name(dtype_name(x.dtype)))
        for axis, window in enumerate(windows, start=2 if channels == "first" else 1):
            x = _sums(x, axis, window) / window.positions
        return _features(x, groups, channels, positions=1)[..., 0, :]


def _padded(x: Array, windows: list[Window], channels: Channels) -> Array:
    """Return x with zeros around it."""
    pairs = [(window.before, window.after) for window in windows]
    if not any(map(sum, pairs)):
        return x
    others = [(0, 0)]
    width = [*others, *others, *pairs] if channels == "first" else [*others, *pairs, *others]
    return padded(x, width)


def _unfolded(x: Array, windows: list[Window], channels: Channels) -> Array:
    """Return a view of a padded x per place of the kernel, (M, c, K, *T) or (M, *T, K, c)."""
    views = []
    for places in itertools.product(*(range(window.kernel) for window in windows)):
        seen = tuple(window.seen(place) for window, place in zip(windows, places))
        views.append(x[:, :, *seen] if channels == "first" else x[:, *seen, :])
    return namespace(x).stack(views, axis=2 if channels == "first" else -2)


def _sums(x: Array, axis: int, window: Window) -> Array:
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

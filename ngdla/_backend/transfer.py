"""Bringing arrays to the library and device that work with them, blocks while it computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from .array import AnyArray
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

__all__ = ["host_values", "is_host_array", "moved", "on_host", "sender"]

Sender = Callable[[AnyArray], AnyArray]


def on_host() -> AnyArray:
    """Return a NumPy array, for work that nothing else has given a device."""
    return np.zeros(1)


def is_host_array(x: Any) -> bool:
    """Tell whether `x` is a NumPy array."""
    return isinstance(x, np.ndarray)


def host_values(x: AnyArray) -> np.ndarray:
    """Return the values of an array of any library on the host, as they are."""
    xp = namespace(x)
    if is_torch_namespace(xp):
        return x.detach().resolve_conj().cpu().numpy()
    if is_cupy_namespace(xp):
        return xp.asnumpy(x)
    if is_dask_namespace(xp):
        return np.asarray(x.compute())
    return np.asarray(x) if is_numpy_namespace(xp) or is_jax_namespace(xp) else np.from_dlpack(x)


def moved(x: AnyArray, like: AnyArray) -> AnyArray:
    """Return an array where `like` lives; the array itself where it lives there already."""
    xp = namespace(like)
    if namespace(x) is not xp:
        return sender(like)(host_values(x))
    if is_torch_namespace(xp):
        return x.detach().to(like.device)
    if is_jax_namespace(xp):
        import jax

        return jax.device_put(x, like.sharding) if like.committed else x
    if is_cupy_namespace(xp) and x.device != like.device:
        return sender(like)(host_values(x))
    return x


def sender(like: AnyArray) -> Sender:
    """Return a function that gives NumPy blocks as arrays of the library and device of `like`.

    A block may be overwritten once the work that it is sent for has been asked for: what works
    later, on a device or by itself, has a copy.
    """
    xp = namespace(like)
    if is_numpy_namespace(xp):
        return np.asarray
    if is_torch_namespace(xp):
        return _torch_cuda_sender(like) if like.device.type == "cuda" else _torch_sender(like)
    if is_cupy_namespace(xp):
        return _cupy_sender(like)
    if is_jax_namespace(xp):
        return _jax_sender(like)
    return lambda block: xp.asarray(np.asarray(block), device=device(like))


def _jax_sender(like: AnyArray) -> Sender:
    import jax

    # `device_put` on a CPU may keep the memory of the block, and work is done later
    place = like.sharding if like.committed else None
    return lambda block: jax.device_put(np.array(block), place)


def _torch_sender(like: AnyArray) -> Sender:
    return lambda block: _host_tensor(block).to(like.device)


def _host_tensor(block: AnyArray) -> AnyArray:
    import torch

    # torch warns of memory that it must not write to
    return torch.from_numpy(np.asarray(block) if block.flags.writeable else np.array(block))


def _torch_cuda_sender(like: AnyArray) -> Sender:
    """Copy in pinned memory, and from there on a stream that does not wait for the work."""
    import torch

    copying = torch.cuda.Stream(like.device)

    def send(block: AnyArray) -> AnyArray:
        computing = torch.cuda.current_stream(like.device)
        with torch.cuda.stream(copying):
            sent = _host_tensor(block).pin_memory().to(like.device, non_blocking=True)
        computing.wait_stream(copying)
        sent.record_stream(computing)  # its memory is not reused before the work is done
        return sent

    return send


class _Slot(NamedTuple):
    """Where every second block passes through."""

    pinned: AnyArray
    there: AnyArray


def _cupy_sender(like: AnyArray) -> Sender:
    """Copy in pinned memory, and from there on a stream that does not wait for the work.

    Two slots take turns. A slot on the host is written when its last copy has ended, one on the
    device when the work with its last block has, for which the work that was asked for until the
    block before arrived is waited for.
    """
    import cupy
    import cupyx

    with like.device:
        copying = cupy.cuda.Stream(non_blocking=True)
        worked = copying.record()
    slots: list[_Slot | None] = [None, None]
    copied = [worked, worked]
    turns = itertools.cycle((0, 1))

    def send_cupy(block: AnyArray) -> AnyArray:
        nonlocal worked
        turn = next(turns)
        with like.device:
            computing = cupy.cuda.get_current_stream()
            slot, before, worked = slots[turn], worked, computing.record()
            copied[turn].synchronize()
            if slot is None or slot.there.size < block.size or slot.there.dtype != block.dtype:
                pinned = cupyx.empty_pinned(block.size, block.dtype)
                slot = slots[turn] = _Slot(pinned, cupy.empty(block.size, block.dtype))
                before = worked  # new memory may be that of what is still worked with
            pinned, sent = (part[: block.size].reshape(block.shape) for part in slot)
            pinned[...] = block
            copying.wait_event(before)
            sent.set(pinned, stream=copying)
            copied[turn] = copying.record()
            computing.wait_event(copied[turn])
        return sent

    return send_cupy

"""How much memory of a GPU is to spare."""

from __future__ import annotations

from .array import AnyArray
from .device_streams import device_of, has_streams
from .namespace import is_cupy_namespace, namespace

__all__ = ["memory_to_spare"]

_RESERVE = 4  # a quarter of the device at least, also for other libraries and programs


def memory_to_spare(like: AnyArray, work: int) -> int:
    """Return how many bytes of the device of an array may hold what could be done without.

    A reserve is left, of at least the bytes that the work takes.
    What the pools of CuPy and torch hold and do not use is free; a limit of CuPy's pool is held.
    For other libraries, and on the host, it is 0.
    """
    if not has_streams(like):
        return 0
    with device_of(like):
        free, total = _cupy_memory() if is_cupy_namespace(namespace(like)) else _torch_memory()
    return max(0, free - max(total // _RESERVE, work))


def _cupy_memory() -> tuple[int, int]:
    """Return the bytes that are free on the current device, and all that it has."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool()
    free, limit = free + pool.free_bytes(), pool.get_limit()
    if limit:
        free, total = min(free, limit - pool.used_bytes()), min(total, limit)
    return free, total


def _torch_memory() -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + held, total

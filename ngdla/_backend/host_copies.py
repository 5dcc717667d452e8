"""Copies of large blocks within the memory of the host, by several threads."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["copy_block"]

_LARGE = 8 * 2**20  # bytes, from which on the threads are worth waking
_MOST_THREADS = 8


def copy_block(target: np.ndarray, source: np.ndarray) -> None:
    """Write `source` into `target`, of the same shape.

    One core moves a fraction of what the memory and the bus to a device can. NumPy lets other
    threads run while it copies.
    """
    threads = _threads() if source.nbytes >= _LARGE else None
    if threads is None:
        target[...] = source
        return
    axis = int(np.argmax(source.shape))
    targets, sources = (np.array_split(x, _count(), axis) for x in (target, source))
    for _ in threads.map(np.copyto, targets, sources):
        pass


def _count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_THREADS, cores or 1)


@functools.cache
def _threads() -> ThreadPoolExecutor | None:
    """Return threads, which are made once; None where there is one core only."""
    return ThreadPoolExecutor(_count(), "copies of ngdla") if _count() > 1 else None


if hasattr(os, "register_at_fork"):  # a child has no threads
    os.register_at_fork(after_in_child=_threads.cache_clear)

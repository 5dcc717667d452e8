"""Page-locked memory of the host, from a pool that gives it out again at once.

A part of the stand-in for CuPy; the original is `cupy/cuda/pinned_memory.pyx`, whose habits it
keeps: sizes are rounded up to powers of two from 512 bytes on, the buffer that came back last goes
out first, and a buffer comes back when the last array over it dies, whatever a device is doing with
it (`PooledPinnedMemory.__del__`). Only what `_add_to_watch_list(event, mem)` was told lives on
until the event is done, looked at when memory is asked for and when the list is added to, in the
order of the list.

A buffer that comes back is overwritten with ones in all bits, NaN in every floating-point dtype,
and one that comes back while a copy may still read it is a line in `streams.VIOLATIONS`.

What it is not: nothing is page-locked and nothing is faster for it; it is for one process.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .host_memory import PAGE_LOCKED
from .streams import Event, released

_UNIT = 512
_POISON = 0xFF


class PinnedMemory:
    """`cupy.cuda.PinnedMemory`: what the driver gives."""

    def __init__(self, size: int, flags: int = 0) -> None:
        self.size = size
        self._bytes = np.full(max(size, 1), _POISON, np.uint8)
        self.ptr = int(self._bytes.ctypes.data)
        PAGE_LOCKED[self.ptr] = size

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if ends():
            return
        released(self.ptr, self.ptr + self.size, "freed")
        PAGE_LOCKED.pop(self.ptr, None)

    def poison(self) -> None:
        """Overwrite what is no one's any more."""
        self._bytes.fill(_POISON)


class PooledPinnedMemory:
    """`cupy.cuda.PooledPinnedMemory`: goes back to its pool when it dies."""

    def __init__(self, mem: PinnedMemory, pool: weakref.ref[PinnedMemoryPool]) -> None:
        self.mem, self.pool = mem, pool
        self.ptr, self.size = mem.ptr, mem.size

    def free(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        """Give the buffer back."""
        if ends():
            return
        pool = self.pool()
        if pool is not None and self.ptr != 0:
            pool.free(self.mem, self.size)
        self.ptr = self.size = 0

    __del__ = free


def _pointer(mem: Any) -> Any:
    """Return a `cupy.cuda.PinnedMemoryPointer`, over which NumPy arrays can be made.

    Only arrays of ctypes can be both subclassed and buffers in all versions of Python.
    """
    members = {"_type_": ctypes.c_byte, "_length_": mem.size}
    kind = type("PinnedMemoryPointer", (ctypes.Array,), members)
    pointer = kind.from_address(mem.ptr)
    pointer.mem, pointer.ptr = mem, mem.ptr
    return pointer


class PinnedMemoryPool:
    """`cupy.cuda.PinnedMemoryPool`."""

    def __init__(self) -> None:
        self._free: dict[int, list[PinnedMemory]] = {}
        self._lock = threading.RLock()
        self.in_use = 0  # buffers

    def malloc(self, size: int) -> Any:
        """Return the pointer of a buffer."""
        if size == 0:
            return _pointer(PinnedMemory(0))
        size = 1 << (-(-size // _UNIT) * _UNIT - 1).bit_length()
        with self._lock:
            free = self._free.get(size)
            mem = free.pop() if free else PinnedMemory(size)
            self.in_use += 1
        return _pointer(PooledPinnedMemory(mem, weakref.ref(self)))

    def free(self, mem: PinnedMemory, size: int) -> None:
        """Take a buffer back, which is the next that is given out."""
        released(mem.ptr, mem.ptr + mem.size, "given back to the pool")
        mem.poison()
        with self._lock:
            self.in_use -= 1
            self._free.setdefault(size, []).append(mem)

    def free_all_blocks(self) -> None:
        """Give all buffers that are not in use back to the driver."""
        _WATCHER.check_and_release()
        self._free.clear()

    def n_free_blocks(self) -> int:
        """Return the number of buffers that are not in use."""
        return sum(map(len, self._free.values()))


class _EventWatcher:
    """Holds what events were given for until they are done, the first ones first."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, Any]] = []
        self._lock = threading.RLock()

    def add(self, event: Event, obj: Any) -> None:
        self.check_and_release()
        if not event.done:
            self.events.append((event, obj))

    def check_and_release(self) -> None:
        with self._lock:
            while self.events and self.events[0][0].done:
                del self.events[0]


POOL = PinnedMemoryPool()
_WATCHER = _EventWatcher()
_ALLOCATORS: list[Any] = [POOL.malloc]  # one of them


def _add_to_watch_list(event: Event, obj: Any) -> None:
    """Keep an object until an event is done."""
    _WATCHER.add(event, obj)


def set_pinned_memory_allocator(allocator: Any = None) -> None:
    """Take buffers from another function, by default from the driver each time."""
    _ALLOCATORS[0] = allocator or (lambda size: _pointer(PinnedMemory(size)))


def alloc_pinned_memory(size: int) -> Any:
    """Return the pointer of a buffer: `cupy.cuda.alloc_pinned_memory`."""
    _WATCHER.check_and_release()
    return _ALLOCATORS[0](size)


def is_memory_pinned(data: int) -> bool:
    """Tell whether there is page-locked memory at an address."""
    return any(first <= data < first + size for first, size in list(PAGE_LOCKED.items()))


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return an array over page-locked memory: `cupyx.empty_pinned`."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, alloc_pinned_memory(nbytes), order=order)


def zeros_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return zeros in page-locked memory: `cupyx.zeros_pinned`."""
    out = empty_pinned(shape, dtype, order)
    out[...] = 0
    return out


class _Registered:
    """Page-locks memory of the caller's."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def register(self, ptr: int, size: int, flags: int) -> None:
        if any(ptr < a + n and a < ptr + size for a, n in PAGE_LOCKED.items()):
            raise RuntimeError("cudaErrorHostMemoryAlreadyRegistered: part is already mapped")
        self.sizes[ptr] = PAGE_LOCKED[ptr] = size

    def unregister(self, ptr: int) -> None:
        if ptr not in self.sizes:
            raise RuntimeError("cudaErrorHostMemoryNotRegistered: pointer is not registered")
        released(ptr, ptr + self.sizes.pop(ptr), "unregistered")
        del PAGE_LOCKED[ptr]


_REGISTERED = _Registered()
hostRegister, hostUnregister = _REGISTERED.register, _REGISTERED.unregister

"""Two devices, of which one is current in each thread, and the memory that lies on them."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from . import record
from .streams import current_device, set_current_device

__all__ = [
    "COUNT",
    "Device",
    "OutOfMemoryError",
    "current_device",
    "limit",
    "limited",
    "reserve",
    "used",
]

COUNT = 2
CAPACITY = 64 * 2**30  # bytes of each device


_used = [0] * COUNT
_limit: list[int | None] = [None]


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError (cupy/cuda/memory.pyx)."""

    def __init__(self, size: int = 0, total: int = 0, limit: int = 0) -> None:
        self._size, self._total, self._limit = size, total, limit
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, "
            f"limit set to: {limit:,} bytes)."
        )


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device: Any = None) -> None:
        number = device.id if isinstance(device, Device) else device
        self.id = current_device() if number is None else int(number)
        if not 0 <= self.id < COUNT:
            msg = "cudaErrorInvalidDevice: invalid device ordinal"
            raise RuntimeError(msg)
        self._before: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        self._before.append(current_device())
        set_current_device(self.id)
        return self

    def __exit__(self, *raised: object) -> None:
        set_current_device(self._before.pop())

    def use(self) -> None:
        set_current_device(self.id)

    def synchronize(self) -> None:
        from .streams import synchronize_device

        synchronize_device(self.id)

    compute_capability = "90"
    cublas_handle = cusolver_handle = 1
    mem_info = property(lambda self: (CAPACITY - _used[self.id], CAPACITY))
    attributes = property(lambda self: {})


def limit(size: int | None) -> None:
    """Let allocations fail that would bring the use of a device above `size` bytes."""
    _limit[0] = size


def limited() -> int | None:
    """Return the limit, if there is one."""
    return _limit[0]


def used(device: int) -> int:
    """Return the bytes of a device that arrays hold."""
    return _used[device]


def reserve(name: str, memory: Any, host: np.ndarray) -> None:
    """Count memory of a device until the object that stands for it is gone."""
    size, device = host.nbytes, memory.device_id
    most = CAPACITY if _limit[0] is None else _limit[0]
    if _used[device] + size > most:
        raise OutOfMemoryError(size, _used[device], most)
    _used[device] += size
    record.allocated(name, size)
    weakref.finalize(memory, _release, device, size)


def _release(device: int, size: int) -> None:
    _used[device] -= size
    record.freed(size)

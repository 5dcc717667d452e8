"""NumPy arrays in the place of CuPy's, whose copies and streams are those of the double."""

from __future__ import annotations

import contextlib
import sys
import types
from typing import Any

import numpy as np
import pytest
from cupy_double import pinned, streams
from cupy_double.streams import Memory, worked

from ngdla._backend import block_sender, device_memory, device_streams
from ngdla.score_matrices import block_reader

GIGABYTE = 2**30


class Device(contextlib.nullcontext):
    """The only one."""

    id = 0


class NotedArray(np.ndarray):
    """An array that tells which memory of the device it has; views share it."""

    device = Device()
    memory: Memory

    def __array_finalize__(self, other: Any) -> None:
        self.memory = getattr(other, "memory", None) or Memory(0, self.nbytes)

    def set(self, source: np.ndarray, stream: Any = None) -> None:
        stream = streams.get_current_stream() if stream is None else stream
        target, buffer = self.view(np.ndarray), streams.borrowed(source)
        streams.copy_to_device(source, self.memory, lambda: np.copyto(target, buffer), stream)

    def read(self) -> np.ndarray:
        """Work with the values, and return them."""
        worked([self.memory], [])
        return np.array(self.view(np.ndarray))


def noted(values: Any) -> NotedArray:
    """Return an array that was made by work on the current stream."""
    x = np.array(values).view(NotedArray)
    worked([], [x.memory])
    return x


class Library:
    """What the library takes of CuPy, and how much memory the device has."""

    def __init__(self) -> None:
        self.free = self.total = GIGABYTE
        self.allocated: list[int] = []

    def empty(self, size: int, dtype: Any) -> NotedArray:
        self.allocated.append(size)
        return np.full(size, 99, dtype).view(NotedArray)

    def module(self) -> Any:
        cupy: Any = types.ModuleType("cupy")
        cupy.ndarray = type("ndarray", (), {})  # which array-api-compat asks for
        cupy.empty = self.empty
        cupy.get_default_memory_pool = lambda: types.SimpleNamespace(
            free_bytes=lambda: 0, used_bytes=lambda: 0, get_limit=lambda: 0
        )
        cupy.cuda = types.SimpleNamespace(
            Stream=streams.Stream,
            get_current_stream=streams.get_current_stream,
            pinned_memory=pinned,
            runtime=types.SimpleNamespace(memGetInfo=lambda: (self.free, self.total)),
        )
        return cupy


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the library take noted arrays for CuPy's; no stream may do what it must not."""
    streams.reset()
    fake = Library()
    cupy = fake.module()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", pinned)
    for module in (block_sender, device_memory, device_streams):
        plain = module.namespace
        monkeypatch.setattr(
            module, "namespace", lambda x, p=plain: cupy if isinstance(x, NotedArray) else p(x)
        )
    monkeypatch.setattr(block_reader, "is_host_array", lambda x: type(x) is np.ndarray)
    yield fake
    assert streams.VIOLATIONS == []
    streams.reset()

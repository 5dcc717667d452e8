"""Sending NumPy blocks to the library and device that work with them."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import random_array

from ngdla._backend import transfer


def test_arrays_arrive(valued_backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, (3, 8), dtype)
    like = backend.asarray(S[:1, :1])
    send = transfer.sender(like)
    for block in (S, S[:, 2:5], S[1:2, :], S[:, ::2], S):
        backend.assert_matches(send(block), block, like=like, dtype=dtype, tolerance=0.0)


def test_read_only_blocks(valued_backend: Backend) -> None:
    S = np.ones((3, 8), valued_backend.dtypes[0])
    S.flags.writeable = False
    sent = transfer.sender(valued_backend.asarray(S))(S)
    np.testing.assert_array_equal(valued_backend.numpy(sent), S)


@pytest.mark.parametrize("library", ["jax", "torch-cuda", "jax-gpu", "cupy"])
def test_libraries_that_work_later_have_a_copy(library: str) -> None:
    from backends import BACKENDS

    backend: Any = BACKENDS[library]()
    S = np.zeros((64, 4096))
    send = transfer.sender(backend.asarray(S))
    sums = []
    for i in range(6):
        S[...] = i
        sums.append((send(S) ** 2).sum())
    assert [float(backend.numpy(x)) for x in sums] == [i * i * S.size for i in range(6)]


# ------------------------------------------------- CuPy, with NumPy in the place of a device


class FakeStream:
    """Work that is done in order: at once if `eager`, else when something waits for it."""

    eager = False

    def __init__(self, non_blocking: bool = False) -> None:
        self.works: list[Callable[[], Any]] = []
        self.done, self.non_blocking = 0, non_blocking

    def add(self, work: Callable[[], Any]) -> None:
        self.works.append(work)
        if self.eager and self.non_blocking:
            self.run(len(self.works))

    def run(self, length: int) -> None:
        while self.done < length:
            self.done += 1
            self.works[self.done - 1]()

    def record(self) -> FakeEvent:
        return FakeEvent(self, len(self.works))

    def wait_event(self, event: FakeEvent) -> None:
        self.add(event.synchronize)


class FakeEvent:
    def __init__(self, stream: FakeStream, length: int) -> None:
        self.stream, self.length = stream, length

    def synchronize(self) -> None:
        self.stream.run(self.length)


class FakeArray(np.ndarray):
    """NumPy's, with what CuPy's arrays have and is used."""

    device: Any = contextlib.nullcontext()

    def set(self, block: np.ndarray, stream: FakeStream) -> None:
        stream.add(lambda: np.copyto(self, block))


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    """Let the library take NumPy arrays for CuPy's; give the stream of the caller."""
    stream = FakeStream()
    cupy: Any = types.ModuleType("cupy")
    cupy.empty = lambda size, dtype: np.full(size, 99, dtype).view(FakeArray)
    cupy.cuda = types.SimpleNamespace(Stream=FakeStream, get_current_stream=lambda: stream)
    cupyx: Any = types.ModuleType("cupyx")
    cupyx.empty_pinned = lambda size, dtype: np.full(size, 98, dtype)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    monkeypatch.setattr(transfer, "is_numpy_namespace", lambda _: False)
    monkeypatch.setattr(transfer, "is_cupy_namespace", lambda _: True)
    return stream


@pytest.mark.parametrize("widths", [[4] * 7, [2, 4, 1, 8, 8, 3, 9]], ids=str)
@pytest.mark.parametrize("eager", [True, False], ids=["copies early", "copies late"])
def test_a_device_that_works_late(
    computing: FakeStream, eager: bool, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slot is written before its last block was copied from, or worked with."""
    monkeypatch.setattr(FakeStream, "eager", eager)
    send, results = transfer.sender(np.zeros(1).view(FakeArray)), []
    buffer = np.empty((3, max(widths)))
    for i, width in enumerate(widths):
        block = buffer[:, :width]
        block[...] = i
        sent = send(block)
        block[...] = 97  # read into again
        computing.add(lambda sent=sent: results.append(np.array(sent)))
    computing.run(len(computing.works))
    for i, (width, result) in enumerate(zip(widths, results, strict=True)):
        np.testing.assert_array_equal(result, np.full((3, width), i))

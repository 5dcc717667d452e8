"""Sending the blocks of a matrix to the device that works with them."""

from __future__ import annotations

import contextlib
from typing import Any

import cupy_double.streams as device
import numpy as np
import pytest
from backends import Backend
from cupy_double import pinned
from noted_arrays import Library, NotedArray, library
from references import random_array

from ngdla._backend import block_sender as block_sender_module
from ngdla._backend import device_memory, host_copies
from ngdla._backend.block_sender import block_sender

__all__ = ["library"]

LIKE = np.zeros(1).view(NotedArray)


class Mapped(np.ndarray):
    """As `numpy.memmap` is."""


def test_arrays_arrive(valued_backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, (3, 8), dtype)
    like = backend.asarray(S[:1, :1])
    sender = block_sender(like)
    for keep in (False, True):
        for block in (S, S[:, 2:5], S[1:2, :], S[:, ::2], S):
            sent = sender.send(block, keep=keep).block
            backend.assert_matches(sent, block, like=like, dtype=dtype, tolerance=0.0)
            sender.let_go()
        sender.end_pass()


@pytest.mark.parametrize("library_name", ["jax", "torch-cuda", "jax-gpu", "cupy"])
def test_libraries_that_work_later_have_a_copy(library_name: str) -> None:
    from backends import BACKENDS

    backend: Any = BACKENDS[library_name]()
    S = np.zeros((64, 4096))
    sender, sums = block_sender(backend.asarray(S)), []
    for i in range(6):
        S[...] = i
        sums.append((sender.send(S, keep=False).block ** 2).sum())
        sender.let_go()
    sender.end_pass()
    assert [float(backend.numpy(x)) for x in sums] == [i * i * S.size for i in range(6)]


# ---------------------------------------- CuPy: streams and pinned memory are those of a double


def one_pass(sender: Any, widths: list[int], *, buffer: Any = None, **options: Any) -> None:
    """Send blocks from one buffer of the caller's, and work with each before the next."""
    buffer = np.empty(3 * max(widths)) if buffer is None else buffer
    for i, width in enumerate(widths):
        block = buffer[: 3 * width].reshape(3, width)
        block[...] = i
        sent = sender.send(block, keep=options.get("keep", False))
        if not options.get("at_rest"):
            np.testing.assert_array_equal(sent.block.read(), np.full((3, width), i))
        sent.let_go()
        sender.let_go()
        block[...] = 97  # read into again


WIDTHS = pytest.mark.parametrize("widths", [[4] * 7, [2, 4, 1, 8, 8, 3, 9], [5]], ids=str)


@WIDTHS
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stream", ["null", "own"])
def test_a_device_that_works_late(
    library: Library, widths: list[int], keep: bool, stream: str
) -> None:
    """No buffer is written before its last copy has ended, no place before the work with it."""
    sender = block_sender(LIKE)
    for _ in range(3):
        with device.Stream(null=stream == "null", non_blocking=True):
            one_pass(sender, widths, keep=keep)
            sender.end_pass()


@WIDTHS
def test_no_pinned_memory_is_given_back_while_it_is_read(
    library: Library, widths: list[int]
) -> None:
    """The pool gives it out again at once, here to the next reader."""
    for _ in range(3):
        sender = block_sender(LIKE)
        one_pass(sender, widths, at_rest=True)  # no copy is needed before the end
        sender.end_pass()
        del sender
    assert device.VIOLATIONS == []


def test_the_double_sees_a_pass_that_does_not_end(library: Library) -> None:
    sender = block_sender(LIKE)
    one_pass(sender, [4] * 3)
    del sender
    assert len(device.VIOLATIONS) == 2  # the last two blocks
    assert all("given back to the pool while a copy" in line for line in device.VIOLATIONS)
    device.reset()


def test_copies_go_on_while_the_device_works(library: Library) -> None:
    """A copy waits for the work up to the block before the last, not for the newest."""
    waits = []
    sender = block_sender(LIKE)
    copying, wait = sender._copying, sender._copying.wait_event
    copying.wait_event = lambda event: (waits.append(dict(event._clock)), wait(event))
    null, asked = device.Stream.null, []
    for _ in range(6):
        sent = sender.send(np.ones((3, 4)), keep=True)
        sent.block.read()
        asked.append(device._CLOCKS[null.name][null.name])
    for k in range(2, 6):
        assert asked[k - 2] < waits[k][null.name] <= asked[k - 1]
        assert waits[k][null.name] < asked[k - 1]
    sender.end_pass()


@pytest.mark.parametrize("how", ["pool", "registered"])
def test_pinned_blocks_are_not_copied_again(library: Library, how: str) -> None:
    buffer = pinned.empty_pinned(3 * 8) if how == "pool" else np.empty(3 * 8)
    if how == "registered":
        pinned.hostRegister(buffer.ctypes.data, buffer.nbytes, 0)
    in_use = pinned.POOL.in_use
    sender = block_sender(LIKE)
    one_pass(sender, [2, 8, 8, 4], buffer=buffer)
    one_pass(sender, [2, 8], buffer=buffer.view(Mapped))
    assert pinned.POOL.in_use == in_use
    sender.send(buffer.reshape(3, 8)[:, 1:3], keep=False)  # rows that do not follow each other
    assert pinned.POOL.in_use == in_use + 1
    sender.end_pass()
    if how == "registered":
        pinned.hostUnregister(buffer.ctypes.data)


def test_places_are_used_again(library: Library) -> None:
    sender = block_sender(LIKE)
    one_pass(sender, [4] * 9)
    assert library.allocated == [12, 12]
    one_pass(sender, [4] * 3, keep=True)
    assert library.allocated[2:] == [12] * 3  # the first of them had a place
    sender.end_pass()


def test_memory_that_runs_out(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a pass, which then ends."""
    sender = block_sender(LIKE)
    one_pass(sender, [4, 4])

    def none(size: int, dtype: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(library, "empty", none)
    monkeypatch.setattr("cupy.empty", none)
    with pytest.raises(MemoryError):
        sender.send(np.ones((3, 9)), keep=False)
    sender.end_pass()


# -------------------------------------------- torch: a device whose streams do all work at once


class Event:
    """Of work that is done."""

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


class Stream:
    """A stream of torch, as far as it is used."""

    def __init__(self, device: Any = None) -> None:
        self.events: list[Event] = []
        self.waits: list[Event] = []

    def record_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def wait_event(self, event: Event) -> None:
        self.waits.append(event)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the library take the CPU for a GPU of torch."""
    torch = pytest.importorskip("torch")
    current, empty = Stream(), torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    for context in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, context, lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch, "empty", lambda n, pin_memory=False, **options: empty(n, **options))
    for module in (block_sender_module, device_memory):
        monkeypatch.setattr(module, "has_streams", lambda x: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 15)
    return torch


@pytest.mark.parametrize("keep", [False, True])
def test_torch_waits_for_copies(torch: Any, keep: bool) -> None:
    sender = block_sender(torch.zeros(1))
    copying = sender._copying
    for i, width in enumerate((4, 8, 2, 8)):
        block = np.full((3, width), float(i), np.float32)
        sent = sender.send(block, keep=keep)
        block[...] = 97
        assert sent.block.dtype == torch.float32
        assert (sent.block == i).all()
        assert sent.home.waits[-1] is sent.copied is copying.events[-1]
        sent.arrive()
        sent.let_go()
        sender.let_go()
    sender.end_pass()
    assert all(event.waited for event in copying.events)


def test_torch_sends_pinned_blocks_as_they_are(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    sender = block_sender(torch.zeros(1))
    sent = sender.send(np.ones((3, 4)), keep=False)
    assert (sent.block == 1).all()
    assert sender._buffers == [None, None]
    sender.let_go()
    assert sent.copied.waited == 1


def test_memory_of_torch_that_is_to_spare(torch: Any) -> None:
    """Of 100 bytes 70 are free, and 5 in torch's pool."""
    assert device_memory.memory_to_spare(torch.zeros(1), 0) == 50
    assert device_memory.memory_to_spare(torch.zeros(1), 40) == 35
    assert device_memory.memory_to_spare(torch.zeros(1), 90) == 0


def test_memory_of_cupy_that_is_to_spare(library: Library) -> None:
    import cupy

    library.free, library.total = 60, 100
    assert device_memory.memory_to_spare(LIKE, 0) == 35
    pool = cupy.get_default_memory_pool()
    pool.free_bytes, pool.get_limit, pool.used_bytes = lambda: 10, lambda: 40, lambda: 12
    cupy.get_default_memory_pool = lambda: pool
    assert device_memory.memory_to_spare(LIKE, 0) == 28 - 10


# ------------------------------------------------------------------------- copies on the host


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_copies_by_several_threads(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copies, "_LARGE", 100)
    monkeypatch.setattr(host_copies, "_count", lambda: 3)
    host_copies._threads.cache_clear()
    S = np.arange(3000.0).reshape(5, 600)
    S = np.asfortranarray(S) if order == "F" else S[:, ::2] if order == "strided" else S
    try:
        for block in (S, S.T, S[:1], S[:2, :7]):
            target = np.zeros(block.shape)
            host_copies.copy_block(target, block)
            np.testing.assert_array_equal(target, block)
        assert host_copies._threads() is host_copies._threads()
    finally:
        host_copies._threads().shutdown()
        host_copies._threads.cache_clear()


def test_small_blocks_wake_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copies, "_threads", None)
    target = np.zeros((3, 4))
    host_copies.copy_block(target, np.ones((3, 4)))
    assert target.all()


def test_one_core_has_no_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= host_copies._count() <= 8
    host_copies._threads.cache_clear()
    monkeypatch.setattr(host_copies, "_count", lambda: 1)
    monkeypatch.setattr(host_copies, "_LARGE", 0)
    target = np.zeros((3, 4))
    host_copies.copy_block(target, np.ones((3, 4)))
    assert target.all()
    host_copies._threads.cache_clear()

"""The stand-in for CuPy's streams and pinned memory reports what a device might do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cupy_double import pinned, streams
from cupy_double.streams import VIOLATIONS, Event, Memory, Stream, get_current_stream, worked


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    streams.reset()
    pinned.POOL.free_all_blocks()
    yield
    streams.reset()


class Target:
    """Memory of a device with numbers, as arrays have it."""

    def __init__(self, length: int = 4) -> None:
        self.memory, self.values = Memory(0, 8 * length), np.zeros(length)

    def set(self, source: np.ndarray, stream: Stream) -> None:
        buffer = streams.borrowed(source)
        streams.copy_to_device(source, self.memory, lambda: np.copyto(self.values, buffer), stream)

    def read(self) -> np.ndarray:
        worked([self.memory], [])
        return self.values.copy()


def buffer(value: float = 1.0, length: int = 4) -> np.ndarray:
    out = pinned.empty_pinned(length)
    out[...] = value
    return out


def violation(words: str) -> None:
    """Assert that there is one violation, and what it says."""
    assert len(VIOLATIONS) == 1, VIOLATIONS
    assert words in VIOLATIONS[0]
    VIOLATIONS.clear()


# ---------------------------------------------------------------------------------- order


@pytest.mark.parametrize("writes", [False, True])
def test_another_stream_has_to_wait(writes: bool) -> None:
    x, y, other = Memory(0, 8), Memory(0, 8), Stream(non_blocking=True)
    with other:
        worked([], [x])
    worked(*(([y], [x]) if writes else ([x], [y])))
    violation("another stream wrote")


def test_what_is_read_is_not_written() -> None:
    x, other = Memory(0, 8), Stream(non_blocking=True)
    worked([x], [])
    with other:
        worked([x], [])  # both may read
        assert not VIOLATIONS
        worked([], [x])
    violation("another stream may still read")


@pytest.mark.parametrize("how", ["event", "synchronised event", "synchronised stream", "in turn"])
def test_order(how: str) -> None:
    x, first, second, third = Memory(0, 8), *(Stream(non_blocking=True) for _ in range(3))
    with first:
        worked([], [x])
    if how == "event":
        second.wait_event(first.record())
    elif how == "synchronised event":
        first.record().synchronize()
    elif how == "synchronised stream":
        first.synchronize()
    else:
        third.wait_event(first.record())
        second.wait_event(third.record())
    with second:
        worked([], [x])
    second.synchronize()
    assert not VIOLATIONS


def test_an_event_is_of_what_was_asked_for_before() -> None:
    x, other = Memory(0, 8), Stream(non_blocking=True)
    event = other.record()
    with other:
        worked([], [x])
    get_current_stream().wait_event(event)
    worked([x], [])
    violation("another stream wrote")


@pytest.mark.parametrize("non_blocking", [False, True])
def test_the_null_stream_waits_for_blocking_ones(non_blocking: bool) -> None:
    x, y, other = Memory(0, 8), Memory(0, 8), Stream(non_blocking=non_blocking)
    with other:
        worked([], [x])
    worked([x], [y])
    with other:
        worked([y], [])
    assert len(VIOLATIONS) == (2 if non_blocking else 0)


def test_streams_of_another_thread_are_the_null_stream() -> None:
    mine, seen = Stream(non_blocking=True), []
    with mine:
        thread = threading.Thread(target=lambda: seen.append(get_current_stream()))
        thread.start()
        thread.join()
        assert get_current_stream() == mine
    assert seen == [Stream.null]
    assert get_current_stream() == Stream(null=True)


def test_streams_belong_to_devices() -> None:
    with Stream() as first:
        streams.set_current_device(1)
        try:
            assert get_current_stream() == Stream.null
            assert get_current_stream(0) == first
            with pytest.raises(RuntimeError, match="does not match with the current device"):
                first.use()
        finally:
            streams.set_current_device(0)


def test_dropped_memory_is_given_out_again_on_its_own_stream() -> None:
    other = Stream(non_blocking=True)
    for wait in (True, False):
        x = Memory(0, 8)
        with other:
            worked([x], [])
        if wait:
            get_current_stream().wait_event(other.record())
        del x
        if wait:
            assert not VIOLATIONS
    violation("was dropped")


def test_what_is_done() -> None:
    event, stream = Event(), Stream()
    assert event.done  # never recorded
    assert stream.done
    stream.record(event)
    assert not event.done
    event.synchronize()
    assert event.done
    assert stream.done


def test_a_device_is_waited_for() -> None:
    elsewhere = Stream(non_blocking=True)
    streams.set_current_device(1)
    try:
        other = Stream(non_blocking=True)
        other.record()
    finally:
        streams.set_current_device(0)
    elsewhere.record()
    streams.synchronize_device(0)
    assert elsewhere.done
    assert not other.done
    streams.synchronize_device(1)
    assert other.done


# ---------------------------------------------------------------------------------- copies


def test_copies_are_late() -> None:
    x, source = Target(), buffer()
    copying = Stream(non_blocking=True)
    x.set(source, copying)
    assert not x.values.any()
    copying.record().synchronize()
    assert x.values.all()
    assert not VIOLATIONS


def test_copies_are_done_for_work_that_waits() -> None:
    x, source = Target(), buffer()
    copying = Stream(non_blocking=True)
    x.set(source, copying)
    get_current_stream().wait_event(copying.record())
    assert x.read().all()
    copying.synchronize()
    assert not VIOLATIONS


def test_work_that_does_not_wait_comes_too_early() -> None:
    x, source = Target(), buffer()
    x.set(source, Stream(non_blocking=True))
    assert not x.read().any()
    violation("another stream wrote")


def test_copies_from_pageable_memory_are_done_at_once() -> None:
    x, source = Target(), np.ones(4)
    x.set(source, get_current_stream())
    source[...] = 2.0
    np.testing.assert_array_equal(x.values, np.ones(4))


@pytest.mark.parametrize("needed", [False, True], ids=["copied late", "copied early"])
@pytest.mark.parametrize("waits", [True, False])
def test_a_buffer_is_not_written_before_the_host_has_waited(waits: bool, needed: bool) -> None:
    x, source = Target(), buffer()
    stream = get_current_stream()
    x.set(source, stream)
    if needed:
        x.read()
    if waits:
        stream.synchronize()
    source[...] = 2.0
    stream.synchronize()
    if waits:
        assert not VIOLATIONS
    else:
        violation("was written before")


@pytest.mark.parametrize("kept", ["waited for", "watched", "neither"])
def test_a_buffer_is_not_given_back_before_the_host_has_waited(kept: str) -> None:
    x, source = Target(), buffer()
    stream = get_current_stream()
    x.set(source, stream)
    if kept == "waited for":
        stream.synchronize()
    elif kept == "watched":
        pinned._add_to_watch_list(stream.record(), source)
    address = source.ctypes.data
    del source
    again = buffer(2.0)
    assert (again.ctypes.data == address) == (kept != "watched")
    if kept == "neither":
        violation("was given back to the pool")
        stream.synchronize()
        np.testing.assert_array_equal(x.values, again)  # the numbers of someone else
        violation("was written before a copy")
    else:
        stream.synchronize()
        np.testing.assert_array_equal(x.values, np.ones(4))
        assert not VIOLATIONS


def test_a_copy_that_would_keep_its_buffer_is_refused() -> None:
    source, target = buffer(), np.zeros(4)
    with pytest.raises(TypeError, match="borrowed"):
        streams.copy_to_device(
            source, Memory(0, 32), lambda: np.copyto(target, source), get_current_stream()
        )


def test_views_of_a_buffer_are_borrowed_as_they_are() -> None:
    whole = np.arange(24.0).reshape(4, 6)
    source = pinned.empty_pinned((4, 6), order="F")
    source[...] = whole
    for part in (np.s_[:], np.s_[1:3, ::2], np.s_[::-1, 2], np.s_[:0]):
        np.testing.assert_array_equal(streams.borrowed(source[part]), whole[part])


# ---------------------------------------------------------------------------------- the pool


def test_the_pool_gives_the_last_buffer_out_again() -> None:
    first, second, larger = buffer(), buffer(), buffer(length=65)  # 520 bytes take 1024
    addresses = [x.ctypes.data for x in (first, second, larger)]
    del first, larger, second
    assert pinned.POOL.n_free_blocks() == 3
    assert [buffer(length=64).ctypes.data, buffer(length=128).ctypes.data] == addresses[1:]


def test_views_keep_a_buffer() -> None:
    x = buffer()
    part, in_use = x[1:].reshape(3, 1), pinned.POOL.in_use
    del x
    assert pinned.POOL.in_use == in_use
    assert part.all()
    del part
    assert pinned.POOL.in_use == in_use - 1


def test_freed_buffers_are_poisoned() -> None:
    x = buffer()
    raw = streams.borrowed(x)
    del x
    assert np.isnan(raw).all()
    assert np.isnan(pinned.empty_pinned(4)).all()
    assert not pinned.zeros_pinned((2, 2), np.complex64).any()


def test_the_watch_list_lets_go_in_its_order() -> None:
    early, late, held = Event(), Event(), [buffer(), buffer()]
    in_use = pinned.POOL.in_use
    streams_of = Stream(non_blocking=True), Stream(non_blocking=True)
    for event, stream, x in zip((early, late), streams_of, held):
        stream.record(event)
        pinned._add_to_watch_list(event, x)
    held.clear()
    del x
    late.synchronize()
    pinned.alloc_pinned_memory(4096)
    assert pinned.POOL.in_use == in_use  # the first one is not done
    early.synchronize()
    pinned.alloc_pinned_memory(4096)
    assert pinned.POOL.in_use == in_use - 2


def test_registered_memory() -> None:
    x, source = Target(), np.ones(4)
    stream, address = get_current_stream(), source.ctypes.data
    assert not pinned.is_memory_pinned(address)
    pinned.hostRegister(address, source.nbytes, 0)
    with pytest.raises(RuntimeError, match="AlreadyRegistered"):
        pinned.hostRegister(address + 8, 8, 0)
    assert pinned.is_memory_pinned(address + 31)
    x.set(source, stream)
    assert not x.values.any()
    pinned.hostUnregister(address)
    violation("was unregistered while a copy may still read it")
    stream.synchronize()
    with pytest.raises(RuntimeError, match="NotRegistered"):
        pinned.hostUnregister(address)


def test_memory_without_a_pool() -> None:
    pinned.set_pinned_memory_allocator()
    try:
        x = buffer()
        address = x.ctypes.data
        assert pinned.is_memory_pinned(address)
        del x
        assert not pinned.is_memory_pinned(address)
    finally:
        pinned.set_pinned_memory_allocator(pinned.POOL.malloc)


def test_many_threads_may_ask() -> None:
    errors: list[Any] = []

    def work() -> None:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(Stream(non_blocking=True))
                x = Target()
                for i in range(20):
                    source = buffer(i)
                    x.set(source, get_current_stream())
                    get_current_stream().synchronize()
                    assert (x.values == i).all()
            except BaseException as error:  # noqa: BLE001  raised below
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not VIOLATIONS

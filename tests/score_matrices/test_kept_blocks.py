"""Passes over blocks on a device: what is kept, in which order work is asked for, what runs out."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import cupy_double.streams as device
import numpy as np
import pytest
from cupy_double import pinned
from noted_arrays import Library, NotedArray, library, noted

import ngdla
from ngdla.score_matrices.block_reader import BlockReader, block_reader
from ngdla.score_matrices.score_stream import one_pass

__all__ = ["library"]

SHAPE, WIDTHS = (3, 24), (4, 8, 8, 4)
LIKE = np.zeros(1).view(NotedArray)


class Source:
    """Makes blocks in a buffer of its own, and counts passes."""

    def __init__(self, *, reused: bool = True) -> None:
        self.calls, self.reused = 0, reused
        self.buffers = [np.empty(24) for _ in range(2)]

    def __call__(self) -> Iterator[np.ndarray]:
        self.calls += 1
        for i, width in enumerate(WIDTHS):
            block = self.buffers[i % 2][: 3 * width].reshape(3, width)
            block[...] = i
            yield block
            self.buffers[1 - i % 2][...] = 97  # that of the block before


def reader(source: Any, *, prefetch: bool = False) -> BlockReader:
    made = block_reader(source, SHAPE, 1, "float64", LIKE, prefetch=prefetch, progress=False)
    return made.for_call()


def values(arrivals: Any) -> list[float]:
    """Work with the blocks of a pass, and return the one number of each."""
    seen = []
    with closing(arrivals) as blocks:
        for span, block in blocks:
            x = block.read()
            assert x.shape == (3, span.stop - span.start)
            assert (x == x[0, 0]).all()
            seen.append(float(x[0, 0]))
    return seen


@pytest.fixture(params=[False, True], ids=["in this thread", "prefetched"])
def prefetch(request: pytest.FixtureRequest) -> bool:
    return request.param


# ----------------------------------------------------------------------------------- kept


def test_a_second_pass_copies_nothing(library: Library, prefetch: bool) -> None:
    source = Source()
    blocks = reader(source, prefetch=prefetch)
    assert values(blocks.blocks("S")) == [0, 1, 2, 3]
    allocated = len(library.allocated)
    for _ in range(2):
        assert values(blocks.blocks("S")) == [0, 1, 2, 3]
    assert source.calls == 1
    assert len(library.allocated) == allocated


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5])
def test_blocks_are_kept_while_they_fit(library: Library, prefetch: bool, room: int) -> None:
    """Beside a quarter of the device, and the place of the next block."""
    library.total = 400_000
    library.free = library.total // 4 + 3 * 8 * (WIDTHS[0] + sum(WIDTHS[:room]))
    source = Source()
    blocks = reader(source, prefetch=prefetch)
    for _ in range(3):
        assert values(blocks.blocks("S")) == [0, 1, 2, 3]
    assert source.calls == (1 if room >= 4 else 3)
    assert len(blocks.kept) == min(room, 4)


def test_each_call_reads_its_blocks(library: Library) -> None:
    source = Source()
    first, second = reader(source), reader(source)
    values(first.blocks("S"))
    values(second.blocks("S"))
    assert source.calls == 2


def test_a_call_within_a_call_is_no_other(library: Library) -> None:
    stream = ngdla.ColumnStream(Source(), SHAPE, dtype="float64", like=LIKE)
    call = stream.for_call()
    assert call is not stream
    assert call.named("T").for_call()._reader is call._reader
    assert stream.for_call()._reader is not call._reader


def test_without_a_call_nothing_is_kept(library: Library) -> None:
    source = Source()
    blocks = block_reader(source, SHAPE, 1, "float64", LIKE, prefetch=False, progress=False)
    values(blocks.blocks("S"))
    values(blocks.blocks("S"))
    assert source.calls == 2


def test_nothing_is_kept_on_the_host() -> None:
    source = Source()
    stream = ngdla.ColumnStream(source, SHAPE, dtype="float64").for_call()
    stream.gram("float64")
    stream.gram("float64")
    assert source.calls == 2
    assert len(stream._reader.kept) == 0


def test_kept_memory_ends_with_the_call(library: Library) -> None:
    blocks = reader(Source())
    values(blocks.blocks("S"))
    memories = [weakref.ref(sent.block.memory) for sent in blocks.kept.blocks()]
    del blocks
    gc.collect()
    assert [memory() for memory in memories] == [None] * 4


def test_pickles_hold_no_blocks(library: Library) -> None:
    stream = ngdla.ColumnStream([np.ones((3, 24))], SHAPE, dtype="float64").for_call()
    again = pickle.loads(pickle.dumps(stream))
    assert stream._reader.kept is not None
    assert again._reader.kept is None
    np.testing.assert_array_equal(again.gram("float64")[0], stream.gram("float64")[0])


@pytest.mark.parametrize("streams", ["null, own", "own, null", "own, own"])
def test_passes_on_other_streams(library: Library, streams: str) -> None:
    """As when a factor is used where it was not made."""
    blocks = reader(Source())
    for name in streams.split(", ") * 2:
        with device.Stream(null=name == "null", non_blocking=True):
            assert values(blocks.blocks("S")) == [0, 1, 2, 3]
    del blocks
    gc.collect()


@pytest.mark.parametrize("kept", [False, True])
def test_pinned_buffers_of_the_maker(library: Library, prefetch: bool, kept: bool) -> None:
    """Are read before they are written again, which may be when the next block is made."""
    if not kept:
        library.free = 0
    source, in_use = Source(), pinned.POOL.in_use
    source.buffers = [pinned.empty_pinned(24) for _ in range(2)]
    blocks = reader(source, prefetch=prefetch)
    for _ in range(2):
        assert values(blocks.blocks("S")) == [0, 1, 2, 3]
    assert pinned.POOL.in_use == in_use + 2


# ------------------------------------------------------------------------- passes that end early


def test_a_pass_that_is_dropped(library: Library, prefetch: bool) -> None:
    in_use = pinned.POOL.in_use
    blocks = reader(Source(), prefetch=prefetch)
    with closing(blocks.blocks("S")) as arrivals:
        next(arrivals)
        next(arrivals)
    del blocks, arrivals
    gc.collect()
    assert pinned.POOL.in_use == in_use


@pytest.mark.parametrize("prefetch", [False])  # a thread is ended by `close` only
def test_a_pass_that_no_one_closes(library: Library, prefetch: bool) -> None:
    arrivals = reader(Source(), prefetch=prefetch).blocks("S")
    next(arrivals)
    next(arrivals)
    del arrivals
    gc.collect()


def test_a_pass_that_fails(library: Library, prefetch: bool) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from (np.zeros((3, 4)), np.ones((3, 8)))
        raise OSError("no network")

    blocks = reader(failing, prefetch=prefetch)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no network"):
            values(blocks.blocks("S"))


def test_passes_side_by_side(library: Library, prefetch: bool) -> None:
    blocks = reader([np.full((3, w), float(i)) for i, w in enumerate(WIDTHS)], prefetch=prefetch)
    with closing(blocks.blocks("S")) as one, closing(blocks.blocks("S")) as two:
        for (_, x), (_, y) in zip(one, two):
            np.testing.assert_array_equal(x.read(), y.read())
    assert values(blocks.blocks("S")) == [0, 1, 2, 3]


def test_readers_of_many_threads(library: Library, prefetch: bool) -> None:
    """Each with a stream of its own, on blocks of one source."""
    source = [np.full((3, w), float(i)) for i, w in enumerate(WIDTHS)]
    shared, results, errors = reader(source, prefetch=prefetch), [], []

    def work(blocks: BlockReader) -> None:
        try:
            with device.Stream(non_blocking=True):
                results.extend(values(blocks.blocks("S")) for _ in range(3))
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    readers = [shared, shared, reader(source, prefetch=prefetch)]
    threads = [threading.Thread(target=work, args=(blocks,)) for blocks in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert results == [[0, 1, 2, 3]] * 9


# --------------------------------------------------------------------- blocks made on a device


def on_device(stream: Callable[[], Any], *, reused: bool) -> Callable[[], Iterator[NotedArray]]:
    """Return a maker of blocks that lie on the device, perhaps always in the same memory."""

    def source() -> Iterator[NotedArray]:
        places = [noted(np.zeros((3, 8))) for _ in range(2)]
        with stream():
            for i in range(3):
                if reused:
                    block = places[i % 2]
                    device.worked([], [block.memory])
                    np.copyto(block.view(np.ndarray), i)
                else:
                    block = noted(np.full((3, 8), float(i)))
                yield block

    return source


@pytest.mark.parametrize("consumer", ["null", "own"])
@pytest.mark.parametrize("reused", [False, True])
def test_blocks_of_another_thread(
    library: Library, prefetch: bool, consumer: str, reused: bool
) -> None:
    """Whose current stream is the null stream: work waits for it, and it for the work."""
    null = device.Stream.null
    blocks = reader(on_device(lambda: null, reused=reused), prefetch=prefetch)
    with device.Stream(null=consumer == "null" or not prefetch, non_blocking=True):
        for _ in range(2):
            assert values(blocks.blocks("S")) == [0, 1, 2]
    gc.collect()


def test_blocks_of_a_stream_of_the_maker(library: Library) -> None:
    """That is current where the block is yielded."""
    own = device.Stream(non_blocking=True)
    blocks = reader(on_device(lambda: own, reused=False), prefetch=True)
    assert values(blocks.blocks("S")) == [0, 1, 2]
    gc.collect()


def test_blocks_on_the_device_are_not_kept(library: Library) -> None:
    blocks = reader(on_device(lambda: device.Stream.null, reused=False))
    values(blocks.blocks("S"))
    assert len(blocks.kept) == 0
    assert not blocks.kept.whole


# ------------------------------------------------------------------------------ memory runs out


class ShortMatrix:
    """Work that runs out of memory as long as there are kept blocks, or always."""

    def __init__(self, stream: Any, *, always: bool = False) -> None:
        self.stream, self.always, self.tries = stream, always, 0

    def __call__(self, block: Any) -> None:
        if len(self.stream._reader.kept) > 1 or self.always:
            self.tries += 1
            raise MemoryError("Out of memory allocating 1,234 bytes")


@pytest.fixture
def short(library: Library, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a stream, and what its blocks do in a pass."""
    stream = ngdla.ColumnStream(Source(), SHAPE, dtype="float64", like=LIKE).for_call()
    work = ShortMatrix(stream)

    def block(self: Any, S: Any, scales: Any) -> Any:
        work(S)

        class Blocks:
            def matvec(self, x: Any) -> np.ndarray:
                return S.read() @ x[0]

        return Blocks()

    monkeypatch.setattr(ngdla.ColumnStream, "_block", block)
    return stream, work


def test_kept_blocks_are_given_up_once(short: Any) -> None:
    stream, work = short
    x = (np.ones((24, 1)),)
    expected = sum(i * w for i, w in enumerate(WIDTHS))
    for _ in range(2):
        np.testing.assert_array_equal(stream.matvec(x), np.full((3, 1), expected))
    assert work.tries == 1
    assert stream._reader.source.calls == 3  # the first of them to its second block


def test_memory_that_is_short_without_them(short: Any) -> None:
    stream, work = short
    work.always = True
    in_use = pinned.POOL.in_use
    with pytest.raises(MemoryError, match=r"a pass over `S` takes up to [\d,]+ bytes") as caught:
        stream.matvec((np.ones((24, 1)),))
    assert work.tries == 2
    assert "Pass smaller blocks" in str(caught.value)
    assert "allocating 1,234 bytes" in str(caught.value)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert len(stream._reader.kept) == 0
    del stream
    gc.collect()
    assert pinned.POOL.in_use == in_use


def test_blocks_that_do_not_fit(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.free = 0

    def empty(size: int, dtype: Any) -> None:
        raise MemoryError(f"Out of memory allocating {8 * size:,} bytes")

    monkeypatch.setattr("cupy.empty", empty)
    stream = ngdla.ColumnStream(Source(), SHAPE, dtype="float64", like=LIKE)
    with pytest.raises(MemoryError, match="block 0 of `S` takes up to 96 bytes, for which memory"):
        ngdla.gram(stream)


def test_makers_that_run_out_of_memory(library: Library, prefetch: bool) -> None:
    """Which kept blocks may have caused: the pass begins again without them."""
    always = [False]

    def short() -> Iterator[np.ndarray]:
        for i in range(3):
            if i == 2 and (len(stream._reader.kept) or always[0]):
                raise MemoryError("Out of memory allocating 1,234 bytes")
            yield np.full((3, 8), float(i))

    stream = ngdla.ColumnStream(short, SHAPE, dtype="float64", like=LIKE, prefetch=prefetch)
    stream = stream.for_call()
    read_all = one_pass(lambda self: values(self._reader.blocks("S")))
    assert read_all(stream) == [0, 1, 2]
    always[0] = True
    with pytest.raises(MemoryError, match=r"block 2 of the stream `S` could not be had.*smaller"):
        read_all(stream)


def test_other_errors_are_not_of_memory(short: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _ = short

    def failing(*args: Any) -> None:
        raise OverflowError("not of memory")

    monkeypatch.setattr(ngdla.ColumnStream, "_block", failing)
    with pytest.raises(OverflowError, match="not of memory"):
        stream.matvec((np.ones((24, 1)),))
    assert len(stream._reader.kept) == 0

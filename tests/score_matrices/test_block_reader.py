"""One pass over blocks: what is refused, in which words, and that no thread outlives it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

import ngdla
from ngdla.score_matrices.block_reader import fetch_ahead

SHAPE = (3, 8)


def blocks(count: int = 4, width: int = 2, **options: Any) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (np.ones((3, width), **options) for _ in range(count))


def solve(source: Any, *, dtype: Any = "float64", **options: Any) -> Any:
    stream = ngdla.ColumnStream(source, SHAPE, dtype=dtype, **options)
    return ngdla.damped_lstsq(stream, np.ones(3), 1.0)


def prefetching() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ngdla")]


@pytest.fixture(params=[False, True], ids=["in this thread", "prefetched"])
def prefetch(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield request.param
    assert not prefetching()


# --------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (blocks(3), ValueError, r"stream `S` ended with 6 of 8 columns, as its shape \(3, 8\)"),
        (blocks(5), ValueError, r"`block 4 of S` has 2 columns after 8, .* \(3, 8\) has only 8"),
        (blocks(2, 5), ValueError, r"`block 1 of S` has 5 columns after 5"),
        (lambda: iter([np.ones((4, 2))]), ValueError, r"`block 0 of S` has shape \(4, 2\).*3, any"),
        (lambda: iter([np.ones(3)]), ValueError, r"`block 0 of S` has shape \(3,\).*\(3, any\)"),
        (lambda: iter([np.ones((3, 0))]), ValueError, r"`block 0 of S` has shape \(3, 0\)"),
        (lambda: np.ones((3, 8)), ValueError, r"`block 0 of S` has shape \(8,\)"),
        (blocks(dtype="float32"), TypeError, "`block 0 of S` has dtype float32.* dtype float64"),
        (blocks(dtype="complex128"), TypeError, "`block 0 of S` has dtype complex128"),
        (blocks(dtype="int64"), TypeError, "`block 0 of S` has dtype int64"),
        (blocks(dtype=">f8"), TypeError, "`block 0 of S` .* in native byte order"),
        (lambda: iter(["S"]), TypeError, "`block 0 of S` is a builtins.str"),
        (lambda: iter([{"S": np.ones((3, 8))}]), TypeError, "`block 0 of S` is a dict"),
        (lambda: 7, RuntimeError, r"block 0 of the stream `S` .*'int' object is not iterable"),
        (lambda: iter(()), ValueError, "ended with 0 of 8 columns.*fresh iterator each time"),
        ([np.ones((3, 4))], ValueError, "ended with 4 of 8 columns, as its shape .* says.$"),
        ([np.ones((3, 8)), lambda: 1], TypeError, "`block 1 of S` is a builtins.int"),
    ],
)
def test_blocks_that_do_not_fit(
    source: Any, error: type[Exception], message: str, prefetch: bool
) -> None:
    with pytest.raises(error, match=message):
        solve(source, prefetch=prefetch)


def test_rows_that_do_not_fit(prefetch: bool) -> None:
    for height, message in ((3, "ended with 3 of 8 rows"), (9, "has 9 rows after 0")):
        stream = ngdla.RowStream([np.ones((height, 2))], (8, 2), dtype="float64", prefetch=prefetch)
        with pytest.raises(ValueError, match=message):
            ngdla.damped_lstsq(stream, np.ones(8), 1.0)


def test_an_iterator_that_is_not_fresh(prefetch: bool) -> None:
    once = blocks()()
    with pytest.raises(ValueError, match=r"0 of 8 columns.*must return a fresh iterator each time"):
        solve(lambda: once, prefetch=prefetch)


def test_a_source_that_raises(prefetch: bool) -> None:
    class LostError(Exception):
        pass

    def failing() -> Iterator[np.ndarray]:
        yield from blocks(2)()
        raise LostError("no network")

    with pytest.raises(RuntimeError, match="block 2 of the stream `S` could not be had") as caught:
        solve(failing, prefetch=prefetch)
    assert isinstance(caught.value.__cause__, LostError)


def test_blocks_of_another_library(prefetch: bool) -> None:
    torch = pytest.importorskip("torch")
    source = [torch.ones((3, 8), dtype=torch.float64)]
    with pytest.raises(TypeError, match="`block 0 of S` is a torch array but `like` is a numpy"):
        solve(source, prefetch=prefetch)


# -------------------------------------------------------------------------------- threads


def test_the_thread_ends_when_the_consumer_stops() -> None:
    arrived = []

    def endless() -> Iterator[int]:
        for i in range(10**9):
            arrived.append(i)
            yield i

    with closing(fetch_ahead(endless())) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        assert prefetching()
    assert not prefetching()
    assert len(arrived) <= 3  # one ahead of what was used


def test_the_thread_ends_when_the_work_fails() -> None:
    """Also while the traceback, which knows all frames, is alive."""
    with pytest.raises(ValueError, match="has shape") as caught:
        solve([np.ones((3, 2)), np.ones((4, 2)), np.ones((3, 4))], prefetch=True)
    assert caught.value.__traceback__ is not None
    assert not prefetching()


def test_two_buffers_suffice_for_prefetching() -> None:
    buffers = [np.empty((3, 2)), np.empty((3, 2))]

    def reused() -> Iterator[np.ndarray]:
        for i in range(4):
            buffers[i % 2][...] = i + 1.0
            yield buffers[i % 2]

    stream = ngdla.ColumnStream(reused, SHAPE, dtype="float64", prefetch=True)
    np.testing.assert_array_equal(ngdla.gram(stream), np.full((3, 3), 2.0 * (1 + 4 + 9 + 16)))


INTERRUPTED = """
import os, signal, sys, threading, time
from contextlib import closing

import numpy as np

import ngdla
from ngdla.score_matrices.block_reader import fetch_ahead


def never():
    lock = threading.Lock()
    with lock:
        lock.acquire()


def source(read):
    yield np.ones((3, 2))
    yield np.ones((3, 2))
    threading.Timer(0.1, interrupt).start()
    read()
    yield np.ones((3, 4))


def interrupt():
    global since
    since = time.perf_counter()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def waits_for_the_reader(read):
    ngdla.gram(ngdla.ColumnStream(lambda: source(read), (3, 8), dtype="float64", prefetch=True))


def works_meanwhile(read):
    with closing(fetch_ahead(source(read))) as ahead:
        for block in ahead:
            time.sleep(0.2)


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start us without
for call, read in (waits_for_the_reader, never), (works_meanwhile, lambda: time.sleep(300)):
    try:
        call(read)
    except KeyboardInterrupt:
        print(time.perf_counter() - since)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a wait cannot be interrupted there")
def test_ctrl_c_waits_for_no_reader() -> None:
    """Nor does the end of the process."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=True
    )
    waited = [float(line) for line in done.stdout.split()]
    assert len(waited) == 2
    assert max(waited) < 1.0


def test_blocks_are_closed_where_they_are_used() -> None:
    closed = []

    def source() -> Iterator[np.ndarray]:
        try:
            yield from blocks(9)()
        finally:
            closed.append(threading.current_thread())

    with closing(fetch_ahead(source())) as ahead:
        next(ahead)
    assert closed == [threading.current_thread()]


def test_no_block_is_kept_by_the_thread() -> None:
    kept = []

    def source() -> Iterator[np.ndarray]:
        for _ in range(4):
            block = np.ones((3, 2))
            kept.append(weakref.ref(block))
            yield block
            del block

    with closing(fetch_ahead(source())) as ahead:
        for _ in range(3):
            next(ahead)
        while len(kept) < 4:  # the thread is one ahead
            time.sleep(0.001)
        assert [block() is not None for block in kept] == [False, False, True, True]


# ------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "`blocks` is a NoneType"),
        (iter([]), "`blocks` is a list_iterator, which is exhausted after one pass"),
        (np.ones(SHAPE), "`blocks` is one array, which needs no stream"),
        ({"S": np.ones(SHAPE)}, "`blocks` is a dict"),
        ([], "`blocks` is empty"),
    ],
)
def test_sources_without_a_second_pass(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"{message}.*pass a callable that returns a fresh"):
        ngdla.ColumnStream(source, SHAPE, dtype="float64")


@pytest.mark.parametrize("shape", [(3,), (3, 8, 1), 24, "38", (0, 8), (3, -8), (3.0, 8), (True, 8)])
def test_shapes(shape: Any) -> None:
    with pytest.raises(ValueError, match="`shape`"):
        ngdla.ColumnStream(blocks(), shape, dtype="float64")


@pytest.mark.parametrize("dtype", ["int64", "double", int, np.int32, None, np.dtype(">f8")])
def test_dtypes_that_there_are_not(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"`dtype` is .*float16, bfloat16"):
        ngdla.ColumnStream(blocks(), SHAPE, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_ways_to_name_a_dtype(dtype: Any) -> None:
    assert ngdla.ColumnStream(blocks(), SHAPE, dtype=dtype).dtype == "float64"


def test_other_arguments() -> None:
    with pytest.raises(TypeError, match=r"`like` is builtins\.str"):
        solve(blocks(), like="cuda")
    with pytest.raises(TypeError, match="`prefetch` is 1"):
        solve(blocks(), prefetch=1)
    strict = pytest.importorskip("array_api_strict")
    like = strict.ones(1, device=strict.Device("no_float64"), dtype=strict.float32)
    with pytest.raises(ValueError, match="`dtype` is float64, which array_api_strict does not"):
        solve(blocks(), like=like)
    dask = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="`like` is dask"):
        solve(blocks(), like=dask.ones(1))


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    solve(blocks(), progress=True)
    assert "pass over S: 100%" in capsys.readouterr().err


def test_progress_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install 'ngdla\[progress\]'"):
        ngdla.ColumnStream(blocks(), SHAPE, dtype="float64", progress=True)


def test_a_block_that_is_none_is_not_the_end() -> None:
    blocks = iter([np.ones(1), None, np.ones(2)])
    assert [block is None for block in fetch_ahead(blocks)] == [False, True, False]

"""Streams to a GPU, on the stand-in for CuPy: copies, memory, and work in its order."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import cupy_double
import numpy as np
import pytest

import ngdla
from ngdla._backend.kept_arrays import give_up_kept

pytestmark = pytest.mark.cupy_double

N, M, BLOCKS = 16, 4096, 8
BYTES = 8 * N * M


@pytest.fixture
def cupy() -> Iterator[Any]:
    """Give the stand-in; nothing may be worked with too early, and nothing be left."""
    import cupy

    give_up_kept()  # a call that fails does it
    gc.collect()
    before = cupy.get_default_memory_pool().used_bytes()
    cupy_double.VIOLATIONS.clear()
    yield cupy
    give_up_kept()
    gc.collect()
    cupy.get_default_memory_pool().set_limit(0)
    assert cupy_double.VIOLATIONS == []
    assert cupy.get_default_memory_pool().used_bytes() == before


@pytest.fixture
def S(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((N, M))


def in_one_buffer(S: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """Return blocks that are read into two buffers in turn."""

    def source() -> Iterator[np.ndarray]:
        buffers = np.empty((2, N, M // BLOCKS))
        for i in range(BLOCKS):
            buffers[i % 2] = S[:, i * (M // BLOCKS) : (i + 1) * (M // BLOCKS)]
            yield buffers[i % 2]
            buffers[1 - i % 2] = np.nan

    return source


def stream(S: np.ndarray, cupy: Any, **options: Any) -> ngdla.ColumnStream:
    like = cupy.zeros(1)
    return ngdla.ColumnStream(in_one_buffer(S), S.shape, dtype="float64", like=like, **options)


def uploads(record: Any) -> int:
    """Return how many blocks were copied to the device."""
    return sum(size == BYTES // BLOCKS for size in record.uploads)


def assert_solves(x: Any, S: np.ndarray, f: np.ndarray) -> None:
    expected = ngdla.damped_lstsq(S, f, 1e-3)
    np.testing.assert_allclose(x.get(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["null stream", "own stream"])
def test_one_call_copies_each_block_once(
    cupy: Any, S: np.ndarray, rng: np.random.Generator, prefetch: bool, own: bool
) -> None:
    f = rng.standard_normal(N)
    scores, g = stream(S, cupy, prefetch=prefetch), cupy.asarray(f)
    with cupy.cuda.Stream(non_blocking=True) if own else contextlib.nullcontext():
        g = cupy.asarray(f)
        for _ in range(2):  # two calls
            with cupy_double.recorded() as record:
                x = ngdla.damped_lstsq(scores, g, 1e-3)
            assert uploads(record) == BLOCKS
            assert_solves(x, S, f)


def test_blocks_that_do_not_all_fit(cupy: Any, S: np.ndarray, rng: np.random.Generator) -> None:
    f, scores, pool = rng.standard_normal(N), stream(S, cupy), cupy.get_default_memory_pool()
    pool.set_limit(pool.used_bytes() + BYTES)
    with cupy_double.recorded() as record:
        x = ngdla.damped_lstsq(scores, cupy.asarray(f), 1e-3)
    assert BLOCKS < uploads(record) < 3 * BLOCKS
    assert_solves(x, S, f)


def test_a_factor_keeps_blocks(cupy: Any, S: np.ndarray, rng: np.random.Generator) -> None:
    f, scores = rng.standard_normal(N), stream(S, cupy)
    factor = ngdla.damped_factor(scores, 1e-3)
    with cupy_double.recorded() as record:
        x = factor.lstsq(cupy.asarray(f))
        with cupy.cuda.Stream(non_blocking=True) as other:
            other.wait_event(cupy.cuda.Stream.null.record())
            y = factor.lstsq(cupy.asarray(f))
            assert_solves(y, S, f)
    assert uploads(record) == 0
    assert_solves(x, S, f)


def test_kept_blocks_make_room(cupy: Any, S: np.ndarray, rng: np.random.Generator) -> None:
    """When others fill the device after the first pass."""
    f, scores, pool = rng.standard_normal(N), stream(S, cupy), cupy.get_default_memory_pool()
    factor = ngdla.damped_factor(scores, 1e-3)
    pool.set_limit(pool.used_bytes() + 1024)
    with cupy_double.recorded() as record:
        x = factor.lstsq(cupy.asarray(f))
    assert BLOCKS <= uploads(record) <= 3 * BLOCKS
    assert_solves(x, S, f)


def test_a_device_that_is_full(cupy: Any, S: np.ndarray, rng: np.random.Generator) -> None:
    scores, pool = stream(S, cupy), cupy.get_default_memory_pool()
    f = cupy.asarray(rng.standard_normal(N))
    for room, named in ((1024, "block 0 of `S`"), (BYTES // BLOCKS + 1024, "a pass over `S`")):
        used = pool.used_bytes()
        pool.set_limit(used + room)
        with pytest.raises(MemoryError, match=rf"^{named} takes up to [\d,]+ bytes") as caught:
            ngdla.damped_lstsq(scores, f, 1e-3)
        assert type(caught.value.__cause__).__name__ == "OutOfMemoryError"
        assert "Pass smaller blocks" in str(caught.value)
        del caught
        gc.collect()
        assert pool.used_bytes() == used
        pool.set_limit(0)


@pytest.mark.parametrize("prefetch", [False, True])
def test_blocks_made_on_the_device(
    cupy: Any, S: np.ndarray, rng: np.random.Generator, prefetch: bool
) -> None:
    """In a thread, whose current stream is another one than that of the call."""
    f, there = rng.standard_normal(N), cupy.asarray(S)
    width = M // BLOCKS

    def source() -> Iterator[Any]:
        for i in range(BLOCKS):
            yield 1.0 * there[:, i * width : (i + 1) * width]

    cupy.cuda.Stream.null.synchronize()
    with cupy.cuda.Stream(non_blocking=True):
        scores = ngdla.ColumnStream(
            source, S.shape, dtype="float64", like=cupy.zeros(1), prefetch=prefetch
        )
        assert_solves(ngdla.damped_lstsq(scores, cupy.asarray(f), 1e-3), S, f)


def test_rows(cupy: Any, rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((512, 8)), rng.standard_normal(512)
    rows = [S[i : i + 32] for i in range(0, 512, 32)]
    scores = ngdla.RowStream(rows, S.shape, dtype="float64", like=cupy.zeros(1))
    with cupy_double.recorded() as record:
        x = ngdla.damped_lstsq(scores, cupy.asarray(f), 1e-3)
    assert sum(size == rows[0].nbytes for size in record.uploads) == len(rows)
    assert_solves(x, S, f)

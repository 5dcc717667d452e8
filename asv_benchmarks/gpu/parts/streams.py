"""A matrix that arrives from the host in blocks: seconds of a solve, and rates of copying."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import ngdla
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine

__all__ = ["streams"]

_THREADS = 8


def streams(desk: Desk, engine: Engine) -> None:
    """Time blocks in pageable and in pinned memory; the same block comes each time."""
    n, width, count = (8, 16, 3) if desk.rehearsal else (1024, 62_500, 16)
    block = np.random.default_rng(0).standard_normal((n, width), dtype="float32")
    _copies(desk, engine, block)
    f = engine.normal((n,), "float32", 1)
    for kind, place in {"pageable": lambda x: x, "pinned": _pinned}.items():
        for prefetch in (False, True):
            if desk.over():
                return
            what = {"memory": kind, "prefetch": prefetch, "bytes": block.nbytes * count}
            try:
                times = _solve(place(block), count, f, prefetch)
            except Exception as error:  # noqa: BLE001 - the other kind is asked all the same
                desk.fault(str(what), error)
            else:
                desk.add("streams", what | {"seconds": times})


def _solve(block: np.ndarray, count: int, f: Array, prefetch: bool) -> list[float]:
    """Return the seconds of two solves, each of which makes three passes."""
    shape = block.shape[0], block.shape[1] * count
    stream = ngdla.ColumnStream(
        lambda: (block for _ in range(count)), shape, dtype="float32", like=f, prefetch=prefetch
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        x = ngdla.damped_lstsq(stream, f, 0.1 * shape[1])
        float(x[0])
        times.append(time.perf_counter() - start)
    return times


def _pinned(x: np.ndarray) -> np.ndarray:
    import cupyx

    pinned = cupyx.empty_pinned(x.shape, x.dtype)
    pinned[...] = x
    return pinned


def _copies(desk: Desk, engine: Engine, block: np.ndarray) -> None:
    """Lay down rates of copying a block on the host, and from there to the device."""
    try:
        pinned, there = _pinned(block), engine.sent(block)
    except Exception as error:  # noqa: BLE001 - streams are asked all the same
        desk.fault("pinned memory", error)
        return
    rows = np.array_split(np.arange(block.shape[0]), min(_THREADS, block.shape[0]))
    spans = [slice(span[0], span[-1] + 1) for span in rows]
    ways: dict[str, Callable[[], Any]] = {
        "to pinned memory, one thread": lambda: np.copyto(pinned, block),
        "pageable to device": lambda: there.set(block),
        "pinned to device": lambda: there.set(pinned),
    }
    with ThreadPoolExecutor(_THREADS) as pool:
        ways[f"to pinned memory, {_THREADS} threads"] = lambda: list(
            pool.map(lambda span: np.copyto(pinned[span], block[span]), spans)
        )
        for way, copy in ways.items():
            times = []
            for _ in range(3):
                engine.wait()
                start = time.perf_counter()
                copy()
                engine.wait()
                times.append(time.perf_counter() - start)
            desk.add("copies", {"what": way, "bytes per second": block.nbytes / min(times)})

"""Whole calls with all their checks, over those of the commit before steps were judged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from processes import folder_of

import ngdla

from .calls import imported
from .tracked import tracked

BEFORE = "12efcbf"
BLOCKS = 5
SIZES = {(16, 200): 1000, (1024, 50_000): 1}  # calls in a block
CALLS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "damped_lstsq": lambda library, S, f, v: library.damped_lstsq(S, f, 1e-2 * S.shape[1]),
    "damped_solve": lambda library, S, f, v: library.damped_solve(S, v, 1e-2 * S.shape[1]),
    "stochastic_reconfiguration": lambda library, S, f, v: library.stochastic_reconfiguration(
        S, f, 1e-2
    ),
}


@contextlib.contextmanager
def library_of(commit: str) -> Iterator[Any]:
    """Yield the library of another commit, beside that of today."""
    with folder_of(commit) as folder:
        yield imported(folder)


@cache
def ratios() -> dict[str, float]:
    """Return the ratio for each function, size and dtype."""
    found = {}
    with library_of(BEFORE) as before:
        for (n, m), calls in SIZES.items():
            for dtype in ("float32", "float64"):
                rng = np.random.default_rng(0)
                arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((n, m), n, m)]
                for name, call in CALLS.items():
                    found[f"{name}, {n} x {m}, {dtype}"] = ratio(call, before, arrays, calls)
    return found


def ratio(call: Callable[..., Any], before: Any, arrays: list[Any], calls: int) -> float:
    """Return the median of the ratios of alternating blocks of calls."""
    blocks = []
    for _ in range(BLOCKS + 1):  # the first one warms up
        seconds = []
        for library in (before, ngdla):
            times = []
            for _ in range(calls):
                start = time.perf_counter()
                call(library, *arrays)
                times.append(time.perf_counter() - start)
            seconds.append(float(np.median(times)))
        blocks.append(seconds[1] / seconds[0])
    return float(np.median(blocks[1:]))


@tracked(f"n = 1024, m = 50,000: largest ratio of whole calls to commit {BEFORE}", at_most=1.05)
def track_large() -> float:
    return max(value for name, value in ratios().items() if "1024" in name)


@tracked(f"n = 16, m = 200: largest ratio of whole calls to commit {BEFORE}", at_most=1.05)
def track_small() -> float:
    return max(value for name, value in ratios().items() if "16 x" in name)


def details() -> dict[str, Any]:
    """Return the ratio of each function, size and dtype."""
    return {name: round(value, 3) for name, value in ratios().items()}

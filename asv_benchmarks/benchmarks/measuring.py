"""Ratios that travel between machines, and the data they are measured on."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[[], Any]


def alternating(functions: dict[str, Function], repeats: int) -> dict[str, float]:
    """Return the median time of each function, run in turn both ways, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        order = list(functions.items())
        for name, function in order if repeat % 2 else reversed(order):
            start = time.perf_counter()
            function()
            elapsed = time.perf_counter() - start
            if repeat:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def normal(shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> np.ndarray:
    """Return standard normal numbers from a committed seed."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype, copy=False)


def optional(name: str) -> Any:
    """Import a library, or skip the benchmark as asv understands it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotImplementedError(f"{name} is not installed") from None

"""Calls of all capabilities beside those of an earlier commit, with each array library.

Each commit has a process of its own for each library. The two are asked by turns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from benchmarks.call_list import CALLS, prepared
from processes import ROOT, answering, folder_of

from .tracked import tracked

BEFORE = "b23924b"  # before SciPy's threads were held, and passes became loops
ROUNDS, REPEATS = 6, 6
LIBRARIES = ("numpy", "torch", "jax")


# ------------------------------------------------------------------- in a process of its own


def serve(library: str) -> None:
    """Answer names, a line each, by the seconds of calls; by null what the library refuses."""
    warnings.simplefilter("ignore")
    asarray, wait = ways(library)
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name = json.loads(line)
        try:
            if name not in calls:
                calls[name] = prepared(name, asarray)
            print(json.dumps(timed(calls[name], wait)), flush=True)
        except (TypeError, ValueError):
            print("null", flush=True)


def ways(library: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what makes arrays of a library, and what waits for results."""
    if library == "torch":
        import torch

        return torch.asarray, lambda x: x
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        return jax.numpy.asarray, lambda x: jax.block_until_ready(jax.tree.leaves(x))
    return np.asarray, lambda x: x


def timed(call: Callable[[], Any], wait: Callable[[Any], Any]) -> list[float]:
    """Return the seconds of calls, after one that warms up."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        wait(call())
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


# ----------------------------------------------------------------------------- in this process


@cache
def ratios(library: str) -> dict[str, float]:
    """Return the time before over that of now of each call."""
    if importlib.util.find_spec(library) is None:
        raise NotImplementedError(f"{library} is not installed")
    found = {}
    module = "claims.changed_calls"
    with contextlib.ExitStack() as stack:
        folders = (stack.enter_context(folder_of(BEFORE)), str(ROOT))
        old, new = (
            stack.enter_context(answering(module, library, environment={"PYTHONPATH": folder}))
            for folder in folders
        )
        for name in CALLS:
            rounds = [(old(name), new(name)) for _ in range(ROUNDS)]
            sides = [[t for answer in side if answer for t in answer] for side in zip(*rounds)]
            if all(sides):
                found[name] = float(np.median(sides[0]) / np.median(sides[1]))
    return found


def claim(library: str) -> Any:
    what = f"{library}: time of a call of commit {BEFORE} over that of today, median of all"
    return tracked(what, at_least=0.95)(lambda: float(np.median([*ratios(library).values()])))


track_numpy, track_torch, track_jax = map(claim, LIBRARIES)


def details() -> list[dict[str, Any]]:
    """Return a row for each call."""
    rows: dict[str, dict[str, Any]] = {name: {"call": name} for name in CALLS}
    for library in LIBRARIES:
        with contextlib.suppress(NotImplementedError):
            for name, ratio in ratios(library).items():
                rows[name][library] = ratio
    return list(rows.values())


if __name__ == "__main__":
    serve(sys.argv[1])

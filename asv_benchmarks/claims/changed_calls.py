"""Calls of all capabilities beside those of an earlier commit, with each array library.

Each commit has a process of its own for each library. The two are asked by turns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.call_list import CALLS, prepared

from .calls import ROOT
from .tracked import tracked

FOLDER = Path(__file__).resolve().parents[1]
BEFORE = "b23924b"  # before SciPy's threads were held, and passes became loops
ROUNDS, REPEATS = 6, 6
LIBRARIES = ("numpy", "torch", "jax")

Ask = Callable[[str], list[float] | None]


# ------------------------------------------------------------------- in a process of its own


def serve(library: str) -> None:
    """Answer names, a line each, by the seconds of calls; by null what the library refuses."""
    warnings.simplefilter("ignore")
    asarray, wait = ways(library)
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name = line.strip()
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


@contextlib.contextmanager
def before() -> Iterator[str]:
    """Yield a folder with the library of the earlier commit."""
    command = ["git", "-C", str(ROOT), "archive", BEFORE, "ngdla"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise NotImplementedError(f"commit {BEFORE} is not in this clone")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield folder


@contextlib.contextmanager
def process(folder: str, library: str) -> Iterator[Ask]:
    """Yield what asks a new process that has the library of a folder."""
    environment = os.environ | {"PYTHONPATH": folder}
    with subprocess.Popen(
        [sys.executable, "-m", "claims.changed_calls", library],
        cwd=FOLDER,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None

        def ask(name: str) -> list[float] | None:
            print(name, file=started.stdin, flush=True)
            return json.loads(started.stdout.readline())

        yield ask
        started.stdin.close()


@cache
def ratios(library: str) -> dict[str, float]:
    """Return the time before over that of now of each call."""
    if importlib.util.find_spec(library) is None:
        raise NotImplementedError(f"{library} is not installed")
    found = {}
    with before() as folder, process(folder, library) as old, process(str(ROOT), library) as new:
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

"""Least squares from a file on disk: memory, and time against the same matrix in memory.

Each measurement is a process of its own, so that none inherits the memory of another. The page
cache is dropped for cold reads and filled for warm ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ngdla

from .tracked import tracked

N, M = 1000, 1_000_000
ROWS_WRITTEN = 50
DAMPING = 10.0
REPEATS = 3


# ------------------------------------------------------------------- what a process does


def solve(kind: str, path: str, n: int, m: int) -> None:
    """Print the seconds of `damped_lstsq` and the peak of anonymous memory in bytes."""
    if kind == "cold":
        drop_from_cache(path)
    elif kind == "warm":
        fill_cache(path)
    f = np.random.default_rng(1).standard_normal(n)
    small = np.random.default_rng(2).standard_normal((n, 2 * n))
    ngdla.damped_lstsq(small, f, DAMPING)  # threads and imports
    if kind == "memory":
        S: Any = np.fromfile(path).reshape(n, m)
    else:
        S = ngdla.ColumnStream.from_file(path, (n, m), "float64")
    with AnonymousMemory() as memory:
        start = time.perf_counter()
        ngdla.damped_lstsq(S, f, DAMPING)
        seconds = time.perf_counter() - start
    print(seconds, memory.peak)


def drop_from_cache(path: str) -> None:
    """Write what is not on the disk yet, and forget the rest."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_cache(path: str) -> None:
    """Read all of a file."""
    with open(path, "rb", buffering=0) as file:
        while file.read(2**24):
            pass


class AnonymousMemory:
    """The peak of the memory that is no file's, sampled by a thread."""

    def __enter__(self) -> AnonymousMemory:
        self.peak = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._thread.join()


def anonymous_bytes() -> int:
    """Return the resident memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


# ------------------------------------------------------------------------- measurements


def write_matrix(path: Path, n: int, m: int) -> None:
    """Write normal numbers row by row."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, n, ROWS_WRITTEN):
            rng.standard_normal((min(ROWS_WRITTEN, n - start), m)).tofile(file)


def measured(kind: str, path: Path, n: int, m: int) -> tuple[float, int]:
    """Return seconds and bytes of one solve in a process of its own."""
    code = f"from claims.streaming import solve; solve({kind!r}, {str(path)!r}, {n}, {m})"
    command = [sys.executable, "-c", code]
    here = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


@cache
def results() -> dict[str, Any]:
    """Return medians of seconds and the largest peaks of all kinds of solves, which take turns."""
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("memory is read from /proc")
    found: dict[str, list[tuple[float, int]]] = {"memory": [], "warm": [], "cold": []}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "S"
        write_matrix(path, N, M)
        for _ in range(REPEATS):
            for kind, runs in found.items():
                runs.append(measured(kind, path, N, M))
    return {
        kind: {
            "seconds": float(np.median([seconds for seconds, _ in runs])),
            "anonymous MB": max(peak for _, peak in runs) / 1e6,
        }
        for kind, runs in found.items()
    }


@tracked(
    "damped_lstsq from an 8 GB file, n = 1,000, m = 1,000,000, float64: peak of anonymous memory",
    unit="MB",
    at_most=600.0,
)
def track_memory() -> float:
    return max(results()[kind]["anonymous MB"] for kind in ("warm", "cold"))


@tracked("the same in the page cache: speed over that of S in memory", at_least=0.8)
def track_warm() -> float:
    return results()["memory"]["seconds"] / results()["warm"]["seconds"]


@tracked("the same not in the page cache: speed over that of S in memory")
def track_cold() -> float:
    return results()["memory"]["seconds"] / results()["cold"]["seconds"]


def details() -> dict[str, Any]:
    """Return seconds and megabytes for the result file."""
    return {"n": N, "m": M, "damping": DAMPING, **results()}

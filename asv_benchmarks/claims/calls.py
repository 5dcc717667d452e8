"""What a small call of damped_lstsq costs beside its arithmetic: Python calls, and their time."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from processes import folder_of
from scipy.linalg import lapack
from threads import limited

import ngdla

from .tracked import tracked

PACKAGE = Path(ngdla.__file__).parent
DAMPING = 1e-3
# The last commit before the rooms were put in order; the ratio below compares with it.
BEFORE = "3dccee7"
BLOCKS, CALLS = 5, 2000


@cache
def called() -> tuple[CodeType, ...]:
    """Return the code of every Python call inside ngdla of one warm call, in order."""
    rng = np.random.default_rng(0)
    S, f = rng.standard_normal((50, 2000)), rng.standard_normal(50)

    def call() -> Any:
        return ngdla.damped_lstsq(S, f, DAMPING, method="cholesky")

    call()
    codes: list[CodeType] = []

    def record(frame: Any, event: str, _: Any) -> None:
        if event == "call" and PACKAGE in Path(frame.f_code.co_filename).parents:
            codes.append(frame.f_code)

    sys.setprofile(record)
    call()
    sys.setprofile(None)
    return tuple(codes)


@tracked(
    'Python calls inside ngdla of damped_lstsq(S, f, 1e-3, method="cholesky"), n = 50, m = 2000',
    unit="calls",
    at_most=195,
)
def track_calls() -> float:
    return float(len(called()))


@tracked("functions that are called there", unit="functions", at_most=110)
def track_functions() -> float:
    return float(len(set(called())))


@tracked("files in which they stand", unit="files")
def track_files() -> float:
    return float(len({code.co_filename for code in called()}))


def by_hand(S: Any, f: Any) -> Any:
    """Return x of damped_lstsq with one sweep: the same products, and nothing else."""
    W = S @ S.T
    W.flat[:: len(S) + 1] += DAMPING
    L, _ = lapack.dpotrf(W, lower=1)
    y, _ = lapack.dpotrs(L, f, lower=1)
    x = S.T @ y
    w, _ = lapack.dpotrs(L, f - S @ x - DAMPING * y, lower=1)
    return x + S.T @ w


def imported(folder: str) -> ModuleType:
    """Import ngdla from a folder, beside the one that is imported already."""
    mine = {name: sys.modules.pop(name) for name in list(sys.modules) if is_ours(name)}
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("ngdla")
    finally:
        sys.path.remove(folder)
        for name in filter(is_ours, list(sys.modules)):
            del sys.modules[name]
        sys.modules.update(mine)


def is_ours(name: str) -> bool:
    return name.partition(".")[0] == "ngdla"


def medians(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of a call: blocks of calls, alternating."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


@tracked(
    f"damped_lstsq, n = 16, m = 200, one thread: time beyond that of the formula written by hand, "
    f"over the same of commit {BEFORE}",
    at_most=1.0,
)
def track_overhead() -> float:
    rng = np.random.default_rng(0)
    S, f = rng.standard_normal((16, 200)), rng.standard_normal(16)
    with folder_of(BEFORE) as folder:
        before = imported(folder)
        assert before.__file__ is not None
        assert Path(before.__file__).is_relative_to(folder)
        with limited(1):
            seconds = medians(
                {
                    "before": lambda: before.damped_lstsq(S, f, DAMPING),
                    "now": lambda: ngdla.damped_lstsq(S, f, DAMPING),
                    "by hand": lambda: by_hand(S, f),
                }
            )
    return (seconds["now"] - seconds["by hand"]) / (seconds["before"] - seconds["by hand"])

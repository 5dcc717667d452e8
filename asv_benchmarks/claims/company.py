"""Calls of all capabilities after other work of the process: with all threads over with one.

Each number of threads has a process of its own, which the variables of its environment tell. To
change the number within a process would not be the same: threads that were once started go on
looking for work after each call, also after calls that are held to one thread. The processes are
asked by turns, and wait in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from benchmarks.call_list import CALLS, prepared
from benchmarks.company import COMPANY, company
from processes import answering
from threads import VARIABLES

from .tracked import tracked

ROUNDS, REPEATS = 5, 8
PAUSE = 0.1  # seconds; for some 30 ms threads of the process that was asked before look for work
NOTHING, PRODUCT, EIGH = COMPANY


def numbers() -> list[int]:
    """Return the numbers of threads."""
    return [number for number in (1, 2, 4) if number <= (os.cpu_count() or 1)]


# ------------------------------------------------------------------- in a process of its own


def serve() -> None:
    """Answer requests, a line each, by the seconds of calls after other work."""
    others, calls = company(), {}
    for line in sys.stdin:
        name, after = json.loads(line)
        if name not in calls:
            calls = {name: prepared(name)}
        time.sleep(PAUSE)
        print(json.dumps(timed(calls[name], others[after])), flush=True)


def timed(call: Callable[[], Any], other: Callable[[], Any]) -> list[float]:
    """Return the seconds of calls, each after other work; the first call warms up."""
    seconds = []
    for _ in range(REPEATS + 1):
        other()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


# ----------------------------------------------------------------------------- in this process


def process(threads: int) -> contextlib.AbstractContextManager[Callable[[Any], Any]]:
    """Return what asks a new process with so many threads."""
    return answering("claims.company", environment=dict.fromkeys(VARIABLES, str(threads)))


@cache
def milliseconds() -> dict[tuple[str, str, int], float]:
    """Return the median of each call, after each work, with each number of threads."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        processes = {number: stack.enter_context(process(number)) for number in numbers()}
        for name in CALLS:
            for after in COMPANY * ROUNDS:
                for number, ask in processes.items():
                    found[name, after, number] += ask([name, after])
    return {key: 1e3 * float(np.median(seconds)) for key, seconds in found.items()}


def ratio(name: str, after: str) -> float:
    """Return the time with all threads over that with one."""
    if numbers() == [1]:
        raise NotImplementedError("one processor has no threads to compare")
    found = milliseconds()
    return found[name, after, numbers()[-1]] / found[name, after, 1]


def largest(after: str) -> float:
    return max(ratio(name, after) for name in CALLS)


def median(after: str) -> float:
    return float(np.median([ratio(name, after) for name in CALLS]))


CLAIM = f"{len(CALLS)} calls of all capabilities, time with all threads over that with one"


@tracked(f"{CLAIM}, largest", at_most=1.2)
def track_alone() -> float:
    return largest(NOTHING)


@tracked(f"{CLAIM}, each after {PRODUCT}, largest", at_most=1.2)
def track_after_product() -> float:
    return largest(PRODUCT)


@tracked(f"{CLAIM}, each after {EIGH}, largest")
def track_after_eigh() -> float:
    return largest(EIGH)


@tracked(f"{CLAIM}, median")
def track_median_alone() -> float:
    return median(NOTHING)


@tracked(f"{CLAIM}, each after {PRODUCT}, median")
def track_median_after_product() -> float:
    return median(PRODUCT)


@tracked(f"{CLAIM}, each after {EIGH}, median")
def track_median_after_eigh() -> float:
    return median(EIGH)


def details() -> dict[str, Any]:
    """Return a row for each call, and all times."""
    found = milliseconds()
    rows = [
        {"call": name, "ms, one thread, after nothing": found[name, NOTHING, 1]}
        | {f"after {after}": ratio(name, after) for after in COMPANY}
        for name in CALLS
    ]
    times = [
        {"call": name, "after": after, "threads": number, "ms": value}
        for (name, after, number), value in found.items()
    ]
    return {"calls": rows, "times": times}


if __name__ == "__main__":
    serve()

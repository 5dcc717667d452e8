"""What `claims/distribution.py` measures, on ranks of MPI: one process of two, and both.

    mpiexec -n 2 python ranks_run.py OUTPUT N M REPEATS

All processes make this program together. Where one works alone, the others sleep. Each part of a
repetition makes its arrays anew, and calls once without a clock: a process waits long for memory
that it has not had before, and programs make many steps.
"""

from __future__ import annotations

import json
import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from ranks_model import WORD, Rates, seconds

import ngdla
from ngdla.distributed import MPICommunicator, RecordingCommunicator

LAYOUTS = {"columns": ngdla.ColumnShards, "rows": ngdla.RowShards}
Solve = Callable[[], Any]


# ---------------------------------------------------------------------------------- problems


class Problem:
    """Scores (n, m) in blocks, of which each rank can make those of its columns or of its rows."""

    def __init__(self, comm: MPICommunicator, n: int, m: int) -> None:
        self.comm, self.n, self.m = comm, n, m
        self.f = np.random.default_rng(1).standard_normal(n)
        self.damping = 1e-3 * m

    def part(self, layout: str) -> np.ndarray:
        """Return the columns or rows of this rank, or "all"."""
        parts = range(self.comm.size)
        mine = [self.comm.rank]
        rows = self._filled(mine if layout == "rows" else parts, self.n)
        columns = self._filled(mine if layout == "columns" else parts, self.m)
        S = np.empty((rows[-1][2], columns[-1][2]))
        for i, top, bottom in rows:
            for j, left, right in columns:
                rng = np.random.default_rng([i, j])
                S[top:bottom, left:right] = rng.standard_normal((bottom - top, right - left))
        return S

    def of_f(self, layout: str) -> np.ndarray:
        """Return the part of f that goes with columns or rows."""
        if layout != "rows":
            return self.f
        (_, top, bottom) = self._filled(range(self.comm.size), self.n)[self.comm.rank]
        return self.f[top:bottom]

    def _filled(self, parts: Any, size: int) -> list[tuple[int, int, int]]:
        """Return numbers of parts, and where they begin and end if these alone are kept."""
        ends = [0]
        for part in parts:
            share = size * (part + 1) // self.comm.size - size * part // self.comm.size
            ends.append(ends[-1] + share)
        return [(part, *span) for part, span in zip(parts, pairwise(ends))]

    def solve(self, layout: str, comm: Any = None) -> Solve:
        """Return a call of `damped_lstsq` for a part of S that is made here."""
        S, f = self.part(layout), self.of_f(layout)
        if layout == "all":
            return lambda: ngdla.damped_lstsq(S, f, self.damping)
        shards = LAYOUTS[layout](S, comm or self.comm)
        return lambda: ngdla.damped_lstsq(shards, f, self.damping)

    def product(self, layout: str) -> Solve:
        """Return the product S S^T of a part of S."""
        S = self.part(layout)
        return lambda: S @ S.T


# ------------------------------------------------------------------------------------ clocks


def meet(comm: MPICommunicator) -> None:
    """Wait for all ranks without taking a core."""
    request = comm._comm.Ibarrier()
    while not request.Test():
        time.sleep(2e-3)


def of_all(comm: MPICommunicator, prepare: Callable[[], Solve]) -> float:
    """Return the seconds of a call on all ranks, of the last one to end."""
    call = prepare()
    call()
    meet(comm)
    comm._comm.Barrier()
    start = time.perf_counter()
    call()
    own = time.perf_counter() - start
    del call
    return float(np.max(comm.all_gather(np.asarray(own))))


def of_one(comm: MPICommunicator, prepare: Callable[[], Solve]) -> float:
    """Return the seconds of a call on rank 0 alone."""
    own = 0.0
    meet(comm)
    if comm.rank == 0:
        call = prepare()
        call()
        start = time.perf_counter()
        call()
        own = time.perf_counter() - start
        del call
    meet(comm)
    return float(comm.all_reduce_sum(np.asarray(own)))


def median(clock: Callable[[], float], repeats: int) -> float:
    return float(np.median([clock() for _ in range(repeats)]))


# -------------------------------------------------------------------------------- measured


def scaling(comm: MPICommunicator, n: int, m: int, repeats: int) -> dict[str, float]:
    """Return medians of solves and products on one rank and on all, which take turns."""
    problem = Problem(comm, n, m)
    clocks: dict[str, Callable[[], float]] = {
        "one process": lambda: of_one(comm, lambda: problem.solve("all")),
        "columns": lambda: of_all(comm, lambda: problem.solve("columns")),
        "rows": lambda: of_all(comm, lambda: problem.solve("rows")),
        "one product": lambda: of_one(comm, lambda: problem.product("all")),
        "products of parts": lambda: of_all(comm, lambda: problem.product("columns")),
    }
    found: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(repeats):
        for name, clock in clocks.items():
            found[name].append(clock())
    return {name: float(np.median(values)) for name, values in found.items()}


def rates(comm: MPICommunicator, n: int, m: int, repeats: int) -> Rates:
    """Return the rates of the model on this machine, while all ranks do the same."""
    S = np.random.default_rng(0).standard_normal((n, m))
    W, y, others = S @ S.T + m * np.eye(n), S[:, 0].copy(), (comm.size - 1) / comm.size
    columns, zeros = m // comm.size * comm.size, np.zeros((n, n))
    sent = S[:, :columns].reshape(comm.size, -1)

    def rate(amount: float, call: Solve) -> float:
        return amount / median(lambda: of_all(comm, lambda: call), 2 * repeats + 1)

    return Rates(
        gram=rate(2 * n**2 * m, lambda: S @ S.T),
        factor=rate(n**3 / 3, lambda: scipy.linalg.cholesky(W, lower=True)),
        memory=rate(WORD * n * m, lambda: S.T @ y),
        sums=rate(2 * others * WORD * n**2, lambda: comm.all_reduce_sum(zeros)),
        exchange=rate(others * WORD * n * columns, lambda: comm.all_to_all(sent)),
        latency=1 / rate(2 * math.log2(comm.size), lambda: comm.all_reduce_sum(zeros[:1, 0])),
    )


def recorded(problem: Problem, layout: str) -> dict[str, Any]:
    """Return the collectives of a solve, and the words that this rank handed in."""
    comm = RecordingCommunicator(problem.comm)
    problem.solve(layout, comm)()
    sums = [done.words for done in comm.collectives if done.kind == "all_reduce_sum"]
    sweeps = sum(words == problem.n for words in sums)
    return {
        "layout": layout,
        "n": problem.n,
        "m": problem.m,
        "sweeps": sweeps,
        "collectives": len(comm.collectives),
        "words of sums": sum(sums),
        "words exchanged": comm.words("all_to_all"),
        "words gathered": comm.words("all_gather"),
    }


def predictions(
    comm: MPICommunicator, sizes: list[tuple[int, int]], found: Rates, repeats: int
) -> list[dict[str, Any]]:
    """Return what the model says of solves beside what they take."""
    table = []
    for n, m in sizes:
        problem = Problem(comm, n, m)
        for layout in LAYOUTS:
            sweeps = recorded(problem, layout)["sweeps"]
            parts = seconds(n, m, comm.size, found, rows=layout == "rows", sweeps=sweeps)
            clock = median(lambda: of_all(comm, lambda: problem.solve(layout)), repeats)  # noqa: B023
            row = {"layout": layout, "n": n, "m": m, "predicted seconds": sum(parts.values())}
            table.append(row | {"measured seconds": clock})
    return table


def memory(problem: Problem, layout: str) -> float:
    """Return the peak of a solve beyond the shard and 3 n^2 numbers, in shards, of all ranks."""
    solve = problem.solve(layout)
    tracemalloc.start()
    solve()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shard = WORD * problem.n * problem.m / problem.comm.size
    beyond = np.asarray((peak - 3 * WORD * problem.n**2) / shard)
    return float(np.max(problem.comm.all_gather(beyond)))


def main(output: str, n: int, m: int, repeats: int) -> None:
    """Measure everything, and write it on rank 0."""
    comm = MPICommunicator()
    for layout in LAYOUTS:  # imports, and the first words of MPI
        Problem(comm, 16, 64).solve(layout)()
    problem = Problem(comm, n, m)
    small = [(n // 4, m // 2), (n // 2, m), (n, m // 2)]
    found = rates(comm, n // 2, m // 5, repeats)
    result = {
        "ranks": comm.size,
        "scaling": scaling(comm, n, m, repeats),
        "rates": found._asdict(),
        "model": predictions(comm, [*small, (n, m)], found, repeats),
        "memory": {layout: memory(Problem(comm, n, 3 * m // 2), layout) for layout in LAYOUTS},
        "collectives": [
            recorded(each, layout)
            for layout in LAYOUTS
            for each in (Problem(comm, n, m // 2), problem)
        ],
    }
    if comm.rank == 0:
        Path(output).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))

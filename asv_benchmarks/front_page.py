"""The ten figures of README.md, each from rows of the result files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import results
from tables import table

__all__ = ["FIGURES", "Figure", "front_table"]

Results = Mapping[str, dict[str, Any]]  # by the name of the file


class Figure(NamedTuple):
    """One row of the table: rows of one result file, each with its unit or a label."""

    text: str
    file: str
    rows: dict[str, str]  # what a claim says it measures: what stands behind its value


ONLINE = (
    "online_eigh_update, d = 4096, 256 rows, rank 128, 8 probes, float32, one thread: time of "
    "forming the factor by gemm, as written in NumPy, over it"
)
WARM = (
    "one product from the last basis, fourth refresh of a drifting factor, one thread: time of "
    "numpy.linalg.eigh over it"
)
COLD = (
    "randomized_eigh, cold, two products, d = 4096, rank 128, float32, one thread: time of "
    "numpy.linalg.eigh (in float64) over it"
)
BFLOAT16 = (
    "IKFAC, 3000 steps of 0.002, d = 32, condition 1e4, bfloat16 compensated: error of K K^T "
    "against KFAC in float64"
)

FIGURES = (
    Figure(
        "`damped_lstsq`, n = 1024, m = 50,000, float64: time of the fastest other library over "
        "ours (picture above)",
        "peers",
        {
            "time of other libraries over ours, the least of all, float64, n = 1024, m = 50,000, "
            "damping = 1e-4 sigma_1^2": "times"
        },
    ),
    Figure(
        "`damped_lstsq`, the same solves: our forward error over theirs, the largest ratio",
        "peers",
        {"our forward error over theirs in these solves, the largest": ""},
    ),
    Figure(
        "`damped_solve`, n = 512, m = 50,000, float64: time of a solve by the SVD of S over ours",
        "damped_solve",
        {"NumPy float64, n = 512, m = 50,000: against the SVD of S": "times"},
    ),
    Figure(
        "`error_bound` below the true error, of {cases} random right-hand sides",
        "certificate",
        {"error bounds below the true error, of some 12,000 right-hand sides": "cases"},
    ),
    Figure(
        "`damped_lstsq` on S in a file of {gigabytes:.3g} GB: peak memory; speed relative to S in "
        "memory",
        "streaming",
        {
            "damped_lstsq from an 8 GB file, n = 1,000, m = 1,000,000, float64: peak of anonymous "
            "memory": "MB",
            "the same in the page cache: speed over that of S in memory": "(cached)",
            "the same not in the page cache: speed over that of S in memory": "(not cached)",
        },
    ),
    Figure(
        "`randomized_eigh`, d = 4096, rank 128, float32, one thread, first call: time of a dense "
        "`eigh` over ours",
        "randomized_eigh",
        {
            "the same over scipy.linalg.eigh, evd (in float32)": "(SciPy, float32)",
            COLD: "(NumPy, float64)",
        },
    ),
    Figure(
        "`randomized_eigh`, the same from the previous eigenvectors with one product",
        "randomized_eigh",
        {
            "the same: scipy.linalg.eigh, evd over it": "(SciPy, float32)",
            WARM: "(NumPy, float64)",
        },
    ),
    Figure(
        "`online_eigh_update`, d = 4096, 256 rows, rank 128, float32, one thread: time of forming "
        "the d × d factor over ours",
        "online_eigh",
        {
            ONLINE: "(NumPy expression)",
            "the same by gemm in place": "(GEMM in place)",
            "the same by syrk in place, one triangle": "(SYRK in place)",
        },
    ),
    Figure(
        "SINGD step, 1024 × 1024 layer, 256 rows, float32, torch, one thread: time of the `singd` "
        "package over ours",
        "inverse_free",
        {
            "SINGD step, dense, 1024 x 1024, 256 rows, float32, torch, one thread: time of the "
            "singd package over ours": "(dense)",
            "SINGD step, blocks of 32, the same": "(blocks)",
            "SINGD step, hierarchical 15/15, the same": "(hierarchical)",
            "SINGD step, lower and upper Toeplitz, the same, the lesser one": "(Toeplitz)",
            "SINGD step, diagonal, the same": "(diagonal)",
        },
    ),
    Figure(
        "IKFAC, 3000 steps with factors in bfloat16: error against KFAC in float64",
        "inverse_free",
        {BFLOAT16: "(compensated)", "IKFAC, the same, plain bfloat16": "(plain)"},
    ),
)


def front_table(found: Results) -> str:
    """Return the figures as a Markdown table, and lines on where they and all others come from."""
    rows = [["what", "measured", "target"]]
    for text, file, of_figure in FIGURES:
        claims = [claim(found, file, what) for what in of_figure]
        values = (
            f"{c['value']:.3g} {unit}".rstrip() for c, unit in zip(claims, of_figure.values())
        )
        rows.append([text.format(**sizes(found)), ", ".join(values), targets(claims)])
    return f"{table(rows)}\n\n{summary(found)}"


def claim(found: Results, file: str, what: str) -> dict[str, Any]:
    """Return the row of a result file that measures something."""
    for row in found.get(file, {"rows": []})["rows"]:
        if row["what"] == what:
            return row
    command = f"python asv_benchmarks/measure.py {file}"
    raise results.DamagedResultError(f"{file}.json has no row {what!r}; make it with: {command}")


def sizes(found: Results) -> dict[str, Any]:
    """Return the sizes that the texts name."""
    kinds = found["certificate"]["details"].items()
    cases = sum(row["cases"] for kind, row in kinds if "handed on" not in kind)
    streamed = found["streaming"]["details"]
    return {"cases": f"{cases:,}", "gigabytes": 8e-9 * streamed["n"] * streamed["m"]}


def targets(claims: list[dict[str, Any]]) -> str:
    """Return whether all targets are met, or those that are not; a dash if there are none."""
    judged = [results.verdict(row).strip(" ()") for row in claims]
    missed = [v.removeprefix("missed: ") for v in judged if v.startswith("missed")]
    return f"missed: {', '.join(missed)}" if missed else "met" if any(judged) else "–"


def summary(found: Results) -> str:
    """Return on what was measured, and how many of all targets were missed."""
    rows = [row for result in found.values() for row in result["rows"]]
    judged = [results.verdict(row) for row in rows]
    missed = sum("missed" in verdict for verdict in judged)
    made = found["peers"]["environment"]
    return (
        f"{made['processor']}, {made['threads']} threads if not said otherwise. These are ten of "
        f"{len(rows)} figures. [Benchmarks](docs/benchmarks.md) has all of them, and says why "
        f"{missed} of {sum(map(bool, judged))} targets were missed."
    )

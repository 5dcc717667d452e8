"""Draw docs/_static/doors.png: errors of float32 steps through each door to NetKet, by diag_shift.

    python asv_benchmarks/doors_picture.py

The numbers are also kept inside the picture, as its description. Where a line ends, steps are NaN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import results
from spin_chains_picture import Line, spread

HERE = Path(__file__).resolve().parent
RESULT = HERE / "measured" / "doors.json"
PICTURE = HERE.parent / "docs" / "_static" / "doors.png"

LINES = {
    "NetKet VMC_SR": Line("NetKet's VMC_SR", "#D55E00", "--", "s"),
    "NetKet SR, cholesky": Line("NetKet's SR, cholesky", "0.6", ":", "D"),
    "dense_solver": Line("dense_solver", "#6A3D7C", "-.", "^"),
    "qgt_solver": Line("qgt_solver", "#0072B2", "-", "o"),
    "VMC_SPRING": Line("VMC_SPRING", "black", "-", "v"),
}


def errors_of(result: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the errors of each system and door in float32, NaN for steps that are NaN."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in result["details"]["errors"]:
        if row["kind"] == "float32" and row["door"] in LINES:
            errors = [float("nan") if e is None else e for e in row["error"]]
            found.setdefault(row["system"], {})[row["door"]] = errors
    return found


def description(result: dict[str, Any]) -> str:
    """Return the numbers of the lines as text."""
    found = errors_of(result)
    return json.dumps(
        {
            f"{system}, {door}": [f"{error:.2g}" for error in errors]
            for system, doors in found.items()
            for door, errors in doors.items()
        }
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture; its background is opaque, so that a dark page does not matter."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found, shifts = errors_of(result), result["details"]["shifts"]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            1, len(found), figsize=(8.4, 3.4), sharey=True, layout="constrained", facecolor="white"
        )
        for axis, (system, doors) in zip(axes, found.items()):
            for door, line in LINES.items():
                style = {"color": line.colour, "ls": line.dashes, "marker": line.marker, "ms": 4}
                axis.loglog(shifts, doors[door], lw=1.5, **style)
            axis.set_title(f"{system}, float32", fontsize=10)
            axis.set_xlim(2 * shifts[0], shifts[-1] / 2)
            axis.set_xticks([1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
            axis.grid(True, color="0.93", zorder=0)
        label(axes[-1], shifts, doors)
        axes[0].set_ylabel("error / length of the exact step")
        figure.supxlabel("diag_shift", fontsize=10)
        metadata = {"Description": description(result), "Software": None}
        figure.savefig(path, dpi=120, metadata=metadata, pil_kwargs={"optimize": True})
        plt.close(figure)


def label(axis: Any, shifts: list[float], doors: dict[str, list[float]]) -> None:
    """Write the name of each line to the right, with a thin line to its last point."""
    ends = []
    for door in LINES:
        last = int(np.flatnonzero(np.isfinite(doors[door]))[-1])
        ends.append((shifts[last], doors[door][last]))
    places = spread([error for _, error in ends])
    for line, end, place in zip(LINES.values(), ends, places):
        axis.annotate(
            line.label,
            xy=end,
            xytext=(shifts[-1] / 30, 10**place),
            color=line.colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.7, "relpos": (0, 0.5), "color": line.colour},
        )


if __name__ == "__main__":
    draw(results.read(RESULT), PICTURE)

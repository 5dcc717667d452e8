"""Draw docs/_static/peers.png: the time of other libraries over that of ngdla.

    python asv_benchmarks/peers_picture.py

A solver that was measured more than once, say on two array libraries, has the bar that is least
favourable to ngdla. The numbers are also kept inside the picture, as its description.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import results

HERE = Path(__file__).resolve().parent
RESULT = HERE / "measured" / "peers.json"
PICTURE = HERE.parent / "docs" / "_static" / "peers.png"

# What has another name in the picture than in the result file.
SOLVERS = {
    "scikit-learn Ridge, copy_X=False": "scikit-learn Ridge",
    "SciPy lsmr": "SciPy LSMR",
    "published algorithm": "arXiv:2310.17556, algorithm 1",
    "NetKet cholesky": "NetKet Cholesky",
    "NetKet SR, cg": "NetKet SR, CG",
    "quantax auto_shift_eig": "quantax shift_eig",
    "quantax minnorm_shift_eig": "quantax shift_eig",
}


def bars(result: dict[str, Any]) -> dict[str, float]:
    """Return the least ratio of each solver in float64, by the name of the solver, falling."""
    ratios: dict[str, float] = {}
    for row in result["details"]:
        if row["dtype"] == "float64" and "skipped" not in row:
            solver = SOLVERS.get(row["peer"], row["peer"])
            ratios[solver] = min(row["ratio"], ratios.get(solver, row["ratio"]))
    return dict(sorted(ratios.items(), key=lambda bar: -bar[1]))


def description(result: dict[str, Any]) -> str:
    """Return the numbers of the bars as text."""
    return json.dumps({solver: f"{ratio:.3g}" for solver, ratio in bars(result).items()})


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture; its background is opaque, so that a dark page does not matter."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = bars(result)
    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axis = plt.subplots(figsize=(6.6, 3.1), layout="constrained", facecolor="white")
        widths = [ratio - 1 for ratio in found.values()]
        shown = axis.barh(list(found), widths, left=1, color="#0072B2", height=0.7)
        axis.bar_label(shown, [f"{ratio:.3g}" for ratio in found.values()], padding=4)
        axis.axvline(1, color="black", lw=1)
        axis.spines["left"].set_visible(False)
        axis.set_xscale("log")
        axis.set_xlim(min(0.9, *found.values()), 2 * max(found.values()))
        axis.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        axis.minorticks_off()
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.set_xlabel("time of other solvers / time of ngdla")
        metadata = {"Description": description(result), "Software": None}
        figure.savefig(path, dpi=140, metadata=metadata, pil_kwargs={"optimize": True})
        plt.close(figure)


if __name__ == "__main__":
    draw(results.read(RESULT), PICTURE)

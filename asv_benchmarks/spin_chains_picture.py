"""Draw docs/_static/spin_chains.png: errors of float32 steps on two spin chains, by damping.

    python asv_benchmarks/spin_chains_picture.py

The numbers are also kept inside the picture, as its description.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import results

HERE = Path(__file__).resolve().parent
RESULT = HERE / "measured" / "spin_chains.json"
PICTURE = HERE.parent / "docs" / "_static" / "spin_chains.png"


class Line(NamedTuple):
    """How one solver is drawn: colours differ in lightness too, and so do dashes and markers."""

    label: str
    colour: str
    dashes: str
    marker: str


LINES = {
    "damped_solve(S, v)": Line("damped_solve(S, v)", "#D55E00", "--", "s"),
    "NetKet cholesky_with_fallback(W, f)": Line(
        "NetKet\ncholesky_with_fallback(W, f)", "0.6", ":", "D"
    ),
    "hermitian_solve(W, f, null=q)": Line("hermitian_solve(W, f, null=q)", "#6A3D7C", "-.", "^"),
    "damped_solve(S, v, row_space=True)": Line(
        "damped_solve(S, v,\nrow_space=True)", "#0072B2", "-", "o"
    ),
    "stochastic_reconfiguration(O, E)": Line(
        "stochastic_reconfiguration\n(O, E), which has f", "black", "-", "v"
    ),
}
APART = 1.9  # decades between labels


def description(result: dict[str, Any]) -> str:
    """Return the numbers of the lines as text."""
    found = results.largest_of_seeds(result)
    return json.dumps(
        {", ".join(key): [f"{error:.2g}" for error, _ in errors] for key, errors in found.items()}
    )


def spread(ends: list[float]) -> list[float]:
    """Return places of labels, as decades, near the ends of lines and apart from each other."""
    places = np.log10(ends)
    order = np.argsort(places)
    for lower, upper in itertools.pairwise(order):
        places[upper] = max(places[upper], places[lower] + APART)
    return list(places)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture; its background is opaque, so that a dark page does not matter."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = results.largest_of_seeds(result)
    chains = list(dict.fromkeys(chain for chain, _ in found))
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            1, len(chains), figsize=(8.4, 3.6), sharey=True, layout="constrained", facecolor="white"
        )
        for axis, chain in zip(axes, chains):
            of_chain = {solver: errors for (name, solver), errors in found.items() if name == chain}
            draw_chain(axis, result["details"]["dampings"], of_chain)
            axis.set_title(chain, fontsize=10)
        label_lines(axes[-1], result["details"]["dampings"][-1], of_chain)
        axes[0].set_ylabel("error / length of the exact step")
        figure.supxlabel("damping (diag_shift)", fontsize=10)
        metadata = {"Description": description(result), "Software": None}
        figure.savefig(path, dpi=120, metadata=metadata, pil_kwargs={"optimize": True})
        plt.close(figure)


def draw_chain(
    axis: Any, dampings: list[float], found: dict[str, list[tuple[float, bool]]]
) -> None:
    """Draw the lines of one chain; a hollow marker is a step that was said to be doubtful."""
    for solver, line in LINES.items():
        if solver not in found:
            continue
        errors, well = np.transpose(found[solver])
        axis.loglog(dampings, errors, color=line.colour, ls=line.dashes, lw=1.5)
        for some, face in ((well == 1, line.colour), (well == 0, "white")):
            style = {"marker": line.marker, "ms": 5, "mec": line.colour, "mfc": face}
            axis.loglog(np.asarray(dampings)[some], errors[some], ls="", **style)
    axis.axhline(0.5, color="0.7", lw=0.8, zorder=0)
    axis.set_xlim(2 * dampings[0], dampings[-1] / 2)
    axis.set_xticks([1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
    axis.grid(True, color="0.93", zorder=0)


def label_lines(axis: Any, last: float, found: dict[str, list[tuple[float, bool]]]) -> None:
    """Write the name of each line to the right of its end, with a thin line to it."""
    lines = {solver: line for solver, line in LINES.items() if solver in found}
    ends = [found[solver][-1][0] for solver in lines]
    arrow = {"arrowstyle": "-", "lw": 0.7, "relpos": (0, 0.5)}
    for line, end, place in zip(lines.values(), ends, spread(ends)):
        axis.annotate(
            line.label,
            xy=(last / 2, end),
            xytext=(last / 30, 10**place),
            color=line.colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops=arrow | {"color": line.colour},
        )


if __name__ == "__main__":
    draw(results.read(RESULT), PICTURE)

"""The picture of the demo: energy against step, exact line, relative error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngdla.demo.vmc import LAST

CURVE, BAND, EXACT, POINTS = "#1f5f99", "#8fb8de", "#c0392b", "#9aa5b1"


def save_picture(runs: list[Any], library: str, path: Path) -> None:
    """Save one column a run: above the energy with its error band, below the relative error.

    By the defaults of matplotlib: settings of users may ask for fonts or LaTeX that are not there.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        draw(runs, library).savefig(path, dpi=150)


def draw(runs: list[Any], library: str) -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(6.2 * len(runs), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(runs), sharex="col", squeeze=False, height_ratios=(3, 2))
    for (above, below), run in zip(axes.T, runs, strict=True):
        energy = np.array([step.energy for step in run.steps])
        error = np.array([step.error for step in run.steps])
        draw_energy(above, energy, error, run)
        draw_relative_error(below, energy, error, run.reference.energy)
    add_legend(figure, axes[0, 0], axes[1, 0], columns=5 if len(runs) > 1 else 3)
    figure.suptitle(f"Ground states by variational Monte Carlo ({library})", fontsize=12)
    return figure


def draw_energy(axes: Any, energy: np.ndarray, error: np.ndarray, run: Any) -> None:
    """Draw the energy of each step, its standard error and the exact energy, with a close-up."""
    exact = run.reference.energy
    step = np.arange(1, energy.size + 1)
    plot_band(axes, step, energy, error, exact)
    axes.set_title(f"{run.problem.title}, N = {run.problem.chain.sites}", fontsize=11)
    axes.set_ylabel("energy")
    mean, mean_error = run.energy
    text = (
        f"mean of the last {min(LAST, energy.size)} steps: {mean:.5f} \u00b1 {mean_error:.5f}\n"
        f"exact ({run.reference.method}): {exact:.5f}\n"
        f"relative error: {run.relative_error:.1e}"
    )
    axes.text(0.98, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=9)
    tidy(axes)
    if energy.size < 3 * LAST:
        return
    late = slice(energy.size // 2, None)
    inset = axes.inset_axes((0.36, 0.2, 0.62, 0.46))
    plot_band(inset, step[late], energy[late], error[late], exact)
    inset.set_title("second half", fontsize=8, pad=3)
    inset.tick_params(labelsize=7)
    inset.margins(x=0)
    inset.ticklabel_format(axis="y", useOffset=False)
    tidy(inset)


def plot_band(
    axes: Any, step: np.ndarray, energy: np.ndarray, error: np.ndarray, exact: float
) -> None:
    """Plot a curve with a band of one standard error on each side over the exact line."""
    low, high = energy - error, energy + error
    axes.fill_between(step, low, high, color=BAND, alpha=0.7, lw=0, label="standard error")
    axes.plot(step, energy, color=CURVE, lw=1.2, label="energy of a step")
    axes.axhline(exact, color=EXACT, lw=1.2, ls="--", label="exact energy")


def draw_relative_error(axes: Any, energy: np.ndarray, error: np.ndarray, exact: float) -> None:
    """Draw |E - E0| / |E0| of each step and of the running mean of 20 steps, logarithmically."""
    scale = abs(exact)
    step = np.arange(1, energy.size + 1)
    off = np.abs(energy - exact) / scale
    axes.plot(step, error / scale, color=BAND, lw=1.2, label="standard error")
    axes.plot(step, off, ".", ms=3, color=POINTS, label="relative error of a step")
    if energy.size >= LAST:
        mean = np.convolve(energy, np.full(LAST, 1 / LAST), mode="valid")
        mean_off = np.abs(mean - exact) / scale
        axes.plot(
            step[LAST - 1 :],
            mean_off,
            color=CURVE,
            lw=1.5,
            label=f"relative error of the mean of {LAST} steps",
        )
    axes.set_yscale("log", nonpositive="clip")
    # An accidental hit of the exact energy would stretch the axis: 1 % of the points may go below.
    axes.set_ylim(bottom=max(float(np.quantile([off, error / scale], 0.01)) / 2, 1e-9))
    axes.set_xlabel("step")
    axes.set_ylabel("relative error")
    tidy(axes)


def add_legend(figure: Any, above: Any, below: Any, columns: int) -> None:
    """Explain the curves below the picture; what both panels show is named once."""
    entries: dict[str, Any] = {}
    for axes in (above, below):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    labels, handles = list(entries), list(entries.values())
    where = "outside lower center"
    figure.legend(handles, labels, loc=where, ncols=columns, frameon=False, fontsize=9)


def tidy(axes: Any) -> None:
    """Draw a light grid and no frame on the right and above."""
    axes.grid(True, color="#e3e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

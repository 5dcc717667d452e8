"""Figures of results.json: accuracy against time, and where the time of an epoch goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training_study.clock import PHASES
from training_study.report import (
    TITLES,
    Results,
    epoch_seconds,
    label,
    median,
    networks,
    of,
    phase_times,
)

HANDFUL = ("sgd", "adamw", "kfac-eigh", "rkfac-nystrom", "ingd", "singd-hierarchical", "fngd-exact")
"""The methods of the picture, those of them that there are."""

COLOURS = ("0.5", "#E69F00", "black", "#0072B2", "#D55E00")
COLOURS += ("#009E73", "#CC79A7", "#56B4E9", "#8C6D31")
PHASE_COLOURS = dict(zip(PHASES, ("0.7", "#56B4E9", "#D55E00", "#009E73")))
LOWEST = 80
"""Where the axis of accuracies begins, in percent."""


def save_picture(results: Results, path: Path) -> None:
    """Save the picture: accuracies on the first network, times on the last one, the widest."""
    first, *_, last = [*networks(results)] * 2
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_accuracy(left, results, first, handful(results))
    draw_phases(right, results, last, list(results["methods"]))
    figure.savefig(path, dpi=150)


def handful(results: Results) -> list[str]:
    """Return the methods of the picture, or all where these are not there."""
    return [name for name in HANDFUL if name in results["methods"]] or [*results["methods"]]


def draw_accuracy(
    axis: Any, results: Results, network: str, methods: list[str], dtype: str = "float32"
) -> None:
    """Draw test accuracy against seconds, after each epoch: means over the seeds."""
    for method, colour in zip(methods, COLOURS * len(methods)):
        runs = of(results, network, method, dtype)
        trained = [run for run in runs if not run["diverged"]]
        name = label(results, method)
        if len(trained) < len(runs):
            name += f" ({len(runs) - len(trained)} of {len(runs)} diverged)"
        if trained:
            seconds = np.mean([np.cumsum(epoch_seconds(run)) for run in trained], axis=0)
            accuracy = 100 * np.mean([run["test"] for run in trained], axis=0)
            axis.plot(seconds, accuracy, ".-", color=colour, lw=1.5, ms=4, label=name)
    axis.set(xlabel="seconds", ylabel="test accuracy in %", title=f"{TITLES[network]}, {dtype}")
    axis.set_xscale("log")
    axis.set_ylim(bottom=max(LOWEST, axis.get_ylim()[0]))
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(True, color="0.9")


def draw_phases(axis: Any, results: Results, network: str, methods: list[str]) -> None:
    """Draw the time of an epoch in float32 as a bar of its phases."""
    shown = [method for method in methods if of(results, network, method, "float32")]
    left = np.zeros(len(shown))
    for phase, colour in PHASE_COLOURS.items():
        runs = (of(results, network, method, "float32") for method in shown)
        widths = np.array([1e3 * median(phase_times(group, phase)) for group in runs])
        axis.barh(shown, np.nan_to_num(widths), left=left, color=colour, label=phase)
        left += np.nan_to_num(widths)
    axis.set_yticks(range(len(shown)), [label(results, method) for method in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds of an epoch", title=TITLES[network])
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(True, axis="x", color="0.9")
    axis.set_axisbelow(True)

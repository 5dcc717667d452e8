"""Tables of results.json, as lists of rows and as Markdown."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training_study.clock import PHASES
from training_study.data import CHANCE

Rows = list[list[str]]
Results = dict[str, Any]

THRESHOLDS = (0.95, 0.97)
"""Test accuracies that the time to is reported of."""

TITLES = {"mlp": "MLP 64-128-64-10", "cnn": "CNN", "wide": "MLP 64-1024-1024-1024-10"}
MISSING = "–"


def read_results(path: Path) -> Results:
    """Return what a results.json holds."""
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def markdown(rows: Rows) -> str:
    """Return rows of cells as a Markdown table, the first being its head."""
    escaped = [[plain(cell) for cell in row] for row in rows]
    lines = [escaped[0], ["---"] * len(rows[0]), *escaped[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(cell: str) -> str:
    """Return a cell that ends neither itself nor its row."""
    return re.sub(r"[\r\n]+", " ", re.sub(r"\\*\|", r"\\|", cell))


def all_tables(results: Results) -> Iterator[tuple[str, Rows]]:
    """Yield the title and the rows of every table."""
    for network in networks(results):
        title = TITLES[network]
        yield f"{title}: accuracy", accuracy_table(results, network)
        yield f"{title}: milliseconds of an epoch", seconds_table(results, network)
        yield f"{title}: settings, the best ones bold", settings_table(results, network)
        if network == "wide":
            yield f"{title}: time beside KFAC with eigendecompositions", wide_table(results)
        else:
            yield f"{title}: bfloat16 beside float32", half_table(results, network)
    yield "Optimiser state in KiB", state_table(results)
    yield "Beside the methods they are to replace: ratios, difference in %", claims_table(results)


# -------------------------------------------------------------------------------- tables


def accuracy_table(results: Results, network: str) -> Rows:
    """Return test accuracy in the end, and epochs and seconds until accuracies were reached."""
    head = ["method", "dtype", "test accuracy in %"]
    for threshold in THRESHOLDS:
        head += [f"epochs to {threshold:.0%}", f"seconds to {threshold:.0%}"]
    rows = [[*head, "diverged"]]
    for method, dtype, runs in groups(results, network):
        cells = [label(results, method), dtype, mean_and_deviation(accuracies(runs))]
        for threshold in THRESHOLDS:
            reached = [reach(run, threshold) for run in runs]
            cells.append(middle([epochs for epochs, _ in reached]))
            cells.append(middle([seconds for _, seconds in reached]))
        rows.append([*cells, diverged(runs)])
    return rows


def seconds_table(results: Results, network: str) -> Rows:
    """Return milliseconds of an epoch in float32, by phase: medians over epochs and seeds."""
    rows = [["method", *PHASES, "all"]]
    for method, _, runs in groups(results, network, "float32"):
        times = [*(median(phase_times(runs, phase)) for phase in PHASES), epoch_time(runs)]
        rows.append([label(results, method), *(number(1e3 * seconds) for seconds in times)])
    return rows


def state_table(results: Results) -> Rows:
    """Return the KiB that an optimiser keeps between steps, by network and dtype."""
    columns = list(dict.fromkeys((r["network"], r["dtype"]) for r in results["runs"]))
    columns.sort(key=lambda column: ([*TITLES].index(column[0]), column[1] != "float32"))
    rows = [["method", *(f"{network}, {dtype}" for network, dtype in columns)]]
    for method in results["methods"]:
        cells = [label(results, method)]
        for network, dtype in columns:
            runs = of(results, network, method, dtype)
            cells.append(f"{runs[0]['state_bytes'] / 1024:,.1f}" if runs else MISSING)
        rows.append(cells)
    return rows


def settings_table(results: Results, network: str) -> Rows:
    """Return the values that were tried of each option, and the accuracy that chose among them."""
    rows = [["method", "values", "runs", "validation accuracy in %"]]
    for entry in results["best"]:
        if entry["network"] != network:
            continue
        method = entry["method"]
        options = [
            f"{name.replace('_', ' ')} {values_tried(values, entry['settings'][name])}"
            for name, values in results["methods"][method]["grid"].items()
        ]
        tried = sum(t["network"] == network and t["method"] == method for t in results["tuning"])
        accuracy = f"{100 * entry['validation']:.2f}"
        rows.append([label(results, method), "; ".join(options), str(tried), accuracy])
    return rows


def wide_table(results: Results) -> Rows:
    """Return time and accuracy on the wide network, and the times over those of kfac-eigh."""
    head = ["method", "milliseconds of an epoch", "of them decomposition", "over KFAC, eigh"]
    rows = [[*head, "seconds of all epochs", "test accuracy in %", "diverged"]]
    reference = of(results, "wide", "kfac-eigh", "float32")
    for method, _, runs in groups(results, "wide", "float32"):
        seconds, part = epoch_time(runs), median(phase_times(runs, "decomposition"))
        ratio = number(seconds / epoch_time(reference)) if reference else MISSING
        cells = [label(results, method), number(1e3 * seconds), number(1e3 * part), ratio]
        cells.append(number(median([sum(epoch_seconds(run)) for run in runs])))
        rows.append([*cells, mean_and_deviation(accuracies(runs)), diverged(runs)])
    return rows


def half_table(results: Results, network: str) -> Rows:
    """Return accuracies in both dtypes, their difference, and why there are none in bfloat16."""
    rows = [["method", "float32", "bfloat16", "difference", "diverged in bfloat16"]]
    for method, _, single in groups(results, network, "float32"):
        half = of(results, network, method, "bfloat16")
        cells = [label(results, method), mean_and_deviation(accuracies(single))]
        if half:
            change = statistics.mean(accuracies(half)) - statistics.mean(accuracies(single))
            cells += [mean_and_deviation(accuracies(half)), f"{100 * change:+.2f}", diverged(half)]
        else:
            cells += [results["methods"][method]["half"] or MISSING, MISSING, MISSING]
        rows.append(cells)
    return rows


CLAIMS = (
    ("randomized KFAC, Nyström", "rkfac-nystrom", "kfac-eigh"),
    ("randomized KFAC, SRE", "rkfac-sre", "kfac-eigh"),
    ("randomized KFAC, RSVD", "rkfac-rsvd", "kfac-eigh"),
    ("KFAC, on-line", "rkfac-online", "kfac-eigh"),
    ("SINGD, hierarchical", "singd-hierarchical", "kfac-cholesky"),
    ("FNGD, shared weights", "fngd-shared", "fngd-exact"),
    ("FNGD, shared weights", "fngd-shared", "sgd"),
)
"""What papers compare, and with what."""


def claims_table(results: Results) -> Rows:
    """Return each method of the papers beside the one that it is to replace, in float32."""
    head = ["method", "beside", "network", "time of an epoch", "decomposition", "test accuracy"]
    rows = [head]
    for (name, method, other), network in itertools.product(CLAIMS, networks(results)):
        pair = [of(results, network, key, "float32") for key in (method, other)]
        if all(pair):
            times = [epoch_time(runs) for runs in pair]
            parts = [median(phase_times(runs, "decomposition")) for runs in pair]
            change = statistics.mean(accuracies(pair[0])) - statistics.mean(accuracies(pair[1]))
            cells = [name, label(results, other), network, number(times[0] / times[1])]
            part = number(parts[0] / parts[1]) if parts[1] else MISSING
            rows.append([*cells, part, f"{100 * change:+.2f} {spread(pair)}"])
    return rows


def spread(pair: list[list[dict[str, Any]]]) -> str:
    """Return the standard error of the difference of two mean accuracies, in percent."""
    if min(map(len, pair)) < 2:
        return ""
    variances = [statistics.variance(accuracies(runs)) / len(runs) for runs in pair]
    return f"± {100 * math.sqrt(sum(variances)):.2f}"


# ----------------------------------------------------------------------------- selection


def networks(results: Results) -> list[str]:
    """Return the networks that there are final runs of."""
    there = {run["network"] for run in results["runs"]}
    return [network for network in TITLES if network in there]


def of(results: Results, network: str, method: str, dtype: str) -> list[dict[str, Any]]:
    """Return the final runs of one kind, one a seed."""
    wanted = (network, method, dtype)
    return [r for r in results["runs"] if (r["network"], r["method"], r["dtype"]) == wanted]


def groups(
    results: Results, network: str, *dtypes: str
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield method, dtype and runs, where there are any."""
    for method, dtype in itertools.product(results["methods"], dtypes or ("float32", "bfloat16")):
        if runs := of(results, network, method, dtype):
            yield method, dtype, runs


def label(results: Results, method: str) -> str:
    """Return what a method is called."""
    return str(results["methods"][method]["label"])


# --------------------------------------------------------------------------- of some runs


def accuracies(runs: list[dict[str, Any]]) -> list[float]:
    """Return the test accuracy of each run in the end, which is chance where it diverged."""
    return [CHANCE if run["diverged"] else run["test"][-1] for run in runs]


def epoch_seconds(run: dict[str, Any]) -> list[float]:
    """Return the seconds of each epoch."""
    return [sum(phases) for phases in zip(*run["seconds"].values())]


def phase_times(runs: list[dict[str, Any]], phase: str) -> list[float]:
    """Return the seconds of a phase in all epochs of all runs."""
    return [seconds for run in runs for seconds in run["seconds"][phase]]


def epoch_time(runs: list[dict[str, Any]]) -> float:
    """Return the median of the seconds of all epochs of all runs."""
    return median([seconds for run in runs for seconds in epoch_seconds(run)])


def reach(run: dict[str, Any], threshold: float) -> tuple[float, float]:
    """Return epochs and seconds until a run has a test accuracy; infinite where it never has.

    A run that diverged later did not train either.
    """
    if run["diverged"]:
        return math.inf, math.inf
    passed = itertools.accumulate(epoch_seconds(run))
    for epoch, (accuracy, seconds) in enumerate(zip(run["test"], passed), start=1):
        if accuracy >= threshold:
            return epoch, seconds
    return math.inf, math.inf


def diverged(runs: list[dict[str, Any]]) -> str:
    """Return how many runs diverged, and what was said."""
    reasons = [run["diverged"] for run in runs if run["diverged"]]
    if not reasons:
        return "none"
    said = "; ".join(dict.fromkeys(reason.partition(": ")[0] for reason in reasons))
    return f"{len(reasons)} of {len(runs)} ({said})"


# --------------------------------------------------------------------------------- cells


def mean_and_deviation(values: list[float]) -> str:
    """Return mean ± standard deviation of accuracies, in percent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def middle(values: list[float]) -> str:
    """Return the median of what took how long, and how often it was never done."""
    never = sum(map(math.isinf, values))
    text = f"never in {never} of {len(values)}" if never else ""
    if math.isinf(median(values)):
        return text
    return f"{number(median(values))} ({text})" if text else number(median(values))


def median(values: list[float]) -> float:
    """Return the median, and of nothing not a number."""
    return statistics.median(values) if values else math.nan


def number(value: float) -> str:
    """Return three significant digits without an exponent, or a dash."""
    if math.isnan(value):
        return MISSING
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}" if value != int(value) else f"{value:,.0f}"


def values_tried(values: list[Any], best: Any) -> str:
    """Return the values of an option, the best one bold."""
    return ", ".join(f"**{value}**" if value == best else str(value) for value in values)

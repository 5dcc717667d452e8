"""INGD against IKFAC: which settings are compared, and the tables of rules.json."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from training_study.data import CHANCE
from training_study.report import MISSING, TITLES, Rows

Entry = dict[str, Any]

RULES = ("ikfac", "ingd")
DAMPINGS = (0.1, 0.01, 0.001, 0.0001, 0.00001)
ALL, STILL = "all settings", "no momentum of tangents"
AS_IN_STUDY = "as in the study: step size 0.05, no momentum of tangents"
VANISHING = 1e-3
"""A training loss, below which a network is said to fit its images to the last digit."""


def ends(entry: Entry, entries: list[Entry]) -> bool:
    """Tell whether a learning rate is the first or the last that was tried."""
    rates = [e["settings"]["learning_rate"] for e in entries]
    return entry["settings"]["learning_rate"] in (min(rates), max(rates))


def damped_by(value: float) -> Callable[[Entry, list[Entry]], bool]:
    """Return whether settings have a damping."""
    return lambda entry, entries: entry["settings"]["damping"] == value


RESTRICTIONS: dict[str, Callable[[Entry, list[Entry]], bool]] = {
    ALL: lambda entry, entries: True,
    AS_IN_STUDY: lambda entry, entries: (
        entry["settings"]["step_size"] == 0.05 and not entry["settings"]["tangent_momentum"]
    ),
    STILL: lambda entry, entries: not entry["settings"]["tangent_momentum"],
    "with momentum of tangents": lambda entry, entries: entry["settings"]["tangent_momentum"] > 0,
    "learning rate inside of its grid": lambda entry, entries: not ends(entry, entries),
    f"training loss above {VANISHING} in the end": lambda entry, entries: (
        entry["loss"] is not None and entry["loss"] > VANISHING
    ),
    **{f"λ = {value:g}": damped_by(value) for value in DAMPINGS},
}
"""Parts of the grid, in each of which both rules get their best settings."""

PACKAGE_PARTS = {
    "all settings": {"ikfac": STILL, "ingd": ALL},
    "as in the study": dict.fromkeys(RULES, AS_IN_STUDY),
}
"""The parts whose best settings `singd` gets, which has no momentum of tangents in IKFAC."""

PACKAGE_ROWS = {
    f"`singd`, {title}, {steps} steps of factors": (parts, warm_up)
    for title, parts in PACKAGE_PARTS.items()
    for steps, warm_up in (("the same", True), ("constant", False))
}
"""With the parts whether the first steps of factors are larger, as those of the class are."""

CLOSE = 0.01
"""How much accuracy a setting that does well may be below the best one."""


def chosen(entries: list[Entry], network: str, rule: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the best mean validation accuracy, in each part that has any."""
    method = f"rule-{rule}"
    there = [e for e in entries if (e["network"], e["method"]) == (network, method)]
    parts = {name: [e for e in there if holds(e, there)] for name, holds in RESTRICTIONS.items()}
    return {name: max(part, key=merit)["settings"] for name, part in parts.items() if part}


def merit(entry: Entry) -> tuple[float, float]:
    """Return what settings are compared by: accuracy, then loss, as in the study."""
    return entry["validation"], -math.inf if entry["loss"] is None else -entry["loss"]


# -------------------------------------------------------------------------------- tables


def rules_table(results: Entry) -> Rows:
    """Return accuracies of both rules in each part of the grid, and those of the package."""
    head = ["network", "settings", "IKFAC", "INGD", "INGD − IKFAC", "the same, stopped early"]
    rows = [[*head, "training loss, IKFAC", "INGD"]]
    for network in networks(results):
        best = {rule: chosen(results["grid"], network, rule) for rule in RULES}
        for name in RESTRICTIONS:
            pair = [of(results, network, f"rule-{rule}", best[rule].get(name)) for rule in RULES]
            rows.append([TITLES[network], name, *compared(pair)])
        for name, (parts, warm_up) in PACKAGE_ROWS.items():
            settings = [
                (best[rule].get(parts[rule]) or {}) | {"warm_up": warm_up} for rule in RULES
            ]
            pair = [of(results, network, f"package-{rule}", s) for rule, s in zip(RULES, settings)]
            rows.append([TITLES[network], name, *compared(pair)])
    return rows


def compared(pair: list[list[Entry]]) -> list[str]:
    """Return the cells of two groups of runs."""
    tests = [[run["test"] for run in runs] for runs in pair]
    stopped = [[run["early"] for run in runs] for runs in pair]
    losses = [loss_of(runs) for runs in pair]
    return [*(mean_and_error(x) for x in tests), difference(tests), difference(stopped), *losses]


def sensitivity_table(results: Entry) -> Rows:
    """Return how both rules do over all settings that both were tried with."""
    head = ["network", "rule", "settings", "best", "median", "within one point of the best"]
    rows = [[*head, "diverged at least once", "better than the other rule"]]
    for network in networks(results):
        first, second = (by_settings(results, network, rule) for rule in RULES)
        both = [key for key in first if key in second]
        best = max(e["validation"] for key in both for e in (first[key], second[key]))
        for rule, mine, other in zip(RULES, (first, second), (second, first)):
            values = [mine[key]["validation"] for key in both]
            counts = (
                sum(value >= best - CLOSE for value in values),
                sum(mine[key]["loss"] is None for key in both),
                sum(mine[key]["validation"] > other[key]["validation"] for key in both),
            )
            accuracies = [f"{100 * f(values):.2f}" for f in (max, statistics.median)]
            cells = [rule.upper(), str(len(both)), *accuracies, *map(str, counts)]
            rows.append([TITLES[network], *cells])
    return rows


def by_settings(results: Entry, network: str, rule: str) -> dict[Any, Entry]:
    """Return the lines of the grid of one rule by their settings."""
    wanted = (network, f"rule-{rule}")
    there = [e for e in results["grid"] if (e["network"], e["method"]) == wanted]
    return {tuple(sorted(e["settings"].items())): e for e in there}


def settings_table(results: Entry) -> Rows:
    """Return the settings that were chosen in each part of the grid."""
    names = ("learning_rate", "damping", "step_size", "tangent_momentum")
    titles = ("learning rate", "λ", "step size", "momentum of tangents")
    rows = [["network", "settings", "rule", *titles]]
    for network in networks(results):
        for rule in RULES:
            for name, settings in chosen(results["grid"], network, rule).items():
                cells = [f"{settings[option]:g}" for option in names]
                rows.append([TITLES[network], name, rule.upper(), *cells])
    return rows


def networks(results: Entry) -> list[str]:
    """Return the networks that there is a grid of."""
    there = {entry["network"] for entry in results["grid"]}
    return [network for network in TITLES if network in there]


def of(results: Entry, network: str, method: str, settings: Any) -> list[Entry]:
    """Return the final runs of some settings, one a seed."""
    wanted = (network, method, settings)
    return [r for r in results["runs"] if (r["network"], r["method"], r["settings"]) == wanted]


# --------------------------------------------------------------------------------- cells


def mean_and_error(values: list[float]) -> str:
    """Return the mean ± its standard error, in percent."""
    if not values:
        return MISSING
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * standard_error(values):.2f}" if len(values) > 1 else mean


def standard_error(values: list[float]) -> float:
    """Return the standard error of a mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def difference(pair: list[list[float]]) -> str:
    """Return the difference of two means ± its standard error over seeds, which both share."""
    first, second = pair
    if not first or len(first) != len(second):
        return MISSING
    changes = [y - x for x, y in zip(first, second)]
    error = f" ± {100 * standard_error(changes):.2f}" if len(changes) > 1 else ""
    return f"{100 * statistics.mean(changes):+.2f}{error}"


def loss_of(runs: list[Entry]) -> str:
    """Return the median training loss, and how many runs diverged."""
    losses = [run["loss"] for run in runs if run["loss"] is not None]
    lost = len(runs) - len(losses)
    text = f"{statistics.median(losses):.1e}" if losses else MISSING
    return f"{text}, {lost} of {len(runs)} diverged" if lost else text


def accuracy(record: Entry, epoch: int) -> float:
    """Return the test accuracy after an epoch, which is chance where a run diverged."""
    return CHANCE if record["diverged"] else record["test"][epoch]

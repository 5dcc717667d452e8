"""INGD against IKFAC: the runs of a grid, those of its best settings, and those of `singd`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training_study.data import split
from training_study.environment import environment
from training_study.execution import IncompleteStudyError, complete
from training_study.rules_report import ALL, DAMPINGS, PACKAGE_ROWS, RULES, accuracy, chosen
from training_study.runs import BATCH, EPOCHS, SHORT_EPOCHS, Run, merit
from training_study.store import Store
from training_study.summary import environments, rounded

PHASES = ("grid", "final", "package")
NETWORKS = ("mlp", "cnn")
COARSE = {
    "learning_rate": (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001),
    "damping": DAMPINGS,
    "step_size": (0.05, 0.2),
    "tangent_momentum": (0.0, 0.5),
}
"""All combinations are tried."""

FINE = {"step_size": (0.01, 0.02, 0.1), "tangent_momentum": (0.0, 0.5, 0.8)}
"""All combinations are tried with the best learning rate and damping of the coarse grid."""

GRID_SEEDS = (100, 101, 102)
FINAL_SEEDS = tuple(range(10))

Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Both rules on both networks; the short one only shows that all works."""

    short: bool = False

    def coarse(self) -> list[Run]:
        """Return the runs of the coarse grid."""
        values = [v[2:3] if self.short and len(v) > 2 else v for v in COARSE.values()]
        grid = [dict(zip(COARSE, setting)) for setting in itertools.product(*values)]
        return [
            run
            for network in NETWORKS
            for settings in grid
            for rule in RULES
            for run in self._runs(network, f"rule-{rule}", settings, GRID_SEEDS)
        ]

    def fine(self, records: Records) -> list[Run]:
        """Return the runs of the fine grid, which needs those of the coarse one."""
        coarse = entries(self.coarse(), records)
        return [
            run
            for network in NETWORKS
            for rule in RULES
            for best in [chosen(coarse, network, rule)[ALL]]
            for values in itertools.product(*FINE.values())
            for settings in [best | dict(zip(FINE, values))]
            for run in self._runs(network, f"rule-{rule}", settings, GRID_SEEDS)
        ]

    def final(self, records: Records) -> list[Run]:
        """Return the runs of the best settings of each part of the grid, with other seeds."""
        return [
            run
            for network, rule, best in self._best(records)
            for settings in unique(best.values())
            for run in self._runs(network, f"rule-{rule}", settings, FINAL_SEEDS)
        ]

    def package(self, records: Records) -> list[Run]:
        """Return the runs of the package with the best settings that it has."""
        return [
            run
            for network, rule, best in self._best(records)
            for parts, warm_up in PACKAGE_ROWS.values()
            for settings in [best[parts[rule]] | {"warm_up": warm_up}]
            for run in self._runs(network, f"package-{rule}", settings, FINAL_SEEDS)
        ]

    def grid(self, records: Records) -> list[dict[str, Any]]:
        """Return the settings that were tried, with what they are compared by."""
        return entries([*self.coarse(), *self.fine(records)], records)

    def _best(self, records: Records) -> Iterable[tuple[str, str, dict[str, Any]]]:
        grid = self.grid(records)
        for network, rule in itertools.product(NETWORKS, RULES):
            yield network, rule, chosen(grid, network, rule)

    def _runs(
        self, network: str, method: str, settings: dict[str, Any], seeds: tuple[int, ...]
    ) -> list[Run]:
        epochs, seeds = (SHORT_EPOCHS, seeds[:2]) if self.short else (EPOCHS[network], seeds)
        ordered = tuple(sorted(settings.items()))
        return [Run(network, method, ordered, seed, "float32", epochs, BATCH) for seed in seeds]


def unique(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each of some settings once."""
    return [dict(key) for key in dict.fromkeys(tuple(sorted(s.items())) for s in settings)]


def entries(runs: list[Run], records: Records) -> list[dict[str, Any]]:
    """Return a line for each setting, over its seeds.

    Raises
    ------
    IncompleteStudyError
        If runs are missing.
    """
    if missing := sum(run.key not in records for run in runs):
        msg = f"{missing} runs of the grid are missing: do them first, by --phase grid"
        raise IncompleteStudyError(msg)
    groups: dict[Any, list[dict[str, Any]]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault((run.network, run.method, run.settings), []).append(records[run.key])
    return [
        {"network": network, "method": method, "settings": dict(settings)} | over_seeds(group)
        for (network, method, settings), group in groups.items()
    ]


def over_seeds(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return validation accuracy and training loss, means over seeds."""
    losses = [record["loss"][-1] for record in records if not record["diverged"]]
    return {
        "validation": round(statistics.mean(merit(record)[0] for record in records), 5),
        "loss": rounded(statistics.mean(losses)) if len(losses) == len(records) else None,
    }


def carry_out(
    comparison: Comparison, phases: tuple[str, ...], path: Path, jobs: int, command: str
) -> None:
    """Run what is missing of the phases "grid", "final" and "package"."""
    split()
    packages = ("singd",) if "package" in phases else ()
    store = Store(path, environment(command, *packages))
    steps = {
        "grid": (lambda records: comparison.coarse(), comparison.fine),
        "final": (comparison.final,),
        "package": (comparison.package,),
    }
    for phase in phases:
        for runs_of in steps[phase]:
            runs = list(dict.fromkeys(runs_of(store.records)))
            with tqdm(total=len(runs), unit="run") as bar:
                complete(store, runs, jobs, bar, phase)


def summarise(comparison: Comparison, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return environments, the grid, and the runs of its best settings.

    Raises
    ------
    IncompleteStudyError
        If runs of the grid are missing.
    """
    found = {line["key"]: line for line in lines}
    records = {key: line["record"] for key, line in found.items()}
    grid = [*comparison.coarse(), *comparison.fine(records)]
    final = list(dict.fromkeys([*comparison.final(records), *comparison.package(records)]))
    there = [found[run.key] for run in final if run.key in found]
    used = [found[run.key] for run in dict.fromkeys(grid)]
    return {
        "environments": environments([*used, *there]),
        "missing": len(final) - len(there),
        "grid": entries(grid, records),
        "runs": [finished(line) for line in there],
    }


def finished(line: dict[str, Any]) -> dict[str, Any]:
    """Return accuracies in the end, and after the epoch of the best validation accuracy."""
    run, record = line["run"], line["record"]
    entry = {name: run[name] for name in ("network", "method", "settings", "seed")}
    validation = record["validation"]
    best = validation.index(max(validation)) if validation else 0
    entry["test"], entry["early"] = accuracy(record, -1), accuracy(record, best)
    entry["loss"] = None if record["diverged"] else rounded(record["loss"][-1])
    return entry

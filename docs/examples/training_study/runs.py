"""What the study consists of: which runs, and how settings are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from training_study.data import CHANCE
from training_study.methods import METHODS, RULES
from training_study.networks import NETWORKS
from training_study.training import train

BATCH = 64
EPOCHS = {"mlp": 20, "cnn": 20, "wide": 8}
TUNING_EPOCHS = {"mlp": 20, "cnn": 20, "wide": 4}
TUNING_SEED = 100
SEEDS = {"mlp": 5, "cnn": 5, "wide": 5}
SHORT_EPOCHS, SHORT_SEEDS = 2, 1

WIDE_TUNED = ("sgd", "kfac-eigh", "kfac-cholesky")
WIDE_SHARED = ("rkfac-nystrom", "rkfac-sre", "rkfac-rsvd", "rkfac-online")
"""On the wide network these take over the settings of kfac-eigh, which they approximate."""

LAST = 3
"""Epochs at the end of a run whose validation accuracy chooses the settings."""

Settings = tuple[tuple[str, Any], ...]
"""Names of options with their values, sorted."""


@dataclass(frozen=True)
class Run:
    """All that decides what a run gives."""

    network: str
    method: str
    settings: Settings
    seed: int
    dtype: str
    epochs: int
    batch: int

    @property
    def key(self) -> str:
        """The run as one string."""
        settings = ",".join(f"{name}={value}" for name, value in self.settings)
        names = f"{self.network}/{self.method}/{settings}/{self.dtype}"
        return f"{names}/seed={self.seed},epochs={self.epochs},batch={self.batch}"

    def perform(self) -> dict[str, Any]:
        """Train, and return what was measured."""
        return train(
            NETWORKS[self.network],
            (METHODS | RULES)[self.method],
            dict(self.settings),
            seed=self.seed,
            epochs=self.epochs,
            batch=self.batch,
            dtype=self.dtype,
        )


@dataclass(frozen=True)
class Study:
    """Some networks and methods; the short one only shows that all works."""

    networks: tuple[str, ...]
    methods: tuple[str, ...]
    short: bool = False

    def tuning(self) -> list[Run]:
        """Return the runs that settings are chosen by."""
        return [
            self._run(network, method, settings, TUNING_SEED, TUNING_EPOCHS[network])
            for network in self.networks
            for method in dict.fromkeys(tuned_by(network, m) for m in self._methods(network))
            for settings in self._candidates(network, method)
        ]

    def final(self, best: Mapping[tuple[str, str], Settings]) -> list[Run]:
        """Return the runs that results come from, as far as there are settings for them.

        The methods take turns, so that what slows a machine down for a while slows all of them.
        """
        return [
            self._run(network, method, settings, seed, EPOCHS[network], dtype)
            for network in self.networks
            for seed in range(SHORT_SEEDS if self.short else SEEDS[network])
            for method in self._methods(network)
            if (tuned := (network, tuned_by(network, method))) in best
            for settings in [own_settings(method, best[tuned])]
            for dtype in self._dtypes(network, method)
        ]

    def size(self) -> tuple[int, int]:
        """Return how many runs of tuning and how many final ones there are."""
        tuning = self.tuning()
        return len(tuning), len(self.final({(r.network, r.method): r.settings for r in tuning}))

    def best(self, records: Mapping[str, dict[str, Any]]) -> dict[tuple[str, str], Settings]:
        """Return the best settings of each (network, method) that is tuned to the end."""
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in self.tuning():
            groups.setdefault((run.network, run.method), []).append(run)
        return {
            group: max(runs, key=lambda run: merit(records[run.key])).settings
            for group, runs in groups.items()
            if all(run.key in records for run in runs)
        }

    def _methods(self, network: str) -> Iterable[str]:
        shown = (*WIDE_TUNED, *WIDE_SHARED) if network == "wide" else METHODS
        return [method for method in self.methods if method in shown]

    def _candidates(self, network: str, method: str) -> list[Settings]:
        candidates = thinned_grid(method) if network == "wide" else full_grid(method)
        return candidates[len(candidates) // 2 :][:1] if self.short else candidates

    def _dtypes(self, network: str, method: str) -> tuple[str, ...]:
        half = network != "wide" and not METHODS[method].half
        return ("float32", "bfloat16") if half else ("float32",)

    def _run(
        self,
        network: str,
        method: str,
        settings: Settings,
        seed: int,
        epochs: int,
        dtype: str = "float32",
    ) -> Run:
        epochs = SHORT_EPOCHS if self.short else epochs
        return Run(network, method, settings, seed, dtype, epochs, BATCH)


def full_grid(method: str) -> list[Settings]:
    """Return all settings of a method."""
    grid = METHODS[method].grid
    return [tuple(sorted(zip(grid, values))) for values in itertools.product(*grid.values())]


def thinned_grid(method: str) -> list[Settings]:
    """Return half of the settings of a method: the fields of one colour, as on a chessboard."""
    places = itertools.product(*(range(len(values)) for values in METHODS[method].grid.values()))
    return [s for place, s in zip(places, full_grid(method)) if sum(place) % 2 == 0]


def tuned_by(network: str, method: str) -> str:
    """Return the method whose best settings a method takes: on most networks its own."""
    return "kfac-eigh" if network == "wide" and method in WIDE_SHARED else method


def own_settings(method: str, settings: Settings) -> Settings:
    """Return the settings of another method where a method has the option, else its first value."""
    grid, taken = METHODS[method].grid, dict(settings)
    return tuple(sorted((name, taken.get(name, values[0])) for name, values in grid.items()))


def merit(record: dict[str, Any]) -> tuple[float, float]:
    """Return what settings are compared by: validation accuracy in the end, then the loss."""
    if record["diverged"]:
        return CHANCE, -math.inf
    last = record["validation"][-LAST:]
    return sum(last) / len(last), -record["loss"][-1]

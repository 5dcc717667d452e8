"""Whole calls of decompositions and Kronecker solves, over those of an earlier commit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import ngdla

from .tracked import tracked
from .whole_calls import library_of, ratio

BEFORE = "9689537"  # before derivatives were right and values below the normal range counted as 0
SIZES = {64: 60, 256: 10, 1024: 2}  # calls in a block
CALLS: dict[str, Callable[..., Any]] = {
    "randomized_eigh": lambda library, d: library.randomized_eigh(d.A, d.rank),
    "randomized_eigh, warm": lambda library, d: library.randomized_eigh(
        d.A, d.rank, passes=1, basis=d.basis
    ),
    "randomized_eigh, rayleigh-ritz": lambda library, d: library.randomized_eigh(
        d.A, d.rank, method="rayleigh-ritz"
    ),
    "nystrom_factor": lambda library, d: library.nystrom_factor(d.A, d.rank),
    "online_eigh_update": lambda library, d: library.online_eigh_update(
        d.state(library), d.X, decay=0.9
    ),
    "ema": lambda library, d: library.ema(d.A, d.X, decay=0.9),
    "kronecker_solve, truncated": lambda library, d: library.kronecker_solve(
        d.truncated(library), d.truncated(library), d.V, 1e-2
    ),
    "kronecker_solve, factored": lambda library, d: library.kronecker_solve(
        d.A, d.A, d.V, 1e-2, coupling="factored"
    ),
}


class Data:
    """A factor, a batch and right-hand sides of one size, and what each library makes of them."""

    def __init__(self, d: int) -> None:
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((2 * d, d)) / np.arange(1, d + 1) ** 0.5
        self.A = (rows.T @ rows / d).astype("float32")
        self.X = rng.standard_normal((d // 4, d)).astype("float32")
        self.V = rng.standard_normal((d, d)).astype("float32")
        self.rank = d // 16
        self.basis = ngdla.randomized_eigh(self.A, self.rank).eigenvectors

    @cache  # noqa: B019, as many as there are libraries
    def state(self, library: Any) -> Any:
        """Return the state of an online decomposition."""
        return library.online_eigh_init(self.X, self.rank)

    @cache  # noqa: B019
    def truncated(self, library: Any) -> Any:
        """Return few eigenpairs of the factor."""
        return library.randomized_eigh(self.A, self.rank)


@cache
def speeds() -> dict[str, float]:
    """Return the time before over that of today, for each function and size."""
    found = {}
    with library_of(BEFORE) as before:
        for d, calls in SIZES.items():
            data = Data(d)
            for name, call in CALLS.items():
                found[f"{name}, d = {d}"] = 1 / ratio(call, before, [data], calls)
    return found


@tracked(
    f"decompositions, averages and Kronecker solves: median time of commit {BEFORE} over today's",
    at_least=0.95,
)
def track_median() -> float:
    return float(np.median(list(speeds().values())))


@tracked("the same, d = 1024, smallest")
def track_large() -> float:
    return min(value for name, value in speeds().items() if "1024" in name)


def details() -> dict[str, Any]:
    """Return the ratio of each function and size."""
    return {name: round(value, 3) for name, value in speeds().items()}

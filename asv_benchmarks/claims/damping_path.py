"""Fifty dampings against one solve by the same factorisation."""

from __future__ import annotations

import numpy as np
from benchmarks.measuring import alternating, normal

import ngdla

from .tracked import tracked

DAMPINGS = np.logspace(-6, 2, 50)


@tracked(
    "damping_path of 50 dampings, n = 1024, m = 50,000, float64, over one damped_lstsq by eigh",
    at_most=1.3,
)
def track_path_over_solve() -> float:
    S, f = normal((1024, 50_000)), normal((1024,), seed=1)
    times = alternating(
        {
            "path": lambda: ngdla.damping_path(S, f, DAMPINGS),
            "solve": lambda: ngdla.damped_lstsq(S, f, 1.0, method="eigh"),
        },
        5,
    )
    return times["path"] / times["solve"]

"""The error bound of SolveInfo against true errors, over random problems of every kind."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .tracked import tracked

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from references import DOUBLE, U, random_problem

from ngdla.damped.certificate import rounded_bound

SEED, CASES = 11, 6000


@cache
def ratios() -> dict[str, np.ndarray]:
    """Return bound / error of each right-hand side, by dtype and side of the Gram matrix."""
    rng = np.random.default_rng(SEED)
    found: dict[str, list[float]] = {}
    for case in range(CASES):
        problem = random_problem(rng, list(U)[case % 4])
        try:
            x, info = problem.solve(full_output=True)
        except np.linalg.LinAlgError:
            continue
        exact = problem.exact()
        n, m = problem.S.shape
        side = "n < m" if n < m else "n >= m"
        handed = {problem.dtype: (x, np.asarray(info.error_bound))}
        if problem.dtype in DOUBLE:
            low = x.astype(DOUBLE[problem.dtype])
            bound = rounded_bound(info.error_bound, problem.norm(low), U["float32"])
            handed[f"{problem.dtype} handed on as {DOUBLE[problem.dtype]}"] = (low, bound)
        for name, (solution, bound) in handed.items():
            error = problem.norm(solution - exact)
            usable = (error > 0) | (bound > 0)
            quotient = bound[usable] / np.maximum(error[usable], np.finfo(float).tiny)
            found.setdefault(f"{name}, {side}", []).extend(quotient.tolist())
    return {name: np.asarray(values) for name, values in found.items()}


@tracked(
    "error bounds below the true error, of some 12,000 right-hand sides", unit="cases", at_most=0
)
def track_violations() -> float:
    return float(sum(np.sum(values < 1) for values in ratios().values()))


@tracked("median of error bound / true error, n < m")
def track_median_wide() -> float:
    return float(np.median(np.concatenate([v for k, v in ratios().items() if "n < m" in k])))


@tracked("median of error bound / true error, n >= m")
def track_median_tall() -> float:
    return float(np.median(np.concatenate([v for k, v in ratios().items() if "n >= m" in k])))


def details() -> dict[str, Any]:
    """Return cases, minimum and median of bound / error, by dtype and side."""
    return {
        name: {"cases": len(v), "minimum": float(v.min()), "median": float(np.median(v))}
        for name, v in sorted(ratios().items())
    }

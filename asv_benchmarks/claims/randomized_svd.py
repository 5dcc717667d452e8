"""randomized_svd against that of scikit-learn, both at their defaults, and its error estimates.

Excess is |A - U S Vh|_F over the least possible one, less 1. The 400 matrices differ in spectrum,
shape, dtype and rank. Ratios are of medians of calls in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import alternating, optional
from threads import THREADS, limited

import ngdla

from .tracked import tracked

SHAPES = ((2000, 1000), (20000, 500))
RANKS = (20, 100)
SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1/k": lambda k: 1 / k,
    "0.9^k": lambda k: 0.9**k,
    "1/k + noise": lambda k: 1 / k,
    "2 down to 1": lambda k: 2 - (k - 1) / (len(k) - 1),
}
NOISE = 0.1  # norm of the noise over that of 1/k, per sqrt(rows)
REPEATS = 3
MATRICES = 400
FLOOR = 8  # roundings: what the estimate is asked about
UNIT = {"float32": 2.0**-24, "complex64": 2.0**-24, "float64": 2.0**-53, "complex128": 2.0**-53}


class Compared(NamedTuple):
    """Both excesses, and both times with one thread and with all."""

    excess: float
    theirs: float
    seconds: dict[int, dict[str, float]]


def orthonormal(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Return orthonormal columns."""
    X = rng.standard_normal(shape)
    return np.linalg.qr(X + 1j * rng.standard_normal(shape) if "complex" in dtype else X).Q


@cache
def problem(m: int, n: int, spectrum: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix and its singular values."""
    rng = np.random.default_rng(1)
    sigma = SPECTRA[spectrum](np.arange(1.0, n + 1))
    A = (orthonormal(rng, (m, n), dtype) * sigma) @ orthonormal(rng, (n, n), dtype).T
    if "noise" in spectrum:
        A += NOISE / m**0.5 * rng.standard_normal((m, n))
    A = A.astype(dtype)
    R = np.linalg.qr(A.astype("float64"), mode="r")
    return A, np.linalg.svd(R, compute_uv=False)


def error(A: np.ndarray, triplets: Any) -> float:
    """Return |A - U S Vh|_F, computed in double precision."""
    U, S, Vh = (x.astype(np.result_type(x.dtype, "float64")) for x in triplets)
    return float(np.linalg.norm(A.astype(U.dtype) - (U * S) @ Vh))


@cache
def compared(m: int, n: int, spectrum: str, rank: int, dtype: str = "float64") -> Compared:
    """Return what both reach with their defaults."""
    extmath = optional("sklearn.utils.extmath")
    A, sigma = problem(m, n, spectrum, dtype)
    least = np.linalg.norm(sigma[rank:])
    calls: dict[str, Callable[[], Any]] = {
        "ours": partial(ngdla.randomized_svd, A, rank),
        "theirs": partial(extmath.randomized_svd, A, rank, random_state=0),
    }
    ours, theirs = (error(A, call()) / least - 1 for call in calls.values())
    seconds = {}
    for threads in (1, THREADS):
        with limited(threads):
            seconds[threads] = alternating(calls, REPEATS)
    return Compared(ours, theirs, seconds)


def all_compared(dtype: str = "float64") -> dict[tuple[Any, ...], Compared]:
    """Return all comparisons of a dtype."""
    keys = [(*shape, name, rank) for shape, name, rank in product(SHAPES, SPECTRA, RANKS)]
    return {key: compared(*key, dtype) for key in keys}


def largest_gap(dtype: str) -> float:
    """Return by how many per cent of the least error ours exceeds theirs, at most."""
    return max(100 * (x.excess - x.theirs) for x in all_compared(dtype).values())


def times(threads: int, dtype: str = "float64") -> list[float]:
    """Return their times over ours."""
    found = (x.seconds[threads] for x in all_compared(dtype).values())
    return [x["theirs"] / x["ours"] for x in found]


# ---------------------------------------------------------------------------- the estimate


def random_problem(seed: int) -> tuple[np.ndarray, int, dict[str, Any]]:
    """Return a matrix, a rank and options, all at random."""
    rng = np.random.default_rng(seed)
    dtype = list(UNIT)[seed % 4]
    m, n = (int(x) for x in rng.integers(30, 200, size=2))
    k = np.arange(1.0, min(m, n) + 1)
    decay = rng.choice(["power", "geometric", "linear", "step"])
    sigma = {
        "power": k ** -rng.uniform(0.3, 3),
        "geometric": rng.uniform(0.5, 0.99) ** k,
        "linear": 2 - k / len(k),
        "step": np.where(k <= rng.integers(1, len(k)), 1.0, 10.0 ** -rng.uniform(0, 6)),
    }[str(decay)]
    left, right = (orthonormal(rng, (size, len(k)), dtype) for size in (m, n))
    A = ((left * sigma) @ right.T).astype(dtype)
    options = {"passes": [None, 1, 2, 3, 4][seed % 5], "rng": seed}
    return A, int(rng.integers(1, len(k) // 2)), options


def estimate_ratio(seed: int) -> float | None:
    """Return the estimate over the error, or None where that is rounding."""
    A, rank, options = random_problem(seed)
    found, estimate = ngdla.randomized_svd(A, rank, full_output=True, **options)
    true = error(A, found)
    rounding = FLOOR * UNIT[A.dtype.name] * np.linalg.norm(A)
    return float(estimate) / true if true > rounding else None


@cache
def estimates() -> dict[str, float]:
    """Return the ratio of estimate and error at some quantiles, where the error is not rounding."""
    with limited(1):
        ratios = [ratio for seed in range(MATRICES) if (ratio := estimate_ratio(seed)) is not None]
    inside = np.mean([0.5 <= ratio <= 2 for ratio in ratios])
    quantiles = {str(q): float(np.quantile(ratios, q)) for q in (0, 0.025, 0.5, 0.975, 1)}
    return {"asked": len(ratios), "inside": float(inside), **quantiles}


@cache
def warm() -> dict[str, float]:
    """Return the times of two products from a basis, with the estimate and without, and cold."""
    A, _ = problem(2000, 1000, "1/k + noise", "float64")
    basis = ngdla.randomized_svd(A, 100).Vh.T.copy()
    options = {"passes": 2, "basis": basis}
    calls: dict[str, Callable[[], Any]] = {
        "warm": partial(ngdla.randomized_svd, A, 100, **options),
        "warm, with error": partial(ngdla.randomized_svd, A, 100, full_output=True, **options),
        "cold": partial(ngdla.randomized_svd, A, 100),
    }
    with limited(1):
        return alternating(calls, 2 * REPEATS)


# ---------------------------------------------------------------------------------- claims


@tracked(
    "randomized_svd, 16 matrices, float64: largest excess over that of scikit-learn's "
    "randomized_svd, both at their defaults",
    unit="per cent of the least error",
    at_most=0.001,
)
def track_excess() -> float:
    return largest_gap("float64")


@tracked("randomized_svd, the same in float32", unit="per cent of the least error")
def track_excess_single() -> float:
    return largest_gap("float32")


@tracked(
    "scikit-learn's randomized_svd, time over ngdla's, smallest of 16 matrices, float64, one "
    "thread",
    at_least=1,
)
def track_slowest() -> float:
    return min(times(1))


@tracked("the same with two threads", at_least=1)
def track_slowest_all() -> float:
    return min(times(THREADS))


@tracked("scikit-learn's randomized_svd, time over ngdla's, median, float64, one thread")
def track_median() -> float:
    return float(np.median(times(1)))


@tracked("the same, median, float32, one thread")
def track_median_single() -> float:
    return float(np.median(times(1, "float32")))


@tracked(
    "randomized_svd, 400 matrices: fraction of error estimates within a factor of two of the error",
    unit="fraction",
    at_least=0.95,
)
def track_estimates() -> float:
    return estimates()["inside"]


@tracked("randomized_svd from a basis, two products: time of a cold call over it", at_least=2)
def track_warm() -> float:
    return warm()["cold"] / warm()["warm"]


@tracked("the same: time with the estimate of the error over that without")
def track_estimate_time() -> float:
    return warm()["warm, with error"] / warm()["warm"]


def details() -> dict[str, Any]:
    """Return the table of all comparisons and the ratios of estimates."""
    rows = [
        _row(key, dtype, found)
        for dtype in ("float64", "float32")
        for key, found in all_compared(dtype).items()
    ]
    return {"compared": rows, "estimate / error": estimates()}


def _row(key: tuple[Any, ...], dtype: str, found: Compared) -> dict[str, Any]:
    m, n, spectrum, rank = key
    return {
        "matrix": f"{m} x {n}, {spectrum}",
        "dtype": dtype,
        "rank": rank,
        "excess, per cent": 100 * found.excess,
        "scikit-learn: excess, per cent": 100 * found.theirs,
        "seconds, 1 thread": found.seconds[1]["ours"],
        "scikit-learn: seconds, 1 thread": found.seconds[1]["theirs"],
        f"seconds, {THREADS} threads": found.seconds[THREADS]["ours"],
        f"scikit-learn: seconds, {THREADS} threads": found.seconds[THREADS]["theirs"],
    }

"""damped_solve against the published algorithm, the SVD, the flop floor, and handwritten NumPy."""

from __future__ import annotations

import tracemalloc

import numpy as np
from benchmarks.measuring import alternating, normal
from benchmarks.peers import by_svd, handwritten, published

import ngdla

from .tracked import tracked

DAMPING = 1e-3


def setup_large() -> tuple[np.ndarray, np.ndarray]:
    return normal((1024, 50_000)), normal((50_000,), seed=1)


@tracked(
    "NumPy float64, n = 1024, m = 50,000, refine = 1: against the published algorithm", at_least=1.7
)
def track_published() -> float:
    S, v = setup_large()
    times = alternating(
        {
            "ours": lambda: ngdla.damped_solve(S, v, DAMPING),
            "published": lambda: published(S, v, DAMPING),
        },
        7,
    )
    return times["published"] / times["ours"]


@tracked("the same: time over n^2 m flops at the GEMM rate of the same run", at_most=1.25)
def track_over_floor() -> float:
    S, v = setup_large()
    other = S[::-1].copy()
    times = alternating(
        {"ours": lambda: ngdla.damped_solve(S, v, DAMPING), "gemm": lambda: S @ other.T}, 9
    )
    return times["ours"] / (times["gemm"] / 2)


@tracked("the same with f given (damped_lstsq): time over n^2 m flops at the GEMM rate")
def track_lstsq_over_floor() -> float:
    S, _ = setup_large()
    other, f = S[::-1].copy(), normal((len(S),), seed=2)
    times = alternating(
        {"ours": lambda: ngdla.damped_lstsq(S, f, DAMPING), "gemm": lambda: S @ other.T}, 9
    )
    return times["ours"] / (times["gemm"] / 2)


@tracked("NumPy float64, n = 512, m = 50,000: against the SVD of S", at_least=20)
def track_svd() -> float:
    S, v = normal((512, 50_000)), normal((50_000,), seed=1)
    times = alternating(
        {
            "ours": lambda: ngdla.damped_solve(S, v, DAMPING),
            "svd": lambda: by_svd(S, v, DAMPING),
        },
        3,
    )
    return times["svd"] / times["ours"]


@tracked(
    "overhead over the same formula written by hand, n = 16, m = 200, check=True",
    unit="microseconds",
    at_most=100,
)
def track_overhead() -> float:
    S, v = normal((16, 200)), normal((200,), seed=1)
    times = alternating(
        {
            "ours": lambda: ngdla.damped_solve(S, v, DAMPING),
            "hand": lambda: handwritten(S, v, DAMPING),
        },
        5000,
    )
    return 1e6 * (times["ours"] - times["hand"])


def _memory(dtype: str) -> float:
    """Return the peak over 4 n^2 + 6 m numbers of the dtype of S, arguments not counted."""
    n, m = 256, 200_000
    S, v = normal((n, m), dtype), normal((m,), dtype, seed=1)
    ngdla.damped_solve(S[:, :10], v[:10], 1.0)
    tracemalloc.start()
    ngdla.damped_solve(S, v, DAMPING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / ((4 * n * n + 6 * m) * S.itemsize)


@tracked("extra memory of damped_solve, n = 256, m = 200,000, real, over 4 n^2 + 6 m", at_most=1.0)
def track_memory_real() -> float:
    return _memory("float64")


@tracked("the same, complex", at_most=1.0)
def track_memory_complex() -> float:
    return _memory("complex128")

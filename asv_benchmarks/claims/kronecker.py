"""Solves with Kronecker factors: exactness of joint damping, and what a tail is worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import scipy.linalg
from benchmarks.kronecker_factors import Factor, factor
from benchmarks.measuring import alternating, normal
from threads import limited

import ngdla

from .tracked import tracked

SMALL = (24, 17)
D, N, RANK, STEPS = 2048, 256, 128, 120
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4)  # over the largest eigenvalue
TAILS = ("zero", "min", "trace")


def spread(d: int, seed: int) -> np.ndarray:
    """Return a matrix with eigenvalues log-uniform over eight decades."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = 10.0 ** (-8 * rng.random(d))
    return (Q * (values / values.max())) @ Q.T


def against_dense(damping: float, seed: int) -> float:
    """Return the relative error of joint damping, dense and complete low-rank factors alike."""
    d_in, d_out = SMALL
    A, G = spread(d_in, seed), spread(d_out, seed + 1)
    V = normal((d_out, d_in), seed=seed + 2)
    dense = np.kron(G, A) + damping * np.eye(d_in * d_out)
    exact = scipy.linalg.solve(dense, V.ravel(), assume_a="pos").reshape(V.shape)
    given = [(A, G), (np.linalg.eigh(A), np.linalg.eigh(G))]
    given.append(tuple(ngdla.randomized_eigh(F, len(F)) for F in (A, G)))
    return max(
        float(np.linalg.norm(ngdla.kronecker_solve(a, g, V, damping) - exact))
        / float(np.linalg.norm(exact))
        for a, g in given
    )


@tracked(
    "kronecker_solve, joint, nothing truncated, float64, damping from 1e-3 of the largest product "
    "of eigenvalues: error against the dense Kronecker solve, worst of 40",
    unit="relative",
    at_most=1e-12,
)
def track_joint_error() -> float:
    return max(against_dense(damping, seed) for damping in (1e-3, 1e-1) for seed in range(20))


# ----------------------------------------------------------------------------------- times


@cache
def times() -> dict[str, float]:
    """Return the times of a solve with 2048 x 2048 factors, float32, one thread."""
    A = factor(D, N, STEPS).A
    V = normal((D, D), "float32")
    damping = 1e-2 * float(np.linalg.norm(A)) ** 2
    pairs, low = np.linalg.eigh(A), ngdla.randomized_eigh(A, RANK)
    pairs = (pairs[0].astype("float32"), pairs[1].astype("float32"))
    X = factor(D, N, STEPS).batch

    def solve(F: Any) -> Callable[[], Any]:
        return partial(ngdla.kronecker_solve, F, F, V, damping)

    with limited(1):
        return alternating(
            {
                "complete": solve(pairs),
                "rank 128": solve(low),
                "ema": partial(ngdla.ema, A, X, decay=0.95),
                "as written": lambda: np.float32(0.95) * A + np.float32(0.05) * (X.T @ X),
            },
            7,
        )


@tracked("kronecker_solve, joint, d = 2048 twice, float32: complete eigenbases over rank 128")
def track_truncated() -> float:
    return times()["complete"] / times()["rank 128"]


@tracked("decay A + (1 - decay) X^T X as written in NumPy over ngdla.ema, d = 2048, 256 rows")
def track_ema() -> float:
    return times()["as written"] / times()["ema"]


# ----------------------------------------------------------------------------------- tails


def truncations(data: Factor) -> dict[str, ngdla.LowRankEigh]:
    """Return decompositions of one factor, from the exact one to a single product."""
    values, U = np.linalg.eigh(data.A.astype("float64"))
    trace = np.trace(data.A, dtype="float64")
    everything = ngdla.LowRankEigh(values[::-1], U[:, ::-1], 0.0 * trace, trace, 0.0 * trace)
    cold = partial(ngdla.randomized_eigh, data.A, RANK)
    return {
        "exact, truncated": everything.truncate(RANK),
        "nystrom, 3 passes": cold(passes=3),
        "nystrom, 2 passes": cold(),
        "nystrom, 1 pass": cold(passes=1),
    }


def tail_errors(power: float) -> list[dict[str, Any]]:
    """Return relative errors of damped inverses on gradients: sums over the last batch."""
    data = factor(D, N, STEPS, power)
    V = data.batch.T.astype("float64") @ normal((N, 32), seed=1)
    A, largest = data.A.astype("float64"), data.eigenvalues[0]
    rows = []
    exact = {
        c: scipy.linalg.solve(A + c * largest * np.eye(D), V, assume_a="pos") for c in DAMPINGS
    }
    for name, low in truncations(data).items():
        for tail in TAILS:
            model = low.truncate(RANK, tail=tail)
            errors = [
                float(
                    np.linalg.norm(model.solve(V, c * largest) - exact[c])
                    / np.linalg.norm(exact[c])
                )
                for c in DAMPINGS
            ]
            rows.append({"power": power, "method": name, "tail": tail, "errors": errors})
    return rows


@cache
def tails() -> list[dict[str, Any]]:
    """Return the errors for two decays of the spectrum."""
    return [row for power in (1.0, 1.6) for row in tail_errors(power)]


@tracked('error of the damped inverse, tail "trace" over tail "zero", damping 1e-3, worst case')
def track_trace_tail() -> float:
    place = DAMPINGS.index(1e-3)
    by = {(row["power"], row["method"], row["tail"]): row["errors"][place] for row in tails()}
    return max(error / by[(*key, "zero")] for (*key, tail), error in by.items() if tail == "trace")


def details() -> dict[str, Any]:
    """Return the errors of all tails."""
    return {"dampings": list(DAMPINGS), "tails": tails()}

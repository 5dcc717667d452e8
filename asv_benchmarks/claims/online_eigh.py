"""online_eigh_update against forming the factor, and against Brand's update.

d = 4096, batches of 256, rank 128, float32, one thread. The factor is formed as users write it in
NumPy, decay A + (1 - decay) X^T X, and also in place, by one call of BLAS that writes into A.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
from benchmarks.kronecker_factors import DECAY, Average, batches, spectral_error
from benchmarks.measuring import alternating
from benchmarks.peers_eigh import brand_update
from scipy.linalg import blas
from threads import THREADS, limited

import ngdla

from .randomized_eigh import RANK, SIZES, D, N, seconds, slope
from .tracked import tracked

UPDATES = 80
REPEATS = 9

Ways = dict[str, Callable[[], Any]]


@cache
def problem() -> tuple[np.ndarray, ngdla.OnlineEigh, np.ndarray]:
    """Return a batch, a state that has seen some, and a factor."""
    *first, X = islice(batches(D, N), 5)
    state = ngdla.online_eigh_init(first[0], RANK)
    for batch in first[1:]:
        state = ngdla.online_eigh_update(state, batch, decay=DECAY)
    return X, state, np.zeros((D, D), dtype="float32")


def ways() -> Ways:
    """Return the update, and ways to form the factor."""
    X, state, A = problem()
    other = X.copy()  # NumPy hands the product of an array with its own transpose to syrk
    scale = np.float32(1 - DECAY)
    pairs = (state.eigenvectors, state.eigenvalues)
    return {
        "online_eigh_update, 8 probes": partial(ngdla.online_eigh_update, state, X, decay=DECAY),
        "formed by gemm, as written": lambda: np.float32(DECAY) * A + scale * (X.T @ other),
        "formed by syrk, as written": lambda: np.float32(DECAY) * A + scale * (X.T @ X),
        "formed by gemm, in place": lambda: blas.sgemm(
            1 - DECAY, X.T, X.T, DECAY, A.T, trans_b=1, overwrite_c=1
        ),
        "one triangle formed by syrk, in place": lambda: blas.ssyrk(
            1 - DECAY, X.T, DECAY, A.T, overwrite_c=1
        ),
        "ngdla.ema": lambda: ngdla.ema(A, X, decay=DECAY),
        "Brand's update": lambda: brand_update(*pairs, X, DECAY, RANK),
    }


@cache
def times(threads: int = 1) -> dict[str, float]:
    """Return the median times."""
    with limited(threads):
        return alternating(ways(), REPEATS)


def over_update(name: str) -> float:
    """Return the time of one way over that of the update."""
    return times()[name] / times()["online_eigh_update, 8 probes"]


@cache
def errors() -> list[dict[str, Any]]:
    """Return spectral errors over the best possible, along a stream of batches."""
    average = Average(D)
    state = brand = None
    rows = []
    for update, X in enumerate(islice(batches(D, N), UPDATES), start=1):
        average.add(X)
        if state is None or brand is None:
            state = ngdla.online_eigh_init(X, RANK)
            U, s, _ = np.linalg.svd(X.T, full_matrices=False)
            brand = ((1 - DECAY) * s[:RANK] ** 2, U[:, :RANK])
        else:
            state = ngdla.online_eigh_update(state, X, decay=DECAY)
            brand = brand_update(brand[1], brand[0], X, DECAY, RANK)
        if update in (5, 20, UPDATES):
            rows.append(_errors_at(update, average.matrix, state, brand[1]))
    return rows


def _errors_at(
    update: int, A: np.ndarray, state: ngdla.OnlineEigh, brand: np.ndarray
) -> dict[str, Any]:
    best = np.linalg.eigvalsh(A.astype("float64"))[::-1][RANK]
    result = ngdla.online_eigh_result(state)
    formed = ngdla.randomized_eigh(A, RANK, method="rsvd", passes=5)
    rest = A - (result.eigenvectors * result.eigenvalues) @ result.eigenvectors.T

    def error(values: np.ndarray, U: np.ndarray) -> float:
        return spectral_error(A, values, U) / best

    return {
        "updates": update,
        "on-line": error(result.eigenvalues, result.eigenvectors),
        "RSVD of the formed factor": error(formed.eigenvalues, formed.eigenvectors),
        # its values are not debiased: those that fit best in its basis
        "Brand's basis": error(np.sum(brand * (A @ brand), axis=0), brand),
        "estimated / true error": float(result.error / np.linalg.norm(rest)),
    }


@cache
def growth() -> dict[str, list[float]]:
    """Return seconds over the number of columns."""
    with limited(1):
        return {"size": list(SIZES), "seconds": [_timed_at(d) for d in SIZES]}


def _timed_at(d: int) -> float:
    X = np.random.default_rng(d).standard_normal((N, d), dtype="float32")
    state = ngdla.online_eigh_init(X, RANK)
    update = partial(ngdla.online_eigh_update, state, X, decay=DECAY)
    update()
    return seconds(update, REPEATS)


# ---------------------------------------------------------------------------------- claims


@tracked(
    "online_eigh_update, d = 4096, 256 rows, rank 128, 8 probes, float32, one thread: time of "
    "forming the factor by gemm, as written in NumPy, over it",
    at_least=12,
)
def track_gemm() -> float:
    return over_update("formed by gemm, as written")


@tracked("the same by gemm in place")
def track_gemm_in_place() -> float:
    return over_update("formed by gemm, in place")


@tracked("the same by syrk in place, one triangle", at_least=4.5)
def track_syrk_in_place() -> float:
    return over_update("one triangle formed by syrk, in place")


@tracked("the same by syrk, as written in NumPy")
def track_syrk() -> float:
    return over_update("formed by syrk, as written")


@tracked("Brand's update over it")
def track_brand() -> float:
    return over_update("Brand's update")


@tracked(
    "spectral error after 80 updates over that of RSVD of the formed factor, five products",
    at_most=1.3,
)
def track_error() -> float:
    return errors()[-1]["on-line"] / errors()[-1]["RSVD of the formed factor"]


@tracked("peak memory of an update over that of a d x d array", at_most=1)
def track_memory() -> float:
    X, state, A = problem()
    tracemalloc.start()
    ngdla.online_eigh_update(state, X, decay=DECAY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / A.nbytes


@tracked(
    "online_eigh_update, exponent of the time in d, from 512 to 16384", unit="exponent", at_most=1.1
)
def track_slope() -> float:
    return slope(growth())


def details() -> dict[str, Any]:
    """Return times, errors along the stream, and the growth."""
    rows = [
        {
            "what": name,
            "seconds, 1 thread": times()[name],
            f"seconds, {THREADS} threads": times(THREADS)[name],
        }
        for name in times()
    ]
    return {"times": rows, "errors": errors(), "growth": growth()}

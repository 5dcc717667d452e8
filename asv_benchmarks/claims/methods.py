"""Which method when: time, memory and forward error of every method of damped_solve.

Times are taken on normal matrices. Errors are of damped_solve with v = S^T f, where S has singular
values log-uniform over so many decades that its Gram matrix is singular in working precision; the
solution in extended precision is the reference.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from benchmarks.libraries import LIBRARIES
from benchmarks.measuring import alternating, normal

import ngdla

from .tracked import tracked

METHODS = ("cholesky", "eigh", "svd", "qr")
WIDE, MIDDLE, TALL = (512, 50_000), (256, 20_000), (20_000, 256)
REPEATS = {WIDE: 3, MIDDLE: 5, TALL: 5}
DAMPING = 10.0  # of the matrices that are timed, where every method succeeds in float32 too
# Over sigma_1^2. The tiny ones are below what rounding leaves of the Gram matrix.
DAMPINGS = {
    "float64": {"mild": 1e-4, "small": 1e-8, "tiny": 1e-15},
    "float32": {"mild": 1e-2, "small": 1e-4, "tiny": 1e-7},
}
DECADES = {"float64": 8, "float32": 4}
SWEEPS = 6


class Case(NamedTuple):
    """The arrays that one group of rows is measured on."""

    shape: tuple[int, int]
    dtype: str
    library: str


CASES = (
    *(Case(shape, "float64", "numpy") for shape in (WIDE, MIDDLE, TALL)),
    *(Case(shape, "float32", "numpy") for shape in (WIDE, MIDDLE, TALL)),
    Case(MIDDLE, "float64", "torch"),
    Case(MIDDLE, "float64", "jax jit"),
)


# ---------------------------------------------------------------------- time and memory


def times(case: Case) -> dict[str, float]:
    """Return the median time of each method, arrays already where the library wants them."""
    library = LIBRARIES[case.library]()
    n, m = case.shape
    S, v = (
        library.asarray(x) for x in (normal((n, m), case.dtype), normal((m,), case.dtype, seed=1))
    )

    def timed(method: str) -> Callable[[], Any]:
        solve = library.compiled(lambda S, v: ngdla.damped_solve(S, v, DAMPING, method=method))
        return lambda: library.wait(solve(S, v))

    return alternating({method: timed(method) for method in METHODS}, REPEATS[case.shape])


def extra_memory(case: Case, method: str) -> float:
    """Return the peak of what NumPy allocates during a solve, over the n m numbers of S."""
    n, m = case.shape
    S, v = normal((n, m), case.dtype), normal((m,), case.dtype, seed=1)
    tracemalloc.start()
    ngdla.damped_solve(S, v, DAMPING, method=method)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / S.nbytes


# ------------------------------------------------------------------------------- errors


@cache
def spectrum_problem(shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return S with sigma_1 = 1 and v = S^T f, rounded to the dtype."""
    n, m = shape
    k = min(n, m)
    rng = np.random.default_rng(3)
    U, V = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (n, m))
    sigma = 10.0 ** (-DECADES[dtype] * rng.random(k))
    sigma[0] = 1.0
    S = ((U * sigma) @ V.T).astype(dtype)
    return S, (rng.standard_normal(n) @ S).astype(dtype)


@cache
def exact(shape: tuple[int, int], dtype: str) -> dict[str, np.ndarray]:
    """Return the solution at each damping.

    A float64 inverse from the SVD is refined with residuals in extended precision. Each sweep gains
    the digits that sqrt(kappa) leaves of float64, so that a few suffice.
    """
    S, v = (x.astype(np.longdouble) for x in spectrum_problem(shape, dtype))
    _, sigma, Vh = np.linalg.svd(S.astype(np.float64), full_matrices=False)
    solutions = {}
    for name, damping in DAMPINGS[dtype].items():
        x, shrinkage = np.zeros_like(v), sigma**2 / (sigma**2 + damping)
        for _ in range(SWEEPS):
            r = (v - (S @ x) @ S - np.longdouble(damping) * x).astype(np.float64)
            x = x + (r - (shrinkage * (Vh @ r)) @ Vh) / damping
        solutions[name] = x
    return solutions


def outcome(case: Case, method: str, name: str) -> tuple[float | None, str]:
    """Return the forward error at one damping, and whether the step is certified or refused."""
    library = LIBRARIES[case.library]()
    S, v = (library.asarray(x) for x in spectrum_problem(case.shape, case.dtype))
    damping = DAMPINGS[case.dtype][name]
    try:
        x, info = ngdla.damped_solve(
            S, v, damping, method=method, precision="native", full_output=True
        )
    except np.linalg.LinAlgError:
        return None, "raised"
    reference = exact(case.shape, case.dtype)[name]
    difference = library.numpy(x).astype(np.longdouble) - reference
    error = float(np.sqrt(difference @ difference) / np.sqrt(reference @ reference))
    return error, "converged" if bool(info.converged) else "not certified"


# -------------------------------------------------------------------------------- table


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return one row a case and method; a library that is not installed has none."""
    rows = []
    for case in CASES:
        try:
            medians = times(case)
        except NotImplementedError:
            continue
        for method in METHODS:
            row = {
                "n": case.shape[0],
                "m": case.shape[1],
                "dtype": case.dtype,
                "library": case.library,
                "method": method,
                "seconds": medians[method],
                "time over cholesky": medians[method] / medians["cholesky"],
                "extra memory over n m numbers": (
                    extra_memory(case, method) if case.library == "numpy" else None
                ),
            }
            for name, damping in DAMPINGS[case.dtype].items():
                error, said = outcome(case, method, name)
                row |= {
                    f"{name} damping": damping,
                    f"error, {name} damping": error,
                    f"outcome, {name} damping": said,
                }
            rows.append(row)
    return tuple(rows)


def entry(case: Case, method: str, key: str) -> Any:
    """Return one number of the table."""
    wanted = (*case.shape, case.dtype, case.library, method)
    for row in table():
        if (row["n"], row["m"], row["dtype"], row["library"], row["method"]) == wanted:
            return row[key]
    raise KeyError(wanted)


LARGEST = CASES[0]


@tracked('method="eigh" over "cholesky", NumPy float64, n = 512, m = 50,000: time')
def track_eigh() -> float:
    return entry(LARGEST, "eigh", "time over cholesky")


@tracked('the same for "qr"')
def track_qr() -> float:
    return entry(LARGEST, "qr", "time over cholesky")


@tracked('the same for "svd"')
def track_svd() -> float:
    return entry(LARGEST, "svd", "time over cholesky")


@tracked('"qr": extra memory over the n m numbers of S')
def track_qr_memory() -> float:
    return entry(LARGEST, "qr", "extra memory over n m numbers")


@tracked('forward error of "cholesky" over "svd", damping 1e-8 sigma_1^2, v = S^T f')
def track_error() -> float:
    key = "error, small damping"
    return entry(LARGEST, "cholesky", key) / entry(LARGEST, "svd", key)


def details() -> list[dict[str, Any]]:
    """Return the whole table for the result file."""
    return list(table())

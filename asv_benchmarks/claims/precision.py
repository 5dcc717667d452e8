"""Forward errors of every method and precision over ten decades of damping, and their times.

S has singular values log-uniform over six decades, the largest 1, and entries that float32 has
too, so that the same problem is solved in both dtypes. F is `damped_lstsq`, with f given; R is
`damped_solve` with v = S^T f, rounded to the dtype of S; G is `damped_solve` with a general v. Each
error is relative to the solution, in extended precision, of what was handed over.

NumPy with the default method is measured at 512 x 50,000. Other methods and libraries take 128 x
4,000 with the same spectrum, which is what errors depend on: "mixed" makes up to some hundred
passes over S before it gives up, and JAX compiles each row anew, for which it has one method of
each kind only.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.libraries import LIBRARIES, Library, same
from benchmarks.measuring import alternating, optional
from benchmarks.peers import published, published_in_jax
from benchmarks.spectra import Reference, norm, spectrum_problem

import ngdla

from .tracked import tracked

LARGE, SMALL = (512, 50_000), (128, 4_000)
DAMPINGS = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)  # over sigma_1^2 = 1
KINDS = ("F", "R", "G")
METHODS = ("auto", "cholesky", "eigh", "svd", "qr")
OF_EACH_KIND = ("auto", "eigh", "qr")
PRECISIONS = {
    "float64": ("auto", "native", "mixed"),
    "float32": ("auto", "native", "mixed", "float64"),
}
WITHOUT_X64 = {"jax without x64": "jax", "jax jit without x64": "jax jit"}
# The smallest error of any float64 method, SVD and QR of S and two sweeps of refinement included,
# in an independent implementation on the same spectrum.
YARDSTICKS = {
    "F": (2e-15, 2e-14, 2e-13, 1e-12, 9e-12, 5e-11),
    "R": (4e-15, 3e-14, 4e-13, 4e-12, 4e-11, 6e-10),
    "G": (9e-17, 3e-16, 3e-15, 3e-14, 3e-13, 2e-12),
}


class Case(NamedTuple):
    """What one group of rows is measured on."""

    shape: tuple[int, int]
    library: str
    methods: tuple[str, ...]


CASES = (
    Case(LARGE, "numpy", ("auto",)),
    *(Case(SMALL, library, METHODS) for library in ("numpy", "torch")),
    *(Case(SMALL, library, OF_EACH_KIND) for library in ("jax", "jax jit", *WITHOUT_X64)),
)


# ------------------------------------------------------------------------------ solutions


class Problem(NamedTuple):
    """Right-hand sides by their kind, and solutions by kind and damping."""

    S: np.ndarray
    right: dict[str, np.ndarray]
    exact: dict[str, list[np.ndarray]]
    reference: Reference


@cache
def problem(shape: tuple[int, int], dtype: str) -> Problem:
    """Return a problem in float64 whose right-hand sides are rounded to the dtype."""
    S, f, general = spectrum_problem(shape)
    reference = Reference(S)
    row_space = (f.astype(np.longdouble) @ reference.S).astype(dtype).astype(np.float64)
    right = {"F": f, "R": row_space, "G": general}
    solves = {"F": reference.lstsq, "R": reference.solve, "G": reference.solve}
    exact = {kind: [solves[kind](right[kind], x) for x in DAMPINGS] for kind in KINDS}
    return Problem(S, right, exact, reference)


def solver(library: Library, function: Any, method: str, precision: str) -> Callable[..., Any]:
    """Return the solve as a function of S, the right-hand side and the damping."""

    def solve(S: Any, right: Any, damping: Any) -> Any:
        return function(S, right, damping, method=method, precision=precision, full_output=True)

    return library.compiled(solve)


def rows_of(case: Case, library: Library, dtypes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Return one row a dtype, method, precision and kind: its outcome at each damping."""
    for dtype in dtypes:
        for method, precision in itertools.product(case.methods, PRECISIONS[dtype]):
            if precision == "float64" and case.library in WITHOUT_X64:
                continue  # refused, in words
            functions = {
                function: solver(library, function, method, precision)
                for function in (ngdla.damped_lstsq, ngdla.damped_solve)
            }
            for kind in KINDS:
                solve = functions[ngdla.damped_lstsq if kind == "F" else ngdla.damped_solve]
                row = {"n": case.shape[0], "m": case.shape[1], "library": case.library}
                row |= {"dtype": dtype, "method": method, "precision": precision, "kind": kind}
                yield row | outcomes(problem(case.shape, dtype), library, solve, kind, dtype)


def outcomes(
    given: Problem, library: Library, solve: Callable[..., Any], kind: str, dtype: str
) -> dict[str, list[Any]]:
    """Return lists of errors, of lengths over the exact ones, and of what was said, by damping."""
    S, right = (library.asarray(x.astype(dtype)) for x in (given.S, given.right[kind]))
    found: dict[str, list[Any]] = {"error": [], "length": [], "said": []}
    for damping, exact in zip(DAMPINGS, given.exact[kind]):
        error = length = None
        try:
            x, info = solve(S, right, damping)
        except ValueError:  # LinAlgError, or an overflow that a check has seen
            said = "raised"
        else:
            said = "converged" if info.converged else "not converged"
            x = library.numpy(x)
            if np.all(np.isfinite(x)):
                error = given.reference.error(x, exact)
                length = float(norm(x) / norm(exact))
        for key, value in (("error", error), ("length", length), ("said", said)):
            found[key].append(value)
    return found


def measured(case: Case) -> list[dict[str, Any]]:
    """Return the rows of one case; JAX without x64 needs a process of its own."""
    if case.library in WITHOUT_X64:
        return without_x64(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ngdla.PrecisionWarning)
        return list(rows_of(case, LIBRARIES[case.library](), tuple(PRECISIONS)))


def without_x64(case: Case) -> list[dict[str, Any]]:
    """Return the rows of a case from a process where JAX has no float64."""
    optional("jax")
    script = (
        "import json, sys; from claims import precision; "
        "print(json.dumps(precision.rows_without_x64(sys.argv[1])))"
    )
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), str(root.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"JAX_ENABLE_X64": "0", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", script, case.library]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def rows_without_x64(name: str) -> list[dict[str, Any]]:
    """Return the rows of JAX in a process that has not switched float64 on."""
    jax = optional("jax")
    compiled = jax.jit if WITHOUT_X64[name] == "jax jit" else same
    library = Library(jax.numpy.asarray, compiled, jax.block_until_ready)
    (case,) = (case for case in CASES if case.library == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ngdla.PrecisionWarning)
        return list(rows_of(case, library, ("float32",)))


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return the rows of every case; a library that is not installed has none."""
    rows = []
    for case in CASES:
        try:
            rows += measured(case)
        except NotImplementedError:
            continue
    return tuple(rows)


# ----------------------------------------------------------------------------- accuracy


def selected(**wanted: Any) -> list[dict[str, Any]]:
    """Return the rows with these entries."""
    return [row for row in table() if all(row[key] == value for key, value in wanted.items())]


def over_yardstick(rows: list[dict[str, Any]]) -> float:
    """Return the largest error over its yardstick; infinite where a step is missing."""
    return max(
        np.inf if error is None else error / yardstick
        for row in rows
        for error, yardstick in zip(row["error"], YARDSTICKS[row["kind"]])
    )


AUTO = {"method": "auto", "precision": "auto"}


@tracked(
    'float64, everything "auto", NumPy, n = 512, m = 50,000: forward errors at all dampings and '
    "right-hand sides over the best of any method in an independent implementation",
    at_most=10,
)
def track_numpy_float64() -> float:
    return over_yardstick(selected(n=LARGE[0], dtype="float64", **AUTO))


@tracked("the same, n = 128, m = 4,000, the worst of NumPy, torch and JAX, jitted too", at_most=10)
def track_float64() -> float:
    return over_yardstick(selected(n=SMALL[0], dtype="float64", **AUTO))


def float32_error(libraries: tuple[str, ...]) -> float:
    """Return the largest error of float32 S with f given, down to 1e-6, whatever the method."""
    return max(
        np.inf if error is None else error
        for row in selected(dtype="float32", precision="auto", kind="F")
        if row["library"] in libraries
        for error in row["error"][: 1 + DAMPINGS.index(1e-6)]
    )


@tracked(
    'float32 S, f given, precision "auto", every method: largest forward error down to damping = '
    "1e-6 sigma_1^2, NumPy, torch and JAX eager",
    at_most=1e-5,
)
def track_float32() -> float:
    return float32_error(("numpy", "torch", "jax"))


@tracked("the same, JAX under jit with x64", at_most=1e-5)
def track_float32_jit() -> float:
    return float32_error(("jax jit",))


@tracked(
    "steps said to have converged that are not finite, or more than twice too long or short: every "
    "library, dtype, method, precision, right-hand side and damping",
    unit="steps",
    at_most=0,
)
def track_wrong_steps() -> float:
    return float(
        sum(
            said == "converged" and (length is None or not 0.5 <= length <= 2)
            for row in table()
            for length, said in zip(row["length"], row["said"])
        )
    )


# -------------------------------------------------------------------------------- times

TIMED, TIMED_DAMPING, REPEATS = (1024, 50_000), 1e-4, 5
TIMED_LIBRARIES = ("numpy", "torch", "jax jit")


@cache
def timed_problem() -> tuple[np.ndarray, ...]:
    """Return S, f, v and the exact solutions for f and for v."""
    S, f, v = spectrum_problem(TIMED)
    reference = Reference(S)
    return S, f, v, reference.lstsq(f, TIMED_DAMPING), reference.solve(v, TIMED_DAMPING)


@cache
def timing(name: str) -> dict[str, Any]:
    """Return times and errors of "native", "mixed" and the published algorithm on one library."""
    library = LIBRARIES[name]()
    S, f, v, lstsq, solve = timed_problem()
    arrays = [library.asarray(x) for x in (S, f, v)]

    def call(function: Any, right: int, **options: Any) -> Callable[[], Any]:
        compiled = library.compiled(lambda S, b: function(S, b, TIMED_DAMPING, **options))
        return lambda: library.wait(compiled(arrays[0], arrays[right]))

    calls = {
        f"{function.__name__} {precision}": call(function, right, precision=precision)
        for right, function in ((1, ngdla.damped_lstsq), (2, ngdla.damped_solve))
        for precision in ("native", "mixed")
    }
    if name == "numpy":
        calls["published"] = lambda: published(*(arrays[i] for i in (0, 2)), TIMED_DAMPING)
    elif name == "jax jit":
        calls["published"] = call(published_in_jax(), 2)
    exact = {key: lstsq if "lstsq" in key else solve for key in calls}
    errors = {
        key: float(norm(library.numpy(run()) - exact[key]) / norm(exact[key]))
        for key, run in calls.items()
    }
    seconds = alternating(calls, REPEATS)
    return {"library": name, "n": TIMED[0], "m": TIMED[1], "seconds": seconds, "error": errors}


def faster(name: str, slow: str, fast: str) -> float:
    """Return time of one over time of the other."""
    seconds = timing(name)["seconds"]
    return seconds[slow] / seconds[fast]


MIXED = "damped_lstsq mixed"


@tracked(
    'precision "mixed" against "native", damped_lstsq, float64, n = 1024, m = 50,000, damping = '
    "1e-4 sigma_1^2, NumPy",
    at_least=1.4,
)
def track_mixed_numpy() -> float:
    return faster("numpy", "damped_lstsq native", MIXED)


@tracked("the same, torch", at_least=1.4)
def track_mixed_torch() -> float:
    return faster("torch", "damped_lstsq native", MIXED)


@tracked("the same, JAX under jit", at_least=1.4)
def track_mixed_jax() -> float:
    return faster("jax jit", "damped_lstsq native", MIXED)


@tracked('damped_solve with precision "mixed" against the published algorithm, NumPy', at_least=2.4)
def track_mixed_published_numpy() -> float:
    return faster("numpy", "published", "damped_solve mixed")


@tracked('the same, "mixed" against the published algorithm, JAX under jit', at_least=2.4)
def track_mixed_published_jax() -> float:
    return faster("jax jit", "published", "damped_solve mixed")


@tracked('largest error of "mixed" over that of "native" in these solves', at_most=10)
def track_mixed_error() -> float:
    return max(
        row["error"][f"{function} mixed"] / row["error"][f"{function} native"]
        for row in timings()
        for function in ("damped_lstsq", "damped_solve")
    )


def timings() -> list[dict[str, Any]]:
    """Return the times and errors of every library that is installed."""
    rows = []
    for name in TIMED_LIBRARIES:
        try:
            rows.append(timing(name))
        except NotImplementedError:
            continue
    return rows


def details() -> dict[str, Any]:
    """Return both tables for the result file."""
    return {
        "damping over sigma_1^2": DAMPINGS,
        "yardsticks": YARDSTICKS,
        "rows": list(table()),
        "timings": timings(),
    }

"""damped_lstsq and damped_solve against other libraries, on the same S in the same process.

S is 1024 x 50,000 with singular values log-uniform over six decades, damping 1e-4 sigma_1^2. Each
peer is called as its users call it, compiled where it runs on JAX, and in turn with ngdla on the
same array library, with precision "auto" and in float64 also with "mixed". All are compared with
the solution in extended precision. In float32 ngdla works in the precision of the peer: "native",
or "float64" beside quantax, which computes in float64 whatever it is given.

    pip install -e ".[peers]"        # in an environment of its own: they pin what they need
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from benchmarks import peers
from benchmarks.libraries import LIBRARIES
from benchmarks.measuring import alternating
from benchmarks.spectra import Reference, norm, spectrum_problem

import ngdla

from .tracked import tracked

SHAPE, DAMPING = (1024, 50_000), 1e-4
REPEATS = 5


class Peer(NamedTuple):
    """Another way to the same solution, and what it is held against."""

    name: str
    package: str
    library: str  # on which ngdla runs too
    make: Callable[[], Any]  # the function of S, the right-hand side and the damping
    given: str = "f"  # or "v": then against damped_solve
    dtypes: tuple[str, ...] = ("float64",)
    float32: str = "native"  # the precision that ngdla is asked for in float32
    repeats: int = REPEATS


BOTH = ("float64", "float32")
PEERS = (
    Peer("scikit-learn Ridge", "scikit-learn", "numpy", lambda: peers.ridge),
    Peer(
        "scikit-learn Ridge, copy_X=False",
        "scikit-learn",
        "numpy",
        lambda: partial(peers.ridge, copy=False),
    ),
    Peer("SciPy lsmr", "scipy", "numpy", lambda: peers.by_lsmr, repeats=1),
    Peer("published algorithm", "numpy", "numpy", lambda: peers.published, given="v"),
    Peer("published algorithm", "jax", "jax jit", peers.published_in_jax, "v", BOTH),
    Peer("lineax Cholesky", "lineax", "jax jit", peers.lineax_cholesky, dtypes=BOTH),
    Peer(
        "NetKet cholesky",
        "netket",
        "jax jit",
        partial(peers.netket_dense, "cholesky"),
        dtypes=BOTH,
    ),
    Peer(
        "NetKet pinv_smooth",
        "netket",
        "jax jit",
        partial(peers.netket_dense, "pinv_smooth"),
        dtypes=BOTH,
    ),
    Peer("NetKet SR, cg", "netket", "jax jit", peers.netket_sr, repeats=1),
    Peer(
        "quantax auto_shift_eig",
        "quantax",
        "jax jit",
        partial(peers.quantax_shift, "auto_shift_eig"),
        dtypes=BOTH,
        float32="float64",
    ),
    Peer(
        "quantax minnorm_shift_eig",
        "quantax",
        "jax jit",
        partial(peers.quantax_shift, "minnorm_shift_eig"),
        dtypes=BOTH,
        float32="float64",
    ),
)


@cache
def problem(dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Return right-hand sides f and v = S^T f, the exact solutions for them, and S."""
    S, f, _ = spectrum_problem(SHAPE)
    reference = Reference(S)
    v = (f.astype(np.longdouble) @ reference.S).astype(dtype).astype(np.float64)
    exact = {"f": reference.lstsq(f, DAMPING), "v": reference.solve(v, DAMPING)}
    return {"f": f.astype(dtype), "v": v.astype(dtype)}, exact, S.astype(dtype)


def compared(peer: Peer, dtype: str) -> dict[str, Any]:
    """Return seconds and forward errors of both."""
    version = installed(peer.package)
    library, theirs = LIBRARIES[peer.library](), peer.make()
    rights, exact, S = problem(dtype)
    S, right = library.asarray(S), library.asarray(rights[peer.given])
    function = ngdla.damped_lstsq if peer.given == "f" else ngdla.damped_solve
    precision = peer.float32 if dtype == "float32" else "auto"

    solutions: dict[str, Any] = {}

    def called(name: str, solve: Callable[..., Any]) -> Callable[[], None]:
        compiled = library.compiled(lambda S, right: solve(S, right, DAMPING))

        def call() -> None:
            solutions[name] = library.wait(compiled(S, right))

        return call

    calls = {"ngdla": partial(function, precision=precision), "peer": theirs}
    if dtype == "float64":
        calls["mixed"] = partial(function, precision="mixed")
    seconds = alternating(
        {name: called(name, solve) for name, solve in calls.items()}, peer.repeats
    )
    errors = {
        name: float(norm(library.numpy(x) - exact[peer.given]) / norm(exact[peer.given]))
        for name, x in solutions.items()
    }
    row = {"peer": peer.name, "version": f"{peer.package} {version}", "library": peer.library}
    row |= {"dtype": dtype, "n": SHAPE[0], "m": SHAPE[1]}
    row |= {"call": f"{function.__name__}, precision={precision!r}"}
    for name in calls:
        row |= {f"{name} seconds": seconds[name], f"{name} error": errors[name]}
    return row | {"ratio": seconds["peer"] / seconds["ngdla"]}


def installed(package: str) -> str:
    """Return the version of a package, or skip the peer."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise NotImplementedError(f"{package} is not installed") from None


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return one row a peer and dtype; for a peer that is not here, why it has no numbers."""
    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ngdla.PrecisionWarning)
        for peer in PEERS:
            for dtype in peer.dtypes:
                try:
                    rows.append(compared(peer, dtype))
                except NotImplementedError as reason:
                    row = {"peer": peer.name, "library": peer.library, "dtype": dtype}
                    rows.append(row | {"skipped": str(reason)})
    return tuple(rows)


def measured(dtype: str) -> list[dict[str, Any]]:
    """Return the rows with numbers."""
    rows = [row for row in table() if row["dtype"] == dtype and "skipped" not in row]
    if not rows:
        raise NotImplementedError("no peer is installed")
    return rows


def least_ratio(dtype: str) -> float:
    """Return the smallest of the ratios."""
    return min(row["ratio"] for row in measured(dtype))


def largest_error(dtype: str) -> float:
    """Return the largest of our errors over theirs."""
    return max(row["ngdla error"] / row["peer error"] for row in measured(dtype))


@tracked(
    "time of other libraries over ours, the least of all, float64, n = 1024, m = 50,000, "
    "damping = 1e-4 sigma_1^2",
    at_least=1.0,
)
def track_float64() -> float:
    return least_ratio("float64")


@tracked("our forward error over theirs in these solves, the largest", at_most=1.0)
def track_float64_error() -> float:
    return largest_error("float64")


@tracked("the same time in float32, libraries on JAX", at_least=1.0)
def track_float32() -> float:
    return least_ratio("float32")


@tracked("the same error in float32", at_most=1.0)
def track_float32_error() -> float:
    return largest_error("float32")


def details() -> list[dict[str, Any]]:
    """Return all rows for the result file."""
    return list(table())

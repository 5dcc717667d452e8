"""The damped solve as one writes it by hand in CuPy, torch and JAX, with sweeps of refinement.

x = (v - S^H W^-1 S v) / damping with W = S S^H + damping I, by Cholesky and two triangular solves.
A sweep adds what the same formula makes of the residual, in the dtype of S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # read by what puts rows together, without a library
    from .engines import Engine
    from .methods import Step

__all__ = ["by_hand", "ratios"]

Array = Any
Solve = Callable[[Array], Array]


def by_hand(engine: Engine, damping: float, sweeps: int) -> Step:
    """Return the solve in the functions of the engine's own library."""
    factor = {"cupy": _cupy, "torch": _torch, "jax": _jax}[engine.name]

    def step(S: Array, v: Array) -> Array:
        adjoint, solve = factor(S, damping)

        def inverse(r: Array) -> Array:
            return (r - adjoint(solve(S @ r))) / damping

        x = inverse(v)
        for _ in range(sweeps):
            x = x + inverse(v - adjoint(S @ x) - damping * x)
        return x

    return step


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the times by hand in each library over ngdla's on CuPy, or on what comes first."""
    keys = ("n", "m", "dtype", "relative_damping")
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            cases.setdefault(tuple(row[key] for key in keys), {})[row["library"]] = row
    found = []
    for case, of_libraries in cases.items():
        library, ours = next(iter(of_libraries.items()))
        by_hand = {name: row["peer_seconds"] for name, row in of_libraries.items()}
        found.append(
            dict(zip(keys, case))
            | {"ngdla": library, "seconds": ours["seconds"]}
            | {"ratios": {name: peer / ours["seconds"] for name, peer in by_hand.items()}}
        )
    return found


def _cupy(S: Array, damping: float) -> tuple[Solve, Solve]:
    import cupy
    from cupyx.scipy.linalg import solve_triangular

    W = S @ S.conj().T
    W = W + damping * cupy.eye(W.shape[0], dtype=W.dtype)
    L = cupy.linalg.cholesky(W)

    def solve(b: Array) -> Array:
        return solve_triangular(L, solve_triangular(L, b, lower=True), trans=2, lower=True)

    return lambda y: (y.conj() @ S).conj(), solve


def _torch(S: Array, damping: float) -> tuple[Solve, Solve]:
    import torch

    W = S @ S.mH
    W.diagonal().add_(damping)
    L = torch.linalg.cholesky(W)

    def solve(b: Array) -> Array:
        y = torch.linalg.solve_triangular(L, b[:, None], upper=False)
        return torch.linalg.solve_triangular(L.mH, y, upper=True)[:, 0]

    return lambda y: S.mH @ y, solve


def _jax(S: Array, damping: float) -> tuple[Solve, Solve]:
    import jax

    numpy, triangular = jax.numpy, jax.scipy.linalg.solve_triangular
    W = S @ S.conj().T + damping * numpy.eye(S.shape[0], dtype=S.dtype)
    L = numpy.linalg.cholesky(W)

    def solve(b: Array) -> Array:
        return triangular(L, triangular(L, b, lower=True), trans="C", lower=True)

    return lambda y: S.conj().T @ y, solve

"""Forward errors over ten decades of damping, against solutions in extended precision.

S is 512 x 50,000 with singular values log-uniform over six decades, its entries rounded to float32,
f and v from the same committed seed. The reference is the refined solution with residuals, S and
x in extended precision (80 bits), iterated until it stands still.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import ngdla

from .tracked import tracked

SEED = 7
SHAPE = (512, 50_000)
DAMPINGS = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)  # over sigma_1^2 = 1
METHODS = ("cholesky", "eigh", "svd", "qr")
# Errors that one sweep on a Cholesky factor reached on the same spectrum, in an independent
# implementation with its own seed: the yardstick for every method here.
YARDSTICKS = {
    "f given": (2e-15, 2e-14, 2e-13, 1e-12, 9e-12, 2e-10),
    "v = S^T f": (4e-15, 3e-14, 4e-13, 4e-12, 4e-11, 1e-8),
    "general v": (9e-17, 3e-16, 3e-15, 3e-14, 3e-13, 5e-11),
}


def spectrum_problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return S, f and a general v."""
    n, m = SHAPE
    rng = np.random.default_rng(SEED)
    U = np.linalg.qr(rng.standard_normal((n, n)))[0]
    V = np.linalg.qr(rng.standard_normal((m, n)))[0]
    sigma = 10.0 ** (-6 * rng.random(n))
    sigma[0], sigma[-1] = 1.0, 1e-6
    S = ((U * sigma) @ V.T).astype(np.float32).astype(np.float64)
    return S, rng.standard_normal(n), rng.standard_normal(m)


class Reference:
    """x = x0 + S^T y with (S S^T + damping) y = f - S x0, refined in extended precision."""

    def __init__(self, S: np.ndarray) -> None:
        self.S = S.astype(np.longdouble)
        self.values, self.U = np.linalg.eigh(S @ S.T)

    def __call__(self, f: Any, x0: Any, damping: float) -> np.ndarray:
        x, y = np.asarray(x0, dtype=np.longdouble), np.longdouble(0)
        shifted = np.maximum(self.values, 0) + damping
        for _ in range(8 if damping > 1e-11 else 14):
            r = (f - self.S @ x - np.longdouble(damping) * y).astype(np.float64)
            w = (self.U @ ((self.U.T @ r) / shifted)).astype(np.longdouble)
            x, y = x + w @ self.S, y + w
        return x


@cache
def errors() -> dict[str, dict[str, list[float]]]:
    """Return the relative errors by kind of right-hand side and method, one for each damping."""
    S, f, general = spectrum_problem()
    reference = Reference(S)
    row_space = (f.astype(np.longdouble) @ reference.S).astype(np.float64)
    zero = np.zeros(SHAPE[1])
    table: dict[str, dict[str, list[float]]] = {
        kind: {method: [] for method in METHODS} for kind in YARDSTICKS
    }
    for damping in DAMPINGS:
        exact = {
            "f given": reference(f, zero, damping),
            "v = S^T f": reference(0, row_space / np.longdouble(damping), damping),
            "general v": reference(0, general / np.longdouble(damping), damping),
        }
        for method in METHODS:
            factor = ngdla.damped_factor(S, damping, method=method)
            solutions = {
                "f given": factor.lstsq(f),
                "v = S^T f": factor.solve(row_space),
                "general v": factor.solve(general),
            }
            for kind, x in solutions.items():
                difference = np.linalg.norm((x - exact[kind]).astype(np.float64))
                size = np.linalg.norm(exact[kind].astype(np.float64))
                table[kind][method].append(float(difference / size))
    return table


def _worst(kind: str) -> float:
    return max(
        error / yardstick
        for values in errors()[kind].values()
        for error, yardstick in zip(values, YARDSTICKS[kind])
    )


@tracked("forward error of damped_lstsq, all methods and dampings, over the yardstick", at_most=10)
def track_f_given() -> float:
    return _worst("f given")


@tracked("the same for damped_solve, v = S^T f", at_most=10)
def track_row_space() -> float:
    return _worst("v = S^T f")


@tracked("the same for damped_solve, general v", at_most=10)
def track_general() -> float:
    return _worst("general v")


def details() -> dict[str, Any]:
    """Return the whole table for the result file."""
    return {"damping over sigma_1^2": DAMPINGS, "yardsticks": YARDSTICKS, "errors": errors()}

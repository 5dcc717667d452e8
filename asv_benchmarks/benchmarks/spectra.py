"""Problems with a known spectrum, and their solutions in extended precision (80 bits)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import scipy.linalg

SEED = 7
DECADES = 6


@cache
def spectrum_problem(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return S, n < m, f and a general v in float64, with entries that float32 has too.

    The singular values of S are log-uniform over six decades; the largest is 1.
    """
    n, m = shape
    rng = np.random.default_rng(SEED)
    U = np.linalg.qr(rng.standard_normal((n, n)))[0]
    sigma = 10.0 ** (-DECADES * rng.random(n))
    sigma[0], sigma[-1] = 1.0, 10.0**-DECADES
    rows = rng.standard_normal((n, m))
    L = np.linalg.cholesky(rows @ rows.T)
    V = scipy.linalg.solve_triangular(L, rows, lower=True)  # orthonormal: L is well-conditioned
    f, v = rng.standard_normal(n), rng.standard_normal(m)
    return rounded((U * sigma) @ V), rounded(f), rounded(v)


def rounded(x: np.ndarray) -> np.ndarray:
    """Return x in float64, rounded to float32."""
    return x.astype(np.float32).astype(np.float64)


class Reference:
    """x = x0 + S^T y with (S S^T + damping) y = f - S x0, refined in extended precision."""

    def __init__(self, S: np.ndarray) -> None:
        self.S = S.astype(np.longdouble)
        self.values, self.U = np.linalg.eigh(S @ S.T)

    def lstsq(self, f: np.ndarray, damping: float) -> np.ndarray:
        """Return argmin |S x - f|^2 + damping |x|^2."""
        return self._refined(f, np.zeros(self.S.shape[1]), damping)

    def solve(self, v: np.ndarray, damping: float) -> np.ndarray:
        """Return x with (S^T S + damping) x = v."""
        return self._refined(0, v / np.longdouble(damping), damping)

    def error(self, x: np.ndarray, exact: np.ndarray) -> float:
        """Return |x - exact| / |exact|."""
        return float(norm(x - exact) / norm(exact))

    def _refined(self, f: Any, x0: np.ndarray, damping: float) -> np.ndarray:
        x, y, before = x0.astype(np.longdouble), np.longdouble(0), np.inf
        shifted = np.maximum(self.values, 0) + damping
        for _ in range(20):
            r = (f - self.S @ x - np.longdouble(damping) * y).astype(np.float64)
            w = (self.U @ ((self.U.T @ r) / shifted)).astype(np.longdouble)
            step = w @ self.S
            x, y = x + step, y + w
            if norm(step) > before / 2:  # it stands still
                break
            before = norm(step)
        return x


def norm(x: np.ndarray) -> Any:
    """Return the 2-norm in extended precision."""
    x = x.astype(np.longdouble)
    return np.sqrt(x @ x)

"""Kronecker factors as networks have them, and how far an approximation is from them.

Activations are ReLU(z W) for standard normal z, not centred, where W^T W has eigenvalues j^-power;
the factor is their exponential average. Its largest eigenvalue is the mean's, a third of the trace;
the others decay like those of W^T W. A drifting W turns from one such matrix into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

DECAY = 0.95
SEED = 11


class Factor(NamedTuple):
    """An average of batches, debiased, the last batch, and the eigenvalues, descending."""

    A: np.ndarray
    batch: np.ndarray
    eigenvalues: np.ndarray


def batches(
    d: int, n: int, *, power: float = 1.0, angle: float = 0.0, dtype: str = "float32"
) -> Iterator[np.ndarray]:
    """Yield batches (n, d) of activations over sqrt(n) for ever; W turns by `angle` each time."""
    rng = np.random.default_rng(SEED)
    scale = np.arange(1, d + 1) ** (-power / 2)
    scale = (scale / np.linalg.norm(scale)).astype(dtype)

    def weights() -> np.ndarray:
        return scale[:, None] * rng.standard_normal((d, d), dtype=dtype)

    first = weights()
    second = weights() if angle else None
    turned = 0.0
    while True:
        z = rng.standard_normal((n, d), dtype=dtype)
        x = z @ first
        if second is not None:
            x = np.cos(turned) * x + np.sin(turned) * (z @ second)
        turned += angle
        yield (np.maximum(x, 0) / np.sqrt(n)).astype(dtype)


class Average:
    """The debiased exponential average of batches, formed."""

    def __init__(self, d: int, dtype: str = "float32") -> None:
        self.total = np.zeros((d, d), dtype=dtype)
        self.weight = 0.0

    def add(self, X: np.ndarray) -> None:
        """Add a batch."""
        self.total *= DECAY
        self.total += X.T @ X
        self.weight = DECAY * self.weight + 1

    @property
    def matrix(self) -> np.ndarray:
        """Return the average so far."""
        return self.total / np.float32(self.weight)


@cache
def factor(d: int, n: int, steps: int, power: float = 1.0) -> Factor:
    """Return the average of `steps` batches."""
    average = Average(d)
    stream = batches(d, n, power=power)
    for _ in range(steps):
        X = next(stream)
        average.add(X)
    A = average.matrix
    return Factor(A, X, np.linalg.eigvalsh(A.astype("float64"))[::-1])


def spectral_error(A: np.ndarray, values: np.ndarray, U: np.ndarray) -> float:
    """Return |A - U diag(values) U^T|_2 by Lanczos in float64."""
    A, U = A.astype("float64"), np.asarray(U, dtype="float64")
    rest = LinearOperator(
        A.shape, matvec=lambda x: A @ x - U @ (values * (U.T @ x)), dtype="float64"
    )
    start = np.random.default_rng(5).standard_normal(len(A))
    largest = eigsh(rest, k=1, v0=start, tol=1e-4, return_eigenvectors=False)
    return float(abs(largest[0]))

"""Gradients of samples: their Gram matrix and the weighted gradient, on every library."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import normal

DAMPING = 0.005


def natural_gradient(a: Any, g: Any) -> Any:
    """Return the normalized natural gradient of a layer by weights of its samples."""
    v = ngdla.sample_weights(ngdla.sample_gram(a, g), DAMPING, normalized=True)
    return ngdla.weighted_gradient(a, g, v)


class SampleWeights(LibraryBenchmark):
    """Natural gradient of n samples of a layer with m inputs and outputs."""

    params = (("128 x 1024",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, a: Any, g: Any) -> Any:
        return natural_gradient(a, g)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((n, m), dtype, seed=1)

    def time_sample_weights(self, *_: str) -> None:
        self.call()

    def peakmem_sample_weights(self, *_: str) -> None:
        self.call()

    @tracks("|result - that in float64 on NumPy| / |result|")
    def track_relative_residual(self, *_: str) -> float:
        exact = natural_gradient(*(x.astype(np.float64) for x in self.numpy_arguments))
        return float(np.linalg.norm(self.result() - exact) / np.linalg.norm(exact))

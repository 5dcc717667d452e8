"""An inverse-free step, and Toeplitz products, on every library."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla
from ngdla.structures import LowerToeplitz, StructuredMatrix

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import alternating, normal

STRUCTURES = ("hierarchical", "hierarchical")


class StructuredStep(LibraryBenchmark):
    """Statistics of n rows, an update and a preconditioned gradient, m inputs and outputs."""

    params = (("256 x 1024",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, a: Any, g: Any, V: Any) -> Any:
        d = a.shape[-1]
        state = ngdla.inverse_free_init(d, d, structures=STRUCTURES, like=a)
        statistics = ngdla.inverse_free_statistics(state, a, g)
        state = ngdla.inverse_free_update(state, statistics, damping=1e-3, step_size=1e-3)
        return ngdla.inverse_free_apply(state, V)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return tuple(normal(shape, dtype, i) for i, shape in enumerate([(n, m), (n, m), (m, m)]))

    def time_structured_step(self, *_: str) -> None:
        self.call()

    def peakmem_structured_step(self, *_: str) -> None:
        self.call()

    @tracks("|result - that in float64 on NumPy| / |result|")
    def track_relative_residual(self, *_: str) -> float:
        exact = self.function(*(x.astype(np.float64) for x in self.numpy_arguments))
        return float(np.linalg.norm(self.result() - exact) / np.linalg.norm(exact))


class ToeplitzProduct(LibraryBenchmark):
    """A lower triangular Toeplitz matrix of dimension n times m columns."""

    params = (("2048 x 64",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, X: Any, c: Any) -> Any:
        return StructuredMatrix((c,), LowerToeplitz(), c.shape[0]) @ X

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((n,), dtype, seed=1)

    def time_toeplitz_product(self, *_: str) -> None:
        self.call()

    def dense(self, c: np.ndarray) -> np.ndarray:
        return StructuredMatrix((c,), LowerToeplitz(), len(c)).to_dense()

    @tracks("|result - the dense product in float64| / |result|")
    def track_relative_residual(self, *_: str) -> float:
        X, c = (x.astype(np.float64) for x in self.numpy_arguments)
        exact = self.dense(c) @ X
        return float(np.linalg.norm(self.result() - exact) / np.linalg.norm(exact))

    @tracks("time / time of the dense product with NumPy")
    def track_ratio_to_dense(self, *_: str) -> float:
        X, c = self.numpy_arguments
        T = self.dense(c)
        times = alternating({"ours": self.call, "theirs": lambda: T @ X}, 5)
        return times["ours"] / times["theirs"]

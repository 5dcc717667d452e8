"""Randomized and on-line eigendecompositions on every library, and against full ones."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import alternating, normal

DAMPING = 1e-2  # over the largest eigenvalue, which is about 4 here


class RandomizedEigh(LibraryBenchmark):
    """The eight-th part of the eigenpairs of an m x m factor made of n samples, and a solve."""

    params = (("512 x 2048",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, A: Any, V: Any) -> Any:
        return ngdla.randomized_eigh(A, self.rank).solve(V, DAMPING)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        self.rank = n // 4
        X = normal((n // 8, m), dtype) / np.sqrt(m).astype(dtype)
        return X.T @ X, normal((m, 8), dtype, seed=1)

    def time_randomized_eigh(self, *_: str) -> None:
        self.call()

    def peakmem_randomized_eigh(self, *_: str) -> None:
        self.call()

    @tracks("|(A + damping) X - V| / |V|")
    def track_relative_residual(self, *_: str) -> float:
        A, V = (x.astype(np.float64) for x in self.numpy_arguments)
        X = self.result()
        return float(np.linalg.norm(A @ X + DAMPING * X - V) / np.linalg.norm(V))

    @tracks("time / time of the full eigendecomposition of NumPy")
    def track_ratio_to_eigh(self, *_: str) -> float:
        A = self.numpy_arguments[0]
        times = alternating({"ours": self.call, "theirs": lambda: np.linalg.eigh(A)}, 3)
        return times["ours"] / times["theirs"]


class OnlineEigh(LibraryBenchmark):
    """One update with n samples of m numbers, whose rank is half of n."""

    params = (("256 x 4096",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, X: Any, *fields: Any) -> Any:
        state = ngdla.online_eigh_update(ngdla.OnlineEigh(*fields), X, decay=0.95)
        return state.eigenvalues

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        state = ngdla.online_eigh_init(normal((n, m), dtype), n // 2)
        return normal((n, m), dtype, seed=1), *map(np.asarray, vars(state).values())

    def time_online_eigh_update(self, *_: str) -> None:
        self.call()

    def peakmem_online_eigh_update(self, *_: str) -> None:
        self.call()

    @tracks("|eigenvalues - those in float64 on NumPy| / |eigenvalues|")
    def track_relative_residual(self, *_: str) -> float:
        exact = self.function(*(x.astype(np.float64) for x in self.numpy_arguments))
        return float(np.linalg.norm(self.result() - exact) / np.linalg.norm(exact))

    @tracks("time / time of forming the factor with NumPy")
    def track_ratio_to_forming(self, *_: str) -> float:
        X = self.numpy_arguments[0]
        A = np.zeros((X.shape[1],) * 2, dtype=X.dtype)

        def form() -> np.ndarray:
            return 0.95 * A + 0.05 * (X.T @ X)

        times = alternating({"ours": self.call, "theirs": form}, 3)
        return times["ours"] / times["theirs"]


class KroneckerSolve(LibraryBenchmark):
    """A gradient of m x m weights, joint damping, factors with n eigenpairs and tails."""

    params = (("128 x 2048",), tuple(LIBRARIES), ("float32", "float64"))

    def function(self, V: Any, *fields: Any) -> Any:
        low = ngdla.LowRankEigh(*fields)
        return ngdla.kronecker_solve(low, low, V, DAMPING)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        X = normal((n, m), dtype) / np.sqrt(m).astype(dtype)
        low = ngdla.randomized_eigh(X.T @ X, n // 2)
        return normal((m, m), dtype, seed=1), *map(np.asarray, vars(low).values())

    def time_kronecker_solve(self, *_: str) -> None:
        self.call()

    def peakmem_kronecker_solve(self, *_: str) -> None:
        self.call()

    @tracks("|A X A + damping X - V| / |V|")
    def track_relative_residual(self, *_: str) -> float:
        V, *fields = (np.asarray(x, dtype=np.float64) for x in self.numpy_arguments)
        A, X = ngdla.LowRankEigh(*fields).to_dense(), self.result().astype(np.float64)
        return float(np.linalg.norm(A @ X @ A + DAMPING * X - V) / np.linalg.norm(V))

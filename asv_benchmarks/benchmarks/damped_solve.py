"""damped_solve on every library: time, memory, accuracy, and against other implementations."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, shape_of, tracks
from .measuring import alternating, normal
from .peers import OF_LSTSQ, OF_SOLVE

DAMPING = 10.0  # about 4e-4 sigma_1^2 at these sizes, which float32 can bear


class DampedSolve(LibraryBenchmark):
    """One solve with one right-hand side, wide and tall."""

    params = (("256 x 20000", "20000 x 256"), tuple(LIBRARIES), ("float64", "float32"))

    def function(self, S: Any, v: Any) -> Any:
        return ngdla.damped_solve(S, v, DAMPING)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((m,), dtype, seed=1)

    def time_damped_solve(self, *_: str) -> None:
        self.call()

    def peakmem_damped_solve(self, *_: str) -> None:
        self.call()

    @tracks("|S^T S x + damping x - v| / |v|")
    def track_relative_residual(self, *_: str) -> float:
        S, v = (x.astype(np.float64) for x in self.numpy_arguments)
        x = self.result()
        return float(np.linalg.norm(S.T @ (S @ x) + DAMPING * x - v) / np.linalg.norm(v))

    @tracks("fraction of the rate of GEMM")
    def track_fraction_of_ceiling(self, *_: str) -> float:
        return self.fraction_of_ceiling()


class AgainstPeers:
    """NumPy float64 against other implementations, whose solutions are compared first."""

    params = (("256 x 20000",), (*OF_SOLVE, *OF_LSTSQ))
    param_names = ("size", "peer")
    timeout = 300

    def setup(self, size: str, peer: str) -> None:
        """Make the data and both functions; a peer that is not installed skips."""
        n, m = shape_of(size)
        S = normal((n, m))
        if peer in OF_SOLVE:
            right, ours, theirs = normal((m,), seed=1), ngdla.damped_solve, OF_SOLVE[peer]
        else:
            right, ours, theirs = normal((n,), seed=2), ngdla.damped_lstsq, OF_LSTSQ[peer]
        self.functions = {
            "ours": lambda: ours(S, right, DAMPING),
            "theirs": lambda: theirs(S, right, DAMPING),
        }
        x, y = (function() for function in self.functions.values())
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.max(np.abs(x)))

    @tracks("their time / our time")
    def track_ratio_to_peer(self, *_: str) -> float:
        times = alternating(self.functions, 5)
        return times["theirs"] / times["ours"]

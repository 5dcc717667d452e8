"""damping_path on every library: time, memory, and against one solve for each damping."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import alternating, normal

DAMPINGS = [10.0**exponent for exponent in np.linspace(-2, 4, 50)]


class DampingPath(LibraryBenchmark):
    """The leave-one-out norms of 50 dampings, wide and tall."""

    params = (("256 x 20000", "20000 x 256"), tuple(LIBRARIES), ("float64", "float32"))

    def function(self, S: Any, f: Any) -> Any:
        return ngdla.damping_path(S, f, DAMPINGS).leave_one_out

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((n,), dtype, seed=1)

    def time_damping_path(self, *_: str) -> None:
        self.call()

    def peakmem_damping_path(self, *_: str) -> None:
        self.call()

    @tracks("time / time of one damped_lstsq by eigh")
    def track_ratio_to_solve(self, *_: str) -> float:
        S, f = self.arguments
        solve = self.library.compiled(lambda S, f: ngdla.damped_lstsq(S, f, 1.0, method="eigh"))
        times = alternating({"ours": self.call, "one": lambda: self.library.wait(solve(S, f))}, 5)
        return times["ours"] / times["one"]

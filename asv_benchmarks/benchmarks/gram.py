"""The Gram matrix on every library, and against the product that each library offers for it."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import alternating, normal


class Gram(LibraryBenchmark):
    """S S^H of one wide matrix; "complex128" is where halving the work saves most."""

    params = (("256 x 20000",), tuple(LIBRARIES), ("float64", "complex128"))

    def function(self, S: Any) -> Any:
        return ngdla.gram(S)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return (normal((n, m), dtype),)

    def time_gram(self, *_: str) -> None:
        self.call()

    def peakmem_gram(self, *_: str) -> None:
        self.call()

    @tracks("|G - S S^H| / |S S^H|")
    def track_relative_residual(self, *_: str) -> float:
        (S,) = self.numpy_arguments
        exact = S @ S.conj().T
        return float(np.linalg.norm(self.result() - exact) / np.linalg.norm(exact))

    @tracks("time of S @ S.conj().T / our time")
    def track_ratio_to_peer(self, *_: str) -> float:
        (S,) = self.arguments
        product = self.library.compiled(lambda S: S @ S.conj().T)
        times = alternating({"ours": self.call, "theirs": lambda: self.library.wait(product(S))}, 5)
        return times["theirs"] / times["ours"]

    @tracks("fraction of the rate of GEMM")
    def track_fraction_of_ceiling(self, *_: str) -> float:
        return self.fraction_of_ceiling()

"""What the precision of the factor costs, on every library, and what it leaves of the error."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, tracks
from .measuring import normal

DAMPING = 10.0  # about 4e-4 sigma_1^2 at this size


class Mixed(LibraryBenchmark):
    """Least squares with a factor in single precision, refined in the dtype of S."""

    params = (("512 x 20000",), tuple(LIBRARIES), ("float64", "complex128"))
    precision = "mixed"

    def function(self, S: Any, f: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ngdla.PrecisionWarning)
            return ngdla.damped_lstsq(S, f, DAMPING, precision=self.precision)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((n,), dtype, seed=1)

    def time_lstsq(self, *_: str) -> None:
        self.call()

    def peakmem_lstsq(self, *_: str) -> None:
        self.call()

    @tracks("|S^H (S x - f) + damping x| / |S^H f|")
    def track_relative_residual(self, *_: str) -> float:
        S, f = (x.astype(np.complex128) for x in self.numpy_arguments)
        x, force = self.result(), S.conj().T @ f
        residual = S.conj().T @ (S @ x) + DAMPING * x - force
        return float(np.linalg.norm(residual) / np.linalg.norm(force))


class Native(Mixed):
    """The same with a factor in the dtype of S."""

    precision = "native"


class Double(Mixed):
    """The same of float32 S with a factor in double precision."""

    params = (("512 x 20000",), tuple(LIBRARIES), ("float32", "complex64"))
    precision = "float64"

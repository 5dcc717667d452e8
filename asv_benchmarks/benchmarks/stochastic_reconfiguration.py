"""The step of stochastic reconfiguration, from log-derivatives and local energies."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla

from .libraries import LIBRARIES, LibraryBenchmark, shape_of, tracks
from .measuring import alternating, normal
from .peers import by_eigenvectors, parameter_space

DAMPING = 1e-3
MODES = {"float64": "real", "complex128": "holomorphic"}
PEERS = {"m x m matrix": parameter_space, "eigenvectors of the kernel": by_eigenvectors}


def step(O: Any, E: Any) -> Any:
    """Return the step; the dtype of the log-derivatives decides what parameters are."""
    mode = "holomorphic" if "complex" in str(O.dtype) else "real"
    return ngdla.stochastic_reconfiguration(O, E, DAMPING, mode=mode)


class StochasticReconfiguration(LibraryBenchmark):
    """One step of many parameters, real and holomorphic."""

    params = (("256 x 20000",), tuple(LIBRARIES), tuple(MODES))

    def function(self, O: Any, E: Any) -> Any:
        return step(O, E)

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        return normal((n, m), dtype), normal((n,), dtype, seed=1)

    def time_step(self, *_: str) -> None:
        self.call()

    def peakmem_step(self, *_: str) -> None:
        self.call()

    @tracks("|(S^H S + damping) d - S^H f| / |S^H f|")
    def track_relative_residual(self, *_: str) -> float:
        O, E = self.numpy_arguments
        mode = MODES[O.dtype.name]
        S, f = ngdla.scores(O, mode=mode), ngdla.residuals(E, mode=mode)
        d, force = self.result(), S.conj().T @ f
        residual = S.conj().T @ (S @ d) + DAMPING * d - force
        return float(np.linalg.norm(residual) / np.linalg.norm(force))


class AgainstPeers:
    """NumPy float64 against what variational codes write, at a size that m x m can bear."""

    params = (("256 x 2000",), tuple(PEERS))
    param_names = ("size", "peer")
    timeout = 300

    def setup(self, size: str, peer: str) -> None:
        """Make the data and both functions, and see that they agree."""
        n, m = shape_of(size)
        O, E = normal((n, m)), normal((n,), seed=1)
        self.functions = {
            "ours": lambda: step(O, E),
            "theirs": lambda: PEERS[peer](ngdla.scores(O), ngdla.residuals(E), DAMPING),
        }
        x, y = (function() for function in self.functions.values())
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.max(np.abs(x)))

    @tracks("their time / our time")
    def track_ratio_to_peer(self, *_: str) -> float:
        times = alternating(self.functions, 5)
        return times["theirs"] / times["ours"]

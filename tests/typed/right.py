"""What type checkers accept: arrays of any library, literal options, results by `full_output`."""

import numpy as np
from numpy.typing import NDArray

import ngdla


def step(S: NDArray[np.float32], f: NDArray[np.float32], v: NDArray[np.float32]) -> float:
    x, info = ngdla.damped_lstsq(S, f, 1e-3, method="cholesky", full_output=True)
    converged: np.ndarray[tuple[int, ...], np.dtype[np.bool]] = np.asarray(info.converged)
    factor = ngdla.damped_factor([S, S], 1e-3, precision="mixed", check=False)
    y, other = factor.solve([v, v], full_output=True)
    z = ngdla.damped_solve((S, S), (v, v), np.asarray(0.1), method="qr")
    path = ngdla.damping_path(S, f, [1e-3, 1e-2])
    stream = ngdla.ColumnStream(lambda: iter((S, S)), (50, 4000), dtype="float32")
    ngdla.damped_lstsq(stream, f, 1e-3)
    values: float = float(np.sum(x + y[0] + z[0])) + float(path.residual_norm[0])
    return values + float(converged.sum()) + float(other.step_norm)


def either(S: NDArray[np.float64], f: NDArray[np.float64], full_output: bool) -> object:
    return ngdla.damped_lstsq(S, f, 1e-3, full_output=full_output)

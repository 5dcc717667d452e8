"""What type checkers refuse: each line must fail, or its comment is reported as unused."""

import numpy as np
from numpy.typing import NDArray

import ngdla


def step(S: NDArray[np.float64], f: NDArray[np.float64]) -> None:
    ngdla.damped_lstsq(S, f, 1e-3, method="choleski")  # type: ignore[call-overload]
    ngdla.damped_solve(S, f, 1e-3, precision="double")  # type: ignore[call-overload]
    ngdla.damped_factor(S, 1e-3, method="lu")  # type: ignore[arg-type]
    ngdla.damped_lstsq({1.0}, f, 1e-3)  # type: ignore[call-overload]
    ngdla.damped_lstsq(S, "f", 1e-3)  # type: ignore[call-overload]
    _, info = ngdla.damped_lstsq(S, f, 1e-3, full_output=True)
    info.error  # type: ignore[attr-defined]  # noqa: B018
    ngdla.damping_path(S, f, 1e-3)  # type: ignore[arg-type]
    ngdla.stochastic_reconfiguration(S, f, 1e-3, mode="imaginary")  # type: ignore[call-overload]
    ngdla.kronecker_solve(S, S, S, 1e-3, coupling="split")  # type: ignore[arg-type]
    ngdla.randomized_eigh(S, 3, method="lanczos")  # type: ignore[arg-type]
    ngdla.weight_sharing_init("never", 64)  # type: ignore[arg-type]
    ngdla.ema(S, S, decay=0.9, check="none")  # type: ignore[call-overload]
    ngdla.sample_gram(S, S, positions="yes")  # type: ignore[arg-type]
    ngdla.sample_weights(S, 0.1, full_output="yes")  # type: ignore[call-overload]

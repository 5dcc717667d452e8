"""What works where: the table that `test_capabilities.py` runs and the documentation prints.

Every function works in every mode of every library but for the exceptions, which are tested too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ngdla
from ngdla._backend.products import adjoint

__all__ = [
    "DERIVATIVES",
    "EXCEPTIONS",
    "FUNCTIONS",
    "KEPT",
    "LIBRARIES",
    "MODES",
    "REFUSE_DEFICIENT",
    "SPECTRA",
]

# Keys are names of the `backend` fixture in backends.py, values what people call them.
LIBRARIES = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "dask": "Dask",
    "strict": "array-api-strict",
    "cupy": "CuPy",
    "torch-cuda": "PyTorch on a GPU",
    "jax-gpu": "JAX on a GPU",
}

# The modes that a library has. jit: jax.jit, torch.compile; grad: reverse mode; lazy: no chunk is
# computed before the caller asks.
MODES = {
    "numpy": ("eager",),
    "torch": ("eager", "jit", "grad", "vmap"),
    "jax": ("eager", "jit", "grad", "vmap"),
    "dask": ("lazy",),
    "strict": ("eager",),
    "cupy": ("eager",),
    "torch-cuda": ("eager", "jit", "grad", "vmap"),
    "jax-gpu": ("eager", "jit", "grad", "vmap"),
}


# `adjoint`, not `S.T`: the calls are made with stacks and with complex S too.
def _factor(S: Any) -> Any:
    return S @ adjoint(S)


def _followed(S: Any) -> Any:
    X = adjoint(S)
    return ngdla.online_eigh_update(ngdla.online_eigh_init(X, 4), 2 * X, decay=0.9)


def _inverse_free(S: Any, **options: Any) -> Any:
    state = ngdla.inverse_free_init(
        S.shape[-1], S.shape[-2], structures=(("hierarchical", {"k1": 2, "k2": 1}), "dense"), like=S
    )
    statistics = ngdla.inverse_free_statistics(state, S[..., :4, :], _factor(S)[..., :4, :])
    return ngdla.inverse_free_update(state, statistics, damping=0.3, step_size=0.1, **options)


def _shared(S: Any) -> Any:
    g = _factor(S)
    state = ngdla.weight_sharing_init("shared", S.shape[-2], period=1)
    computed, state = ngdla.weight_sharing_step(state, S, g, 0.3)
    shared, state = ngdla.weight_sharing_step(state, S**2, g, 0.3, diagnose=True)
    return computed + 0 * shared * state.cosine  # the second one is kept without its gradient


def _rows(S: Any) -> Any:
    inputs, gradients = S[..., None], S[..., None] ** 2  # one number at each of m positions
    a, g = ngdla.layer_rows(inputs, gradients, loss="token-mean", positions=True)
    return adjoint(g) @ a


# One call of each public function with S (n, m), v (m,) and f (n,).
FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "gram": lambda S, v, f: ngdla.gram(S),
    "column_norms": lambda S, v, f: ngdla.column_norms(S),
    "damped_solve": lambda S, v, f: ngdla.damped_solve(S, v, 0.3),
    "damped_lstsq": lambda S, v, f: ngdla.damped_lstsq(S, f, 0.3),
    "damped_factor": lambda S, v, f: ngdla.damped_factor(S, 0.3).solve(v),
    "hermitian_solve": lambda S, v, f: ngdla.hermitian_solve(_factor(S), f),
    "damping_path": lambda S, v, f: ngdla.damping_path(S, f, [0.3, 2.0]).leave_one_out,
    "scores": lambda S, v, f: ngdla.scores(S),
    "residuals": lambda S, v, f: ngdla.residuals(f),
    "randomized_eigh": lambda S, v, f: ngdla.randomized_eigh(_factor(S), 3).solve(f, 0.3),
    "randomized_svd": lambda S, v, f: ngdla.randomized_svd(S, 2).S,
    "nystrom_factor": lambda S, v, f: ngdla.nystrom_factor(_factor(S), 3).solve(f, 0.3),
    "online_eigh_init": lambda S, v, f: ngdla.online_eigh_init(adjoint(S), 4).eigenvalues,
    "online_eigh_update": lambda S, v, f: _followed(S).eigenvalues,
    "online_eigh_result": lambda S, v, f: ngdla.online_eigh_result(_followed(S)).solve(f, 0.3),
    "ema": lambda S, v, f: ngdla.ema(_factor(S), adjoint(S), decay=0.9),
    "kronecker_solve": lambda S, v, f: ngdla.kronecker_solve(adjoint(S) @ S, _factor(S), S, 0.3),
    "inverse_free_init": lambda S, v, f: S + ngdla.inverse_free_init(11, 5, like=S).report.step_K,
    "inverse_free_statistics": lambda S, v, f: ngdla.inverse_free_statistics(
        ngdla.inverse_free_init(11, 5, like=S), S, _factor(S)
    ).H_K.to_dense(),
    "inverse_free_update": lambda S, v, f: _inverse_free(S).K @ v,
    "inverse_free_apply": lambda S, v, f: ngdla.inverse_free_apply(_inverse_free(S), S),
    "structured_factor": lambda S, v, f: ngdla.structured_factor(
        _factor(S), "upper-triangular", 0.3
    ).solve(f),
    "layer_rows": lambda S, v, f: _rows(S),
    "patches": lambda S, v, f: ngdla.patches(S[:, None, :], 3, stride=2, padding=1),
    "patch_means": lambda S, v, f: ngdla.patch_means(S[:, None, :], 3, stride=2, padding=1),
    "sample_gram": lambda S, v, f: ngdla.sample_gram(S, _factor(S)),
    "sample_weights": lambda S, v, f: ngdla.sample_weights(_factor(S), 0.3),
    "weighted_gradient": lambda S, v, f: ngdla.weighted_gradient(S, _factor(S), f),
    "weighted_cosine": lambda S, v, f: S * ngdla.weighted_cosine(_factor(S), f, f**2),
    "weight_sharing_init": lambda S, v, f: S * ngdla.weight_sharing_init("exact", S.shape[-2]).M,
    "weight_sharing_step": lambda S, v, f: _shared(S),
    "expm": lambda S, v, f: ngdla.expm(0.1 * _factor(S)),
    "expm_series": lambda S, v, f: ngdla.expm_series(0.1 * _factor(S), 3),
    "logm_psd": lambda S, v, f: ngdla.logm_psd(_factor(S)),
    "sqrtm_psd": lambda S, v, f: ngdla.sqrtm_psd(_factor(S)),
    "inv_sqrtm_psd": lambda S, v, f: ngdla.inv_sqrtm_psd(_factor(S)),
    "inv_sqrtm_newton_schulz": lambda S, v, f: ngdla.inv_sqrtm_newton_schulz(_factor(S), 20),
    "stochastic_reconfiguration": lambda S, v, f: ngdla.stochastic_reconfiguration(S, f, 0.3),
}

# What these return is kept from step to step, so that it holds no graph of torch, which would keep
# all batches alive: `backward` takes it as a constant, and derivatives are by `torch.func.grad`.
KEPT = (
    "online_eigh_init",
    "online_eigh_update",
    "online_eigh_result",
    "ema",
    "inverse_free_init",
    "inverse_free_statistics",
    "inverse_free_update",
    "inverse_free_apply",
)

# Singular values of S at which derivatives are asked for as well: those of S S^H are equal, nearly
# equal, and zero.
SPECTRA = {
    "equal": (2.0, 2.0, 1.5, 1.5, 1.0),
    "nearly equal": (2.0, 2.0 * (1 + 1e-14), 1.5, 1.5 * (1 - 1e-14), 1.0),
    "deficient": (2.0, 1.5, 1.0, 0.0, 0.0),
}

# function: the spectra at which its derivatives are NaN, and why. Each must be NaN.
_VECTORS = "eigenvectors and singular vectors have no derivatives where values are equal"
_ALL = tuple(SPECTRA)
DERIVATIVES: dict[str, tuple[tuple[str, ...], str]] = {
    "damping_path": (_ALL, _VECTORS),
    "randomized_eigh": (("equal", "nearly equal"), _VECTORS),
    "randomized_svd": (_ALL, _VECTORS),
    "online_eigh_init": (_ALL, _VECTORS),
    "online_eigh_update": (_ALL, _VECTORS),
    "online_eigh_result": (_ALL, _VECTORS),
    "nystrom_factor": (("deficient",), "what roundings decide has no derivatives"),
    "hermitian_solve": (("deficient",), "a matrix that was lifted has no derivatives"),
    "sqrtm_psd": (("deficient",), "the root of 0 has no derivative"),
}

# Functions that refuse deficient matrices.
REFUSE_DEFICIENT = ("inv_sqrtm_newton_schulz", "inv_sqrtm_psd", "logm_psd")

# (function, library, mode): why it does not work. Each must fail, so that the table stays true.
EXCEPTIONS: dict[tuple[str, str, str], str] = {}

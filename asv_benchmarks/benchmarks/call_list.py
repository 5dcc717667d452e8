"""Calls of all capabilities at small and middling sizes, where threads and launches count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ngdla

from .measuring import normal

__all__ = ["CALLS", "prepared"]

Draw = Callable[..., Any]  # drawn(*shape) is an array of independent normal numbers
Call = Callable[[], Any]
DAMPING = 1e-2


def solve(drawn: Draw) -> Call:
    S, v = drawn(160, 900), drawn(900)
    return lambda: ngdla.damped_solve(S, v, 900 * DAMPING)


def lstsq(drawn: Draw) -> Call:
    S, f = drawn(160, 900), drawn(160)
    return lambda: ngdla.damped_lstsq(S, f, 900 * DAMPING)


def path(drawn: Draw) -> Call:
    S, f = drawn(160, 900), drawn(160)
    dampings = [900 * DAMPING * 10**i for i in range(4)]
    return lambda: ngdla.damping_path(S, f, dampings)


def gram(drawn: Draw) -> Call:
    S = drawn(160, 900)
    return lambda: ngdla.gram(S)


def eigh(drawn: Draw) -> Call:
    A = factor(drawn, 300)
    return lambda: ngdla.randomized_eigh(A, 20)


def svd(drawn: Draw) -> Call:
    S = drawn(160, 900)
    return lambda: ngdla.randomized_svd(S, 20)


def online(drawn: Draw) -> Call:
    state, X = ngdla.online_eigh_init(drawn(64, 300), 20), drawn(64, 300)
    return lambda: ngdla.online_eigh_update(state, X, decay=0.95)


def kronecker(drawn: Draw) -> Call:
    A, G, V = factor(drawn, 256), factor(drawn, 128), drawn(128, 256)
    return lambda: ngdla.kronecker_solve(A, G, V, DAMPING)


def inverse_free(drawn: Draw) -> Call:
    a, g, V = drawn(128, 256), drawn(128, 128), drawn(128, 256)
    state = ngdla.inverse_free_init(256, 128, like=a)

    def step() -> Any:
        statistics = ngdla.inverse_free_statistics(state, a, g)
        new = ngdla.inverse_free_update(state, statistics, damping=DAMPING, step_size=DAMPING)
        return ngdla.inverse_free_apply(new, V)

    return step


def weights(drawn: Draw) -> Call:
    a, g = drawn(128, 256), drawn(128, 128)

    def step() -> Any:
        w = ngdla.sample_weights(ngdla.sample_gram(a, g), DAMPING, relative=True)
        return ngdla.weighted_gradient(a, g, w)

    return step


def of_matrix(function: Callable[[Any], Any], drawn: Draw) -> Call:
    A = factor(drawn, 160)
    return lambda: function(A)


def structured(drawn: Draw) -> Call:
    A, f = factor(drawn, 160), drawn(160)
    return lambda: ngdla.structured_factor(A, "upper-triangular", DAMPING).solve(f)


def step(drawn: Draw) -> Call:
    O, E = drawn(160, 900), drawn(160)
    mode = "holomorphic" if "complex" in str(O.dtype) else "real"
    return lambda: ngdla.stochastic_reconfiguration(O, E, 10 * DAMPING, mode=mode)


def factor(drawn: Draw, d: int) -> Any:
    """Return a positive definite matrix, as an average of products of rows has it."""
    X = drawn(2 * d, d)
    return X.conj().T @ X / (2 * d)


SINGLE, DOUBLE, COMPLEX = "float32", "float64", "complex128"
GROUPS: tuple[tuple[str, Callable[[Draw], Call], tuple[str, ...]], ...] = (
    ("damped_solve 160 x 900", solve, (SINGLE, DOUBLE, COMPLEX)),
    ("damped_lstsq 160 x 900", lstsq, (SINGLE, DOUBLE, COMPLEX)),
    ("damping_path 160 x 900", path, (DOUBLE,)),
    ("gram 160 x 900", gram, (DOUBLE, COMPLEX)),
    ("stochastic_reconfiguration 160 x 900", step, (SINGLE, DOUBLE, COMPLEX)),
    ("randomized_eigh 300, rank 20", eigh, (SINGLE, DOUBLE)),
    ("randomized_svd 160 x 900, rank 20", svd, (SINGLE, DOUBLE)),
    ("online_eigh_update 64 x 300, rank 20", online, (DOUBLE,)),
    ("kronecker_solve 256 x 128", kronecker, (SINGLE, DOUBLE)),
    ("inverse-free step 256 x 128", inverse_free, (SINGLE, DOUBLE)),
    ("sample_weights 256 x 128", weights, (SINGLE,)),
    ("expm 160", partial(of_matrix, ngdla.expm), (DOUBLE,)),
    ("logm_psd 160", partial(of_matrix, ngdla.logm_psd), (COMPLEX,)),
    ("inv_sqrtm_psd 160", partial(of_matrix, ngdla.inv_sqrtm_psd), (DOUBLE,)),
    ("structured_factor 160", structured, (DOUBLE,)),
)
CALLS: dict[str, tuple[Callable[[Draw], Call], str]] = {
    f"{name}, {dtype}": (prepare, dtype) for name, prepare, dtypes in GROUPS for dtype in dtypes
}


def prepared(name: str, asarray: Callable[[np.ndarray], Any] = np.asarray) -> Call:
    """Return one of CALLS on arrays of a library; it has been called once."""
    prepare, dtype = CALLS[name]
    seeds = iter(range(100))
    call = prepare(lambda *shape: asarray(normal(shape, dtype, next(seeds))))
    call()
    return call

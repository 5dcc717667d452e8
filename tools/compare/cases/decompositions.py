"""Randomized and on-line decompositions, Kronecker factors, and functions of matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compare.expressions import Array, lifted, ngdla
from compare.grids import EAGER, HALF, INTERPRETED, Case, grid

__all__ = ["cases"]

D, RANK = 12, 3
TAILS = ("trace", "min", "zero")
SIZES = {"matrix": (), "stack": (2,)}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from low_rank()
    yield from online()
    yield from kronecker()
    yield from functions()


def psd(batch: tuple[int, ...] = (), d: int = D) -> Array:
    """Return a positive semi-definite matrix, or a stack."""
    return Array("psd", (*batch, d, d))


# ------------------------------------------------------------------------ decompositions


class Operator:
    """A matrix that is known by its products."""

    def __init__(self, A: Any) -> None:
        self.A, self.shape, self.dtype = A, A.shape, A.dtype

    def __matmul__(self, X: Any) -> Any:
        """Return A X."""
        return self.A @ X


generator = lifted(np.random.default_rng)
MODEL: dict[str, Callable[[Any, Any], Any]] = {
    "itself": lambda E, V: E,
    "matmul": lambda E, V: (E.matmul(V), E.matmul(V[..., 0])),
    "solve": lambda E, V: (E.solve(V, 0.1), E.solve(V[..., 0], 0.1, check=False)),
    "logdet": lambda E, V: E.logdet(0.1),
}
TRUNCATED = MODEL | {
    "to_dense": lambda E, V: E.to_dense(),
    "numbers": lambda E, V: [E.trace_bound, E.complete],
    "truncate": lambda E, V: [E.truncate(2, tail=tail) for tail in TAILS],
    "too many": lambda E, V: E.truncate(7),
}
# Options of a sketch of A, of batch shape b.
SKETCHES: dict[str, Callable[[Any, tuple[int, ...]], dict[str, Any]]] = {
    "plain": lambda A, b: {},
    "basis": lambda A, b: {"basis": Array("orthonormal", (*b, D, RANK)), "passes": 1},
    "seed": lambda A, b: {"rng": 7},
    "generator": lambda A, b: {"rng": generator(3)},
    "trace": lambda A, b: {"trace": 2.5},
    "traces": lambda A, b: {"trace": Array("positive", b)},
    "tf32": lambda A, b: {"precision": "tf32"},
    "product_eps": lambda A, b: {"product_eps": 1e-3},
    "unchecked": lambda A, b: {"check": False},
}


def eigh(
    size: Any = (), given: Any = lambda A, b: {}, ask: Any = MODEL["itself"], **more: Any
) -> Any:
    """Return what a randomized decomposition is asked."""
    A, V = psd(size), Array("normal", (*size, D, 2))
    return ask(ngdla.randomized_eigh(A, RANK, **(given(A, size) | more)), V)


def nystrom(
    size: Any = (), given: Any = lambda A, b: {}, ask: Any = MODEL["itself"], **more: Any
) -> Any:
    """Return what a Nystrom factor is asked."""
    A, V = psd(size), Array("normal", (*size, D, 2))
    return ask(ngdla.nystrom_factor(A, RANK, **(given(A, size) | more)), V)


def automatic(method: str, options: dict[str, Any]) -> Any:
    """Return a decomposition of a rank that follows from a damping."""
    return ngdla.randomized_eigh(psd((), 40), "auto", method=method, **options)


def of_operator(function: str, basis: Any) -> Any:
    """Return a decomposition of a matrix that is known by its products."""
    A = psd()
    operator = lifted(Operator)(A)
    options = {"basis": basis, "trace": 2.0} if basis is not None else {"trace": 2.0}
    return getattr(ngdla, function)(operator, RANK, **options)


def low_rank() -> Iterator[Case]:
    """Yield decompositions and factors of low rank, and all that they are asked."""
    methods = ("nystrom", "rayleigh-ritz", "rsvd", "sre")
    sketched = {"size": SIZES, "passes": (1, 2, 3), "oversample": (0, 4), "tail": TAILS}
    yield from grid("randomized_eigh", eigh, method=methods, **sketched)
    yield from grid("nystrom_factor", nystrom, **sketched)
    asked = {"size": SIZES, "given": SKETCHES, "ask": TRUNCATED}
    yield from grid("randomized_eigh, given", eigh, method=methods, **asked)
    yield from grid("nystrom_factor, given", nystrom, **(asked | {"ask": MODEL}))
    yield from grid("randomized_eigh, half", eigh, **HALF, method=methods, **asked)
    yield from grid("nystrom_factor, half", nystrom, **HALF, **(asked | {"ask": MODEL}))
    columns = {"rng": {"fitting": Array("normal", (D, 22)), "few": Array("normal", (D, D))}}
    yield from grid("randomized_eigh, columns", eigh, method=methods, **columns)
    yield from grid("nystrom_factor, columns", nystrom, **columns)
    rules = {
        "damping": {"damping": 1e-3},
        "target": {"damping": 1e-2, "target": 0.5},
        "max_rank": {"damping": 1e-12, "target": 1e-3, "max_rank": 32},
        "missing": {},
    }
    yield from grid("randomized_eigh, auto", automatic, method=methods, options=rules, **EAGER)
    bases = {"basis": Array("orthonormal", (D, RANK)), "none": None}
    names = ("randomized_eigh", "nystrom_factor")
    yield from grid("operator of a sketch", of_operator, function=names, basis=bases)
    shapes = {"wide": (6, 11), "tall": (11, 6), "stack": (2, 6, 11)}
    yield from grid(
        "randomized_svd",
        lambda shape, passes, oversample: ngdla.randomized_svd(
            Array("normal", shape), RANK, passes=passes, oversample=oversample
        ),
        shape=shapes,
        passes=(None, 1, 2, 3, 4),
        oversample=(0, 2, 10),
    )
    yield from grid(
        "randomized_svd, error",
        lambda shape, passes, oversample: ngdla.randomized_svd(
            Array("normal", shape), RANK, passes=passes, oversample=oversample, full_output=True
        ),
        shape=shapes,
        passes=(None, 1, 2),
        oversample=(0, 2),
    )
    yield from grid(
        "randomized_svd, given",
        lambda shape, options: ngdla.randomized_svd(Array("normal", shape), RANK, **options),
        shape=shapes,
        options={
            "seed": {"rng": 5},
            "generator": {"rng": generator(3)},
            "unchecked": {"check": False},
            "basis": {"basis": Array("orthonormal", (11, RANK))},
        },
    )
    yield from grid(
        "randomized_svd, half",
        lambda shape: ngdla.randomized_svd(Array("normal", shape), RANK),
        **HALF,
        shape=shapes,
    )


def followed(
    size: Any, samples: int, ask: Any, tail: str, probes: int, decay: Any, check: bool
) -> Any:
    """Return what three batches of an on-line decomposition give."""
    X, Y, Z = (Array("normal", (*size, samples, D), seed=i) for i in range(3))
    first = ngdla.online_eigh_init(X, RANK, rng=1, probes=probes, check=check)
    second = ngdla.online_eigh_update(first, Y, decay=decay, check=check)
    third = ngdla.online_eigh_update(second, Z, decay=0.5)
    result = ngdla.online_eigh_result(third, tail=tail)
    return first, second, third, ask(result, Array("normal", (*size, D, 2)))


def online() -> Iterator[Case]:
    """Yield on-line decompositions."""
    every = {"size": SIZES, "samples": (2, 6, 20), "tail": TAILS, "probes": (0, 8)}
    asked = {"ask": MODEL, "decay": (0.9, 0.0), "check": (True, False)}
    yield from grid("online_eigh", followed, **every, **asked)
    yield from grid("online_eigh, half", followed, **HALF, **every, **asked)


# ---------------------------------------------------------------------- Kronecker factors


def solve(size: Any, A: Any, G: Any, **options: Any) -> Any:
    """Return a solve with both factors, each in one of the forms that it may have."""
    V = Array("normal", (*size, 5, D))
    return ngdla.kronecker_solve(A(size, D), G(size, 5), V, **options)


FORMS: dict[str, Callable[[Any, int], Any]] = {
    "dense": psd,
    "pair": lambda size, d: (Array("positive", (*size, d)), Array("orthonormal", (*size, d, d))),
    "low rank": lambda size, d: ngdla.randomized_eigh(psd(size, d), 3, rng=d),
}


def averaged(size: Any, d: int, samples: int, decay: float, check: bool, **options: Any) -> Any:
    """Return the average of a factor and of a batch."""
    A, X = psd(size, d), Array("normal", (*size, samples, d))
    return ngdla.ema(A, X, decay=decay, check=check, **options)


def kronecker() -> Iterator[Case]:
    """Yield solves with Kronecker factors, and averages of these."""
    every = {"size": SIZES, "A": FORMS, "G": FORMS, "coupling": ("joint", "factored")}
    every |= {"check": (True, False)}
    yield from grid("kronecker_solve", solve, **every, damping=(0.3, 1e-9))
    yield from grid("kronecker_solve, half", solve, **HALF, **every, damping=(0.3,))
    options = {"samples": (1, 30), "decay": (0.0, 0.9), "check": (True, False)}
    yield from grid("ema", averaged, size=SIZES, d=(5,), **options)
    yield from grid("ema, skipped", averaged, size=SIZES, d=(5,), full_output=(True,), **options)
    yield from grid("ema, half", averaged, **HALF, size=SIZES, d=(5,), **options)
    yield from grid("ema, large", averaged, **INTERPRETED, size=SIZES, d=(260,), **options)


# --------------------------------------------------------------------- matrix functions

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "expm": ngdla.expm,
    "expm unchecked": lambda A: ngdla.expm(A, check=False),
    "expm_series 0": lambda A: ngdla.expm_series(A, 0),
    "expm_series 4": lambda A: ngdla.expm_series(A, 4, full_output=True),
    "expm_series unchecked": lambda A: ngdla.expm_series(A, 3, check=False),
    "logm_psd": ngdla.logm_psd,
    "logm_psd unchecked": lambda A: ngdla.logm_psd(A, check=False),
    "sqrtm_psd": ngdla.sqrtm_psd,
    "sqrtm_psd unchecked": lambda A: ngdla.sqrtm_psd(A, check=False),
    "inv_sqrtm_psd": ngdla.inv_sqrtm_psd,
    "inv_sqrtm_psd unchecked": lambda A: ngdla.inv_sqrtm_psd(A, check=False),
    "inv_sqrtm_newton_schulz": lambda A: ngdla.inv_sqrtm_newton_schulz(A, 20),
    "inv_sqrtm_newton_schulz 3": lambda A: ngdla.inv_sqrtm_newton_schulz(A, 3, full_output=True),
    "inv_sqrtm_newton_schulz unchecked": lambda A: ngdla.inv_sqrtm_newton_schulz(A, 9, check=False),
}
MATRICES = {
    "psd": psd((), 5),
    "stack": psd((2,), 5),
    "larger": psd((), 40),
    "one": psd((), 1),
    "tiny": psd((), 5) * 1e-12,
    "large": psd((), 5) * 300.0,
    "general": Array("normal", (5, 5)),
    "zero": Array("zero", (4, 4)),
    "nan": Array("nan", (4, 4)),
}


def functions() -> Iterator[Case]:
    """Yield functions of matrices, also of such that they refuse."""
    every = {"function": FUNCTIONS, "A": MATRICES}
    yield from grid("matrix functions", lambda function, A: function(A), **every)
    yield from grid("matrix functions, half", lambda function, A: function(A), **HALF, **every)

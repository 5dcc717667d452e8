"""KFAC: averaged Kronecker factors, decomposed in several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

import ngdla
from training_study.clock import Clock
from training_study.moments import DECAY, moments
from training_study.networks import Array, Tape, mean_gradient
from training_study.stored import as_dtype, in_dtype

REFRESH = 10
"""Steps from one decomposition of averaged factors to the next, after as many that have each."""


class KFAC:
    """Averaged Kronecker factors; `decompose` says in what form they are solved with."""

    momentum = 0.9

    def __init__(
        self,
        weights: list[Array],
        settings: dict[str, Any],
        dtype: str,
        *,
        decompose: Callable[[Array, Any, int], Any],
        refresh: int = REFRESH,
        coupling: str = "joint",
    ) -> None:
        self.damping, self.dtype, self.step = settings["damping"], dtype, 0
        self.decompose, self.refresh, self.coupling = decompose, refresh, coupling
        sizes = [size for W in weights for size in (W.shape[1], W.shape[0])]
        self.factors = [as_dtype(zeros(size, weights[0]), dtype) for size in sizes]
        self.decomposed: list[Any] = [None] * len(sizes)

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("statistics"):
            rows = [x for tape in tapes for x in moments(tape)]
            self.factors = [
                as_dtype(ngdla.ema(F, X, decay=DECAY), self.dtype)
                for F, X in zip(self.factors, rows)
            ]
        self.step += 1
        if self.step <= REFRESH or self.step % self.refresh == 0:
            with clock("decomposition"):
                weight = 1 - DECAY**self.step  # of all batches so far
                self.decomposed = [
                    in_dtype(self.decompose(F / weight, last, self.step), self.dtype)
                    for F, last in zip(self.factors, self.decomposed)
                ]
        with clock("application"):
            return [
                ngdla.kronecker_solve(A, G, V, self.damping, coupling=self.coupling)
                for A, G, V in zip(self.decomposed[::2], self.decomposed[1::2], gradients)
            ]

    def arrays(self) -> list[Array]:
        kept = [x for pair in self.decomposed if isinstance(pair, tuple) for x in pair]
        return [*self.factors, *kept]


def eigenpairs(F: Array, last: Any, step: int) -> tuple[Array, Array]:
    """Return all eigenpairs; eigenvalues that rounding has made negative are zero."""
    xp = array_namespace(F)
    values, vectors = xp.linalg.eigh(as_dtype(F, "float32"))
    return xp.where(values > 0, values, xp.zeros_like(values)), vectors


def as_it_is(F: Array, last: Any, step: int) -> Array:
    """Return the factor, which each solve factors by Cholesky."""
    return F


def few_eigenpairs(F: Array, last: Any, step: int, *, method: str) -> ngdla.LowRankEigh:
    """Return some eigenpairs, starting from those of the last time."""
    options = {"passes": 2} if last is None else {"passes": 1, "basis": last.eigenvectors}
    if "bfloat16" in str(F.dtype):
        options["product_eps"] = 2.0**-8  # of the factor, which rounding makes indefinite
    return ngdla.randomized_eigh(F, rank(F.shape[0]), method=method, rng=step, **options)


class OnlineKFAC:
    """Eigenpairs that follow the average of each factor, which is not formed."""

    momentum = 0.9

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.damping, self.dtype = settings["damping"], dtype
        self.states: list[ngdla.OnlineEigh | None] = [None] * (2 * len(weights))

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("decomposition"):
            rows = [x for tape in tapes for x in moments(tape)]
            self.states = [
                in_dtype(self._updated(i, state, X), self.dtype)
                for i, (state, X) in enumerate(zip(self.states, rows))
            ]
        with clock("application"):
            pairs = [ngdla.online_eigh_result(state) for state in self.states]
            return [
                ngdla.kronecker_solve(A, G, V, self.damping)
                for A, G, V in zip(pairs[::2], pairs[1::2], gradients)
            ]

    @staticmethod
    def _updated(i: int, state: Any, X: Array) -> ngdla.OnlineEigh:
        if state is None:
            return ngdla.online_eigh_init(X, rank(X.shape[1]), rng=i)
        return ngdla.online_eigh_update(state, X, decay=DECAY)

    def arrays(self) -> list[Array]:
        return [x for state in self.states if state is not None for x in state]


def rank(size: int) -> int:
    """Return how many eigenpairs of a factor are kept."""
    return min(size, max(16, size // 16))


def zeros(size: int, like: Array) -> Array:
    """Return a square matrix of zeros."""
    xp = array_namespace(like)
    row = xp.zeros_like(like[:1, :1])
    return xp.broadcast_to(row, (size, size)) + row

"""KFAC: averaged Kronecker factors, decomposed in several ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

import ngdla
from training_study.clock import Clock
from training_study.moments import DECAY, moments
from training_study.networks import Array, Tape, mean_gradient
from training_study.stored import as_dtype, in_dtype, parts

REFRESH = 10
"""Steps from one decomposition of averaged factors to the next, after as many that have each."""

TINY = 1e-30
"""Instead of a mean eigenvalue of zero, once all gradients vanish."""


class KFAC:
    """Averaged Kronecker factors, decomposed now and then; joint damping."""

    momentum = 0.9

    def __init__(
        self,
        weights: list[Array],
        settings: dict[str, Any],
        dtype: str,
        *,
        decompose: Callable[[Array, Any, int], Any] | None = None,
    ) -> None:
        self.damping, self.dtype, self.step = settings["damping"], dtype, 0
        self.decompose = decompose
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
        if self.step <= REFRESH or self.step % REFRESH == 0:
            with clock("decomposition"):
                weight = 1 - DECAY**self.step  # of all batches so far
                decomposed = self.all_decomposed([F / weight for F in self.factors])
                self.decomposed = [in_dtype(F, self.dtype) for F in decomposed]
        with clock("application"):
            return [
                self.solved(A, G, V)
                for A, G, V in zip(self.decomposed[::2], self.decomposed[1::2], gradients)
            ]

    def all_decomposed(self, factors: list[Array]) -> list[Any]:
        """Return what is kept of the factors A and G of all layers, in turn."""
        return [self.decompose(F, last, self.step) for F, last in zip(factors, self.decomposed)]

    def solved(self, A: Any, G: Any, V: Array) -> Array:
        """Return X with G X A + damping X = V."""
        return ngdla.kronecker_solve(A, G, V, self.damping)

    def arrays(self) -> list[Array]:
        return [*self.factors, *(x for F in self.decomposed for x in parts(F))]


class CholeskyKFAC(KFAC):
    """Inverse Cholesky factors K, with K K^T = (A + pi sqrt(damping))^-1: factored damping."""

    def all_decomposed(self, factors: list[Array]) -> list[Any]:
        decomposed = []
        for A, G in zip(factors[::2], factors[1::2]):
            pi = math.sqrt(mean_eigenvalue(A) / max(mean_eigenvalue(G), TINY))
            shift = math.sqrt(self.damping)
            decomposed += [lower_triangular(A, shift * pi), lower_triangular(G, shift / pi)]
        return decomposed

    def solved(self, A: Any, G: Any, V: Array) -> Array:
        return G.square_matmul(A.square_rmatmul(V))


def lower_triangular(F: Array, shift: float) -> Any:
    """Return K with K K^T = (F + shift)^-1."""
    return ngdla.structured_factor(F, "lower-triangular", shift)


def mean_eigenvalue(F: Array) -> float:
    """Return the mean of the diagonal."""
    xp = array_namespace(F)
    return float(xp.mean(as_dtype(xp.linalg.diagonal(F), "float32")))


def eigenpairs(F: Array, last: Any, step: int) -> tuple[Array, Array]:
    """Return all eigenpairs; eigenvalues that rounding has made negative are zero."""
    xp = array_namespace(F)
    values, vectors = xp.linalg.eigh(as_dtype(F, "float32"))
    return xp.where(values > 0, values, xp.zeros_like(values)), vectors


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
        return [x for state in self.states for x in parts(state)]


def rank(size: int) -> int:
    """Return how many eigenpairs of a factor are kept."""
    return min(size, max(16, size // 16))


def zeros(size: int, like: Array) -> Array:
    """Return a square matrix of zeros."""
    xp = array_namespace(like)
    row = xp.zeros_like(like[:1, :1])
    return xp.broadcast_to(row, (size, size)) + row

"""Variants of the optimisers of docs/examples/optimizers that this study compares them with."""

from __future__ import annotations

import math
from typing import Any

import torch
from optimizers.kfac import KFAC
from optimizers.natural_gradient import NaturalGradient
from optimizers.steps import Kept

import ngdla
from ngdla.adapters.torch_modules import Recording

TINY = 1e-30
"""Instead of a mean eigenvalue of zero, once all gradients vanish."""

HALF_EPS = 2.0**-8
"""Rounding of bfloat16, which makes factors that are kept in it indefinite."""


def rank(size: int) -> int:
    """Return how many eigenpairs of a factor are kept."""
    return min(size, max(16, size // 16))


def few_eigenpairs(
    F: torch.Tensor, last: Any, steps: int, *, method: str, dtype: str
) -> ngdla.LowRankEigh:
    """Return some eigenpairs, starting from those of the last time."""
    options = {"passes": 2} if last is None else {"passes": 1, "basis": last.eigenvectors}
    if dtype == "bfloat16":
        options["product_eps"] = HALF_EPS
    return ngdla.randomized_eigh(F, rank(F.shape[0]), method=method, rng=steps, **options)


class CholeskyKFAC(KFAC):
    """Inverse Cholesky factors K, with K K^T = (A + pi sqrt(damping))^-1: factored damping."""

    def _decomposed(self, name: str) -> list[Any]:
        A, G, weight = self.factors[name]
        A, G = A / weight, G / weight
        means = [float(F.diagonal().mean()) for F in (A, G)]
        pi, shift = math.sqrt(means[0] / max(means[1], TINY)), math.sqrt(self.damping)
        return [
            ngdla.structured_factor(F, "lower-triangular", part)
            for F, part in ((A, shift * pi), (G, shift / pi))
        ]

    def solved(self, A: Any, G: Any, V: torch.Tensor) -> torch.Tensor:
        return G.square_matmul(A.square_rmatmul(V))


class OnlineKFAC(Kept):
    """Eigenpairs that follow the average of each factor, which is not formed."""

    kept = ("states",)

    def __init__(self, damping: float, *, decay: float) -> None:
        self.damping, self.decay = damping, decay
        self.states: dict[str, list[ngdla.OnlineEigh]] = {}

    def precondition(self, layers: Recording, lr: float) -> None:
        """Write (A kron G + damping)^-1 V over gradients V."""
        for layer, (name, rows) in enumerate(layers.rows().items()):
            states = self.states.get(name, [None, None])
            self.states[name] = [
                self._updated(state, X / math.sqrt(len(X)), 2 * layer + factor)
                for factor, (state, X) in enumerate(zip(states, rows))
            ]
            A, G = (ngdla.online_eigh_result(state) for state in self.states[name])
            layers.write(name, ngdla.kronecker_solve(A, G, layers.gradient(name), self.damping))

    def _updated(self, state: Any, X: torch.Tensor, seed: int) -> ngdla.OnlineEigh:
        if state is None:
            return ngdla.online_eigh_init(X, rank(X.shape[1]), rng=seed)
        return ngdla.online_eigh_update(state, X, decay=self.decay)


class DampedSolve(NaturalGradient):
    """The natural gradient of each layer by itself, from the gradients of its samples."""

    def step_and_gradient(
        self, S: dict[str, torch.Tensor], residuals: Any = None, *, check: bool = True
    ) -> Any:
        steps = {name: self._step(x) for name, x in S.items()}
        return steps, steps  # gradients are for the bound of the length, which is off

    def _step(self, S: torch.Tensor) -> torch.Tensor:
        """Return (F + damping)^-1 S^T 1 / M with F = S^T S / M."""
        root = math.sqrt(len(S))
        rows, ones = S.flatten(1) / root, S.new_ones(len(S)) / root
        step = ngdla.damped_lstsq(rows, ones, self.damping, precision="native")
        return step.reshape(S.shape[1:])

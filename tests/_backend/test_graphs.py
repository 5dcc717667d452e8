"""What is kept from step to step holds no autograd graph of torch; derivatives pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ngdla

D, ROWS, STEP = 4, 6, 1e-6
pytree = pytest.importorskip("torch.utils._pytree")
torch = pytest.importorskip("torch")


def factors(number: Callable[[float], Any], X: Any, **options: Any) -> Any:
    """Return the states of three inverse-free steps, and their statistics."""
    state = ngdla.inverse_free_init(D, D, structures=("dense", "hierarchical"), like=X, **options)
    kept = []
    for i in range(3):
        statistics = ngdla.inverse_free_statistics(
            state, X, (i + 2) * X, weights=X[:, 0] ** 2, loss_scale=number(2.0), check=False
        )
        state = ngdla.inverse_free_update(
            state,
            statistics + statistics,
            damping=number(0.1),
            step_size=number(0.1),
            momentum=number(0.5) if options.get("momentum", True) else 0.0,
            check=False,
        )
        kept += [statistics, state]
    return kept


def eigenpairs(number: Callable[[float], Any], X: Any) -> Any:
    state = ngdla.online_eigh_init(X, 2, check=False)
    kept = [state]
    for i in range(3):
        state = ngdla.online_eigh_update(
            state, (i + 1) * X[: ROWS - i], decay=number(0.5), check=False
        )
        kept.append(state)
    return kept


def averages(number: Callable[[float], Any], X: Any) -> Any:
    A, kept = torch.eye(D, dtype=X.dtype), []
    for _ in range(3):
        A = ngdla.ema(A, X, decay=number(0.5), check=False)
        kept.append(A)
    return kept


RUNS: dict[str, Callable[..., Any]] = {
    "inverse-free": factors,
    "inverse-free, compensated": lambda number, X: factors(
        number, X, dtype="bfloat16", storage="compensated"
    ),
    "inverse-free, no momentum": lambda number, X: factors(number, X, momentum=False),
    "online_eigh": eigenpairs,
    "ema": averages,
}


def samples() -> Any:
    return torch.asarray(np.random.default_rng(2).standard_normal((ROWS, D)))


@pytest.mark.parametrize("run", RUNS)
def test_states_hold_no_graph(run: str) -> None:
    """Whatever requires a gradient: samples, weights, and all numbers."""

    def number(x: float) -> Any:
        return torch.tensor(x, dtype=torch.float64, requires_grad=True)

    X = samples().requires_grad_()
    leaves = pytree.tree_leaves(RUNS[run](number, X))
    assert len(leaves) >= 3
    for leaf in leaves:
        assert not leaf.requires_grad
        assert leaf.grad_fn is None
    assert X.requires_grad  # as the caller left it


@pytest.mark.parametrize("run", [name for name in RUNS if "compensated" not in name])
def test_derivatives_of_a_run(run: str) -> None:
    """By `torch.func.grad`, in the samples and in all numbers: central differences."""
    rng = np.random.default_rng(3)
    X, direction = samples(), torch.asarray(rng.standard_normal((ROWS, D)))

    def loss(X: Any, shift: Any) -> Any:
        kept = RUNS[run](lambda x: x + shift, X)
        floats = [x for x in pytree.tree_leaves(kept[-1]) if x.is_floating_point()]
        return sum(
            (x * torch.cos(3.0 * torch.arange(x.numel()).reshape(x.shape))).sum()
            for x in symmetric(kept[-1], floats)
        )

    zero = torch.zeros((), dtype=torch.float64)
    of_X, of_shift = torch.func.grad(loss, argnums=(0, 1))(X, zero)
    slopes = (of_X * direction).sum().item(), of_shift.item()
    differences = (
        (loss(X + STEP * direction, zero) - loss(X - STEP * direction, zero)) / (2 * STEP),
        (loss(X, zero + STEP) - loss(X, zero - STEP)) / (2 * STEP),
    )
    for slope, difference in zip(slopes, differences):
        assert slope == pytest.approx(difference.item(), rel=1e-5, abs=1e-6)


def symmetric(state: Any, leaves: list[Any]) -> list[Any]:
    """Return what does not depend on signs of eigenvectors."""
    if isinstance(state, ngdla.OnlineEigh):
        U = state.eigenvectors
        return [state.eigenvalues, U @ torch.diag(state.eigenvalues) @ U.mT, state.sketch]
    return leaves


def test_weights_of_the_caller_are_detached_no_further() -> None:
    """What is computed from a state, with a gradient that requires one, has its own graph."""
    X = samples()
    (*_, state) = factors(float, X)
    V = torch.ones((D, D), dtype=torch.float64, requires_grad=True)
    ngdla.inverse_free_apply(state, V).sum().backward()
    assert V.grad is not None
    X = X.requires_grad_()
    eigh = ngdla.randomized_eigh(X.mT @ X, 2)
    assert eigh.eigenvalues.requires_grad  # a result, not a state

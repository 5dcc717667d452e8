"""Sweeps: how many products they take, what they repair, and when they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import exact_lstsq, exact_solve, random_array, scores_with_spectrum

import ngdla

S = np.random.default_rng(3).standard_normal((6, 15))
F, V, X0 = S[:, 0].copy(), S[0].copy(), S[1].copy()


class Counted:
    """S as an operator with a Gram matrix, which counts products."""

    def __init__(self) -> None:
        self.products = {"matvec": 0, "rmatvec": 0}
        self.scores = ngdla.ScoreOperator(
            self.matvec, self.rmatvec, S.shape, like=S, gram=S @ S.T, batched=True
        )

    def matvec(self, x: np.ndarray) -> np.ndarray:
        self.products["matvec"] += 1
        return S @ x

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        self.products["rmatvec"] += 1
        return S.T @ y


@pytest.mark.parametrize("refine", [0, 1, 2, 3])
@pytest.mark.parametrize("full_output", [False, True])
def test_products(refine: int, full_output: bool) -> None:
    """A sweep costs one product with S and one with S^H, a certificate one with S more."""
    options: Any = {"refine": refine, "full_output": full_output, "check": False}
    more = int(full_output)
    for call, products in (
        (lambda s: ngdla.damped_lstsq(s, F, 0.1, **options), (refine + more, 1 + refine)),
        (
            lambda s: ngdla.damped_lstsq(s, F, 0.1, x0=X0, **options),
            (1 + refine + more, 1 + refine),
        ),
        (
            lambda s: ngdla.damped_solve(s, V, 0.1, **options),
            (1 + refine + more, 1 + refine + more),
        ),
    ):
        counted = Counted()
        call(counted.scores)
        assert tuple(counted.products.values()) == products


@pytest.mark.parametrize("shape", [(20, 60), (60, 20)], ids=str)
def test_a_sweep_repairs_what_the_gram_matrix_lost(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    T = scores_with_spectrum(rng, *shape, "float64", 5)
    f = rng.standard_normal((shape[0], 1))
    damping = 1e-9 * float(np.linalg.norm(T, 2)) ** 2
    for function, right, exact in (
        (ngdla.damped_lstsq, f, exact_lstsq(T, f, damping)),
        (ngdla.damped_solve, T.T @ f, exact_solve(T, T.T @ f, damping)),
    ):
        errors = [
            float(np.linalg.norm((function(T, right, damping, refine=k) - exact).astype(float)))
            / float(np.linalg.norm(exact.astype(float)))
            for k in (0, 1)
        ]
        assert errors[1] <= 1e-2 * errors[0]
        assert errors[1] <= 1e-9


@pytest.mark.parametrize("shape", [(20, 60), (60, 20)], ids=str)
def test_convergence_ends_at_the_roundings(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Plain sweeps where they contract fast, conjugate gradients where they do not."""
    used = []
    gradients = ngdla.damped.refinement.conjugate_gradients
    monkeypatch.setattr(
        "ngdla.damped.refinement.conjugate_gradients",
        lambda *args, **options: used.append(1) or gradients(*args, **options),
    )
    T = scores_with_spectrum(rng, *shape, "complex128", 5)
    f = random_array(rng, (shape[0], 2), "complex128")
    sigma = float(np.linalg.norm(T, 2))
    for scale, accelerated in ((1e-2, False), (1e-7, True)):
        used.clear()
        x = ngdla.damped_lstsq(T, f, scale * sigma**2, precision="mixed")
        exact = exact_lstsq(T, f, scale * sigma**2)
        error = np.linalg.norm((x - exact).astype(complex)) / np.linalg.norm(exact.astype(complex))
        assert error <= 1e-14 / scale**0.5
        assert bool(used) is accelerated


def test_without_sweeps_a_low_factor_is_used_as_it_is(rng: np.random.Generator) -> None:
    x = ngdla.damped_lstsq(S, F, 0.1, precision="mixed", refine=0)
    exact = exact_lstsq(S, F[:, None], 0.1)[:, 0]
    error = np.linalg.norm((x - exact).astype(float)) / np.linalg.norm(exact.astype(float))
    assert 1e-12 <= error <= 1e-5


def test_zero_and_infinite_right_hand_sides_end(rng: np.random.Generator) -> None:
    f = np.zeros((6, 2))
    x, info = ngdla.damped_lstsq(S, f, 0.1, precision="mixed", full_output=True)
    assert not np.any(x)
    assert np.all(info.converged)
    f[0, 1] = np.inf
    with pytest.raises(ValueError, match="`f` contains NaN or Inf"):
        ngdla.damped_lstsq(S, f, 0.1, precision="mixed")

"""Conjugate gradients against dense solves: convergence, safe steps, columns on their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array
from spectra import quick_compilation  # noqa: F401

from ngdla.damped.conjugate_gradients import conjugate_gradients


def definite(rng: np.random.Generator, n: int, dtype: str, condition: float) -> np.ndarray:
    Q, _ = np.linalg.qr(random_array(rng, (n, n), dtype))
    return ((Q * np.geomspace(1, condition, n)) @ H(Q)).astype(dtype)


def same(r: Any) -> Any:
    return r


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_it_solves(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    n = 6
    A = np.zeros((*batch, n, n), dtype)
    A[...] = definite(rng, n, dtype, 30.0)
    r = random_array(rng, (*batch, n, 3), dtype)

    def solve(A: Any, r: Any) -> Any:
        target = 0.0 * abs(r[..., :1, :])  # never reached
        w, _, _ = conjugate_gradients(
            lambda p: A @ p, same, r, steps=2 * n, target=target, early=False
        )
        return w

    like = backend.asarray(r)
    w = backend.call(solve, backend.asarray(A), like)
    exact = np.linalg.solve(A.astype("complex128"), r.astype("complex128"))
    backend.assert_matches(w, exact, like=like, dtype=dtype, tolerance=2e3 * U[dtype])


def test_a_preconditioner_saves_steps(rng: np.random.Generator) -> None:
    A = definite(rng, 50, "float64", 1e6)
    inverse = np.linalg.inv(A + 1e-7 * definite(rng, 50, "float64", 10.0))
    r, calls = rng.standard_normal((50, 1)), []

    def product(p: np.ndarray) -> np.ndarray:
        calls.append(1)
        return A @ p

    target = 1e-12 * np.linalg.norm(r, axis=0, keepdims=True)
    w, left, size = conjugate_gradients(product, lambda r: inverse @ r, r, steps=40, target=target)
    rest = r - A @ w
    np.testing.assert_allclose(left, rest.T @ inverse @ rest, atol=1e-20)
    np.testing.assert_allclose(size, np.linalg.norm(rest), atol=1e-10)
    assert np.linalg.norm(A @ w - r) <= 1e-9 * np.linalg.norm(r)
    assert len(calls) <= 6


def test_too_few_steps_are_too_short(rng: np.random.Generator) -> None:
    A, r = definite(rng, 30, "float64", 1e4), rng.standard_normal((30, 1))
    lengths = [
        np.linalg.norm(
            conjugate_gradients(lambda p: A @ p, same, r, steps=k, target=np.zeros((1, 1)))[0]
        )
        for k in range(1, 30)
    ]
    assert np.all(np.diff(lengths) >= -1e-9 * lengths[-1])
    assert lengths[-1] <= (1 + 1e-6) * np.linalg.norm(np.linalg.solve(A, r))


def test_columns_that_are_solved_stay_as_they_are(rng: np.random.Generator) -> None:
    """Also one that is zero: no NaN, and the others go on."""
    A, r = definite(rng, 12, "float64", 1e3), rng.standard_normal((12, 3))
    r[:, 0] = 0.0
    r[:, 1] = A[:, 0] * 1e-14
    target = np.full((1, 3), 1e-10)
    w, _, _ = conjugate_gradients(lambda p: A @ p, same, r, steps=100, target=target)
    assert not np.any(w[:, 0])
    assert not np.any(w[:, 1])
    assert np.linalg.norm(A @ w[:, 2] - r[:, 2]) <= 1e-9

"""Derivatives of decompositions: those of exact eigenpairs where gaps are large, else NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import U
from spectra import psd

import ngdla
from ngdla._backend.spectral import apart

D, DAMPING = 8, 0.1
GENERIC = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.7, 0.4, 0.2])
DEAD = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0])
FLAT = np.array([5.0, 4.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
METHODS = ("nystrom", "rayleigh-ritz", "rsvd")


def slope_of_solve(
    A: np.ndarray, rank: int, E: np.ndarray, b: Any, c: Any, **options: Any
) -> float:
    """Return the derivative of b^T solve(c) in the direction E, by torch."""
    torch = pytest.importorskip("torch")
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    A, E, b, c = map(torch.asarray, (A, E, b, c))
    eigh = ngdla.randomized_eigh(A + t * E, rank, tail="zero", **options)
    (slope,) = torch.autograd.grad(b @ eigh.solve(c, DAMPING), t)
    return float(slope)


def exact_slope(A: np.ndarray, rank: int, E: np.ndarray, b: Any, c: Any) -> float:
    """Return it by divided differences of f(w) = 1 / (w + damping), of 0 beyond the rank."""
    w, V = np.linalg.eigh(A)
    w, V = w[::-1], V[:, ::-1]
    f = np.where(np.arange(D) < rank, 1 / (w + DAMPING), 1 / DAMPING)
    slopes = np.where(np.arange(D) < rank, -((w + DAMPING) ** -2.0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        divided = np.subtract.outer(f, f) / np.subtract.outer(w, w)
    outside = np.arange(D) >= rank
    divided[np.ix_(outside, outside)] = 0
    np.fill_diagonal(divided, slopes)
    return float((b @ V) @ (divided * (V.T @ E @ V)) @ (V.T @ c))


@pytest.fixture
def direction(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    return psd(rng, np.arange(D) + 0.5, "float64"), *rng.standard_normal((2, D))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("values", "rank"), [(GENERIC, D), (GENERIC, 4), (DEAD, 4), (FLAT, 3)])
def test_right_where_gaps_are_large(
    method: str, values: Any, rank: int, direction: Any, rng: np.random.Generator
) -> None:
    A = psd(rng, values, "float64")
    slope = slope_of_solve(A, rank, *direction, method=method)
    assert slope == pytest.approx(exact_slope(A, rank, *direction), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("values", "rank"), [(DEAD, D), (DEAD, 6), (FLAT, D), (FLAT, 4)])
def test_nan_where_a_gap_is_small(
    method: str, values: Any, rank: int, direction: Any, rng: np.random.Generator
) -> None:
    A = psd(rng, values, "float64")
    assert np.isnan(slope_of_solve(A, rank, *direction, method=method))


@pytest.mark.parametrize("rank", [D, 4])
def test_in_jax(rank: int, direction: Any, rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    E, b, c = map(jax.numpy.asarray, direction)

    def solved(t: Any, A: Any) -> Any:
        return b @ ngdla.randomized_eigh(A + t * E, rank, tail="zero").solve(c, DAMPING)

    forward = jax.jit(lambda t, A: jax.jvp(lambda t: solved(t, A), (t,), (1.0,))[1])
    for slope in (jax.jit(jax.grad(solved)), forward):
        A = psd(rng, GENERIC, "float64")
        assert float(slope(0.0, A)) == pytest.approx(exact_slope(A, rank, *direction), rel=1e-9)
        assert np.isnan(slope(0.0, psd(rng, np.where(GENERIC > 4, 4.0, GENERIC), "float64")))


def test_a_sketch_of_part_of_the_matrix(rng: np.random.Generator) -> None:
    """Its own derivatives, or NaN where its smallest eigenvalue is a rounding."""
    torch = pytest.importorskip("torch")
    d, h = 60, 1e-6
    E, b = psd(rng, np.ones(d), "float64"), torch.asarray(rng.standard_normal(d))

    def solved(A: Any) -> Any:
        return b @ ngdla.randomized_eigh(A, 5).solve(b, DAMPING)

    for values, right in ((1 / np.arange(1.0, d + 1), True), (np.arange(d) < 5, False)):
        A = torch.asarray(psd(rng, np.arange(d, 0.0, -1) * values, "float64"))
        leaf = A.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(solved(leaf), leaf)
        slope = torch.sum(gradient * torch.asarray(E)).item()
        if not right:
            assert np.isnan(slope)
            continue
        ahead, behind = (solved(A + sign * h * torch.asarray(E)).item() for sign in (1, -1))
        assert slope == pytest.approx((ahead - behind) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gaps(dtype: str) -> None:
    least = 16 * U[dtype] ** 0.5

    def told(*values: float, kept: int = 2, rest: bool = True) -> bool:
        return bool(apart(np.array(values, dtype), kept, rest=rest))

    assert told(1.0, 0.5, 0.5 - 2 * least)
    assert not told(1.0, 0.5, 0.5 - least / 2)
    assert not told(1.0, 1.0 - least / 2, 0.5)
    assert told(1.0, 0.5, 0.5, kept=1)
    assert not told(1.0, least / 2)
    assert told(1.0, least / 2, rest=False)


def test_singular_vectors(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    P, Q = (np.linalg.qr(rng.standard_normal((size, 5))).Q for size in (7, 5))
    c, h, E = rng.standard_normal((7, 5)), 1e-6, rng.standard_normal((7, 5))

    def product(A: Any) -> Any:
        U, S, Vh = ngdla.randomized_svd(A, 2)
        return (U * S) @ Vh

    for values in ((4.0, 3.0, 2.0, 1.0, 0.5), (4.0, 4.0, 2.0, 1.0, 0.5)):
        A = (P * values) @ Q.T
        leaf = torch.asarray(A).requires_grad_()
        (gradient,) = torch.autograd.grad((torch.asarray(c) * product(leaf)).sum(), leaf)
        slope = np.sum(gradient.numpy() * E)
        if values[0] == values[1]:
            assert np.isnan(slope)
        else:
            exact = np.sum(c * (product(A + h * E) - product(A - h * E))) / (2 * h)
            assert slope == pytest.approx(exact, rel=1e-6)


def test_an_error_of_roundings_has_no_derivatives(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    A = torch.asarray(psd(rng, GENERIC, "float64")).requires_grad_()
    error = ngdla.randomized_eigh(A, D).error
    assert torch.all(torch.isnan(torch.autograd.grad(error, A)[0]))


@pytest.mark.parametrize("make", [
    lambda A: ngdla.randomized_eigh(A, 1, oversample=0).eigenvalues,
    lambda A: ngdla.nystrom_factor(A, 1, oversample=0).matmul(A.detach()[:, 0] + 1),
    lambda A: ngdla.online_eigh_update(ngdla.online_eigh_init(A, 1), A, decay=0.5).eigenvalues,
    lambda A: ngdla.randomized_svd(A[:, :1], 1).S,
])  # fmt: skip
def test_sketches_of_one_column(make: Any) -> None:
    torch = pytest.importorskip("torch")
    A = torch.diag(torch.asarray([2.0, 1.0, 0.5, 0.2]))
    gradient = torch.func.grad(lambda A: make(A).sum())(A)
    assert torch.isfinite(gradient[0, 0])


@pytest.mark.parametrize("seed", range(4))
def test_the_tail_of_a_matrix_of_that_rank(seed: int) -> None:
    """It is 0 or above, by rounding, with the derivative of the trace of what is missing."""
    torch = pytest.importorskip("torch")
    L = np.random.default_rng(seed).standard_normal((6, 2))
    A = torch.asarray(L @ L.T).requires_grad_()
    (gradient,) = torch.autograd.grad(ngdla.randomized_eigh(A, 2).tail, A)
    P = L @ np.linalg.pinv(L)
    np.testing.assert_allclose(gradient.numpy(), (np.eye(6) - P) / 4, atol=1e-9)

"""Derivatives of damped solves at any spectrum, by every method, against their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ngdla

# torch scripts its forward-mode derivatives, which it calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

DAMPING, STEP, SLOPE = 0.3, 1e-5, 0.4
SPECTRA = {
    "equal": (2.0, 2.0, 1.0, 1.0),
    "nearly equal": (2.0, 2.0 + 1e-14, 1.0, 1.0 - 1e-14),
    "deficient": (2.0, 1.0, 1.0, 0.0),
}
METHODS = ("cholesky", "eigh", "svd", "qr")

# of S, v, f, the damping and options
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "damped_solve": lambda S, v, f, d, o: ngdla.damped_solve(S, v, d, **o),
    "damped_lstsq": lambda S, v, f, d, o: ngdla.damped_lstsq(S, f, d, **o),
    "solve": lambda S, v, f, d, o: ngdla.damped_factor(S, d, **o).solve(v),
    "lstsq": lambda S, v, f, d, o: ngdla.damped_factor(S, d, **o).lstsq(f),
    "with_damping": lambda S, v, f, d, o: ngdla.damped_factor(S, 1.0, **o).with_damping(d).solve(v),
    "logdet": lambda S, v, f, d, o: ngdla.damped_factor(S, d, **o).logdet(),
    "effective_dimension": lambda S, v, f, d, o: ngdla.damped_factor(
        S, d, **o
    ).effective_dimension(),
    "leave_one_out": lambda S, v, f, d, o: ngdla.damped_factor(S, d, **o).leave_one_out(f),
}


def defined(name: str, S: Any, v: Any, f: Any, damping: float) -> Any:
    """Return what a function is by its definition, in long double."""
    n, m = S.shape
    A, W = S.T @ S + damping * np.eye(m), S @ S.T + damping * np.eye(n)
    if name in ("damped_solve", "solve", "with_damping"):
        return np.linalg.solve(A, v)
    if name in ("damped_lstsq", "lstsq"):
        return np.linalg.solve(A, S.T @ f)
    if name == "logdet":
        return np.linalg.slogdet(A)[1]
    if name == "effective_dimension":
        return np.trace(np.linalg.solve(W, S @ S.T))
    C = np.linalg.inv(W)
    return C @ f / np.diag(C)


def problem(n: int, m: int, spectrum: str, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return S, v, f and a direction of all of them."""
    U, V = (np.linalg.qr(rng.standard_normal((size, 4))).Q for size in (n, m))
    point = ((U * SPECTRA[spectrum]) @ V.T, rng.standard_normal(m), rng.standard_normal(n))
    return point, tuple(rng.standard_normal(x.shape) for x in point)


def exact_slope(name: str, point: Any, direction: Any, c: Any) -> float:
    """Return the derivative of the sum of c times the result, by differences of fourth order."""

    def value(t: float) -> Any:
        moved = (x + t * d for x, d in zip(point, direction))
        return np.sum(c * defined(name, *moved, DAMPING + t * SLOPE))

    near, far = (value(h) - value(-h) for h in (STEP * 100, STEP * 200))
    return float((8 * near - far) / (1200 * STEP))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4)], ids=str)
@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_in_torch(
    method: str, refine: int, shape: tuple[int, int], spectrum: str, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    point, direction = problem(*shape, spectrum, rng)
    options = {"method": method, "refine": refine}
    for name, function in FUNCTIONS.items():
        c = rng.standard_normal(np.shape(defined(name, *point, DAMPING)))
        exact = exact_slope(name, point, direction, c)

        def moved(t: Any, function: Any = function, c: Any = c) -> Any:
            arrays = [torch.asarray(x) + t * torch.asarray(d) for x, d in zip(point, direction)]
            return (torch.asarray(c) * function(*arrays, DAMPING + t * SLOPE, options)).sum()

        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(moved(t), t)
        assert slope.item() == pytest.approx(exact, rel=1e-8), name
        _, forward = torch.func.jvp(moved, (t.detach(),), (torch.ones_like(t.detach()),))
        assert forward.item() == pytest.approx(slope.item(), rel=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_in_jax(
    method: str, shape: tuple[int, int], spectrum: str, rng: np.random.Generator
) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    point, direction = problem(*shape, spectrum, rng)
    for name, function in FUNCTIONS.items():
        c = rng.standard_normal(np.shape(defined(name, *point, DAMPING)))
        exact = exact_slope(name, point, direction, c)

        def moved(t: Any, function: Any = function, c: Any = c) -> Any:
            arrays = [x + t * d for x, d in zip(point, direction)]
            return (c * function(*arrays, DAMPING + t * SLOPE, {"method": method})).sum()

        reverse = jax.jit(jax.grad(moved))
        forward = jax.jit(lambda t, moved=moved: jax.jvp(moved, (t,), (1.0,))[1])
        for slope in (reverse, forward):
            assert float(slope(0.0)) == pytest.approx(exact, rel=1e-8), name


def test_second_derivatives_by_eigenvectors(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    point, direction = problem(4, 7, "equal", rng)
    slopes = []
    for method in ("cholesky", "eigh"):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        arrays = [torch.asarray(x) + t * torch.asarray(d) for x, d in zip(point, direction)]
        x = FUNCTIONS["damped_lstsq"](*arrays, DAMPING + t, {"method": method, "refine": 0})
        (first,) = torch.autograd.grad(x.sum(), t, create_graph=True)
        slopes.append(torch.autograd.grad(first, t)[0].item())
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-9)

"""What SolveInfo says, against what is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import (
    DOUBLE,
    H,
    U,
    exact_lstsq,
    exact_solve,
    random_array,
    random_problem,
    scores_with_spectrum,
    wide,
)

import ngdla
from ngdla.damped.certificate import rounded_bound


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_info_of_a_solve(
    backend: Backend, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    n, m = shape
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    S, v = random_array(rng, (n, m), dtype), random_array(rng, (m, 3), dtype)
    like = backend.asarray(S)
    x, info = backend.call(
        ngdla.damped_solve, like, backend.asarray(v), 0.1, refine=0, full_output=True
    )
    for name, value in info._asdict().items():
        expected = "bool" if name == "converged" else real
        backend.assert_kind(value, like=like, dtype=expected, shape=(3,))
    if not backend.has_values:
        return
    x = wide(backend.numpy(x))
    residual = np.linalg.norm((v - H(wide(S)) @ (wide(S) @ x) - 0.1 * x).astype(complex), axis=0)
    t2 = np.linalg.norm(S) ** 2
    rounding = 4 * U[dtype] * (t2 * np.linalg.norm(x.astype(complex), axis=0) + np.linalg.norm(v))
    assert np.all(np.abs(backend.numpy(info.residual_norm) - residual) <= rounding)
    step = np.linalg.norm((wide(S) @ x).astype(complex), axis=0)
    np.testing.assert_allclose(backend.numpy(info.step_norm), step, rtol=100 * U[dtype])
    gain = np.sum((np.conj(wide(v)) * x).real, axis=0).astype(float)
    np.testing.assert_allclose(backend.numpy(info.gain), gain, rtol=1e4 * U[dtype])
    assert np.all(np.isinf(backend.numpy(info.misfit_norm)))
    assert np.all(backend.numpy(info.backward_error) <= 1e3 * U[dtype])
    assert np.all(backend.numpy(info.converged))


def test_info_of_a_lstsq(backend: Backend, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    S, f, x0 = (random_array(rng, s, dtype) for s in ((5, 12), (5,), (12,)))
    like = backend.asarray(S)
    x, info = backend.call(
        ngdla.damped_lstsq,
        like,
        backend.asarray(f),
        0.1,
        x0=backend.asarray(x0),
        full_output=True,
    )
    backend.assert_kind(info.converged, like=like, dtype="bool", shape=())
    if not backend.has_values:
        return
    exact = exact_lstsq(S, f[:, None], 0.1, x0[:, None])[:, 0]
    Sx = S.astype(complex) @ exact.astype(complex)
    for found, expected in (
        (info.step_norm, np.linalg.norm(Sx)),
        (info.gain, np.vdot(f.astype(complex), Sx).real),
        (info.misfit_norm, np.linalg.norm(f - Sx)),
    ):
        atol = 1e3 * U[dtype] * np.linalg.norm(f) ** 2
        np.testing.assert_allclose(backend.numpy(found), expected, rtol=1e3 * U[dtype], atol=atol)
    error = np.linalg.norm((backend.numpy(x) - exact).astype(complex))
    assert error <= backend.numpy(info.error_bound) <= 1e6 * U[dtype] * np.linalg.norm(x0)
    assert backend.numpy(info.residual_norm) <= 100 * U[dtype] * np.linalg.norm(f)


@pytest.mark.parametrize("least", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_error_bounds_hold_in_random_cases(least: int) -> None:
    """Every dtype, method, shape, number of sweeps, spectrum, scale and kind of right-hand side."""
    rng = np.random.default_rng(4)
    cases = 0
    for case in range(least):
        problem = random_problem(rng, list(U)[case % 4])
        try:
            x, info = problem.solve(full_output=True)
        except np.linalg.LinAlgError:
            continue
        exact = problem.exact()
        error = problem.norm(x - exact)
        bound = np.asarray(info.error_bound)
        assert np.all(error <= bound), (problem, error, bound)
        trusted = np.asarray(info.converged)
        length = problem.norm(exact)
        assert np.all(problem.norm(x)[trusted] <= 2 * length[trusted])
        assert np.all(problem.norm(x)[trusted] >= length[trusted] / 2)
        cases += len(bound)
        if problem.dtype in DOUBLE:  # a float64 solve that is handed on in float32
            low = x.astype(DOUBLE[problem.dtype])
            handed = rounded_bound(bound, problem.norm(low), U["float32"])
            assert np.all(problem.norm(low - exact) <= handed)
            cases += len(bound)
    assert cases >= least


def test_a_step_that_cannot_be_trusted_says_so(rng: np.random.Generator) -> None:
    dtype = "float32"
    S = scores_with_spectrum(rng, 20, 100, dtype, decades=8)
    f = random_array(rng, (20, 1), dtype)
    damping = 0.1 * U[dtype]
    v = H(S) @ f
    native: Any = {"method": "eigh", "precision": "native"}
    for refine in (0, 1):
        for function, right, exact in (
            (ngdla.damped_solve, v, exact_solve(S, v, damping)),
            (ngdla.damped_lstsq, f, exact_lstsq(S, f, damping)),
        ):
            options = native | {"refine": refine, "full_output": True}
            with pytest.raises(np.linalg.LinAlgError, match="the step is refused"):
                function(S, right, damping, **options)
            x, info = function(S, right, damping, **options, check=False)
            assert not np.any(info.converged)
            assert np.linalg.norm((x - exact).astype(float)) <= info.error_bound


def test_jit_reports_what_it_cannot_raise(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S: Any = rng.standard_normal((4, 9)).astype("float32")
    S[2] = S[1]
    solve = jax.jit(
        lambda S, v, d: ngdla.damped_solve(S, v, d, precision="native", full_output=True)
    )
    x, info = solve(S, S[0], 1e-12)
    assert np.all(np.isnan(x))
    assert not info.converged
    S[2, 3] = np.nan
    x, info = solve(S, S[0], 1.0)
    assert not info.converged


def test_zero_right_hand_sides_are_solved_exactly(valued_backend: Backend) -> None:
    dtype = valued_backend.dtypes[-1]
    S = valued_backend.asarray(np.eye(3, 5, dtype=dtype))
    f = valued_backend.asarray(np.zeros(3, dtype=dtype))
    x, info = ngdla.damped_lstsq(S, f, 0.1, full_output=True)  # which takes a closer look
    assert not np.any(valued_backend.numpy(x))
    assert valued_backend.numpy(info.converged)
    assert valued_backend.numpy(info.error_bound) == 0
    assert valued_backend.numpy(info.backward_error) == 0


@pytest.mark.parametrize("method", ["eigh", "svd", "qr"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("cases", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_bounds_hold_where_sweeps_diverge(
    cases: int, method: str, dtype: str, rng: np.random.Generator
) -> None:
    """u kappa > 1: sweeps may blow up and come back; the bound must remember their size."""
    for _ in range(cases):
        S = scores_with_spectrum(rng, 12, 40, dtype, decades=rng.uniform(0, 6))
        damping = float(10 ** rng.uniform(-9, -5))
        f = random_array(rng, (12, 2), dtype)
        v = (H(S) @ f).astype(dtype)
        for refine in (0, 1, 2, 4):
            x, info = ngdla.damped_solve(
                S, v, damping, method=method, precision="native", refine=refine, full_output=True,
                check=False,
            )  # fmt: skip
            exact = exact_solve(S, v, damping)
            error = np.linalg.norm((x - exact).astype(complex), axis=0)
            assert np.all((error <= info.error_bound) | ~np.isfinite(info.error_bound))
            length = np.linalg.norm(exact.astype(complex), axis=0)
            assert np.all(error[info.converged] <= length[info.converged])


@pytest.mark.parametrize(
    ("shape", "order", "damping"), [((100_000, 5), "C", 1e6), ((3, 300_000), "F", 1e6)]
)
def test_bounds_hold_for_long_sums_of_one_sign(
    shape: tuple[int, int], order: str, damping: float, rng: np.random.Generator
) -> None:
    S = np.asarray(1 + 0.1 * rng.random(shape), dtype="float32", order=order)  # type: ignore[call-overload]
    v, f = (np.ones((size, 1), dtype="float32") for size in shape[::-1])
    for function, right, exact in (
        (ngdla.damped_solve, v, exact_solve(S, v, damping)),
        (ngdla.damped_lstsq, f, None),
    ):
        if exact is None:
            if shape[0] > 1000:
                continue  # the reference would need an n x n matrix
            exact = exact_lstsq(S, f, damping)
        x, info = function(S, right, damping, full_output=True)
        assert np.linalg.norm((x - exact).astype(float)) <= info.error_bound[0]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": np.asfortranarray,
    "slice": lambda S: np.pad(S, ((0, 0), (3, 4)))[:, 3:-4],
    "every other": lambda S: np.repeat(S, 2, axis=1)[:, ::2],
    "backwards": lambda S: np.ascontiguousarray(S[:, ::-1])[:, ::-1],
    "rows backwards": lambda S: np.ascontiguousarray(S[::-1])[::-1],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("shape", [(1, 3000), (3, 8000), (8000, 3)], ids=str)
def test_bounds_hold_in_every_layout(
    shape: tuple[int, int], dtype: str, view: str, rng: np.random.Generator
) -> None:
    for library in (np.asarray, _torch_tensor):
        if library is not np.asarray and "backwards" in view:
            continue  # torch has no negative strides
        for size in (0.01, 100.0):
            S = (1.03 + 1e-3 * rng.random(shape)).astype(dtype)
            v, damping = np.full((shape[1], 2), 1.03, dtype), size * S.size
            laid = library(VIEWS[view](S))
            x, info = ngdla.damped_solve(laid, library(v), damping, full_output=True)
            wrong = np.asarray(x) - exact_solve(S, v, damping)
            error = np.linalg.norm(wrong.astype(complex), axis=0)
            assert np.all(error <= np.asarray(info.error_bound))


def _torch_tensor(x: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(x)


@pytest.mark.parametrize(("least", "most", "ratio"), [(0.5, 1.5, 2e-5), (1.03, 1.031, 1.0)])
def test_two_million_columns_of_a_transposed_tensor(
    least: float, most: float, ratio: float, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    X = rng.uniform(least, most, (2_000_000, 2)).astype("float32")
    S, W, f = torch.from_numpy(X).T, X.T.astype(float), np.array([1.0, 0.7], dtype="float32")
    K = W @ W.T
    damping = ratio * float(np.trace(K))
    shifted = K + damping * np.eye(2)
    v = np.ones(X.shape[0], dtype="float32")
    exact = (v - W.T @ np.linalg.solve(shifted, W @ v)) / damping
    for function, right, expected in (
        (ngdla.damped_lstsq, f, W.T @ np.linalg.solve(shifted, f)),
        (ngdla.damped_solve, v, exact),
    ):
        x, info = function(S, torch.from_numpy(right), damping, full_output=True)
        error = np.linalg.norm(x.numpy() - expected)
        assert error <= 1e-3 * np.linalg.norm(expected)
        assert error <= float(info.error_bound)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)], ids=str)
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
def test_illegal_values_are_never_certified(
    shape: tuple[int, int], method: str, rng: np.random.Generator
) -> None:
    S, v = rng.standard_normal(shape), rng.standard_normal(shape[1])
    options: dict[str, Any] = {"method": method, "check": False, "full_output": True}
    _, info = ngdla.damped_solve(S, v, np.array(-0.01), **options)
    assert not info.converged
    metric = np.ones(shape[1])
    metric[1] = -1.0
    _, info = ngdla.damped_solve(S, v, 0.1, metric=metric, **options)
    assert not info.converged


def test_null_vectors_that_leak_are_refused_or_not_certified(rng: np.random.Generator) -> None:
    """Scores centred in float32 are not centred in float64: an f with a mean then matters."""
    S = ngdla.scores(rng.standard_normal((10, 30)).astype("float32")).astype("float64")
    f, null = rng.standard_normal(10) + 1.0, np.full(10, 10**-0.5)
    with pytest.raises(ValueError, match="`null`"):
        ngdla.damped_lstsq(S, f, 1e-9, null=null)
    x, info = ngdla.damped_lstsq(S, f, 1e-9, null=null, check=False, full_output=True)
    error = np.linalg.norm((x - exact_lstsq(S, f[:, None], 1e-9)[:, 0]).astype(float))
    assert error <= info.error_bound
    assert not info.converged


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_fields_are_arrays_of_the_library(
    backend: Backend, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """Also those of one right-hand side, where NumPy would hand out scalars."""
    S, f = (random_array(rng, s, backend.dtypes[-1]) for s in (shape, shape[:1]))
    like = backend.asarray(S)
    _, info = backend.call(ngdla.damped_lstsq, like, backend.asarray(f), 0.1, full_output=True)
    for field in info:
        assert isinstance(field, type(like))
        assert tuple(field.shape) == ()

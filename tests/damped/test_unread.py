"""check="nan": nothing is read, and NaN stands for every step that would be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend, Strict, counted_host_reads
from spectra import quick_compilation  # noqa: F401, a fixture

import ngdla

OPTIONS = {"precision": "native", "full_output": True}
pytestmark = [
    pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),  # Dask computes later
]


def decades(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return S with singular values over six decades, v and 1e-10 |S|_F^2, in float32."""
    k = min(n, m)
    left, right = (np.linalg.qr(rng.standard_normal((d, k)))[0] for d in (n, m))
    S = (left * np.geomspace(1.0, 1e-6, k)) @ right.T
    return (
        S.astype("float32"),
        rng.standard_normal(m).astype("float32"),
        1e-10 * float(np.sum(S * S)),
    )


def duplicated(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return S with a column that is there twice, v and 1e-9 |S|_F^2, in float32."""
    S = rng.standard_normal((n, m)).astype("float32")
    S[:, 1] = S[:, 0]
    return S, rng.standard_normal(m).astype("float32"), 1e-9 * float(np.sum(S * S))


REFUSED = [(decades, 40, 60), (decades, 60, 40), (duplicated, 60, 40)]
IDS = ["decades wide", "decades tall", "duplicated column"]


@pytest.mark.parametrize(("make", "n", "m"), REFUSED, ids=IDS)
def test_a_refused_step_is_nan(
    backend: Backend, make: Callable[..., Any], n: int, m: int, rng: np.random.Generator
) -> None:
    S, v, damping = make(rng, n, m)
    S, v = backend.asarray(S), backend.asarray(v)
    x, info = backend.call(ngdla.damped_solve, S, v, damping, check="nan", **OPTIONS)
    free = backend.call(ngdla.damped_solve, S, v, damping, check=False)
    if backend.has_values:
        assert np.isnan(backend.numpy(x)).all()
        assert not backend.numpy(info.converged)
        assert np.isfinite(backend.numpy(free)).all()


def test_a_good_step_is_that_of_an_eager_call(backend: Backend, rng: np.random.Generator) -> None:
    """One right-hand side that is 0, whose step is 0, among others."""
    S, V = rng.standard_normal((20, 30)), rng.standard_normal((30, 3))
    V[:, 1] = 0.0
    S, V = backend.asarray(S.astype("float32")), backend.asarray(V.astype("float32"))
    for A, B in ((S, V), (S[:, :10], V[:10, :])):
        X, info = backend.call(ngdla.damped_solve, A, B, 0.1, check="nan", full_output=True)
        again = ngdla.damped_solve(A, B, 0.1)
        if backend.has_values:
            assert backend.numpy(info.converged).all()
            np.testing.assert_allclose(backend.numpy(X), backend.numpy(again), rtol=1e-4, atol=1e-5)


def test_matrices_of_a_batch_by_themselves(backend: Backend, rng: np.random.Generator) -> None:
    if backend.name == "dask":
        pytest.skip("takes no batches")
    S, v, damping = decades(rng, 20, 30)
    good = rng.standard_normal((20, 30)).astype("float32")
    dampings = np.array([damping, 1.0], "float32")
    S, v, d = (backend.asarray(x) for x in (np.stack([S, good]), np.stack([v, v]), dampings))
    x, info = backend.call(ngdla.damped_solve, S, v, d, check="nan", **OPTIONS)
    if backend.has_values:
        assert backend.numpy(info.converged).tolist() == [False, True]
        assert np.isnan(backend.numpy(x)).all(axis=-1).tolist() == [True, False]
        assert np.isfinite(backend.numpy(x)[1]).all()


@pytest.mark.parametrize("check", ["nan", False])
def test_nothing_is_read(check: Any, rng: np.random.Generator) -> None:
    backend = Strict()
    S, v, damping = (x if isinstance(x, float) else backend.asarray(x) for x in decades(rng, 9, 12))
    f = backend.asarray(rng.standard_normal(9).astype("float32"))
    with counted_host_reads() as reads:
        for precision in ("auto", "native", "float64"):
            options = {"check": check, "precision": precision}
            ngdla.damped_solve(S, v, damping, full_output=True, **options)
            ngdla.damped_lstsq(S, f, damping, x0=v, **options)
            factor = ngdla.damped_factor(S, 0.1, **options)
            factor.lstsq(f)
            factor.with_damping(0.2).solve(v, True)
            factor.logdet()
            factor.effective_dimension()
            factor.leave_one_out(f)
            ngdla.stochastic_reconfiguration(S, f, 0.1, **options)
    assert not reads


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_mapped_and_compiled_by_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S, v, damping = decades(rng, 20, 30)
    A, b = torch.tensor(S), torch.tensor(v)
    good = torch.tensor(rng.standard_normal((20, 30)).astype("float32"))

    def solve(S: Any, v: Any) -> Any:
        return ngdla.damped_solve(S, v, damping, check="nan", precision="native")

    stack = torch.vmap(solve)(torch.stack([A, 1e-5 * good]), torch.stack([b, b]))
    assert torch.isnan(stack[0]).all()
    assert torch.isfinite(stack[1]).all()
    compiled = torch.compile(solve, backend="eager")
    assert torch.isnan(compiled(A, b)).all()


def test_mapped_and_compiled_by_jax(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, v, damping = decades(rng, 20, 30)
    good = 1e-5 * rng.standard_normal((20, 30)).astype("float32")
    with jax.enable_x64(False):
        A, b = jax.numpy.asarray(np.stack([S, good])), jax.numpy.asarray(np.stack([v, v]))

        def solve(S: Any, v: Any, check: Any = True) -> Any:
            return ngdla.damped_solve(S, v, damping, check=check)

        for x in (
            jax.jit(solve)(A[0], b[0])[None],
            solve(A[0], b[0], "nan")[None],
            jax.jit(jax.vmap(solve))(A, b),
        ):
            assert np.isnan(x[0]).all()
            assert np.isfinite(x[1:]).all()

        def length(S: Any, v: Any) -> Any:
            return (solve(S, v) ** 2).sum()

        gradients = jax.jit(jax.vmap(jax.grad(length)))(A, b)
        assert np.isnan(gradients[0]).all()
        assert np.isfinite(gradients[1]).all()


@pytest.mark.parametrize("ratio", [1e-10, 256 * 2.0**-53])
def test_jax_finds_double_precision_by_itself(ratio: float, rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, v, damping = decades(rng, 20, 30)
    damping *= ratio / 1e-10
    with jax.enable_x64(True):
        solve = jax.jit(lambda S, v: ngdla.damped_solve(S, v, damping, full_output=True))
        x, info = solve(jax.numpy.asarray(S), jax.numpy.asarray(v))
    A = S.astype(np.longdouble)
    W = (A @ A.T + damping * np.eye(20)).astype("float64")
    right = (v - S.astype("float64").T @ np.linalg.solve(W, S.astype("float64") @ v)) / damping
    assert bool(info.converged)
    assert np.linalg.norm(x - right) <= 1e-3 * np.linalg.norm(right)


def test_gradients_of_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S, v, damping = decades(rng, 20, 30)
    for number, bad in ((damping, True), (0.1, False)):
        A = torch.tensor(S, requires_grad=True)
        x = ngdla.damped_solve(A, torch.tensor(v), number, check="nan", precision="native")
        (gradient,) = torch.autograd.grad((x * x).sum(), A)
        assert torch.isnan(gradient).all() if bad else torch.isfinite(gradient).all()


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # JAX's own, which says less
def test_messages_name_the_setting_of_jax() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        S = jax.numpy.eye(3)
        with pytest.raises(ValueError, match=r"jax\.enable_x64"):
            ngdla.gram(S, accumulate="float64")
        with pytest.raises(ValueError, match=r"jax\.enable_x64"):
            ngdla.damped_solve(S, S[0], 0.1, precision="float64")

"""Steps that may be wrong by more than half of their length are refused, and others are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import H, U, exact_lstsq, exact_solve, random_array, scores_with_spectrum

import ngdla

LinAlgError = np.linalg.LinAlgError


def length(x: Any) -> Any:
    return np.linalg.norm(np.asarray(x).astype(complex), axis=0)


def told(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or None where it says that it may be wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ngdla.PrecisionWarning)
        try:
            return call()
        except (LinAlgError, ngdla.PrecisionWarning):
            return None


# ------------------------------------------------------------- the damping that is asked for


@pytest.mark.parametrize("method", ["svd", "qr"])
@pytest.mark.parametrize("door", ["solve", "factor", "sr"])
@pytest.mark.parametrize("scale", [1e-16, 1e-17])
def test_singular_vectors_solve_with_the_damping_that_was_asked_for(
    scale: float, door: str, method: str, rng: np.random.Generator
) -> None:
    """Also far below u |S|^2, where no damping is lifted."""
    for _ in range(5):
        S = rng.standard_normal((7, 2)) @ rng.standard_normal((2, 7))
        damping = scale * float(np.linalg.norm(S)) ** 2
        v = rng.standard_normal(7)
        if door == "sr":
            O, E = S, rng.standard_normal(7)
            S, f = ngdla.scores(O), ngdla.residuals(E)
            x = ngdla.stochastic_reconfiguration(O, E, damping, method=method, check=False)
            expected = ngdla.damped_lstsq(S, f, damping, method=method, check=False)
            assert length(x - expected) <= 1e-6 * length(expected)
            continue
        exact = of_rank_2(S, v, damping)
        if door == "factor":
            x = ngdla.damped_factor(S, damping, method=method, check=False).solve(v)
        else:
            x = ngdla.damped_solve(S, v, damping, method=method, check=False)
        assert length(x - exact) <= 1e-6 * length(exact)


def of_rank_2(S: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """Return (S^T S + damping)^-1 v, whose other singular values are roundings."""
    _, s, Vh = np.linalg.svd(S)
    V, g = Vh[:2].T, s[:2] ** 2
    return (v - V @ (g / (g + damping) * (V.T @ v))) / damping


@pytest.mark.parametrize("method", ["svd", "qr"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize("scale", [1e-13, 1e-15])
def test_least_squares_by_singular_vectors_lose_nothing(
    scale: float, refine: int, dtype: str, method: str, rng: np.random.Generator
) -> None:
    """S^H f is not formed with n >= m: its roundings would be divided by the damping."""
    block = random_array(rng, (5, 20), dtype)
    S = np.concatenate([block] * 4)
    f = S @ random_array(rng, (20, 1), dtype)
    damping = scale * float(np.linalg.norm(S)) ** 2
    exact = exact_lstsq(block, f[:5], damping / 4)  # four equal rows are one, twice as long
    x = ngdla.damped_lstsq(S, f, damping, method=method, refine=refine)
    assert length(x - exact) <= 1e3 * U[dtype] * length(exact)
    factor = ngdla.damped_factor(S, damping, method=method, refine=refine)
    x0 = random_array(rng, (20, 1), dtype)
    moved = factor.lstsq(f, x0)
    exact = exact_lstsq(block, f[:5], damping / 4, x0)
    assert length(moved - exact) <= 1e-6 * length(exact)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("shape", [(20, 8), (8, 20)], ids=str)
def test_native_precision_refuses_what_it_cannot_solve(
    shape: tuple[int, int], method: str, rng: np.random.Generator
) -> None:
    """A column twice, and a damping far below the roundings of the Gram matrix in float32."""
    answers = 0
    for _ in range(30):
        S = random_array(rng, shape, "float32")
        S[:, 1] = S[:, 0]
        if shape[0] < shape[1]:
            S[1] = S[0]
        damping = 1e-9 * float(np.linalg.norm(S)) ** 2
        f, v = (random_array(rng, (size,), "float32") for size in shape)
        options: Any = {"method": method, "precision": "native"}
        for call, exact in (
            (
                partial(ngdla.damped_lstsq, S, f, damping, **options),
                exact_lstsq(S, f[:, None], damping),
            ),
            (
                partial(ngdla.damped_solve, S, v, damping, **options),
                exact_solve(S, v[:, None], damping),
            ),
        ):
            x = told(call)
            if x is not None:
                answers += 1
                assert length(x[:, None] - exact) <= length(exact[:, :]) * 0.5
    assert answers or method in ("cholesky", "eigh")


@pytest.mark.parametrize("precision", ["native", "auto"])
def test_right_steps_are_not_refused(precision: str, rng: np.random.Generator) -> None:
    """With a sweep, from 256 u |S|^2 on."""
    for dtype in U:
        for n, m in ((12, 40), (40, 12)):
            S = scores_with_spectrum(rng, n, m, dtype, 8)
            damping = 256 * U[dtype] * float(np.linalg.norm(S)) ** 2
            f, v = random_array(rng, (n, 2), dtype), random_array(rng, (m, 2), dtype)
            for method in ("cholesky", "eigh", "svd", "qr"):
                options: Any = {"method": method, "precision": precision}
                x = told(partial(ngdla.damped_lstsq, S, f, damping, **options))
                exact = exact_lstsq(S, f, damping)
                assert np.all(length(x - exact) <= 0.1 * length(exact))
                x = told(partial(ngdla.damped_solve, S, v, damping, **options))
                exact = exact_solve(S, v, damping)
                assert np.all(length(x - exact) <= 0.1 * length(exact))


def test_each_right_hand_side_is_judged_by_itself(rng: np.random.Generator) -> None:
    """Where nothing is read: NaN in the columns and matrices that are refused, no others."""
    S = np.stack([random_array(rng, (6, 20), "float32") for _ in range(2)])
    S[1, 1] = S[1, 0]
    f = random_array(rng, (2, 6, 3), "float32")
    f[1, 0] = f[1, 1] = 0.0
    damping = 1e-7 * float(np.linalg.norm(S[0])) ** 2
    x, info = ngdla.damped_lstsq(
        S, f, damping, precision="native", method="eigh", check="nan", full_output=True
    )
    refused = np.any(np.isnan(x), axis=-2)
    np.testing.assert_array_equal(refused, np.all(np.isnan(x), axis=-2))
    assert not refused[0].any()
    assert not np.any(info.converged & refused)


def test_what_nothing_can_read_is_nan(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S = scores_with_spectrum(rng, 30, 90, "float32", 6)
    f = random_array(rng, (30,), "float32")
    with jax.enable_x64(False):
        solve = jax.jit(lambda S, f, d: ngdla.damped_lstsq(S, f, d, full_output=True))
        for damping in (1e-2, 1e-6, 1e-10, 1e-13):
            exact = exact_lstsq(S, f[:, None], damping)[:, 0]
            x, info = solve(S, f, damping)
            x = np.asarray(x)
            right = length(x - exact) <= 0.5 * length(exact)
            assert right or np.all(np.isnan(x))
            assert right or not info.converged
            assert right or damping < 1e-5
        assert np.all(np.isnan(x))


# --------------------------------------------------------------------------- conjugate gradients


def test_conjugate_gradients_that_end_early_say_so(rng: np.random.Generator) -> None:
    """A step far shorter than v / damping, whose residual is small against neither."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        S = scores_with_spectrum(rng, 20, 60, "float32", 7)
        f = random_array(rng, (20, 1), "float32")
        v = (H(S) @ f).astype("float32")
        for damping in (1e-9, 1e-12, 1e-15):
            for precision in ("auto", "native"):
                options = {"method": "cg", "precision": precision}
                x = told(partial(ngdla.damped_solve, S, v, damping, **options))
                if x is not None:
                    exact = exact_solve(S, v, damping)
                    assert length(x - exact) <= 0.5 * length(exact)


def test_given_gram_matrices_have_the_precision_they_came_in(rng: np.random.Generator) -> None:
    T = scores_with_spectrum(rng, 20, 60, "float32", 8)
    wide, f = T.astype("float64"), rng.standard_normal(20)

    def operator(gram: Any, like: np.ndarray = T) -> ngdla.ScoreOperator:
        return ngdla.ScoreOperator(
            lambda x: wide @ x, lambda y: wide.T @ y, T.shape, like=like, gram=gram, batched=True
        )

    for scale in (1e-3, 1e-7, 1e-9):
        damping = scale * float(np.linalg.norm(T, 2)) ** 2
        exact = exact_lstsq(T, f[:, None], damping)[:, 0]
        for gram in (T @ T.T, lambda: T @ T.T):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ngdla.PrecisionWarning)
                x, info = ngdla.damped_lstsq(operator(gram), f, damping, full_output=True)
            assert length(x - exact) <= 1e-4 * length(exact) or not info.converged
            assert length(x - exact) <= info.error_bound
    with pytest.raises(TypeError, match=r"`gram`.*returns float32.*`like`.*float64"):
        ngdla.damped_lstsq(operator(lambda: T @ T.T, wide), f, 1.0)


def test_functions_that_take_one_dtype_are_named() -> None:
    torch = pytest.importorskip("torch")
    S = torch.randn(6, 20)
    S[1] = S[0]
    op = ngdla.ScoreOperator(
        lambda x: S @ x, lambda y: S.T @ y, (6, 20), like=S, gram=S @ S.T, batched=True
    )
    with pytest.raises(
        TypeError, match=r"`(r?)matvec` of `S` fails for float64.*precision='native'"
    ):
        ngdla.damped_lstsq(op, torch.ones(6), 1e-9)


# --------------------------------------------------------------------------- rounded v


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_rounded_right_hand_side_is_not_certified(library: str, rng: np.random.Generator) -> None:
    if library not in BACKENDS:
        pytest.skip(f"{library} is not installed")
    backend: Backend = BACKENDS[library]()
    S = scores_with_spectrum(rng, 40, 200, "float32", 4)
    f = (S.astype("float64") @ rng.standard_normal((200, 1))).astype("float32")
    v = (S.T @ f).astype("float32")
    Sb, vb, fb = (backend.asarray(a) for a in (S, v, f))
    for damping in (1e-2, 1e-6, 1e-8, 1e-12):
        exact = exact_lstsq(S, f, damping)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x, info = ngdla.damped_solve(Sb, vb, damping, full_output=True)
        said = any("row_space=True" in str(w.message) for w in caught)
        error = length(backend.numpy(x) - exact) / length(exact)
        assert bool(np.all(backend.numpy(info.converged))) is (not said)
        assert said or np.all(error <= 0.5)
        assert said is (damping < 1e-6) or damping == 1e-6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ngdla.PrecisionWarning)
            y = ngdla.damped_lstsq(Sb, fb, damping)
        assert np.all(length(backend.numpy(y) - exact) <= 1e-4 * length(exact))


def test_full_rank_loses_nothing_at_any_damping(rng: np.random.Generator) -> None:
    S = random_array(rng, (2000, 60), "float32")
    v = (S.T @ random_array(rng, (2000, 1), "float32")).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for damping in (1.0, 1e-6, 1e-12, 1e-30):
            for method in ("auto", "cholesky", "eigh", "svd", "qr"):
                x, info = ngdla.damped_solve(S, v, damping, method=method, full_output=True)
                assert np.all(info.converged)
                exact = exact_solve(S, v, damping) if damping > 1e-7 else None
                if exact is not None:
                    assert length(x - exact) <= info.error_bound


def test_a_line_of_code_warns_once(rng: np.random.Generator) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(20):
            S, f = random_array(rng, (5, 20), "float32"), random_array(rng, (5,), "float32")
            S[1] = S[0]
            ngdla.damped_lstsq(S, f, 1e-9 * float(rng.random()))
    assert len([w for w in caught if w.category is ngdla.PrecisionWarning]) == 1

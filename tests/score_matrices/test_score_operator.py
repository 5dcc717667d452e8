"""Matrix-free scores: as accurate as stored ones, and refusals of functions that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, columns, exact_lstsq, exact_solve, random_array, scores_with_spectrum
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla import ScoreOperator

SHAPES = [(12, 40), (40, 12)]


def operator(S: Any, *, batched: bool = True, **options: Any) -> ScoreOperator:
    """Return S as an operator of its library."""
    adjoint = S.conj().T if isinstance(S, np.ndarray) else S.T
    return ScoreOperator(
        lambda x: S @ x, lambda y: adjoint @ y, S.shape, like=S, batched=batched, **options
    )


@pytest.mark.thinned(0)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_definition(
    valued_backend: Backend,
    dtype: str,
    shape: tuple[int, int],
    batched: bool,
    rng: np.random.Generator,
) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S, f = scores_with_spectrum(rng, *shape, dtype, 2), random_array(rng, (shape[0], 2), dtype)
    v, x0 = random_array(rng, (shape[1],), dtype), random_array(rng, (shape[1], 2), dtype)
    like = backend.asarray(S)
    op = operator(like, batched=batched)
    tolerance = 1e4 * U[dtype]
    x, info = ngdla.damped_lstsq(
        op, backend.asarray(f), 0.01, x0=backend.asarray(x0), full_output=True
    )
    exact = exact_lstsq(S, f, 0.01, x0)
    backend.assert_matches(x, exact, like=like, dtype=dtype, tolerance=tolerance)
    error = np.linalg.norm((backend.numpy(x) - exact).astype(float), axis=0)
    assert np.all(error <= backend.numpy(info.error_bound))
    x = ngdla.damped_solve(op, backend.asarray(v), 0.01)
    exact = exact_solve(S, columns(v), 0.01)[:, 0]
    backend.assert_matches(x, exact, like=like, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("method", ["auto", "cholesky", "eigh"])
@pytest.mark.parametrize("given", ["nothing", "array", "function"])
def test_gram_matrices(method: str, given: str, rng: np.random.Generator) -> None:
    S, f = random_array(rng, (8, 30), "complex128"), random_array(rng, (8,), "complex128")
    K = S @ H(S)
    gram = {"nothing": None, "array": K, "function": lambda: K}[given]
    op = operator(S, gram=gram)
    before = K.copy()
    x = ngdla.damped_lstsq(op, f, 0.1, method=method)
    exact = exact_lstsq(S, f[:, None], 0.1)[:, 0]
    assert np.linalg.norm(x - exact) <= 1e-12 * np.linalg.norm(exact)
    np.testing.assert_array_equal(K, before)
    np.testing.assert_allclose(ngdla.gram(op), K, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_metric_null_and_factor(shape: tuple[int, int], rng: np.random.Generator) -> None:
    O = rng.standard_normal(shape)
    S, null = ngdla.scores(O), np.full(shape[0], shape[0] ** -0.5)
    f, metric = ngdla.residuals(rng.standard_normal(shape[0])), 0.5 + rng.random(shape[1])
    for options in ({"metric": metric}, {"null": null}):
        reference = ngdla.damped_lstsq(S, f, 1e-3, **options)
        x = ngdla.damped_lstsq(operator(S), f, 1e-3, **options)
        np.testing.assert_allclose(x, reference, atol=1e-10 * np.linalg.norm(reference))
    factor = ngdla.damped_factor(operator(S), 1e-3)
    reference = ngdla.damped_lstsq(S, f, 1e-3)
    np.testing.assert_allclose(factor.lstsq(f), reference, atol=1e-10 * np.linalg.norm(reference))


@pytest.mark.parametrize("shape", [(60, 400), (400, 60)], ids=str)
def test_cg_for_stored_scores(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Also with a spectrum that the preconditioner knows a part of, and blocks."""
    S, f = scores_with_spectrum(rng, *shape, "float64", 3), rng.standard_normal(shape[0])
    damping = 1e-5 * float(np.linalg.norm(S, 2)) ** 2
    exact = exact_lstsq(S, f[:, None], damping)[:, 0]
    for scores in (S, [S[:, :25], S[:, 25:]]):
        x, info = ngdla.damped_lstsq(scores, f, damping, method="cg", full_output=True)
        x = np.concatenate(x) if isinstance(x, list) else x
        assert np.linalg.norm((x - exact).astype(float)) <= 1e-11 * np.linalg.norm(exact)
        assert info.converged


def test_the_number_of_products(rng: np.random.Generator) -> None:
    """A sketch of 64 columns and two products a step, for n = 500 with a decaying spectrum."""
    S, f = scores_with_spectrum(rng, 500, 700, "float64", 12), rng.standard_normal(500)
    calls = []

    def matvec(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return S @ x

    op = ScoreOperator(matvec, lambda y: S.T @ y, S.shape, like=S)
    damping = 1e-4 * float(np.linalg.norm(S, 2)) ** 2
    x, info = ngdla.damped_lstsq(op, f, damping, full_output=True)
    assert info.converged
    exact = exact_lstsq(S, f[:, None], damping)[:, 0]
    assert np.linalg.norm((x - exact).astype(float)) <= 1e-11 * np.linalg.norm(exact)
    assert len(calls) <= 64 + 80


def test_jit(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, f = scores_with_spectrum(rng, 20, 90, "float64", 2), rng.standard_normal(20)

    def solve(S: Any, f: Any) -> Any:
        op = ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, S.shape, like=S)
        return ngdla.damped_lstsq(op, f, 0.001, full_output=True)

    x, info = jax.jit(solve)(jax.numpy.asarray(S), jax.numpy.asarray(f))
    exact = exact_lstsq(S, f[:, None], 0.001)[:, 0]
    assert np.linalg.norm(np.asarray(x) - exact) <= 1e-10 * np.linalg.norm(exact)
    assert info.converged


# -------------------------------------------------------------------------------- refusals

S = np.random.default_rng(1).standard_normal((4, 7))
F = S[:, 0].copy()


def test_construction() -> None:
    with pytest.raises(TypeError, match="`matvec` is a ndarray; it must be a function"):
        ScoreOperator(S, lambda y: S.T @ y, S.shape, like=S)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`rmatvec` is a NoneType"):
        ScoreOperator(lambda x: S @ x, None, S.shape, like=S)  # type: ignore[arg-type]
    for shape in ((4,), (4, 0), "ab", 5, (4, 7, 1)):
        with pytest.raises(ValueError, match=r"`shape` is .* two positive integers"):
            ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, shape, like=S)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`like` is a builtins.float; it must be an array"):
        ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, S.shape, like=1.0)


WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (lambda x: (S @ x)[:3], lambda y: S.T @ y, ValueError, r"`matvec` .* shape \(3,\).*\(4,\)"),
    (lambda x: S @ x, lambda y: y, ValueError, r"`rmatvec` .* shape \(4,\).*\(7,\)"),
    (lambda x: list(S @ x), lambda y: S.T @ y, TypeError, "`matvec` .* is a list"),
    (lambda x: 1j * (S @ x), lambda y: S.T @ y, TypeError, "complex128 but `like` is real"),
    (lambda x: S @ x, lambda y: (S.T @ y).astype(int), TypeError, "`rmatvec` .* dtype int64"),
    (lambda x: S @ x * np.nan, lambda y: S.T @ y, ValueError, "`matvec` of `S` returns NaN"),
    (lambda x: S @ x, lambda y: S.T @ y * np.inf, ValueError, "`rmatvec` of `S` returns NaN"),
]


@pytest.mark.parametrize(("matvec", "rmatvec", "error", "says"), WRONG)
@pytest.mark.parametrize("method", ["auto", "cholesky"])
def test_functions_that_are_wrong(
    matvec: Any, rmatvec: Any, error: type[Exception], says: str, method: str
) -> None:
    op = ScoreOperator(matvec, rmatvec, S.shape, like=S)
    with pytest.raises(error, match=says):
        ngdla.damped_lstsq(op, F, 0.1, method=method)


@pytest.mark.parametrize("method", ["auto", "cholesky"])
def test_functions_that_are_not_adjoint(method: str, rng: np.random.Generator) -> None:
    T = random_array(rng, (5, 9), "complex128")
    for rmatvec in (lambda y: T.T @ y, lambda y: 2 * (H(T) @ y), lambda y: -(H(T) @ y)):
        op = ScoreOperator(lambda x: T @ x, rmatvec, T.shape, like=T)
        with pytest.raises(ValueError, match="`rmatvec` of `S` is not the adjoint of `matvec`"):
            ngdla.damped_lstsq(op, T[:, 0], 0.1, method=method)


def test_zero_scores() -> None:
    op = ScoreOperator(lambda x: 0 * F, lambda y: 0 * S[0], S.shape, like=S)
    assert not np.any(ngdla.damped_lstsq(op, F, 0.5))
    np.testing.assert_allclose(ngdla.damped_solve(op, S[0], 0.5), S[0] / 0.5)


def test_what_does_not_converge_is_said(rng: np.random.Generator) -> None:
    T = scores_with_spectrum(rng, 300, 400, "float64", 6)
    op, f = operator(T, batched=False), rng.standard_normal(300)
    damping = 1e-12 * float(np.linalg.norm(T, 2)) ** 2
    with pytest.warns(ngdla.PrecisionWarning, match="may err by more than half"):
        _, info = ngdla.damped_lstsq(op, f, damping, full_output=True)
    assert not info.converged


def test_gram_matrices_of_lower_precision_only_precondition(rng: np.random.Generator) -> None:
    T = scores_with_spectrum(rng, 20, 60, "float32", 8)
    f = rng.standard_normal(20).astype("float32")
    damping = 1e-7 * float(np.linalg.norm(T, 2)) ** 2
    with pytest.warns(ngdla.PrecisionWarning, match="residuals"):
        x = ngdla.damped_lstsq(operator(T, gram=T @ T.T), f, damping)
    exact = exact_lstsq(T, f[:, None], damping)[:, 0]
    assert np.linalg.norm((x - exact).astype(float)) <= 1e-5 * np.linalg.norm(exact.astype(float))


def test_gradients_of_an_operator(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def loss(T: Any, make: Any) -> Any:
        return jax.numpy.sum(ngdla.damped_lstsq(make(T), jax.numpy.asarray(F), 0.1) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    found = gradient(jax.numpy.asarray(S), operator)
    exact = gradient(jax.numpy.asarray(S), lambda T: T)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-10)


def test_arrays_of_another_library() -> None:
    torch = pytest.importorskip("torch")
    op = ScoreOperator(lambda x: torch.asarray(S @ x), lambda y: S.T @ y, S.shape, like=S)
    says = "`matvec` .* is a torch array but `like` is a numpy array"
    with pytest.raises(TypeError, match=says):
        ngdla.damped_lstsq(op, F, 0.1)


def test_gram_matrices_that_are_wrong() -> None:
    for gram, error, says in (
        (np.eye(3), ValueError, r"`gram` .* shape \(3, 3\).*\(4, 4\)"),
        (np.full((4, 4), np.nan), ValueError, "not finite"),
        (lambda: [1], TypeError, "`gram` .* is a list"),
    ):
        with pytest.raises(error, match=says):
            ngdla.damped_lstsq(operator(S, gram=gram), F, 0.1)


def test_methods_that_need_the_scores() -> None:
    for method in ("svd", "qr"):
        with pytest.raises(ValueError, match=f"`method` is '{method}'.*in memory"):
            ngdla.damped_lstsq(operator(S), F, 0.1, method=method)

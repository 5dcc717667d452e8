"""Solves with given Gram matrices: right where they are certified, never too long elsewhere."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, narrow, random_array, scores_with_spectrum, wide
from spectra import quick_compilation  # noqa: F401

import ngdla


def gram_matrix(
    rng: np.random.Generator, n: int, dtype: str, damping: float = 0.1, batch: tuple[int, ...] = ()
) -> np.ndarray:
    S = random_array(rng, (*batch, n, 2 * n), dtype)
    return (S @ H(S) + damping * np.eye(n)).astype(dtype)


def exact(W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return W^-1 b by refinement in extended precision."""
    y, W64 = np.zeros_like(wide(b)), narrow(wide(W))
    for _ in range(5):
        y = y + np.linalg.solve(W64, narrow(wide(b) - wide(W) @ y))
    return narrow(y)


# ------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("columns", [(), (3,)], ids=str)
@pytest.mark.parametrize("right", ["same", "other"])
def test_definition(
    backend: Backend, dtype: str, columns: tuple[int, ...], right: str, rng: np.random.Generator
) -> None:
    """Complex b with a real W, and the other way round; float32 and float64 together."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    kind = dtype if right == "same" else backend.dtypes[-1 if "float" in dtype else 0]
    W, b = gram_matrix(rng, 6, dtype), random_array(rng, (6, *columns), kind)
    like = backend.asarray(W)
    y = backend.call(ngdla.hermitian_solve, like, backend.asarray(b))
    result = np.result_type(W, b).name
    backend.assert_matches(y, exact(W, b), like=like, dtype=result, tolerance=1e3 * U[result])


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_what_is_known(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    W, b = gram_matrix(rng, 6, dtype, batch=(2,)), random_array(rng, (2, 6, 3), dtype)
    trace = np.trace(W, axis1=-2, axis2=-1).real
    y, info = backend.call(
        ngdla.hermitian_solve,
        backend.asarray(W),
        backend.asarray(b),
        trace=backend.asarray(trace),
        full_output=True,
    )
    if not backend.has_values:
        return
    y, info = backend.numpy(y), type(info)(*(backend.numpy(x) for x in info))
    np.testing.assert_allclose(y, np.stack([exact(W[i], b[i]) for i in (0, 1)]), rtol=1e-3)
    assert info.residual_norm.shape == info.converged.shape == (2, 3)
    assert info.lifted.shape == info.smallest.shape == (2,)
    assert info.converged.all()
    assert not info.lifted.any()
    assert (info.backward_error <= 10 * U[dtype]).all()
    smallest = np.linalg.eigvalsh(W)[:, 0]
    assert (info.smallest >= 0.99 * smallest).all()
    assert (info.smallest <= 1.5 * smallest).all()


def test_zero_is_solved(rng: np.random.Generator) -> None:
    y, info = ngdla.hermitian_solve(gram_matrix(rng, 5, "float64"), np.zeros(5), full_output=True)
    assert not y.any()
    assert info.converged
    assert info.backward_error == 0


def test_half_precision(rng: np.random.Generator) -> None:
    W, b = gram_matrix(rng, 5, "float64", damping=30.0).astype("float16"), rng.standard_normal(5)
    y = ngdla.hermitian_solve(W, b.astype("float32"))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact(W.astype("float64"), b), rtol=1e-4)


# ----------------------------------------------------------------------------- small dampings

RATIOS = 10.0 ** -np.arange(1.0, 12.5)


@pytest.mark.parametrize("shape", [(15, 40), (40, 15)], ids=str)
@pytest.mark.parametrize("decades", [0, 1, 2, 3, 4, 5, 7, 10, 14])
@pytest.mark.parametrize("centred", [False, True])
def test_no_step_is_wrong_without_a_warning(
    shape: tuple[int, int], decades: int, centred: bool, rng: np.random.Generator
) -> None:
    """In float32, for damping over trace from 1e-1 to 1e-12."""
    if centred and shape[0] > shape[1]:
        pytest.skip("only rows have a null vector")
    S = scores_with_spectrum(rng, *shape, "float64", decades)
    S = (S - S.mean(axis=0) if centred else S).astype("float32")
    precise = S.astype("float64") - (S.mean(axis=0, dtype="float64") if centred else 0)
    f = rng.standard_normal(shape[0])
    f = f - f.mean() if centred else f
    if shape[0] > shape[1]:
        G, K, b = S.T @ S, precise.T @ precise, precise.T @ f
    else:
        G, K, b = S @ S.T, precise @ precise.T, f
    null = np.full(shape[0], shape[0] ** -0.5) if centred else None
    for ratio in RATIOS:
        damping, eye = ratio * float(np.trace(G)), np.eye(len(G))
        y, info = quietly(G + np.float32(damping) * eye.astype("float32"), b, null)
        reference = np.linalg.solve(K + damping * eye, b)
        error, size = np.linalg.norm(y - reference), np.linalg.norm(reference)
        if info.converged:
            assert error <= 0.1 * size, ratio
            continue
        assert info.lifted
        assert np.linalg.norm(y) <= 1.1 * size
        root = np.linalg.norm(K @ y) if shape[0] < shape[1] else np.linalg.norm(precise @ y)
        other = K @ reference if shape[0] < shape[1] else precise @ reference
        assert 0.3 <= root / np.linalg.norm(other) <= 1.1, ratio
    assert info.lifted or decades <= 2  # else eigenvalues of the undamped matrix are large enough


def quietly(W: np.ndarray, b: np.ndarray, null: Any = None) -> Any:
    """Return the solution and its certificate; a warning says the same as the latter."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y, info = ngdla.hermitian_solve(W, b, null=null, full_output=True)
    assert [w.category for w in caught] == ([] if info.converged else [ngdla.PrecisionWarning])
    return y, info


@pytest.mark.parametrize("stacked", [False, True])
def test_null_vectors_do_not_condemn_small_dampings(
    stacked: bool, rng: np.random.Generator
) -> None:
    n, weights = 8, rng.random(8)
    q = np.sqrt(weights / weights.sum())
    mode = "complex" if stacked else "real"
    O = rng.standard_normal((n, 60)) + (1j * rng.standard_normal((n, 60)) if stacked else 0)
    E = rng.standard_normal(n) + (1j * rng.standard_normal(n) if stacked else 0)
    S = ngdla.scores(O, weights=weights, mode=mode)
    f = ngdla.residuals(E, weights=weights, mode=mode)
    null = np.kron(np.eye(2), q[:, None]) if stacked else q
    W = (S @ S.T + 1e-8 * np.eye(len(S))).astype("float32")
    y, info = ngdla.hermitian_solve(W, f, null=null, full_output=True)
    assert info.converged
    reference = ngdla.damped_lstsq(S, f, 1e-8)
    assert np.linalg.norm(S.T @ y - reference) <= 1e-3 * np.linalg.norm(reference)
    along = null.T @ ngdla.hermitian_solve(W, f + 7.0, null=null)
    assert np.linalg.norm(along) <= 1e-12 * np.linalg.norm(y)
    with pytest.warns(ngdla.PrecisionWarning, match="pass `null`"):
        assert ngdla.hermitian_solve(W, f, full_output=True)[1].lifted


# ------------------------------------------------------------------- where values are not read


def hopeless(rng: np.random.Generator, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Return a stack of a good matrix, one to be lifted and one that is not even semi-definite."""
    good = gram_matrix(rng, 6, "float64")
    values = np.array([1.0, 1e-12, 0.3, 0.2, 0.1, 0.1])
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return (
        np.stack([good, (Q * values) @ Q.T, (Q * (values - 0.05)) @ Q.T]).astype(dtype),
        rng.standard_normal((3, 6)).astype(dtype),
    )


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # Dask computes outside of the call
def test_entries_of_a_batch_by_themselves(backend: Backend, rng: np.random.Generator) -> None:
    W, b = hopeless(rng)
    W, b = backend.asarray(W[:2]), backend.asarray(b[:2])
    y, info = backend.call(ngdla.hermitian_solve, W, b, check="nan", full_output=True)
    free, _ = backend.call(ngdla.hermitian_solve, W, b, check=False, full_output=True)
    if backend.has_values:
        assert backend.numpy(info.lifted).tolist() == [False, True]
        assert backend.numpy(info.converged).tolist() == [True, False]
        assert np.isnan(backend.numpy(y)).any(axis=-1).tolist() == [False, True]
        assert np.isfinite(backend.numpy(free)).all()
    if not backend.eager:
        y = backend.call(ngdla.hermitian_solve, W, b)
        assert not backend.has_values or np.isnan(backend.numpy(y)[1]).all()
        return
    with pytest.warns(ngdla.PrecisionWarning):
        y = ngdla.hermitian_solve(W, b)
    np.testing.assert_allclose(backend.numpy(y), backend.numpy(free), rtol=1e-5)


def test_what_has_no_factor(valued_backend: Backend, rng: np.random.Generator) -> None:
    W, b = (valued_backend.asarray(x[2]) for x in hopeless(rng))
    if valued_backend.eager:
        with pytest.raises(np.linalg.LinAlgError, match="`W` is not positive semi-definite"):
            ngdla.hermitian_solve(W, b)
    y, info = valued_backend.call(ngdla.hermitian_solve, W, b, check="nan", full_output=True)
    assert np.isnan(valued_backend.numpy(y)).all()
    assert not valued_backend.numpy(info.converged)


@pytest.mark.parametrize("x64", [True, False])
def test_jax(x64: bool, rng: np.random.Generator) -> None:
    """Mapped, with NaN reported where all is well, and without double precision."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", x64)
    try:
        W, b = hopeless(rng)
        W, b = jax.numpy.asarray(W), jax.numpy.asarray(b)
        y = np.asarray(jax.jit(jax.vmap(ngdla.hermitian_solve))(W, b))
        np.testing.assert_allclose(y[0], exact(np.asarray(W[0]), np.asarray(b[0])), rtol=2e-4)
        assert np.isnan(y[1:]).all()
        with jax.debug_nans(True):
            assert np.isfinite(np.asarray(jax.jit(ngdla.hermitian_solve)(W[0], b[0]))).all()
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_derivatives(library: str, rng: np.random.Generator) -> None:
    W, b, c = gram_matrix(rng, 5, "float64"), rng.standard_normal(5), rng.standard_normal(5)
    by_b = np.linalg.solve(W, c)
    by_W = -np.outer(by_b, np.linalg.solve(W, b))
    by_W = (by_W + by_W.T) / 2
    if library == "torch":
        torch = pytest.importorskip("torch")
        leaves = [torch.tensor(x, requires_grad=True) for x in (W, b)]
        (torch.tensor(c) @ ngdla.hermitian_solve(*leaves)).backward()
        gradients = [leaf.grad for leaf in leaves]
    else:
        jax = pytest.importorskip("jax")
        gradient = jax.grad(lambda W, b: c @ ngdla.hermitian_solve(W, b), argnums=(0, 1))
        gradients = jax.jit(gradient)(W, b)
    np.testing.assert_allclose(gradients[0], by_W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients[1], by_b, rtol=1e-9)


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"W": np.ones((3, 4))}, ValueError, r"`W` has shape \(3, 4\); it must be square"),
        ({"W": np.eye(4, dtype=int)}, TypeError, "`W` has dtype int64"),
        ({"W": [[1.0]]}, TypeError, "`W` is a list"),
        ({"W": np.triu(np.ones((4, 4))) + 4 * np.eye(4)}, ValueError, "`W` is not Hermitian"),
        ({"W": np.diag([1.0, 2.0, np.nan, 1.0])}, ValueError, "`W` contains NaN or Inf"),
        ({"b": np.ones(3)}, ValueError, r"`b` has shape \(3,\)"),
        ({"b": np.array([1.0, np.inf, 0.0, 0.0])}, ValueError, "`b` contains NaN or Inf"),
        ({"null": np.ones(4)}, ValueError, "`null` must have orthonormal columns"),
        ({"null": np.full(4, 0.5) + 0j}, TypeError, "`null` is complex128 but `W` is real"),
        ({"null": np.full(3, 0.5)}, ValueError, r"`null` has shape \(3,\)"),
        ({"null": np.eye(4)[0] * 0.6 + np.eye(4)[1] * 0.8}, ValueError, "`null` must have"),
        ({"trace": np.ones(2)}, ValueError, r"`trace` has shape \(2,\)"),
        ({"trace": "4"}, TypeError, "`trace` is a"),
        ({"trace": np.nan}, ValueError, "`trace` contains NaN or Inf"),
        ({"check": "no"}, TypeError, "`check` is 'no'; it must be True, False or 'nan'"),
    ],
    ids=str,
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"W": np.diag([1.0, 2.0, 3.0, 4.0]), "b": np.ones(4), **change}
    with pytest.raises(error, match=message):
        ngdla.hermitian_solve(arguments.pop("W"), arguments.pop("b"), **arguments)


def test_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="must be one dense array"):
        ngdla.hermitian_solve(sparse.eye_array(4).tocsr(), np.ones(4))


def test_rounding_is_not_taken_for_asymmetry(rng: np.random.Generator) -> None:
    for decades in (1, 6, 12):
        S = scores_with_spectrum(rng, 60, 20, "complex64", decades)
        W = (S.conj().T @ S + np.float32(1e-2) * np.eye(20)).astype("complex64")
        ngdla.hermitian_solve(W, np.ones(20, "complex64"))


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float64", 1e-250), ("float64", 1e160), ("float64", 1e250)]
    + [("float32", 1e-30), ("float32", 1e22), ("float32", 1e30)],
)
def test_matrices_of_any_size(dtype: str, size: float) -> None:
    rng = np.random.default_rng(0)
    S, b = rng.standard_normal((6, 40)), rng.standard_normal(6)
    W = S @ S.T + 0.1 * np.eye(6)
    y, info = ngdla.hermitian_solve((W * size).astype(dtype), b.astype(dtype), full_output=True)
    exact, expected = ngdla.hermitian_solve(W, b, full_output=True)
    assert info.converged
    assert not info.lifted
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype("float64") * size, exact, rtol=1e3 * eps)
    np.testing.assert_allclose(info.smallest / size, expected.smallest, rtol=1e3 * eps)

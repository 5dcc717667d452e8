"""Adjoint products, diagonals and centring against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend, inside
from references import H, U, random_array, wide

from ngdla._backend import norms, products


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_adjoint_of_torch_is_a_view(dtype: str, rng: np.random.Generator) -> None:
    """The conj of array-api-compat would copy S for each product with it."""
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (3, 5), dtype))
    assert products.adjoint(S).data_ptr() == S.data_ptr()
    np.testing.assert_array_equal(products.adjoint(S).resolve_conj().numpy(), H(S.numpy()))


def test_rmatvec(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    for batch, k in (((), 1), ((), 3), ((2,), 3)):
        S, Y = random_array(rng, (*batch, 6, 11), dtype), random_array(rng, (*batch, 6, k), dtype)
        like = backend.asarray(S)
        result = backend.call(products.rmatvec, like, backend.asarray(Y))
        backend.assert_matches(
            result, H(wide(S)) @ wide(Y), like=like, dtype=dtype, tolerance=12 * U[dtype]
        )


def test_add_to_diagonal(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    if dtype not in backend.dtypes or backend.name == "numpy-readonly":
        pytest.skip("no such dtype, or a matrix that cannot be used up")
    A = random_array(rng, (2, 5, 5), dtype)
    shift = np.array([1.0, 2.0], dtype=np.real(A).dtype)
    for value in (3.0, shift):
        like = backend.asarray(A)
        argument = value if isinstance(value, float) else backend.asarray(value)
        result = products.add_to_diagonal(like, argument)
        reference = A + np.asarray(value).reshape(-1, 1, 1) * np.eye(5)
        backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=2 * U[dtype])


@pytest.mark.parametrize("stack", [False, True])
def test_centred_rows(backend: Backend, stack: bool, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    O = random_array(rng, (2, 6, 4), dtype)
    scale = np.abs(random_array(rng, (2, 6, 1), real))
    mean = O.mean(axis=-2, keepdims=True)
    like = backend.asarray(O)
    result = backend.call(
        products.centred_rows, like, backend.asarray(mean), backend.asarray(scale), stack=stack
    )
    reference = scale * (O - mean)
    if stack:
        reference = np.concatenate([reference.real, reference.imag], axis=-2)
    backend.assert_matches(
        result, reference, like=like, dtype=real if stack else dtype, tolerance=8 * U[dtype]
    )


@pytest.mark.parametrize("chunk", [64, 2**26])
@pytest.mark.parametrize("stack", [False, True])
def test_rows_that_do_not_count(
    backend: Backend,
    stack: bool,
    chunk: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in the mean, whatever the chunks are, nor in what is centred."""
    monkeypatch.setattr("ngdla._backend.shapes.CHUNK_BYTES", chunk)
    dtype = backend.dtypes[-1]
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    O, p = random_array(rng, (2, 6, 4), dtype), rng.random((2, 6, 1)).astype(real)
    kept = np.ones((2, 6, 1), dtype=bool)
    kept[0, 1] = kept[1, 5] = False
    p[~kept] = 0.0
    mean = np.sum(p * O, axis=-2, keepdims=True)
    reference = np.where(kept, p * (O - mean), 0)
    O[~kept[..., 0], 2] = np.nan
    like, p, kept = backend.asarray(O), backend.asarray(p), backend.asarray(kept)
    result = backend.call(products.weighted_mean, like, p, kept)
    backend.assert_matches(result, mean, like=like, dtype=dtype, tolerance=8 * U[dtype])
    if stack:
        reference = np.concatenate([reference.real, reference.imag], axis=-2)
    S = backend.call(products.centred_rows, like, result, p, stack=stack, kept=kept)
    backend.assert_matches(
        S, reference, like=like, dtype=real if stack else dtype, tolerance=8 * U[dtype]
    )


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_squared_norm_and_trace(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    X = random_array(rng, (*batch, 4, 4), dtype)
    real, like = np.real(X).dtype.name, backend.asarray(X)
    squares = np.sum(np.abs(wide(X)) ** 2, axis=(-2, -1))
    trace = np.trace(wide(X), axis1=-2, axis2=-1).real
    for function, reference in ((norms.squared_norm, squares), (products.trace, trace)):
        result = backend.call(function, like)
        tolerance = 16 * U[dtype] * np.linalg.norm(squares) / np.linalg.norm(reference)
        backend.assert_matches(result, reference, like=like, dtype=real, tolerance=tolerance)


def test_add_diagonal(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    """A number, one for each row, and one for each matrix; `preserved` spares the argument."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    A = random_array(rng, (2, 5, 5), dtype)
    rows = rng.random((2, 5)).astype(np.real(A).dtype)
    like = backend.asarray(A)

    def added(A: Any, *diagonal: Any) -> Any:
        return products.add_diagonal(products.preserved(A), *(diagonal or (0.5,)))

    for diagonal in (None, rows, rows[:, :1], rows[0]):
        given = () if diagonal is None else (backend.asarray(diagonal),)
        result = backend.call(added, like, *given)
        reference = A + (0.5 if diagonal is None else diagonal[..., None, :]) * np.eye(5)
        backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=2 * U[dtype])


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_products_with_stored_matrices(
    batch: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision is converted in blocks of rows, never as a whole."""
    A = random_array(rng, (*batch, 7, 5), "float32").astype("float16")
    X = random_array(rng, (*batch, 5, 2), "float32")
    expected = A.astype("float32") @ X
    for limit in (1, 3 * 4 * 5 * 2, 2**20):
        monkeypatch.setattr(products, "CHUNK_BYTES", limit)
        np.testing.assert_allclose(products.matmul_stored(A, X), expected, rtol=1e-6, atol=1e-6)
    same = X.mT @ X
    np.testing.assert_array_equal(products.matmul_stored(X.mT, X), same)


def test_largest_entry(backend: Backend, rng: np.random.Generator) -> None:
    x = random_array(rng, (3, 5, 2), backend.dtypes[-1])
    x[:, :, 1] = 0
    like = backend.asarray(x)
    expected = np.max(np.abs(x), axis=-2, keepdims=True)
    expected[..., 1] = 1
    real = expected.dtype.name
    backend.assert_matches(
        norms.largest_entry(like, -2), expected, like=like, dtype=real, tolerance=4 * U[real]
    )


NORMS = ((-2, -1), -2)
SCALES = {"float32": (1e30, 1e-30), "float64": (1e200, 1e-200)}


@pytest.mark.thinned
@pytest.mark.parametrize("scale", ["large", "small", 0.0])
def test_norms_at_any_scale(
    backend: Backend, dtype: str, scale: float | str, rng: np.random.Generator
) -> None:
    """No square overflows or vanishes; one matrix of a batch is 0."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    X = random_array(rng, (2, 4, 3), dtype)
    real, X[1] = np.real(X).dtype.name, 0
    scale = SCALES[real][scale == "small"] if isinstance(scale, str) else scale
    X *= scale
    like = backend.asarray(X)
    unscaled = [wide(X[0]) / (scale or 1), wide(X[1])]
    squares = np.abs(np.stack(unscaled)) ** 2

    def run(X: Any) -> list[Any]:
        return [norms.frobenius_norm(X), norms.norm_along(X, -2, keepdims=True)]

    found = backend.call(inside(run), like)
    for norm, axis in zip(found, NORMS):
        expected = (scale or 1) * np.sqrt(np.sum(squares, axis=axis, keepdims=axis == -2))
        backend.assert_kind(norm, like=like, dtype=real, shape=expected.shape)
        if backend.has_values:
            np.testing.assert_allclose(backend.numpy(norm), expected, rtol=8 * U[dtype])


def test_norms_of_what_is_not_finite_or_empty(valued_backend: Backend) -> None:
    X = np.ones((2, 2, 2), "float32")
    X[0, 0, 0], X[1, 1, 0] = np.nan, np.inf
    found = valued_backend.call(inside(norms.frobenius_norm), valued_backend.asarray(X))
    np.testing.assert_array_equal(valued_backend.numpy(found), [np.nan, np.inf])
    empty = valued_backend.asarray(np.ones((2, 0, 2), "float32"))
    np.testing.assert_array_equal(valued_backend.numpy(norms.frobenius_norm(empty)), [0, 0])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
def test_derivatives_of_norms(library: str, scale: float, rng: np.random.Generator) -> None:
    """X / |X| and (1 - P) / |X|, P onto X; both 0 where X is: forward, backward and twice."""
    pytest.importorskip(library)
    X, E = random_array(rng, (3, 2), "float32"), random_array(rng, (3, 2), "float32")
    length = np.linalg.norm(X)
    X, slope = scale * X, X / length if scale else 0 * X
    curvature = (E - slope * np.sum(slope * E)) / (length * scale) if scale else 0 * E
    if library == "jax":
        import jax

        array, (jvp, grad, compiled) = jax.numpy.asarray, (jax.jvp, jax.grad, jax.jit)
    else:
        import torch

        array, (jvp, grad) = torch.asarray, (torch.func.jvp, torch.func.grad)
        compiled = lambda function: function  # noqa: E731
    gradient = grad(norms.frobenius_norm)
    run = compiled(
        lambda X, E: (
            *jvp(norms.frobenius_norm, (X,), (E,)),
            *jvp(gradient, (X,), (E,)),
        )
    )
    norm, along, found, second = (np.asarray(x) for x in run(array(X), array(E)))
    assert norm == pytest.approx(length * scale, rel=1e-6)
    assert along == pytest.approx(np.sum(slope * E), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-6)
    tolerance = 1e-5 * np.max(np.abs(curvature))
    np.testing.assert_allclose(second, curvature, rtol=1e-4, atol=tolerance)

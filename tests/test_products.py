"""Gram matrices, adjoint products, diagonals and centring against their definitions."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from conftest import Backend
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, narrow, random_array, wide

from ngdla._backend import creation, products
from ngdla._backend import gram as grams
from ngdla._backend.namespace import namespace
from ngdla._backend.settings import computing

SHAPES = [(1, 1), (1, 5), (5, 1), (7, 12), (3, 7, 12), (2, 3, 4, 5)]


def inside(function: Any) -> Any:
    """Call a primitive as the public functions do."""

    def called(A: Any, *args: Any, **kwargs: Any) -> Any:
        with computing(namespace(A)):
            return function(A, *args, **kwargs)

    return called


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gram_is_its_definition(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, shape, dtype)
    like = backend.asarray(S)
    G = backend.call(inside(grams.gram), like)
    reference = wide(S) @ H(wide(S))
    backend.assert_matches(G, reference, like=like, dtype=dtype, tolerance=shape[-1] * U[dtype])
    if backend.has_values:
        values = backend.numpy(G)
        size = np.linalg.norm(values)
        assert np.linalg.norm(values - H(values)) <= 4 * U[dtype] * size


def large(n: int, m: int, dtype: str) -> np.ndarray:
    return random_array(np.random.default_rng(n), (n, m), dtype)


@functools.cache
def large_gram(n: int, m: int, dtype: str) -> np.ndarray:
    S = narrow(large(n, m, dtype))
    return S @ H(S)


@pytest.mark.thinned
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(("n", "m"), [(512, 4096), (513, 4097), (64, 5000)])
def test_gram_of_sizes_that_are_taken_in_blocks(
    backend: Backend, n: int, m: int, kind: str
) -> None:
    dtype = [d for d in backend.dtypes if d.startswith("complex") == (kind == "complex")][-1]
    like, tolerance = backend.asarray(large(n, m, dtype)), 8 * m**0.5 * U[dtype]
    G = backend.call(inside(grams.gram), like)
    backend.assert_matches(G, large_gram(n, m, dtype), like=like, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("layout", ["C", "F", "rows", "columns", "reversed"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_gram_of_any_memory_layout(layout: str, dtype: str, rng: np.random.Generator) -> None:
    full = random_array(rng, (10, 24), dtype)
    S = {
        "C": full,
        "F": np.asfortranarray(full),
        "rows": full[::2],
        "columns": full[:, ::3],
        "reversed": full[::-1, ::-1],
    }[layout]
    reference = wide(S) @ H(wide(S))
    np.testing.assert_allclose(grams.gram(S), reference, atol=100 * U[dtype] * 24)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_adjoint_of_torch_is_a_view(dtype: str, rng: np.random.Generator) -> None:
    """The conj of array-api-compat would copy S for each product with it."""
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (3, 5), dtype))
    assert products.adjoint(S).data_ptr() == S.data_ptr()
    np.testing.assert_array_equal(products.adjoint(S).resolve_conj().numpy(), H(S.numpy()))


@pytest.mark.parametrize("leaf", [1, 2, 3, 8, 100])
def test_gram_by_halves_of_odd_sizes(leaf: int, rng: np.random.Generator) -> None:
    S = random_array(rng, (2, 13, 5), "complex128")
    np.testing.assert_allclose(grams.gram_by_halves(S, leaf=leaf), S @ H(S), atol=1e-13)


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


@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(["float32", "complex128"]))
def test_gram_is_positive_semidefinite(n: int, m: int, dtype: str) -> None:
    S = random_array(np.random.default_rng(n * 100 + m), (n, m), dtype)
    G = grams.gram(S)
    smallest = np.linalg.eigvalsh(G.astype(np.complex128))[0]
    assert smallest >= -4 * (n * m) ** 0.5 * U[dtype] * np.linalg.norm(S) ** 2


def test_gram_of_jax_has_a_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S = jax.numpy.asarray(random_array(rng, (515, 4100), "float64"))
    C = jax.numpy.asarray(random_array(rng, (515, 515), "float64"))
    gradient = jax.grad(lambda S: jax.numpy.sum(C * grams.gram(S)))(S)
    np.testing.assert_allclose(gradient, (C + C.T) @ S, rtol=1e-10, atol=1e-9)


def test_float32_products_of_torch_stay_float32(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (256, 3000), "float32"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        G = inside(grams.gram)(S)
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = S.double() @ S.double().mT
    assert torch.linalg.matrix_norm(G - exact) < 1e-6 * torch.linalg.matrix_norm(exact)


def test_float32_products_of_torch_restore_settings_after_an_error() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ZeroDivisionError):
            inside(lambda S: 1 / 0)(torch.ones(2, 2))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_jax_products_ask_for_the_highest_precision() -> None:
    jax = pytest.importorskip("jax")
    S = jax.numpy.ones((4, 5), dtype="float32")

    def uses(function: Any) -> str:
        return str(jax.make_jaxpr(inside(function))(S))

    assert uses(grams.gram).count("HIGHEST") >= 1
    assert "HIGHEST" in uses(lambda S: products.rmatvec(S, S[:, :1]))


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
    for function, reference in ((products.squared_norm, squares), (products.trace, trace)):
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


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (2, 4, 2)], ids=str)
def test_unit_columns(backend: Backend, shape: tuple[int, ...]) -> None:
    for dtype in backend.dtypes:
        like = backend.asarray(np.ones(shape, dtype))
        result = backend.call(creation.unit_columns, like)
        reference = np.eye(*shape[-2:])
        backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=0.0)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_products_with_stored_matrices(
    batch: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision is converted in blocks of rows, never as a whole."""
    A = random_array(rng, (*batch, 7, 5), "float32").astype("float16")
    X = random_array(rng, (*batch, 5, 2), "float32")
    expected = A.astype("float32") @ X
    for limit in (1, 3 * 4 * 5 * 2, 2**20):
        monkeypatch.setattr(products, "_COPIED_BYTES", limit)
        np.testing.assert_allclose(products.matmul_stored(A, X), expected, rtol=1e-6, atol=1e-6)
    same = X.mT @ X
    np.testing.assert_array_equal(products.matmul_stored(X.mT, X), same)


@pytest.mark.parametrize("d", [5, 700])
@pytest.mark.parametrize("old", [0.25, np.full((2, 1, 1), 0.25)], ids=["number", "array"])
def test_weighted_sum_with_gram(d: int, old: Any, rng: np.random.Generator) -> None:
    """old A + new X^T conj(X), by blocks of 256 rows in NumPy; nothing is written to."""
    X = random_array(rng, (2, 3, d), "complex64")
    A = random_array(rng, (2, d, d), "complex64")
    A = A + H(A)
    kept = A.copy(), X.copy()
    result = grams.weighted_sum_with_gram(A, old, X, 1 - old)
    expected = 0.25 * A + 0.75 * np.swapaxes(X, -1, -2) @ X.conj()
    assert np.linalg.norm(result - expected) <= 8 * U["complex64"] * np.linalg.norm(expected)
    np.testing.assert_array_equal(A, kept[0])
    np.testing.assert_array_equal(X, kept[1])

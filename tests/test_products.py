"""Gram matrices, adjoint products, diagonals and centring against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Backend
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, random_array, wide

from ngdla._backend import products
from ngdla._backend.namespace import computing, namespace

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
    G = backend.call(inside(products.gram), like)
    reference = wide(S) @ H(wide(S))
    backend.assert_matches(G, reference, like=like, dtype=dtype, tolerance=shape[-1] * U[dtype])
    if backend.has_values:
        values = backend.numpy(G)
        size = np.linalg.norm(values)
        assert np.linalg.norm(values - H(values)) <= 4 * U[dtype] * size


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(("n", "m"), [(512, 4096), (513, 4097), (64, 5000)])
def test_gram_of_sizes_that_are_taken_in_blocks(
    backend: Backend, n: int, m: int, kind: str, rng: np.random.Generator
) -> None:
    dtype = [d for d in backend.dtypes if d.startswith("complex") == (kind == "complex")][-1]
    S = random_array(rng, (n, m), dtype)
    like = backend.asarray(S)
    G = backend.call(inside(products.gram), like)
    reference = S.astype(np.complex128) @ H(S.astype(np.complex128))
    backend.assert_matches(G, reference, like=like, dtype=dtype, tolerance=8 * m**0.5 * U[dtype])


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
    np.testing.assert_allclose(products.gram(S), reference, atol=100 * U[dtype] * 24)


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
    np.testing.assert_allclose(products.gram_by_halves(S, leaf=leaf), S @ H(S), atol=1e-13)


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
    G = products.gram(S)
    smallest = np.linalg.eigvalsh(G.astype(np.complex128))[0]
    assert smallest >= -4 * (n * m) ** 0.5 * U[dtype] * np.linalg.norm(S) ** 2


def test_gram_of_jax_has_a_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S = jax.numpy.asarray(random_array(rng, (515, 4100), "float64"))
    C = jax.numpy.asarray(random_array(rng, (515, 515), "float64"))
    gradient = jax.grad(lambda S: jax.numpy.sum(C * products.gram(S)))(S)
    np.testing.assert_allclose(gradient, (C + C.T) @ S, rtol=1e-10, atol=1e-9)


def test_float32_products_of_torch_stay_float32(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (256, 3000), "float32"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        G = inside(products.gram)(S)
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

    assert uses(products.gram).count("HIGHEST") >= 1
    assert "HIGHEST" in uses(lambda S: products.rmatvec(S, S[:, :1]))

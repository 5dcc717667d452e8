"""Gram matrices against their definition."""

from __future__ import annotations

import functools
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from backends import Backend, inside
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, narrow, random_array, wide

import ngdla
from ngdla._backend.gram import gram, gram_by_halves, weighted_sum_with_gram
from ngdla.score_matrices.gram import ACCUMULATIONS, Accumulation

SHAPES = [(1, 1), (1, 5), (5, 1), (7, 12), (3, 7, 12), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gram_is_its_definition(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, shape, dtype)
    like = backend.asarray(S)
    G = backend.call(inside(gram), like)
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
    G = backend.call(inside(gram), like)
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
    np.testing.assert_allclose(gram(S), reference, atol=100 * U[dtype] * 24)


@pytest.mark.parametrize("leaf", [1, 2, 3, 8, 100])
def test_gram_by_halves_of_odd_sizes(leaf: int, rng: np.random.Generator) -> None:
    S = random_array(rng, (2, 13, 5), "complex128")
    np.testing.assert_allclose(gram_by_halves(S, leaf=leaf), S @ H(S), atol=1e-13)


@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from(["float32", "complex128"]))
def test_gram_is_positive_semidefinite(n: int, m: int, dtype: str) -> None:
    S = random_array(np.random.default_rng(n * 100 + m), (n, m), dtype)
    G = gram(S)
    smallest = np.linalg.eigvalsh(G.astype(np.complex128))[0]
    assert smallest >= -4 * (n * m) ** 0.5 * U[dtype] * np.linalg.norm(S) ** 2


def test_gram_of_jax_has_a_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S = jax.numpy.asarray(random_array(rng, (515, 4100), "float64"))
    C = jax.numpy.asarray(random_array(rng, (515, 515), "float64"))
    gradient = jax.grad(lambda S: jax.numpy.sum(C * gram(S)))(S)
    np.testing.assert_allclose(gradient, (C + C.T) @ S, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("d", [5, 700])
@pytest.mark.parametrize("old", [0.25, np.full((2, 1, 1), 0.25)], ids=["number", "array"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_weighted_sum_with_gram(library: str, d: int, old: Any, rng: np.random.Generator) -> None:
    """old A + new X^T conj(X), by blocks of 256 rows in NumPy; nothing is written to."""
    convert = np.asarray if library == "numpy" else pytest.importorskip("torch").from_numpy
    X = random_array(rng, (2, 3, d), "complex64")
    A = random_array(rng, (2, d, d), "complex64")
    A = A + H(A)
    kept = A.copy(), X.copy()
    weights = [w if isinstance(w, float) else convert(w) for w in (old, 1 - old)]
    A, X = convert(A), convert(X)
    result = np.asarray(weighted_sum_with_gram(A, weights[0], X, weights[1]))
    A, X = np.asarray(A), np.asarray(X)
    expected = 0.25 * A + 0.75 * np.swapaxes(X, -1, -2) @ X.conj()
    assert np.linalg.norm(result - expected) <= 8 * U["complex64"] * np.linalg.norm(expected)
    np.testing.assert_array_equal(A, kept[0])
    np.testing.assert_array_equal(X, kept[1])


def test_the_type_of_accumulate_holds_the_values_of_the_table() -> None:
    assert get_args(Accumulation) == ACCUMULATIONS
    assert get_type_hints(ngdla.gram)["accumulate"] == Accumulation | None

"""Column blocks: Gram matrices and products in chunks."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, random_array, wide

import ngdla
from ngdla._backend import shapes
from ngdla.score_matrices import column_blocks


@pytest.mark.parametrize("kind", [list, tuple])
def test_gram_of_column_blocks(
    backend: Backend, dtype: str, kind: type, rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    blocks = kind(random_array(rng, (4, m), dtype) for m in (3, 1, 5))
    like = backend.asarray(blocks)
    S = wide(np.concatenate(blocks, axis=1))
    G = backend.call(ngdla.gram, like)
    backend.assert_matches(G, S @ H(S), like=like[0], dtype=dtype, tolerance=20 * U[dtype])


@pytest.mark.parametrize(
    ("given_dtype", "accumulate"),
    [("float32", "float64"), ("complex64", "complex128"), ("float32", "complex64")],
)
def test_gram_accumulates_in_another_dtype(
    backend: Backend, given_dtype: str, accumulate: str, rng: np.random.Generator
) -> None:
    if accumulate not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, (2, 5, 40), given_dtype)
    like = backend.asarray(S)
    G = backend.call(ngdla.gram, like, accumulate=accumulate)
    reference = wide(S) @ H(wide(S))
    backend.assert_matches(G, reference, like=like, dtype=accumulate, tolerance=40 * U[accumulate])


@given(
    st.integers(1, 9),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 200),
    st.sampled_from(["float64", "complex128"]),
)
def test_chunk_sizes_do_not_matter(n: int, widths: list[int], chunk: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    low = {"float64": "float32", "complex128": "complex64"}[dtype]
    blocks = [random_array(rng, (n, m), low) for m in widths]
    S = np.concatenate(blocks, axis=1).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "CHUNK_BYTES", 8 * chunk)
        scores = column_blocks.column_blocks(blocks)
        x = tuple(random_array(rng, (m, 2), dtype) for m in widths)
        y = random_array(rng, (n, 2), dtype)
        np.testing.assert_allclose(scores.gram(dtype)[0], S @ H(S), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            scores.parameter_gram(dtype)[0], H(S) @ S, rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(scores.matvec(x), S @ np.concatenate(x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            np.concatenate(scores.rmatvec(y)), H(S) @ y, rtol=1e-12, atol=1e-12
        )
        np.testing.assert_array_equal(scores.to_dense(dtype), S)


def test_scaled_products(rng: np.random.Generator) -> None:
    S, scale = rng.standard_normal((4, 7)), 0.5 + rng.random((7, 1))
    scores = column_blocks.ColumnBlocks((S,), (scale,), None, "S")
    T = S * scale[:, 0]
    x, y = rng.standard_normal((7, 2)), rng.standard_normal((4, 2))
    np.testing.assert_allclose(scores.matvec((x,)), T @ x)
    np.testing.assert_allclose(scores.rmatvec(y)[0], T.T @ y)
    np.testing.assert_allclose(scores.gram("float64")[0], T @ T.T)
    np.testing.assert_allclose(scores.parameter_gram("float64")[0], T.T @ T)
    np.testing.assert_allclose(scores.to_dense("float64"), T)
    np.testing.assert_allclose(scores.unscaled(scores.scaled((x,)))[0], x)

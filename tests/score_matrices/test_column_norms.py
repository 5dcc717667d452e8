"""Squared norms of the columns of scores against their definition."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, random_array, wide

import ngdla
from ngdla._backend import shapes


def defined(S: np.ndarray) -> np.ndarray:
    return np.sum(np.abs(wide(S)) ** 2, axis=-2).astype(np.float64)


def real_of(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


@pytest.mark.parametrize("shape", [(1, 1), (5, 12), (12, 5), (2, 3, 4, 5)], ids=str)
def test_column_norms_are_their_definition(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    if backend.name == "dask" and len(shape) > 2:
        pytest.skip("batches are chunked along their last axis only")
    S = random_array(rng, shape, dtype)
    like, real = backend.asarray(S), real_of(dtype)
    norms = backend.call(ngdla.column_norms, like)
    backend.assert_matches(norms, defined(S), like=like, dtype=real, tolerance=8 * U[dtype])


@pytest.mark.parametrize("kind", [list, tuple])
def test_blocks_are_like_a_solution(backend: Backend, kind: Any, rng: np.random.Generator) -> None:
    S = random_array(rng, (4, 9), backend.dtypes[-1])
    real = real_of(backend.dtypes[-1])
    given = backend.asarray(kind([S[:, :2], S[:, 2:]]))
    norms = backend.call(ngdla.column_norms, given)
    reference = kind([defined(S)[:2], defined(S)[2:]])
    backend.assert_matches(norms, reference, like=given[0], dtype=real, tolerance=8 * U[real])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.asarray(rng.standard_normal((6, 9))).to(getattr(torch, name))
    norms = ngdla.column_norms(100 * S)  # squares are beyond float16
    assert norms.dtype == torch.float32
    np.testing.assert_allclose(norms, defined((100 * S).double().numpy()), rtol=1e-6)


@pytest.mark.parametrize("chunk", [64 * 2**20, 4 * 3000 * 8])
def test_long_sums_err_little(
    backend: Backend, chunk: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """One accumulator would err by up to n u; also in chunks of columns."""
    monkeypatch.setattr(shapes, "CHUNK_BYTES", chunk)
    n = 3000
    S = (1 + rng.random((n, 20))).astype("float32")
    like = backend.asarray(S)
    norms = backend.call(ngdla.column_norms, like)
    backend.assert_kind(norms, like=like, dtype="float32", shape=(20,))
    if backend.has_values:
        errors = np.abs(backend.numpy(norms) / defined(S) - 1)
        assert np.max(errors) <= 8 * n**0.5 * U["float32"]


def test_loops_of_compiled_code(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """With shards, columns that are left over, a batch, and derivatives."""
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 4 * 3000 * 8)
    S = rng.standard_normal((3000, 2001)).astype("float32")
    stack = np.stack([S[:1000], S[1000:2000]])
    for given in (S, S[:, :2000], S[:1000] + 1j * S[1000:2000], stack):
        norms = jax.jit(ngdla.column_norms)(given)
        np.testing.assert_allclose(norms, defined(given), rtol=8 * 1000**0.5 * U["float32"])
    slope = jax.jit(jax.grad(lambda S: jax.numpy.sum(ngdla.column_norms(S))))(S)
    np.testing.assert_array_equal(slope, 2 * S)
    shape = jax.ShapeDtypeStruct((1024, 100_000), "float32")
    needed = jax.jit(ngdla.column_norms).lower(shape).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 0.1 * 4 * 1024 * 100_000


def test_streams_take_one_pass(rng: np.random.Generator) -> None:
    S = rng.standard_normal((12, 5))
    passes = []

    def blocks(S: np.ndarray, axis: int) -> Any:
        def arrive() -> Any:
            passes.append(1)
            return iter(np.split(S, [2, 3], axis=axis))

        return arrive

    rows = ngdla.RowStream(blocks(S, 0), S.shape, dtype="float64")
    columns = ngdla.ColumnStream(blocks(S, 1), S.shape, dtype="float64")
    for stream in (rows, columns):
        np.testing.assert_allclose(ngdla.column_norms(stream), defined(S), rtol=1e-14)
    assert len(passes) == 2


def test_rows_of_a_stream_are_summed_in_double_precision() -> None:
    large, ones = np.full((1, 2), 5000.0, "float32"), np.ones((100, 2), "float32")
    stream = ngdla.RowStream([large] + [ones[:1]] * 100, (101, 2), dtype="float32")
    norms = ngdla.column_norms(stream)
    assert norms.dtype == np.float32
    np.testing.assert_array_equal(norms, np.full(2, 25_000_100, "float32"))


def test_no_copy_of_scores() -> None:
    S = np.ones((40, 1_000_000), "float32")  # 160 MB
    ngdla.column_norms(S[:, :10])
    tracemalloc.start()
    ngdla.column_norms(S)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 1.1 * (shapes.CHUNK_BYTES + 8e6)


def test_metric_makes_the_diagonal_damping(rng: np.random.Generator) -> None:
    """S^H S + a + r diag(S^H S)."""
    S, f = rng.standard_normal((5, 9)), rng.standard_normal(5)
    a, r, damping = 0.1, 0.3, 0.7
    norms = ngdla.column_norms(S)
    x = ngdla.damped_lstsq(S, f, damping, metric=a / damping + r / damping * norms)
    G = S.T @ S
    expected = np.linalg.solve(G + a * np.eye(9) + r * np.diag(np.diag(G)), S.T @ f)
    np.testing.assert_allclose(x, expected, rtol=1e-11)


def test_derivatives(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S = rng.standard_normal((4, 6))
    jax.config.update("jax_enable_x64", True)
    slope = jax.jit(jax.grad(lambda S: jax.numpy.sum(ngdla.column_norms(S))))(S)
    np.testing.assert_allclose(slope, 2 * S, rtol=1e-14)


def test_bad_scores(rng: np.random.Generator) -> None:
    S = rng.standard_normal((4, 9))
    operator = ngdla.ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, S.shape, like=S)
    message = "`S` is a ScoreOperator, whose columns are not at hand; pass an array, a ColumnStream"
    with pytest.raises(ValueError, match=message):
        ngdla.column_norms(operator)
    with pytest.raises(ValueError, match="`S` contains NaN or Inf in matrix 1 of the batch"):
        ngdla.column_norms(np.stack([S, np.nan * S]))
    with pytest.raises(ValueError, match="exceed the range of float32"):
        ngdla.column_norms(S.astype("float32") * np.float32(1e30))
    with pytest.raises(ValueError, match="at least 2"):
        ngdla.column_norms(S[0])
    with pytest.raises(TypeError, match="`S` has dtype int64"):
        ngdla.column_norms(np.ones((4, 9), int))


def test_a_tree_has_norms_of_its_shapes(rng: np.random.Generator) -> None:
    S = {"w": rng.standard_normal((4, 2, 3)), "b": rng.standard_normal(4)}
    norms = ngdla.column_norms(S)
    np.testing.assert_allclose(norms["w"], (S["w"] ** 2).sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(norms["b"], (S["b"] ** 2).sum(), rtol=1e-14)

"""Products with gradients of single samples, against the gradients themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads, half_dtype
from hypothesis import given
from hypothesis import strategies as st
from layers import LAYOUTS, exact_gram, gradients, layer, permitted
from references import U, narrow, random_array, wide
from spectra import REAL, needs, norm, quick_compilation, relative  # noqa: F401

import ngdla.per_sample.gradients
from ngdla import sample_gram, weighted_gradient
from ngdla.per_sample.gradients import gram_by_gradients, gram_by_pairs
from ngdla.per_sample.layer_samples import LayerSamples, layer_samples

# Positions in a block of pairs, numbers in a chunk of gradients: none are split; some are, unevenly
# too; a single sample is too large for a block, and a single row of a gradient for a chunk.
BLOCKS = {"whole": (2048, 2**24), "some": (7, 50), "least": (1, 1)}


@pytest.fixture(params=list(BLOCKS))
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, chunk = BLOCKS[request.param]
    monkeypatch.setattr(ngdla.per_sample.gradients, "_BLOCK_POSITIONS", pairs)
    monkeypatch.setattr(ngdla.per_sample.gradients, "_CHUNK_NUMBERS", chunk)


def three_grams(a: Any, g: Any) -> list[Any]:
    """Return K as it is chosen, and in both ways."""
    positions = a.ndim > 2
    samples = layer_samples(a, g, positions)
    return [
        sample_gram(a, g, positions=positions),
        gram_by_pairs(samples),
        gram_by_gradients(samples),
    ]


def assert_gram(K: np.ndarray, a: np.ndarray, g: np.ndarray, u: float) -> None:
    """Each entry, to the roundings of its sums."""
    error = np.abs(wide(K) - exact_gram(a, g)).astype(np.float64)
    assert np.all(error <= permitted(a, g, u)), np.max(error / permitted(a, g, u))


# ------------------------------------------------------------------------------------- gram


@pytest.mark.thinned
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_gram_matrix_is_that_of_the_gradients(
    backend: Backend, dtype: str, layout: str, rng: np.random.Generator
) -> None:
    needs(backend, dtype)
    a, g = layer(rng, *LAYOUTS[layout], dtype)
    like = backend.asarray(a)
    shape = exact_gram(a, g).shape
    for K in backend.call(three_grams, like, backend.asarray(g)):
        backend.assert_kind(K, like=like, dtype=dtype, shape=shape)
        if backend.has_values:
            assert_gram(backend.numpy(K), a, g, U[dtype])


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (7, 6, 5))),
    d_out=st.integers(1, 5),
    pairs=st.integers(1, 40),
    chunk=st.integers(1, 200),
    dtype=st.sampled_from(sorted(U)),
    seed=st.integers(0, 99),
)
def test_blocks_of_any_size(
    shape: tuple[int, ...], d_out: int, pairs: int, chunk: int, dtype: str, seed: int
) -> None:
    a, g = layer(np.random.default_rng(seed), shape, d_out, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngdla.per_sample.gradients, "_BLOCK_POSITIONS", pairs)
        patch.setattr(ngdla.per_sample.gradients, "_CHUNK_NUMBERS", chunk)
        for K in three_grams(a, g):
            assert K.dtype == dtype
            assert_gram(K, a, g, U[dtype])


@pytest.mark.parametrize(
    ("shape", "d_out", "way"),
    [
        ((3, 2, 400), 300, "gram_by_pairs"),
        ((3, 60, 4), 5, "gram_by_gradients"),
        ((2, 3, 2, 400), 300, "gram_by_pairs"),
        ((3, 1, 400), 300, None),
        ((3, 400), 300, None),
    ],
)
def test_the_way_that_takes_less_time(
    shape: tuple[int, ...], d_out: int, way: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of few positions of wide layers, gradients of narrow ones, neither for T = 1."""
    taken = []

    def take(name: str, samples: LayerSamples) -> np.ndarray:
        taken.append(name)
        return np.eye(samples.M)

    for name in ("gram_by_pairs", "gram_by_gradients"):
        monkeypatch.setattr(ngdla.per_sample.gradients, name, partial(take, name))
    arrays = np.ones(shape), np.ones((*shape[:-1], d_out))
    ngdla.per_sample.gradients._gram(layer_samples(*arrays, len(shape) > 2))
    assert taken == ([way] if way else [])


@pytest.mark.parametrize(("positions", "samples"), [(3, 13), (8, 5), (1, 30)])
def test_blocks_are_small(
    positions: int, samples: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """No more pairs than of so many positions, no more numbers of gradients than of a chunk."""
    found: list[int] = []

    def summed(pairs: np.ndarray, T: int) -> np.ndarray:
        found.extend(pairs.shape)
        return all_sum_positions(pairs, T)

    def gram(S: np.ndarray) -> np.ndarray:
        if S.ndim == 2 and len(S) == samples:
            found.append(S.size)
        return S @ S.T

    all_sum_positions = ngdla.per_sample.gradients._sum_positions
    monkeypatch.setattr(ngdla.per_sample.gradients, "_sum_positions", summed)
    monkeypatch.setattr(ngdla.per_sample.gradients, "_BLOCK_POSITIONS", 7)
    a, g = layer(rng, (samples, positions, 4), 5, "float64")
    assert_gram(gram_by_pairs(layer_samples(a, g, True)), a, g, U["float64"])
    assert max(found) <= max(7, positions)
    found.clear()
    monkeypatch.setattr(ngdla.per_sample.gradients, "gram", gram)
    monkeypatch.setattr(ngdla.per_sample.gradients, "_CHUNK_NUMBERS", 9 * samples)
    assert_gram(gram_by_gradients(layer_samples(a, g, True)), a, g, U["float64"])
    assert max(found) <= 9 * samples
    assert sum(found) == samples * 4 * 5


@pytest.mark.parametrize("layout", ["plain", "positions", "stack"])
@pytest.mark.usefixtures("blocks")
def test_samples_in_another_order(layout: str, dtype: str, rng: np.random.Generator) -> None:
    """The rows and columns of K move with them."""
    shape, d_out = LAYOUTS[layout]
    a, g = layer(rng, shape, d_out, dtype)
    axis = -2 if layout == "plain" else -3
    order = rng.permutation(shape[axis])
    moved = [np.take(x, order, axis=axis) for x in (a, g)]
    for K, other in zip(three_grams(a, g), three_grams(*moved)):
        error = np.abs(other - K[..., order, :][..., order])
        assert np.all(error <= 2 * permitted(*moved, U[dtype]))


@pytest.mark.parametrize("layout", ["stack", "stack, one position"])
@pytest.mark.usefixtures("blocks")
def test_a_stack_is_a_loop(layout: str, dtype: str, rng: np.random.Generator) -> None:
    a, g = layer(rng, *LAYOUTS[layout], dtype)
    stacked = three_grams(a, g)
    c = random_array(rng, a.shape[:-2], dtype)
    gradient = weighted_gradient(a, g, c, positions=True)
    for i in np.ndindex(a.shape[:-3]):
        for K, one in zip(stacked, three_grams(a[i], g[i])):
            assert np.all(np.abs(K[i] - one) <= 2 * permitted(a[i], g[i], U[dtype]))
        one = weighted_gradient(a[i], g[i], c[i], positions=True)
        np.testing.assert_allclose(gradient[i], one, rtol=0, atol=200 * U[dtype])


def test_gram_matrices_of_layers_add_up(dtype: str, rng: np.random.Generator) -> None:
    """To that of all their parameters, whose gradients are longer columns."""
    pairs = [layer(rng, (6, 4), 5, dtype), layer(rng, (6, 2, 3), 2, dtype)]
    total = sum(sample_gram(*pair, positions=pair[0].ndim > 2) for pair in pairs)
    columns = np.concatenate([gradients(*pair) for pair in pairs])
    allowed = sum(2 * permitted(*pair, U[dtype]) for pair in pairs)
    assert np.all(np.abs(total - np.conj(columns.T) @ columns) <= allowed)


def test_positions_without_a_gradient_change_nothing(dtype: str, rng: np.random.Generator) -> None:
    """Sequences padded by zeros."""
    a, g = layer(rng, (5, 3, 4), 2, dtype)
    padded = np.concatenate([a, a], axis=1), np.concatenate([g, 0 * g], axis=1)
    for K, other in zip(three_grams(a, g), three_grams(*padded)):
        assert np.all(np.abs(K - other) <= 2 * permitted(*padded, U[dtype]))
    c = random_array(rng, (5,), dtype)
    expected = weighted_gradient(a, g, c, positions=True)
    found = weighted_gradient(*padded, c, positions=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=200 * U[dtype])


@pytest.mark.parametrize("eps", [1e-1, 1e-3])
def test_gram_matrices_where_positions_nearly_cancel(eps: float, rng: np.random.Generator) -> None:
    """Equal inputs but for eps, and output gradients of sum zero: to u of what was added."""
    a = (1 + eps * rng.standard_normal((4, 3, 200))).astype("float32")
    g = rng.standard_normal((4, 3, 150))
    g = (g - g.mean(axis=1, keepdims=True)).astype("float32")
    for K in three_grams(a, g):
        assert_gram(K, a, g, U["float32"])


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("way", [gram_by_pairs, gram_by_gradients])
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_both_ways_are_traced(
    name: str, way: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Compiled, mapped, and differentiated: sum(C K) by U is U (C + C^T)."""
    monkeypatch.setattr(ngdla.per_sample.gradients, "_BLOCK_POSITIONS", 4)
    monkeypatch.setattr(ngdla.per_sample.gradients, "_CHUNK_NUMBERS", 20)
    backend: Any = BACKENDS[name]()
    a, g = layer(rng, (2, 3, 2, 4), 3, "float64")
    C = rng.standard_normal((3, 3))

    def K(a: Any, g: Any) -> Any:
        return way(layer_samples(a, g, True))

    on = backend.asarray([a, g, C])
    first = [x[0] for x in on[:2]]
    if name == "torch":
        compiled = backend.torch.compile(K, fullgraph=True, backend="aot_eager")(*first)
        mapped = backend.torch.vmap(K)(*on[:2])
        leaves = [x.clone().requires_grad_() for x in first]
        (on[2] * K(*leaves)).sum().backward()
        slopes = [x.grad for x in leaves]
    else:
        compiled = backend.jax.jit(K)(*first)
        mapped = backend.jax.jit(backend.jax.vmap(K))(*on[:2])
        slope = backend.jax.grad(lambda a, g: (on[2] * K(a, g)).sum(), argnums=(0, 1))
        slopes = backend.jax.jit(slope)(*first)
    assert_gram(backend.numpy(compiled), a[0], g[0], U["float64"])
    assert_gram(backend.numpy(mapped), a, g, U["float64"])
    by_columns = (narrow(gradients(a[0], g[0])) @ (C + C.T)).T.reshape(3, 3, 4)
    expected = g[0] @ by_columns, a[0] @ np.swapaxes(by_columns, -1, -2)
    for found, reference in zip(slopes, expected):
        assert relative(backend.numpy(found), reference) <= 1e-13


# --------------------------------------------------------------------------------- gradient


def exact_gradient(a: np.ndarray, g: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return U c in extended precision, (..., d_out, d_in)."""
    product = (gradients(a, g) @ wide(c)[..., None])[..., 0]
    return product.reshape(*product.shape[:-1], g.shape[-1], a.shape[-1])


def lost(a: np.ndarray, g: np.ndarray, c: np.ndarray, u: float) -> float:
    """Return M T + 3 roundings, of complex numbers, relative to sum |c_i| |g_it| |a_it|."""
    if a.ndim == 2:
        a, g = a[:, None], g[:, None]
    sizes = np.abs(c)[..., None] * np.linalg.norm(a, axis=-1) * np.linalg.norm(g, axis=-1)
    terms = a.shape[-2] * a.shape[-3] + 3
    return float(4 * terms * u * np.linalg.norm(np.sum(sizes, axis=(-1, -2))))


@pytest.mark.thinned
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("weights", ["real", "complex"])
def test_a_weighted_gradient_is_a_sum(
    backend: Backend, dtype: str, layout: str, weights: str, rng: np.random.Generator
) -> None:
    """Of complex weights and real samples as well, and the other way round."""
    needs(backend, dtype)
    a, g = layer(rng, *LAYOUTS[layout], dtype)
    kind = np.result_type(REAL[dtype], np.complex64).name if weights == "complex" else REAL[dtype]
    needs(backend, kind)
    c = random_array(rng, a.shape[:1] if a.ndim == 2 else a.shape[:-2], kind)
    like = backend.asarray(a)
    arrays = like, backend.asarray(g), backend.asarray(c)
    found = backend.call(partial(weighted_gradient, positions=a.ndim > 2), *arrays)
    expected = exact_gradient(a, g, c)
    both = np.result_type(dtype, kind).name
    backend.assert_kind(found, like=like, dtype=both, shape=expected.shape)
    if backend.has_values:
        assert norm(backend.numpy(found) - expected) <= lost(a, g, c, U[both])


@pytest.mark.parametrize("layout", ["plain", "narrow outputs", "positions"])
def test_equal_weights_give_the_mean_gradient(layout: str, rng: np.random.Generator) -> None:
    """On both sides of the choice of what is multiplied by the weights."""
    a, g = layer(rng, *LAYOUTS[layout], "float64")
    M = len(a)
    found = weighted_gradient(a, g, np.full(M, 1 / M), positions=a.ndim > 2)
    rows = [x.reshape(-1, x.shape[-1]) for x in (a, g)]
    np.testing.assert_allclose(found, rows[1].T @ rows[0] / M, rtol=1e-13, atol=1e-14)


def test_dtypes_of_three_arguments(rng: np.random.Generator) -> None:
    """The result has the dtype that all promote to, from float32 up."""
    a, g = layer(rng, (6, 4), 5, "float32")
    c = random_array(rng, (6,), "float64")
    assert weighted_gradient(a, g, c).dtype == "float64"
    assert relative(weighted_gradient(a, g, c), exact_gradient(a, g, c)) <= 40 * U["float64"]
    assert weighted_gradient(a, g, c.astype("float16")).dtype == "float32"
    assert weighted_gradient(a.astype("complex64"), g, c).dtype == "complex128"
    assert sample_gram(a, g.astype("float64")).dtype == "float64"
    assert sample_gram(a.astype("complex64"), g).dtype == "complex64"


# ---------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("layout", ["plain", "positions"])
def test_half_precision_is_contracted_in_float32(
    layout: str, name: str, half: str, rng: np.random.Generator
) -> None:
    """Numbers as they are stored, products and sums to u of float32."""
    backend: Any = BACKENDS[name]()
    a, g = layer(rng, *LAYOUTS[layout], "float32")
    c = random_array(rng, (len(a),), "float32")
    stored = [in_half(backend, x, half) for x in (a, g, c)]
    a, g, c = (backend.numpy(single(backend, x)) for x in stored)
    for K in three_grams(*stored[:2]):
        backend.assert_kind(K, like=stored[0], dtype="float32", shape=(len(a), len(a)))
        assert_gram(backend.numpy(K), a, g, U["float32"])
    gradient = weighted_gradient(*stored, positions=a.ndim > 2)
    expected = exact_gradient(a, g, c)
    backend.assert_kind(gradient, like=stored[0], dtype="float32", shape=expected.shape)
    assert norm(backend.numpy(gradient) - expected) <= lost(a, g, c, U["float32"])


def in_half(backend: Any, x: np.ndarray, half: str) -> Any:
    if backend.name == "torch":
        return backend.asarray(x).to(getattr(backend.torch, half))
    if backend.name == "jax":
        return backend.asarray(x).astype(half)
    return x.astype(half_dtype(half))


def single(backend: Any, x: Any) -> Any:
    return x.to(backend.torch.float32) if backend.name == "torch" else x.astype("float32")


# -------------------------------------------------------------------------------- bad input

A, G, C = np.ones((5, 3, 4)), np.ones((5, 3, 2)), np.ones(5)

WRONG_WEIGHTS: dict[str, tuple[Any, type[Exception], str]] = {
    "count": (C[:4], ValueError, r"`c` has shape \(4,\); for 5 samples it must be \(5,\)"),
    "axes": (C[:, None], ValueError, r"`c` has shape \(5, 1\)"),
    "0-d": (np.asarray(0.2), ValueError, r"`c` has shape \(\)"),
    "for each position": (A[..., 0], ValueError, r"`c` has shape \(5, 3\)"),
    "number": (0.2, TypeError, r"`c` is a builtins.float"),
    "list": (C.tolist(), TypeError, r"`c` is a list; it must be one array"),
    "integers": (C.astype(int), TypeError, r"`c` has dtype int64"),
    "NaN": (C * np.nan, ValueError, r"`c` contains NaN or Inf; pass finite"),
    "Inf": (C * [1, 1, 1, 1, np.inf], ValueError, r"`c` contains NaN or Inf"),
    "library": (strict_array(C), TypeError, r"`c` is a array_api_strict array but `inputs` is"),
}


@pytest.mark.parametrize("wrong", list(WRONG_WEIGHTS))
def test_wrong_weights(wrong: str) -> None:
    c, kind, says = WRONG_WEIGHTS[wrong]
    with pytest.raises(kind, match=says) as caught:
        weighted_gradient(A, G, c, positions=True)
    assert caught.type is kind


@pytest.mark.parametrize("function", [sample_gram, partial(weighted_gradient, c=C)])
def test_wrong_samples(function: Any) -> None:
    """Each is refused by both; what else is wrong with samples, in tests of them."""
    call = partial(function, positions=True)
    with pytest.raises(ValueError, match=r"`inputs` has shape \(4, 3, 4\) and `output_gradients`"):
        call(A[:4], G)
    with pytest.raises(TypeError, match="`inputs` has dtype int64"):
        call(A.astype(int), G)
    with pytest.raises(TypeError, match="`output_gradients` is a list"):
        call(A, G.tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spoiled", [0, 1])
@pytest.mark.parametrize("layout", ["plain", "positions", "stack"])
def test_nan_and_inf_show_in_the_trace(
    valued_backend: Backend, layout: str, spoiled: int, value: float
) -> None:
    """Anywhere: at one position of the last sample, in either argument."""
    if valued_backend.name.startswith("jax") and layout != "plain":
        pytest.skip("compiled operation by operation, which takes seconds")
    rng = np.random.default_rng(3)
    pair = layer(rng, *LAYOUTS[layout], "float32")
    pair[spoiled][(-1,) * pair[spoiled].ndim] = value
    a, g = valued_backend.asarray(pair)
    with np.errstate(invalid="ignore"):
        with pytest.raises(ValueError, match="`inputs` or `output_gradients` contain NaN or Inf"):
            sample_gram(a, g, positions=a.ndim > 2)
        K = valued_backend.numpy(sample_gram(a, g, positions=a.ndim > 2, check=False))
    assert not np.all(np.isfinite(K))


def test_norms_beyond_the_range_are_refused(rng: np.random.Generator) -> None:
    a, g = layer(rng, (5, 4), 3, "float32")
    with pytest.raises(ValueError, match=r"beyond the range of float32; .*scale the gradients"):
        sample_gram(a, np.float32(1e20) * g)
    assert np.all(np.isfinite(sample_gram(a, np.float32(1e15) * g)))


@pytest.mark.parametrize("name", ["torch-meta", "jax", "dask"])
def test_nothing_is_raised_where_values_cannot_be_read(name: str) -> None:
    backend = BACKENDS[name]()
    a, g, c = backend.asarray((A * np.nan, G, C * np.nan))
    K = backend.call(partial(sample_gram, positions=True), a, g)
    gradient = backend.call(partial(weighted_gradient, positions=True), a, g, c)
    if backend.has_values:
        with np.errstate(invalid="ignore"):
            assert np.all(np.isnan(backend.numpy(K)))
            assert np.all(np.isnan(backend.numpy(gradient)))


def test_one_flag_is_read_with_checks_and_none_without() -> None:
    a, g, c = (strict_array(x, device=Device("device1")) for x in (A, G, C))
    for check in (False, True):
        with counted_host_reads() as reads:
            sample_gram(a, g, positions=True, check=check)
        assert len(reads) == check
        with counted_host_reads() as reads:
            weighted_gradient(a, g, c, positions=True, check=check)
        assert len(reads) == check

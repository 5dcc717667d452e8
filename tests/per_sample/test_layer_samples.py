"""Samples of a layer: what is read off their shapes, their parts, and their dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from layers import layer
from references import random_array

from ngdla.per_sample.layer_samples import LayerSamples, layer_samples


def test_samples_without_positions_have_one(backend: Backend) -> None:
    rng, dtype = np.random.default_rng(0), backend.dtypes[-1]
    a, g = layer(rng, (5, 4), 3, dtype)
    like = backend.asarray(a)
    samples = backend.call(layer_samples, like, backend.asarray(g))
    for x, reference in zip(samples, (a[:, None], g[:, None])):
        backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=0)


def test_shapes(rng: np.random.Generator) -> None:
    samples = layer_samples(*layer(rng, (2, 7, 5, 3, 4), 6, "float32"), True)
    assert (samples.batch, samples.M, samples.T) == ((2, 7), 5, 3)
    assert samples.layer == (2, 7, 4, 6)
    plain = layer_samples(*layer(rng, (5, 4), 6, "float32"))
    assert (plain.batch, plain.M, plain.T, plain.layer) == ((), 5, 1, (4, 6))


def test_halves_and_rows(backend: Backend, rng: np.random.Generator) -> None:
    """An odd number of samples: the first half is the smaller one; none is left out."""
    dtype = backend.dtypes[0]
    a, g = layer(rng, (2, 5, 3, 4), 6, dtype)

    def parts(a: Any, g: Any) -> Any:
        samples = layer_samples(a, g, True)
        return [list(half) for half in samples.halves()], list(samples.rows())

    like = backend.asarray(a)
    halves, rows = backend.call(parts, like, backend.asarray(g))
    expected = [[x[:, :2] for x in (a, g)], [x[:, 2:] for x in (a, g)]]
    backend.assert_matches(halves, expected, like=like, dtype=dtype, tolerance=0)
    flat = [x.reshape(2, 15, -1) for x in (a, g)]
    backend.assert_matches(rows, flat, like=like, dtype=dtype, tolerance=0)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("complex64", "float32", "complex64"),
        ("float64", "complex64", "complex128"),
        ("float16", "float16", "float32"),
        ("float16", "float64", "float64"),
        ("float16", "complex64", "complex64"),
    ],
)
def test_one_dtype(first: str, second: str, both: str, rng: np.random.Generator) -> None:
    """That which both promote to, in either order, and never half precision."""
    a, g = random_array(rng, (3, 2), first), random_array(rng, (3, 4), second)
    for pair in ((a, g), (g, a)):
        samples = layer_samples(*pair)
        assert [x.dtype for x in samples] == [both, both]
        for x, given in zip(samples, pair):
            np.testing.assert_array_equal(x[:, 0], given)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_bfloat16_is_computed_with_in_float32(name: str, rng: np.random.Generator) -> None:
    backend: Any = BACKENDS[name]()
    a, g = backend.asarray(layer(rng, (3, 2), 4, "float32"))
    if name == "torch":
        a, g = a.to(backend.torch.bfloat16), g.to(backend.torch.bfloat16)
    else:
        a, g = a.astype("bfloat16"), g.astype("bfloat16")
    samples = layer_samples(a, g)
    assert [str(x.dtype).rpartition(".")[2] for x in samples] == ["float32", "float32"]


def test_samples_that_fit_are_not_copied(rng: np.random.Generator) -> None:
    a, g = layer(rng, (5, 3, 4), 6, "float64")
    samples = layer_samples(a, g, True)
    assert samples == LayerSamples(a, g)
    assert samples.a is a
    assert np.shares_memory(samples.rows()[0], a)


# -------------------------------------------------------------------------------- bad input

A, G = np.ones((5, 3, 4)), np.ones((5, 3, 2))

WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "samples": (A[:4], G, ValueError, r"`inputs` has shape \(4, 3, 4\).*of the same samples"),
    "positions": (A, G[:, :2], ValueError, r"`output_gradients` \(5, 2, 2\).*and positions"),
    "leading axes": (A[None], np.stack([G, G]), ValueError, r"of the same samples"),
    "axes": (A, G[:, 0], ValueError, r"`output_gradients` \(5, 2\)"),
    "inputs, vector": (A[0, 0], G, ValueError, r"`inputs` has shape \(4,\).*at least 2 axes"),
    "gradients, vector": (A[0], G[0, 0], ValueError, r"`output_gradients`.*at least 2 axes"),
    "no inputs": (A[..., :0], G, ValueError, r"`inputs` has shape \(5, 3, 0\).*empty"),
    "no outputs": (A, G[..., :0], ValueError, r"`output_gradients`.*empty"),
    "inputs, integers": (A.astype(int), G, TypeError, r"`inputs` has dtype int64"),
    "gradients, booleans": (A, G > 0, TypeError, r"`output_gradients` has dtype bool"),
    "inputs, list": (A.tolist(), G, TypeError, r"`inputs` is a list; it must be one array"),
    "inputs, None": (None, G, TypeError, r"`inputs` is a builtins.NoneType"),
    "gradients, blocks": (A, [G], TypeError, r"`output_gradients` is a list"),
    "gradients, dict": (A, {"g": G}, TypeError, r"`output_gradients` is a .*one dense array"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_samples(wrong: str) -> None:
    a, g, kind, says = WRONG[wrong]
    with pytest.raises(kind, match=says) as caught:
        layer_samples(a, g, True)
    assert caught.type is kind


@pytest.mark.parametrize("name", ["strict", "torch", "jax", "dask"])
def test_two_libraries(name: str) -> None:
    backend = BACKENDS[name]()
    says = r"`output_gradients` is a \w+ array but `inputs` is a \w+ array"
    for a, g in ((backend.asarray(A), G), (A, backend.asarray(G))):
        with pytest.raises(TypeError, match=says):
            layer_samples(a, g, True)


def test_two_devices() -> None:
    torch = pytest.importorskip("torch")
    a, g = torch.ones(3, 2), torch.ones(3, 4, device="meta")
    with pytest.raises(ValueError, match="`output_gradients` is on device meta"):
        layer_samples(a, g)

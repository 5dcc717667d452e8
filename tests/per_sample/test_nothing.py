"""Zero samples, and samples without positions: parts of a batch like others."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads
from layers import layer
from references import random_array
from spectra import REAL, quick_compilation  # noqa: F401

from ngdla import (
    sample_gram,
    sample_weights,
    weight_sharing_init,
    weight_sharing_step,
    weighted_cosine,
    weighted_gradient,
)

# Shapes of inputs, and whether they have positions.
LAYOUTS: dict[str, tuple[tuple[int, ...], bool | None]] = {
    "no samples": ((0, 4), None),
    "no samples, positions": ((0, 3, 4), True),
    "no samples, stack": ((2, 0, 4), False),
    "no samples, positions, stack": ((2, 0, 3, 4), True),
    "no positions": ((6, 0, 4), True),
    "no positions, stack": ((2, 6, 0, 4), True),
    "nothing": ((0, 0, 4), True),
}


def samples(layout: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    return layer(np.random.default_rng(0), LAYOUTS[layout][0], 5, dtype)


def count(layout: str) -> tuple[int, ...]:
    """Return the shape of the weights."""
    shape, positions = LAYOUTS[layout]
    return shape[:-2] if positions else shape[:-1]


@pytest.mark.thinned
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_gram_matrices_and_gradients_are_zero(backend: Backend, dtype: str, layout: str) -> None:
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend.name} has no {dtype}")
    a, g = samples(layout, dtype)
    c = random_array(np.random.default_rng(1), count(layout), dtype)
    like = backend.asarray(a)
    arrays = like, backend.asarray(g), backend.asarray(c)
    option = {"positions": LAYOUTS[layout][1]}
    K = backend.call(partial(sample_gram, **option), *arrays[:2])
    gradient = backend.call(partial(weighted_gradient, **option), *arrays)
    *batch, M = count(layout)
    for found, shape in ((K, (*batch, M, M)), (gradient, (*batch, 5, 4))):
        backend.assert_matches(found, np.zeros(shape), like=like, dtype=dtype, tolerance=0)


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_weights_of_zero_samples(
    backend: Backend, dtype: str, batch: tuple[int, ...], relative: bool, normalized: bool
) -> None:
    """There are none; lambda is 0, or what was given; there is no angle."""
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend.name} has no {dtype}")
    K, c = np.zeros((*batch, 0, 0), dtype), np.zeros((*batch, 0), dtype)
    like = backend.asarray(K)
    options = {"relative": relative, "normalized": normalized, "full_output": True}
    found, used = backend.call(sample_weights, like, 0.25, **options)
    kind = {"like": like, "tolerance": 0}
    backend.assert_matches(found, c, dtype=dtype, **kind)
    backend.assert_matches(used, np.full(batch, 0 if relative else 0.25), dtype=REAL[dtype], **kind)
    angle = backend.call(weighted_cosine, like, backend.asarray(c), backend.asarray(c))
    backend.assert_kind(angle, like=like, dtype=REAL[dtype], shape=batch)
    if backend.has_values:
        assert np.all(np.isnan(backend.numpy(angle)))


def test_samples_without_positions_have_equal_weights() -> None:
    """K is zero, so that normalized weights are 1 / M."""
    a, g = samples("no positions", "float64")
    state = weight_sharing_init("exact", 6)
    v, state = weight_sharing_step(state, a, g, 0.1, positions=True, diagnose=True)
    np.testing.assert_allclose(v, 1 / 6, rtol=1e-15)
    assert np.isnan(state.cosine)


def test_batches_of_zero_samples_are_zero_terms_of_a_sum(dtype: str) -> None:
    """The gradient of all samples is the sum of that of parts, some of which are empty."""
    rng = np.random.default_rng(0)
    a, g = layer(rng, (7, 3, 4), 5, dtype)
    c = random_array(rng, (7,), dtype)
    parts = [slice(0, 0), slice(0, 4), slice(4, 4), slice(4, 7)]
    total = sum(weighted_gradient(a[s], g[s], c[s], positions=True) for s in parts)
    whole = weighted_gradient(a, g, c, positions=True)
    np.testing.assert_allclose(total, whole, rtol=0, atol=200 * np.finfo(dtype).eps)


# ------------------------------------------------------------------------------------ sharing

POLICIES = {"exact": None, "every": 2, "shared": 2, "table": 3, "mean": 2}


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("first", [False, True])
def test_a_state_is_not_disturbed(policy: str, first: bool) -> None:
    """Zero samples are counted as a batch; the rest of a state stays as it was."""
    rng = np.random.default_rng(3)
    state = weight_sharing_init(policy, 6, period=POLICIES[policy])  # type: ignore[arg-type]
    if not first:
        for _ in range(3):
            _, state = weight_sharing_step(state, *layer(rng, (6, 4), 5, "float64"), 0.1)
    for _ in range(3):
        before = state
        v, state = weight_sharing_step(before, np.ones((0, 4)), np.ones((0, 5)), 0.1)
        assert v.shape == (0,)
        assert state.batches == before.batches + 1
        for name in ("age", "averaged", "layer", "weights", "cosine"):
            assert getattr(state, name) is getattr(before, name) or name == "cosine"
        assert state.cosine == ()
    v, state = weight_sharing_step(state, np.ones((0, 4)), np.ones((0, 5)), 0.1, diagnose=True)
    assert np.isnan(state.cosine)
    v, _ = weight_sharing_step(state, *layer(rng, (6, 4), 5, "float64"), 0.1)
    assert v.shape == (6,)


def test_no_entry_of_a_table_is_empty() -> None:
    """A rank that has no samples of a batch in one epoch may have some in the next."""
    rng = np.random.default_rng(3)
    state = weight_sharing_init("table", 6, period=2)
    _, state = weight_sharing_step(state, np.ones((0, 4)), np.ones((0, 5)), 0.1)
    assert state.weights == ((), ())
    a, g = layer(rng, (5, 4), 3, "float64")
    v, state = weight_sharing_step(state, a, g, 0.1, batch=0)
    np.testing.assert_array_equal(v, sample_weights(sample_gram(a, g), 0.1, normalized=True))
    np.testing.assert_array_equal(state.weights[0], v)


def test_a_batch_of_another_layer_is_refused_without_samples_too() -> None:
    state = weight_sharing_init("exact", 6)
    _, state = weight_sharing_step(state, np.ones((6, 4)), np.ones((6, 5)), 0.1)
    with pytest.raises(ValueError, match="keep a state for each layer"):
        weight_sharing_step(state, np.ones((0, 3)), np.ones((0, 5)), 0.1)


# ----------------------------------------------------------------------- derivatives, bad input


@pytest.mark.parametrize("layout", ["no samples", "no samples, positions, stack", "no positions"])
def test_derivatives_of_nothing(layout: str) -> None:
    """A backward pass through a part without samples is one through any other."""
    torch = pytest.importorskip("torch")
    backend = BACKENDS["torch"]()
    a, g = (x.requires_grad_() for x in backend.asarray(list(samples(layout, "float64"))))
    positions = LAYOUTS[layout][1]
    K = sample_gram(a, g, positions=positions)
    v = sample_weights(K, 0.1, normalized=True)
    weighted_gradient(a, g, v, positions=positions).sum().backward()
    for x in (a, g):
        assert x.grad.shape == x.shape
        assert bool(torch.all(x.grad == 0))


def test_one_flag_is_read_with_checks_and_none_without() -> None:
    a, g, K, c = (
        strict_array(np.ones(shape), device=Device("device1"))
        for shape in ((0, 4), (0, 3), (0, 0), (0,))
    )
    calls: list[Any] = [
        partial(sample_gram, a, g),
        partial(weighted_gradient, a, g, c),
        partial(sample_weights, K, 0.1, full_output=True),
        partial(weighted_cosine, K, c, c),
    ]
    for call in calls:
        with counted_host_reads() as reads:
            call(check=False)
        assert not reads
        with counted_host_reads() as reads:
            call(check=True)
        assert len(reads) <= 1


A = np.ones((0, 4))
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no inputs": (
        lambda: sample_gram(np.ones((5, 0)), np.ones((5, 3))),
        ValueError,
        r"`inputs` has shape \(5, 0\); an empty array",
    ),
    "no outputs": (
        lambda: sample_gram(A, np.ones((0, 0))),
        ValueError,
        r"`output_gradients` has shape \(0, 0\); an empty array",
    ),
    "samples": (lambda: sample_gram(A, np.ones((2, 3))), ValueError, "of the same samples"),
    "integers": (lambda: sample_gram(A.astype(int), A), TypeError, "`inputs` has dtype int64"),
    "c": (
        lambda: weighted_gradient(A, A, np.ones(2)),
        ValueError,
        r"`c` has shape \(2,\); for 0 samples it must be \(0,\)",
    ),
    "c, integers": (
        lambda: weighted_gradient(A, A, np.ones(0, int)),
        TypeError,
        "`c` has dtype int64",
    ),
    "c, list": (lambda: weighted_gradient(A, A, []), TypeError, "`c` is a list"),
    "K, not square": (
        lambda: sample_weights(np.ones((0, 2)), 0.1),
        ValueError,
        r"`K` has shape \(0, 2\)",
    ),
    "K, vector": (
        lambda: sample_weights(np.ones(0), 0.1),
        ValueError,
        r"`K` has shape \(0,\); it needs at least 2 axes",
    ),
    "damping": (lambda: sample_weights(np.ones((0, 0)), 0.0), ValueError, "`damping` is 0.0"),
    "d": (
        lambda: weighted_cosine(np.ones((0, 0)), np.ones(0), np.ones(1)),
        ValueError,
        r"`d` has shape \(1,\); for this `K` it must be \(0,\)",
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_what_is_empty_is_looked_at_like_what_is_not(wrong: str) -> None:
    call, kind, says = WRONG[wrong]
    with pytest.raises(kind, match=says):
        call()

"""Weights of the first epoch: a table by the index of a batch, and the mean."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS
from layers import layer
from references import U
from spectra import quick_compilation, relative  # noqa: F401

from ngdla import (
    WeightSharing,
    sample_gram,
    sample_weights,
    weight_sharing_init,
    weight_sharing_step,
    weighted_gradient,
)

M, DAMPING = 8, 0.02

# Shapes of the inputs of a full batch, and whether they have positions.
LAYOUTS: dict[str, tuple[tuple[int, ...], bool | None]] = {
    "plain": ((M, 4), None),
    "positions": ((M, 2, 4), True),
    "stack": ((3, M, 4), False),
    "stack, positions": ((2, M, 2, 4), True),
}
EPOCHS = {"full": [M, M, M], "short last": [M, M, 5], "short first": [3, M, M], "one": [M]}

Batch = tuple[np.ndarray, np.ndarray]


def axis_of(layout: str) -> int:
    """Return the axis of the samples."""
    return -3 if LAYOUTS[layout][1] else -2


def batches(layout: str, sizes: list[int], dtype: str = "float64", seed: int = 7) -> list[Batch]:
    rng, axis = np.random.default_rng(seed), axis_of(layout)
    pairs = [layer(rng, LAYOUTS[layout][0], 5, dtype) for _ in sizes]
    return [
        tuple(np.take(x, range(size), axis=axis) for x in pair)  # type: ignore[misc]
        for pair, size in zip(pairs, sizes)
    ]


def own_weights(batch: Batch, positions: bool | None) -> Any:
    return sample_weights(sample_gram(*batch, positions=positions), DAMPING, normalized=True)


def truncated(v: np.ndarray, count: int) -> np.ndarray:
    """Return the first weights with the sum of all."""
    factor = np.sum(v, axis=-1).real / np.sum(v[..., :count], axis=-1).real
    return v[..., :count] * factor[..., None]


def run(state: WeightSharing, data: list[Batch], **options: Any) -> tuple[list[Any], Any]:
    found = []
    for batch in data:
        v, state = weight_sharing_step(state, *batch, DAMPING, **options)
        found.append(v)
    return found, state


# ------------------------------------------------------------------------------------- table


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("epoch", list(EPOCHS))
def test_later_epochs_get_the_weights_of_the_first(dtype: str, layout: str, epoch: str) -> None:
    """By index and bit by bit, those of short batches as well; whatever the data is."""
    sizes, positions = EPOCHS[epoch], LAYOUTS[layout][1]
    state = weight_sharing_init("table", M, period=len(sizes))
    assert state.weights == ((),) * len(sizes)
    data = batches(layout, sizes, dtype)
    first, state = run(state, data, positions=positions)
    for v, batch, kept in zip(first, data, state.weights):
        np.testing.assert_array_equal(v, own_weights(batch, positions))
        np.testing.assert_array_equal(v, kept)
    for seed in (8, 9):
        later, state = run(state, batches(layout, sizes, dtype, seed), positions=positions)
        for v, expected in zip(later, first):
            np.testing.assert_array_equal(v, expected)
            assert v.dtype == dtype
    assert state.batches == 3 * len(sizes)
    assert state.age == 1 + 2 * len(sizes)


def test_the_index_may_be_said() -> None:
    """In any order, with batches left out: where there are no weights yet, they are computed."""
    data = batches("plain", [M] * 6)
    state = weight_sharing_init("table", M, period=3)
    own = [own_weights(batch, None) for batch in data]
    for i, (batch, source) in enumerate([(2, 0), (0, 1), (2, 0), (0, 1), (1, 4), (1, 4)]):
        v, state = weight_sharing_step(state, *data[i], DAMPING, batch=batch)
        np.testing.assert_array_equal(v, own[source])
    assert isinstance(state.weights, tuple)
    for kept, source in zip(state.weights, (1, 4, 0)):
        np.testing.assert_array_equal(kept, own[source])
    v, _ = weight_sharing_step(state, *data[0], DAMPING, batch=np.int64(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(v, own[0])


def test_without_an_index_batches_are_counted() -> None:
    """All of them, also those whose index was said."""
    data = batches("plain", [M] * 3)
    state = weight_sharing_init("table", M, period=2)
    _, state = weight_sharing_step(state, *data[0], DAMPING, batch=1)
    v, state = weight_sharing_step(state, *data[1], DAMPING)  # the second one
    np.testing.assert_array_equal(v, own_weights(data[0], None))
    v, state = weight_sharing_step(state, *data[2], DAMPING)  # the first of the next epoch
    np.testing.assert_array_equal(v, own_weights(data[2], None))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_batches_of_another_size_than_the_entry(layout: str) -> None:
    """Fewer samples get the first weights, with the sum of all; more get new ones, kept then."""
    positions = LAYOUTS[layout][1]
    data = batches(layout, [5, 3, M, 6])
    own = [own_weights(batch, positions) for batch in data]
    state = weight_sharing_init("table", M, period=1)
    v, state = weight_sharing_step(state, *data[0], DAMPING, positions=positions)
    np.testing.assert_array_equal(v, own[0])
    v, state = weight_sharing_step(state, *data[1], DAMPING, positions=positions)
    assert relative(v, truncated(own[0], 3)) <= 16 * U["float64"]
    np.testing.assert_array_equal(state.weights[0], own[0])
    v, state = weight_sharing_step(state, *data[2], DAMPING, positions=positions)
    np.testing.assert_array_equal(v, own[2])
    v, state = weight_sharing_step(state, *data[3], DAMPING, positions=positions)
    assert relative(v, truncated(own[2], 6)) <= 16 * U["float64"]
    np.testing.assert_array_equal(state.weights[0], own[2])


def test_equal_epochs_give_each_sample_its_own_weight() -> None:
    """Where batches are the same and parameters stay, a table is exact."""
    data = batches("positions", [M, M, 5])
    state = weight_sharing_init("table", M, period=3)
    for _ in range(2):
        for batch in data:
            _, state = weight_sharing_step(state, *batch, DAMPING, positions=True, diagnose=True)
            assert abs(state.cosine - 1) <= 8 * M * U["float64"]


# -------------------------------------------------------------------------------------- mean


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("epoch", list(EPOCHS))
def test_later_batches_get_the_mean_of_the_first_epoch(dtype: str, layout: str, epoch: str) -> None:
    """Of its full batches; in the first epoch each batch has its own weights."""
    sizes, positions = EPOCHS[epoch], LAYOUTS[layout][1]
    data = batches(layout, sizes, dtype)
    own = [own_weights(batch, positions) for batch in data]
    found, state = run(weight_sharing_init("mean", M, period=len(sizes)), data, positions=positions)
    for v, expected in zip(found, own):
        np.testing.assert_array_equal(v, expected)
    full = [v for v, size in zip(own, sizes) if size == M]
    mean = np.mean(full, axis=0)
    assert (state.averaged, state.batches) == (len(full), len(sizes))
    assert state.weights.dtype == dtype
    assert relative(state.weights, mean) <= 4 * len(full) * U[dtype]
    for v in run(state, batches(layout, [M, M], dtype, 8), positions=positions)[0]:
        np.testing.assert_array_equal(v, state.weights)
    ((short,), after) = run(state, batches(layout, [3], dtype, 9), positions=positions)
    assert relative(short, truncated(mean, 3)) <= 16 * len(full) * U[dtype]
    np.testing.assert_array_equal(after.weights, state.weights)
    assert after.averaged == len(full)


def test_a_first_epoch_without_full_batches() -> None:
    """Weights are computed until there are some of a full batch, and these are the mean."""
    data = batches("plain", [5, 3, 5, M, M])
    own = [own_weights(batch, None) for batch in data]
    found, state = run(weight_sharing_init("mean", M, period=2), data)
    for v, expected in zip(found, [*own[:4], own[3]]):
        np.testing.assert_array_equal(v, expected)
    assert state.averaged == 1


def test_a_mean_has_less_spread_than_its_terms() -> None:
    """Of n independent batches, some sqrt(n) times less."""
    data = batches("plain", [M] * 25)
    found, state = run(weight_sharing_init("mean", M, period=25), data)
    spread = np.mean([np.std(v) for v in found])
    assert np.std(state.weights) <= spread / 3


# ----------------------------------------------------------------------------- states, errors


def states(library: str) -> list[WeightSharing]:
    """Return states of all policies, before their first batch, in the first epoch, and later."""
    backend = BACKENDS[library]()
    data = [backend.asarray(list(batch)) for batch in batches("plain", [M, M, M], "float32")]
    found = []
    for policy, period in {"exact": None, "every": 2, "shared": 2, "table": 2, "mean": 2}.items():
        state = weight_sharing_init(policy, M, period=period)  # type: ignore[arg-type]
        found.append(state)
        for batch in data:
            _, state = weight_sharing_step(state, *batch, DAMPING, diagnose=policy == "mean")
            found.append(state)
    return found


def same(one: WeightSharing, other: WeightSharing) -> bool:
    parts = zip(dataclasses.astuple(one), dataclasses.astuple(other))
    return all(np.array_equal(x, y) for x, y in parts if not isinstance(x, tuple))


def test_states_are_pytrees_of_torch() -> None:
    """Absent parts are no leaves: what maps tensors needs to know nothing of them."""
    torch = pytest.importorskip("torch")
    tree = torch.utils._pytree
    for state in states("torch"):
        leaves, layout = tree.tree_flatten(state)
        assert all(isinstance(x, torch.Tensor) for x in leaves)
        moved = tree.tree_map(lambda x: x.to("cpu", copy=True), state)
        assert tree.tree_flatten(moved)[1] == layout
        assert same(state, moved)


def test_states_are_pytrees_of_jax() -> None:
    jax = pytest.importorskip("jax")
    for state in states("jax"):
        leaves, layout = jax.tree.flatten(state)
        assert all(isinstance(x, jax.Array) for x in leaves)
        moved = jax.tree.map(lambda x: x + 0, state)
        assert jax.tree.structure(moved) == layout
        assert same(state, moved)


@pytest.mark.parametrize("policy", ["table", "mean"])
def test_steps_are_compiled(policy: str) -> None:
    jax = pytest.importorskip("jax")
    data = [BACKENDS["jax"]().asarray(list(b)) for b in batches("plain", [M, 5, M], "float32")]

    @jax.jit
    def step(state: WeightSharing, a: Any, g: Any) -> Any:
        return weight_sharing_step(state, a, g, DAMPING)

    state = weight_sharing_init(policy, M, period=2)  # type: ignore[arg-type]
    expected, _ = run(state, data)
    for batch, own in zip(data, expected):
        v, state = step(state, *batch)
        assert relative(np.asarray(v), np.asarray(own)) <= 100 * U["float32"]


@pytest.mark.parametrize("policy", ["table", "mean"])
def test_kept_weights_have_no_graph_and_are_no_views(policy: str) -> None:
    torch = pytest.importorskip("torch")
    a, g = torch.ones((4, 3), requires_grad=True), torch.eye(4, 2)
    state = weight_sharing_init(policy, 4, period=2)  # type: ignore[arg-type]
    for own in (True, True, False, False):
        v, state = weight_sharing_step(state, a, g, 0.01, diagnose=True)
        assert v.requires_grad == own
        weighted_gradient(a, g, v).sum().backward()
        leaves = torch.utils._pytree.tree_leaves(state)
        assert not any(x.requires_grad for x in leaves)
        copies = [x.clone() for x in leaves]
        v.detach().zero_()
        assert all(torch.equal(x, y) for x, y in zip(leaves, copies))


def test_old_states_can_be_used_again() -> None:
    """A new entry of a table is one of a new table."""
    data = batches("plain", [M, M])
    state = weight_sharing_init("table", M, period=2)
    _, later = weight_sharing_step(state, *data[0], DAMPING)
    assert state.weights == ((), ())
    _, last = weight_sharing_step(later, *data[1], DAMPING)
    assert later.weights[1] == ()
    assert last.weights[0] is later.weights[0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("policy", ["every", "shared", "table", "mean"])
def test_a_bad_batch_leaves_no_trace(policy: Any, first: bool) -> None:
    """NaN is not kept: the last weights are, or those of a mean, for each layer of a stack."""
    a, g = (np.stack([x, 2 * x]) for x in batches("plain", [M])[0])
    bad = a.copy()
    bad[1, 0] = np.nan
    state = weight_sharing_init(policy, M, period=1 if policy == "every" else 2)
    options: dict[str, Any] = {"positions": False, "check": False}
    if not first:
        _, state = weight_sharing_step(state, a, g, DAMPING, **options)
        state = dataclasses.replace(state, batches=0) if policy == "table" else state
    before = state
    if policy == "table" and not first:
        state = dataclasses.replace(state, weights=((), ()))
    with np.errstate(invalid="ignore"):
        _, state = weight_sharing_step(state, bad, g, DAMPING, **options)
    assert state.skipped.tolist() == [False, True]
    kept = state.weights[0] if policy == "table" else state.weights
    assert np.all(np.isfinite(kept))
    if first or policy == "table":
        np.testing.assert_array_equal(kept[1], np.full(M, 1 / M))
    else:
        np.testing.assert_allclose(kept[1], before.weights[1], rtol=4 * U["float64"])
    np.testing.assert_array_equal(
        kept[0] if policy != "mean" or first else before.weights[0],
        weight_sharing_step(weight_sharing_init("exact", M), a, g, DAMPING, positions=False)[0][0],
    )


A, G = batches("plain", [M])[0]
WRONG: dict[str, tuple[str, Any, type[Exception], str]] = {
    "too large": ("table", 3, ValueError, r"`batch` is 3; in an epoch of 3 batches"),
    "negative": ("table", -1, ValueError, r"`batch` is -1; it must not be negative"),
    "float": ("table", 1.0, TypeError, r"`batch` is 1\.0; it must be an integer"),
    "flag": ("table", True, TypeError, r"`batch` is True; it must be an integer"),
    "array": ("table", np.asarray(1), TypeError, r"`batch` is .*; it must be an integer"),
    "every": ("every", 0, ValueError, r"`batch` is 0, which the policy 'every' has no use for"),
    "shared": ("shared", 0, ValueError, r"`batch` is 0, .*or use \"table\""),
    "mean": ("mean", 1, ValueError, r"`batch` is 1, which the policy 'mean' has no use for"),
    "exact": ("exact", 0, ValueError, r"`batch` is 0, which the policy 'exact' has no use for"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_indices(wrong: str) -> None:
    policy, batch, kind, says = WRONG[wrong]
    period = None if policy == "exact" else 3
    state = weight_sharing_init(policy, M, period=period)  # type: ignore[arg-type]
    with pytest.raises(kind, match=says):
        weight_sharing_step(state, A, G, DAMPING, batch=batch)


def test_what_a_table_and_a_mean_need() -> None:
    for policy, number in {"table": "an epoch", "mean": "the first epoch"}.items():
        with pytest.raises(ValueError, match=f"`period` is missing; '{policy}' .* of {number}"):
            weight_sharing_init(policy, M)  # type: ignore[arg-type]


def test_a_table_belongs_to_one_library_and_one_layer() -> None:
    torch = pytest.importorskip("torch")
    state = weight_sharing_init("table", M, period=3)
    _, state = weight_sharing_step(state, A, G, DAMPING, batch=1)
    with pytest.raises(TypeError, match="`inputs` is a torch array but `state` is a numpy array"):
        weight_sharing_step(state, torch.tensor(A), torch.tensor(G), DAMPING)
    with pytest.raises(ValueError, match="keep a state for each layer"):
        weight_sharing_step(state, A[:, :3], G, DAMPING)
    with pytest.raises(ValueError, match="`inputs` has 16 samples"):
        weight_sharing_step(state, np.tile(A, (2, 1)), np.tile(G, (2, 1)), DAMPING)

"""States of inverse-free updates: what they hold, how large they are, how they travel."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, get_args

import numpy as np
import pytest
from backends import Backend, fields_of, half_dtype
from dense_updates import NAMES, after, member, samples, structure
from references import U
from spectra import REAL, needs, quick_compilation, relative  # noqa: F401

from ngdla import (
    InverseFreeState,
    InverseFreeStatistics,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
)
from ngdla.inverse_free.state import STORAGES, Storage, restore, store
from ngdla.structures import Hierarchical, LowRankTriangular, StructuredMatrix

IN, OUT = 6, 5
OPTIONS = {"damping": 0.1, "step_size": 0.1, "momentum": 0.5}


def start(names: tuple[str, str] = ("dense", "dense"), **options: Any) -> InverseFreeState:
    pair = structure(names[0], IN), structure(names[1], OUT)
    return inverse_free_init(IN, OUT, structures=pair, like=np.zeros(1), **options)


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return samples(rng, 20, IN), samples(rng, 20, OUT)


# ------------------------------------------------------------------------------------ sizes
# A layer of 768 inputs and a bias, and 3072 outputs: 2.36 million weights.

SIZES: dict[str, tuple[Any, int, int, float]] = {
    "dense": ("dense", 591_361, 9_437_184, 425),
    "blocks of 30": (("block-diagonal", {"block": 30}), 22_861, 91_944, 4.9),
    "hierarchical": (("hierarchical", {"k1": 15, "k2": 15}), 23_584, 94_977, 5.0),
    "one dense row": (("low-rank-triangular", {"k": 1}), 1_537, 6_143, 0.33),
    "diagonal": ("diagonal", 769, 3_072, 0.16),
    "lower Toeplitz": ("lower-toeplitz", 769, 3_072, 0.16),
    "upper Toeplitz": ("upper-toeplitz", 769, 3_072, 0.16),
}


@pytest.mark.parametrize("kind", list(SIZES))
def test_numbers_of_a_layer(kind: str) -> None:
    """Of K and of C; with momentum twice as many, here in percent of the two of each weight."""
    given, of_K, of_C, percent = SIZES[kind]
    like = np.zeros(1, "float16")
    state = inverse_free_init(769, 3072, structures=(given, given), like=like, momentum=False)
    assert (state.K.size, state.C.size) == (of_K, of_C)
    assert sum(leaf.nbytes for leaf in state.K.leaves) == 2 * of_K
    assert 200 * (of_K + of_C) / (2 * 769 * 3072) == pytest.approx(percent, rel=0.02)


def test_storages_are_those_of_the_type() -> None:
    assert get_args(Storage) == tuple(STORAGES)


@pytest.mark.parametrize("storage", ["native", "float32", "compensated"])
def test_momentum_doubles_a_state(storage: str) -> None:
    """And a compensation is as large as a factor; without, there are none."""
    states = [
        start(("hierarchical", "masked"), dtype="float16", storage=storage, momentum=momentum)
        for momentum in (True, False)
    ]
    for state, momentum in zip(states, (True, False)):
        for factor, m, lost in (
            (state.K, state.momentum_K, state.compensation_K),
            (state.C, state.momentum_C, state.compensation_C),
        ):
            assert (m != ()) == momentum
            assert (lost != ()) == (storage == "compensated")
            assert all(x.size == factor.size for x in (m, lost) if x)


# ------------------------------------------------------------------------------- the start


@pytest.mark.thinned
@pytest.mark.parametrize("name", NAMES)
def test_a_start_is_the_identity(backend: Backend, dtype: str, name: str) -> None:
    """With tangents of zero, on the device of `like`, and a report of zeros in the real dtype."""
    needs(backend, dtype)
    pair = structure(name, IN), structure(name, OUT)

    def run(like: Any) -> Any:
        state = inverse_free_init(IN, OUT, structures=pair, like=like)
        matrices = (state.K, state.C, state.momentum_K, state.momentum_C)
        dense = [x.to_dense() for x in matrices if x]
        return dense, fields_of(state.report)[:6], state.report.skipped, state.step

    like = backend.asarray(np.zeros((2, 3), dtype))
    matrices, numbers, skipped, step = backend.call(run, like)
    expected = [np.eye(IN), np.eye(OUT), np.zeros((IN, IN)), np.zeros((OUT, OUT))]
    backend.assert_matches(matrices, expected, like=like, dtype=dtype, tolerance=0)
    zeros = [np.zeros(())] * 6
    backend.assert_matches(numbers, zeros, like=like, dtype=REAL[dtype], tolerance=0)
    backend.assert_kind(skipped, like=like, dtype="bool", shape=())
    backend.assert_kind(step, like=like, dtype="int32", shape=())


@pytest.mark.parametrize("batch_axes", [(3,), (2, 3)])
def test_batch_axes(batch_axes: tuple[int, ...]) -> None:
    state = start(("upper-toeplitz", "block-diagonal"), batch=batch_axes)
    assert state.K.shape == (*batch_axes, IN, IN)
    assert state.C.shape == (*batch_axes, OUT, OUT)
    assert all(x.shape == batch_axes for x in (*fields_of(state.report), state.step))
    np.testing.assert_array_equal(state.C.to_dense(), np.broadcast_to(np.eye(OUT), state.C.shape))


def test_structures_are_named_in_three_ways() -> None:
    like = np.zeros(1)
    for given in ("hierarchical", ("hierarchical", {"k1": 15}), Hierarchical(15, 15)):
        for structures in ((given, "dense"), [given, "dense"]):
            state = inverse_free_init(40, 3, structures=structures, like=like)
            assert state.K.structure == Hierarchical()
    features = LowRankTriangular(2, features=(3, 1))
    state = inverse_free_init(4, 5, structures=(features, features), like=like)
    assert (state.K.structure, state.C.structure) == (features, features)


def test_the_dtype_of_a_state() -> None:
    """That of `like`, or as asked; complex states have real reports."""
    assert start().K.dtype_name == "float64"
    assert start(dtype="float32").K.dtype_name == "float32"
    state = start(dtype="complex64")
    assert state.K.dtype_name == "complex64"
    assert state.report.bound_K.dtype == "float32"


# ----------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_sums_of_leaves(name: str, rng: np.random.Generator) -> None:
    """So that devices may add up the leaves of their pytrees."""
    state = start((name, name))
    one, other = (inverse_free_statistics(state, *batch(rng)) for _ in range(2))
    both = one + other
    assert isinstance(both, InverseFreeStatistics)
    for total, x, y in ((both.H_K, one.H_K, other.H_K), (both.H_C, one.H_C, other.H_C)):
        for leaf, a, b in zip(total.leaves, x.leaves, y.leaves):
            np.testing.assert_array_equal(leaf, a + b)
    assert both.rows == one.rows + other.rows


@pytest.mark.parametrize("other", [1, None, ()], ids=str)
def test_statistics_add_to_nothing_else(other: Any, rng: np.random.Generator) -> None:
    statistics = inverse_free_statistics(start(), *batch(rng))
    with pytest.raises(TypeError):
        statistics + other


# -------------------------------------------------------------------------------- storage


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_what_storage_loses(name: str, half: str, rng: np.random.Generator) -> None:
    """Native: u of half precision. Compensated: u^2, as of a number twice as long."""
    u = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[half]
    like = structure(name, IN).zeros(IN, like=np.zeros(1), dtype=half_dtype(half).name)
    K = structure(name, IN).from_dense(member(rng, name, IN).astype("float32"))
    rounded, nothing = store(K, like, ())
    assert nothing == ()
    assert rounded.dtype_name == half
    kept, lost = store(K, like, like)
    assert lost
    assert (kept.dtype_name, lost.dtype_name) == (half, half)
    least = 2.0**-25 if half == "float16" else 0.0  # half the spacing of subnormal numbers
    for leaf, one, two in zip(K.leaves, restore(rounded, ()).leaves, restore(kept, lost).leaves):
        assert one.dtype == two.dtype == "float32"
        assert np.all(np.abs(one - leaf) <= u * np.abs(leaf))
        assert np.all(np.abs(two - leaf) <= u**2 * np.abs(leaf) + least)


# ------------------------------------------------------------------------------- pytrees


def matrices_of(state: InverseFreeState) -> list[StructuredMatrix]:
    return [M for M in fields_of(state)[:6] if M]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_saved_and_restored(name: str, rng: np.random.Generator) -> None:
    """As the arrays of its leaves: what follows is the same, bit for bit."""
    a, g = batch(rng)
    blank, file = start((name, name)), io.BytesIO()
    state = after(blank, a, g, 3, **OPTIONS)
    arrays = [x for M in matrices_of(state) for x in M.leaves]
    np.savez(file, *arrays, step=state.step)
    file.seek(0)
    with np.load(file) as saved:
        leaves = iter([saved[f"arr_{i}"] for i in range(len(arrays))])
        step = saved["step"]
    restored = dataclasses.replace(blank, step=step)
    for field in ("K", "C", "momentum_K", "momentum_C"):
        restored = dataclasses.replace(
            restored, **{field: getattr(blank, field).map(lambda _, leaves=leaves: next(leaves))}
        )
    one, other = (after(s, a, g, **OPTIONS) for s in (state, restored))
    for x, y in zip(matrices_of(one), matrices_of(other)):
        np.testing.assert_array_equal(x.to_dense(), y.to_dense())
    assert one.step == other.step == 4


@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize("momentum", [True, False])
def test_a_state_is_a_pytree(library: str, momentum: bool, rng: np.random.Generator) -> None:
    """Of its arrays: 2 factors and 2 tangents of 3 leaves here, a step, and 7 of the report."""
    if library == "jax":
        tree = pytest.importorskip("jax").tree
    else:
        tree = pytest.importorskip("torch.utils._pytree")
    options = {**OPTIONS, "momentum": 0.5 if momentum else 0.0}
    state = after(start(("upper-first",) * 2, momentum=momentum), *batch(rng), **options)
    leaves = tree.tree_leaves(state) if library == "torch" else tree.leaves(state)
    assert not any(x is None for x in leaves)
    assert len(leaves) == 3 * (4 if momentum else 2) + 1 + 7
    doubled = (tree.tree_map if library == "torch" else tree.map)(lambda x: 2 * x, state)
    assert isinstance(doubled, InverseFreeState)
    assert doubled.K.structure == state.K.structure
    np.testing.assert_array_equal(doubled.K.to_dense(), 2 * state.K.to_dense())
    assert (doubled.momentum_K == ()) == (not momentum)


def test_real_states_take_wider_batches(rng: np.random.Generator) -> None:
    """They stay as they are stored."""
    a, g = batch(rng)
    state = after(start(dtype="float32"), a, g, **OPTIONS)
    assert state.K.dtype_name == "float32"
    wide = after(start(), a, g, **OPTIONS)
    assert relative(state.K.to_dense(), wide.K.to_dense()) <= 20 * IN * U["float32"]


@pytest.mark.parametrize("storage", ["native", "compensated"])
def test_no_two_parts_share_memory(storage: Any) -> None:
    """JAX refuses to be donated an array twice, and a copy in place would be made twice."""
    jax = pytest.importorskip("jax")
    like = jax.numpy.zeros(1, "bfloat16")
    state = inverse_free_init(4, 3, like=like, storage=storage)
    leaves = jax.tree.leaves(state)
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_a_report_keeps_the_dtype_of_the_state(rng: np.random.Generator) -> None:
    """Whatever the batch is in, so that a state can be restored, and carried by a scan."""
    state = inverse_free_init(4, 3, like=np.zeros(1, "float32"))
    a, g = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    new = inverse_free_update(
        state, inverse_free_statistics(state, a, g), damping=0.1, step_size=0.1
    )
    for one, other in zip(vars(new.report).values(), vars(state.report).values()):
        assert one.dtype == other.dtype

"""Shared weights: for which batches they are computed, what the others get, and what a state is."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, get_args

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads
from layers import gradients, layer
from references import U, narrow, wide
from spectra import REAL, needs, norm, quick_compilation, relative  # noqa: F401

from ngdla import (
    WeightSharing,
    sample_gram,
    sample_weights,
    weight_sharing_init,
    weight_sharing_step,
    weighted_cosine,
    weighted_gradient,
)
from ngdla.per_sample.weight_sharing import POLICIES, Policy

M, DAMPING = 8, 0.01

Batch = tuple[np.ndarray, np.ndarray]


def batches(sizes: list[int], dtype: str = "float64") -> list[Batch]:
    rng = np.random.default_rng(11)
    return [layer(rng, (size, 4), 5, dtype) for size in sizes]


def own_weights(a: Any, g: Any, **options: Any) -> Any:
    return sample_weights(
        sample_gram(a, g, positions=a.ndim > 2), DAMPING, normalized=True, **options
    )


def truncated(v: np.ndarray, count: int) -> np.ndarray:
    """Return the first weights with the sum of all."""
    return v[..., :count] * (np.sum(v, axis=-1) / np.sum(v[..., :count], axis=-1))[..., None]


def started(policy: str = "shared", period: int | None = 1, **options: Any) -> WeightSharing:
    """Return a state with weights that are due no more, but for "exact"."""
    state = weight_sharing_init(policy, M, period=period)
    return weight_sharing_step(state, *batches([M])[0], DAMPING, **options)[1]


# --------------------------------------------------------------------------------- schedules

# Sizes of the batches, and the batch of which each gets the weights.
SCHEDULES: dict[str, tuple[str, int | None, list[int], list[int]]] = {
    "exact": ("exact", None, [8, 8, 8, 8], [0, 1, 2, 3]),
    "exact, short": ("exact", None, [3, 8, 5, 1, 8], [0, 1, 2, 3, 4]),
    "every": ("every", 3, [8] * 7, [0, 0, 0, 3, 3, 3, 6]),
    "every one": ("every", 1, [8, 8, 5, 8], [0, 1, 2, 3]),
    "every, short between": ("every", 3, [8, 5, 8, 8, 1, 8], [0, 0, 0, 3, 3, 3]),
    "every, short when due": ("every", 3, [8, 8, 8, 5, 8, 8, 8, 8], [0, 0, 0, 3, 4, 4, 4, 7]),
    "every, twice short when due": ("every", 2, [8, 8, 5, 5, 8, 8, 8], [0, 0, 2, 3, 4, 4, 6]),
    "every, short first": ("every", 2, [5, 8, 8, 8], [0, 1, 1, 3]),
    "shared": ("shared", 3, [8] * 7, [0, 1, 2, 2, 2, 2, 2]),
    "shared, one": ("shared", 1, [8] * 4, [0, 0, 0, 0]),
    "shared, short last": ("shared", 3, [8, 8, 5, 8, 8, 5], [0, 1, 2, 1, 1, 1]),
    "shared, short first": ("shared", 3, [5, 8, 8, 8], [0, 1, 2, 2]),
    "shared, short one": ("shared", 1, [5, 8, 5, 8], [0, 1, 1, 1]),
    "shared, short ones": ("shared", 2, [5, 5, 5, 8, 8, 5], [0, 1, 2, 3, 3, 3]),
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("diagnose", [False, True])
def test_a_schedule(schedule: str, diagnose: bool) -> None:
    """Own weights bit by bit, shared ones as they are, or truncated; diagnosed or not."""
    policy, period, sizes, sources = SCHEDULES[schedule]
    state = weight_sharing_init(policy, M, period=period)
    data = batches(sizes)
    own = [own_weights(*batch) for batch in data]
    for i, source in enumerate(sources):
        v, state = weight_sharing_step(state, *data[i], DAMPING, diagnose=diagnose)
        if source == i or sizes[i] == M:
            np.testing.assert_array_equal(v, own[source])
        else:
            np.testing.assert_allclose(v, truncated(own[source], sizes[i]), rtol=8 * U["float64"])
        kept = [j for j in range(i + 1) if sources[j] == j and sizes[j] == M]
        assert state.batches == i + 1
        assert state.layer == (4, 5)
        if kept:
            np.testing.assert_array_equal(state.weights, own[kept[-1]])
            assert state.age == sum(source == kept[-1] for source in sources[: i + 1])
        else:
            assert state.weights == ()
            assert state.age == 0


def test_a_state_before_its_first_batch() -> None:
    state = weight_sharing_init("every", np.int64(M), period=np.int64(3))  # type: ignore[arg-type]
    assert dataclasses.asdict(state) == {
        "policy": "every",
        "M": 8,
        "period": 3,
        "batches": 0,
        "age": 0,
        "averaged": 0,
        "layer": (),
        "weights": (),
        "cosine": (),
        "skipped": (),
    }
    assert (type(state.M), type(state.period)) == (int, int)


def test_positions_may_change_from_batch_to_batch(rng: np.random.Generator) -> None:
    state = weight_sharing_init("every", 4, period=2)
    for positions in (1, 3, 2, 5):
        a, g = layer(rng, (4, positions, 3), 2, "float64")
        v, state = weight_sharing_step(state, a, g, DAMPING, positions=True)
    np.testing.assert_array_equal(state.weights, v)
    assert state.layer == (3, 2)
    a, g = layer(rng, (4, 3), 2, "float64")
    _, state = weight_sharing_step(state, a, g, DAMPING)
    assert state.age == 1


def test_what_sharing_does(rng: np.random.Generator) -> None:
    """In batches of any order, U v is the mean gradient times the sum of v, on average."""
    state = weight_sharing_init("shared", 5, period=1)
    v, state = weight_sharing_step(state, *layer(rng, (5, 4), 3, "float64"), 1e-3)
    a, g = layer(rng, (5, 4), 3, "float64")
    found = []
    for order in itertools.permutations(range(5)):
        moved = a[list(order)], g[list(order)]
        weights, state = weight_sharing_step(state, *moved, 1e-3)
        found.append(weighted_gradient(*moved, weights))
    np.testing.assert_allclose(np.mean(found, axis=0), np.sum(v) * g.T @ a / 5, rtol=1e-12)


# ------------------------------------------------------------------------------ short batches


@pytest.mark.parametrize("kind", ["float64", "complex128"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_a_short_batch_gets_the_same_sum(kind: str, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, g = layer(rng, (*batch, M, 2, 4), 5, kind)
    v, state = weight_sharing_step(
        weight_sharing_init("shared", M, period=1), a, g, 0.1, positions=True
    )
    for count in range(1, M):
        first = a[..., :count, :, :], g[..., :count, :, :]
        short, _ = weight_sharing_step(state, *first, 0.1, positions=True)
        assert short.shape == (*batch, count)
        assert short.dtype == kind
        factor = np.sum(v, axis=-1).real / np.sum(v[..., :count], axis=-1).real
        assert relative(short, v[..., :count] * factor[..., None]) <= 16 * U[kind]


@pytest.mark.parametrize(
    ("weights", "usual"),
    [
        ([0.2, 0.2, 0.2, 0.2], True),
        ([0.13, 0.09, 0.3, 0.3], True),  # of 0.82, more than a fourth
        ([0.06, 0.12, 0.3, 0.3], False),
        ([0.0, 0.0, 0.5, 0.5], False),
        ([-0.1, 0.1, 0.5, 0.5], False),
        ([-0.2, -0.1, 0.5, 0.5], False),
        ([0.4, -0.05, -0.05, 0.1], True),
    ],
)
def test_first_weights_of_less_than_half_their_share(weights: list[float], usual: bool) -> None:
    """They would be multiplied by more than two, or minus something: all are equal then."""
    state = dataclasses.replace(
        weight_sharing_init("shared", 4, period=1), batches=1, age=1, weights=np.array(weights)
    )
    v, _ = weight_sharing_step(state, np.ones((2, 3)), np.ones((2, 5)), DAMPING)
    total = sum(weights)
    expected = truncated(np.array(weights), 2) if usual else np.full(2, total / 2)
    np.testing.assert_allclose(v, expected, rtol=1e-14)
    np.testing.assert_allclose(np.sum(v), total, rtol=1e-14)


def test_the_share_of_each_of_a_stack(rng: np.random.Generator) -> None:
    weights = np.array([[0.3, 0.3, 0.1], [0.0, 0.0, 0.9]])
    state = dataclasses.replace(
        weight_sharing_init("shared", 3, period=1), batches=1, age=1, weights=weights
    )
    v, _ = weight_sharing_step(
        state, *layer(rng, (2, 2, 4), 5, "float64"), DAMPING, positions=False
    )
    np.testing.assert_allclose(v, [[0.35, 0.35], [0.45, 0.45]], rtol=1e-14)


# --------------------------------------------------------------------------------- diagnosis


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_the_cosine_of_a_step(dtype: str) -> None:
    """Between the directions of the weights given and of exact ones; 1 for exact ones."""
    data = batches([8, 8, 5, 8], dtype)
    state = weight_sharing_init("every", M, period=3)
    for i, (a, g) in enumerate(data):
        v, state = weight_sharing_step(state, a, g, DAMPING, diagnose=True)
        own = own_weights(a, g)
        x, y = (gradients(a, g) @ wide(weights) for weights in (v, own))
        expected = float(np.sum(np.conj(x) * y).real / (norm(x) * norm(y)))
        assert np.shape(state.cosine) == ()
        assert state.cosine.dtype == REAL[dtype]
        allowed = 8 * M * U[dtype] * norm(narrow(sample_gram(a, g))) * norm(v) * norm(own)
        assert abs(state.cosine - expected) <= allowed / (norm(x) * norm(y))
        assert state.cosine == pytest.approx(weighted_cosine(sample_gram(a, g), v, own))
        if i in (0, 3):
            assert abs(state.cosine - 1) <= 8 * M * U[dtype]
        else:
            assert state.cosine < 0.999


def test_a_cosine_is_of_one_step_only() -> None:
    a, g = batches([M])[0]
    state = started(diagnose=True)
    assert np.shape(state.cosine) == ()
    assert not isinstance(state.cosine, tuple)
    v, other = weight_sharing_step(state, a, g, DAMPING)
    assert other.cosine == ()
    again, diagnosed = weight_sharing_step(state, a, g, DAMPING, diagnose=True)
    assert not isinstance(diagnosed.cosine, tuple)
    np.testing.assert_array_equal(again, v)


def test_a_diagnosis_computes_and_keeps_nothing_else(rng: np.random.Generator) -> None:
    states = [started(diagnose=diagnose) for diagnose in (False, True)]
    a, g = layer(rng, (M, 4), 5, "float64")
    after = [
        weight_sharing_step(state, a, g, DAMPING, diagnose=diagnose)[1]
        for state, diagnose in zip(states, (False, True))
    ]
    fields = [{**dataclasses.asdict(state), "cosine": ()} for state in after]
    np.testing.assert_equal(*fields)


@pytest.mark.parametrize("options", [{}, {"relative": False}])
def test_gradients_of_zero(options: dict[str, Any]) -> None:
    """1 / M, and no cosine: there is no direction."""
    (a, g), state = batches([M])[0], weight_sharing_init("exact", M)
    for pair in ((0 * a, g), (a, 0 * g)):
        v, after = weight_sharing_step(state, *pair, DAMPING, diagnose=True, **options)
        np.testing.assert_allclose(v, 1 / M, rtol=1e-15)
        assert np.isnan(after.cosine)


def test_one_sample() -> None:
    """v = 1 / (1 + 1 / damping), for the relative damping of one sample."""
    state = weight_sharing_init("shared", 1, period=1)
    a, g = batches([1])[0]
    for _ in range(2):
        v, state = weight_sharing_step(state, a, g, 0.25, diagnose=True)
        np.testing.assert_allclose(v, [0.2], rtol=1e-15)
        np.testing.assert_allclose(state.cosine, 1, rtol=1e-15)


def test_units_of_the_damping() -> None:
    a, g = batches([M])[0]
    state = weight_sharing_init("exact", M)
    v, _ = weight_sharing_step(state, a, g, 0.3, relative=False)
    np.testing.assert_array_equal(
        v, sample_weights(sample_gram(a, g), 0.3, relative=False, normalized=True)
    )


def test_where_weights_are_shared_nothing_else_is_looked_at() -> None:
    a, g = batches([M])[0]
    state = started()
    v, _ = weight_sharing_step(state, a * np.nan, g, -1.0)
    np.testing.assert_array_equal(v, state.weights)
    with pytest.raises(ValueError, match=r"`damping` is -1\.0"):
        weight_sharing_step(state, a, g, -1.0, diagnose=True)
    with pytest.raises(ValueError, match="contain NaN or Inf"):
        weight_sharing_step(state, a * np.nan, g, DAMPING, diagnose=True)


# ------------------------------------------------------------------------------------ states


def test_states_are_values() -> None:
    """An old one can be used again, and gives what it gave."""
    first, second = batches([M, M])
    state = weight_sharing_init("every", M, period=2)
    _, later = weight_sharing_step(state, *first, DAMPING)
    before = dataclasses.asdict(later)
    runs = [weight_sharing_step(later, *second, DAMPING, diagnose=True) for _ in range(2)]
    np.testing.assert_equal(dataclasses.asdict(later), before)
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_equal(*(dataclasses.asdict(after) for _, after in runs))
    assert state.weights == ()
    assert state.batches == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.batches = 1  # type: ignore[misc]


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_saved_state_goes_on(policy: str) -> None:
    period = None if policy == "exact" else 2
    state = weight_sharing_init(policy, M, period=period)
    for batch in batches([M, M, 5, M, M]):
        saved = dataclasses.asdict(state)
        copies = [state, WeightSharing(**saved)]
        results = [weight_sharing_step(s, *batch, DAMPING, diagnose=True) for s in copies]
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_equal(*(dataclasses.asdict(after) for _, after in results))
        _, state = results[0]


# --------------------------------------------------------------------------------- libraries


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(6, 4), (2, 6, 3, 4)], ids=str)
@pytest.mark.parametrize("policy", list(POLICIES))
def test_steps_on_every_library(
    backend: Backend,
    dtype: str,
    policy: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    """Three full batches and a short one."""
    needs(backend, dtype)
    axis = -2 if len(shape) == 2 else -3
    data = [layer(rng, shape, 5, dtype) for _ in range(3)]
    data.append(tuple(np.take(x, range(4), axis=axis) for x in data[0]))  # type: ignore[arg-type]

    def run(data: Any, **options: Any) -> Any:
        state = weight_sharing_init(policy, 6, period=None if policy == "exact" else 2)
        steps = []
        for a, g in data:
            v, state = weight_sharing_step(
                state, a, g, 0.1, positions=len(shape) > 2, diagnose=True, **options
            )
            steps.append([v, state.cosine])
        return steps

    on = backend.asarray([list(pair) for pair in data])
    check = not backend.name.startswith("strict")  # which allows one read in all
    steps = backend.call(run, on, check=check)
    widest = "complex128" if dtype.startswith("complex") else "float64"
    reference = run([[x.astype(widest) for x in pair] for pair in data])
    tolerance = 100 * U[dtype] * (1 + 1 / (6 * 0.1))
    for (v, cosine), (expected, angle) in zip(steps, reference):
        options = {"like": on[0][0], "tolerance": tolerance}
        backend.assert_matches(v, expected, dtype=dtype, **options)
        backend.assert_matches(cosine, np.asarray(angle), dtype=REAL[dtype], **options)


def test_a_state_is_a_pytree_of_jax() -> None:
    """It goes in and out of compiled functions; its schedule is static."""
    jax = pytest.importorskip("jax")
    backend = BACKENDS["jax"]()
    first, second = (backend.asarray(batch) for batch in batches([M, M], "float32"))

    @jax.jit
    def step(state: WeightSharing, a: Any, g: Any) -> Any:
        return weight_sharing_step(state, a, g, DAMPING)

    state = weight_sharing_init("every", M, period=2)
    v, state = step(state, *first)
    shared, state = step(state, *second)
    np.testing.assert_array_equal(shared, v)
    assert (state.policy, state.M, state.period, state.layer) == ("every", M, 2, (4, 5))
    assert (state.batches, state.age) == (2, 2)
    assert state.cosine == ()


def test_a_state_is_a_pytree_of_torch() -> None:
    torch = pytest.importorskip("torch")
    backend = BACKENDS["torch"]()
    state = weight_sharing_init("every", M, period=2)
    _, state = weight_sharing_step(state, *backend.asarray(batches([M])[0]), DAMPING)
    doubled = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: 2 * x, state)
    torch.testing.assert_close(doubled.weights, 2 * state.weights)
    assert (doubled.policy, doubled.batches, doubled.layer) == ("every", 1, (4, 5))


def test_kept_weights_have_no_graph() -> None:
    """What torch would keep alive, and could not go through a second time."""
    torch = pytest.importorskip("torch")
    a = torch.ones((4, 3), requires_grad=True)
    g = torch.eye(4, 2)
    state = weight_sharing_init("every", 4, period=3)
    for due in (True, False, False):
        v, state = weight_sharing_step(state, a, g, 0.01, diagnose=True)
        assert v.requires_grad == due
        weighted_gradient(a, g, v).sum().backward()
    assert not state.weights.requires_grad
    assert not state.cosine.requires_grad
    dataclasses.asdict(state)


def test_weights_are_no_view_of_the_state(rng: np.random.Generator) -> None:
    a, g = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    state = weight_sharing_init("every", 4, period=3)
    for _ in range(2):
        v, state = weight_sharing_step(state, a, g, 0.01)
        kept = state.weights.copy()
        v *= 0
        np.testing.assert_array_equal(state.weights, kept)


def test_half_precision() -> None:
    a, g = batches([M], "float16")[0]
    v, state = weight_sharing_step(weight_sharing_init("exact", M), a, g, DAMPING, diagnose=True)
    assert (v.dtype, state.cosine.dtype) == ("float32", "float32")
    expected = own_weights(a.astype("float64"), g.astype("float64"))
    assert relative(v, expected) <= 100 * U["float32"] * (1 + 1 / (M * DAMPING))


# --------------------------------------------------------------------------------- bad input

WRONG_STATES: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "policy": (ValueError, r"`policy` is 'median'; it must be one of", {"policy": "median"}),
    "policy None": (ValueError, r"`policy` is None; it must be one of", {"policy": None}),
    "policy, list": (ValueError, r"`policy` is \['exact'\]", {"policy": ["exact"]}),
    "period missing": (ValueError, r"`period` is missing; 'every' needs", {"period": None}),
    "period of shared missing": (
        ValueError,
        r"`period` is missing; 'shared' needs the number of batches of the first epoch",
        {"policy": "shared", "period": None},
    ),
    "period useless": (ValueError, r"`period` is 3, .*leave it away", {"policy": "exact"}),
    "period 0": (ValueError, r"`period` is 0; it must be 1 or more", {"period": 0}),
    "period -1": (ValueError, r"`period` is -1; it must be 1 or more", {"period": -1}),
    "period 2.0": (TypeError, r"`period` is 2.0; it must be an integer", {"period": 2.0}),
    "period True": (TypeError, r"`period` is True; it must be an integer", {"period": True}),
    "M 0": (ValueError, r"`M` is 0; it must be 1 or more", {"M": 0}),
    "M 8.0": (TypeError, r"`M` is 8.0; it must be an integer", {"M": 8.0}),
    "M None": (TypeError, r"`M` is None; it must be an integer", {"M": None}),
}


def test_policies_are_those_of_the_type() -> None:
    assert get_args(Policy) == tuple(POLICIES)


@pytest.mark.parametrize("wrong", list(WRONG_STATES))
def test_wrong_states(wrong: str) -> None:
    kind, says, changes = WRONG_STATES[wrong]
    with pytest.raises(kind, match=says) as caught:
        weight_sharing_init(**{"policy": "every", "M": M, "period": 3, **changes})
    assert caught.type is kind


A, G = batches([M])[0]
LONG, LONG_G = batches([M + 1])[0]

WRONG_STEPS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "state, dict": (TypeError, r"`state` is a dict; it must come from", {"state": {}}),
    "state, None": (TypeError, r"`state` is a NoneType; it must come from", {"state": None}),
    "more samples": (
        ValueError,
        r"`inputs` has 9 samples; `state` was made for batches of 8.*weight_sharing_init",
        {"inputs": LONG, "output_gradients": LONG_G},
    ),
    "other inputs": (
        ValueError,
        r"\(3, 5\), `state` of one of \(4, 5\); keep a state for each layer",
        {"inputs": A[:, :3]},
    ),
    "other outputs": (
        ValueError,
        r"\(4, 2\), `state` of one of \(4, 5\)",
        {"output_gradients": G[:, :2]},
    ),
    "other stack": (
        ValueError,
        r"\(1, 4, 5\), `state` of one of \(4, 5\)",
        {"inputs": A[None], "output_gradients": G[None], "positions": False},
    ),
    "library": (
        TypeError,
        r"`inputs` is a array_api_strict array but `state` is a numpy array",
        {"inputs": strict_array(A), "output_gradients": strict_array(G)},
    ),
    "samples": (ValueError, r"must be of the same samples", {"inputs": A[:5]}),
    "integers": (TypeError, r"`inputs` has dtype int64", {"inputs": A.astype(int)}),
}


@pytest.mark.parametrize("diagnose", [False, True])
@pytest.mark.parametrize("wrong", list(WRONG_STEPS))
def test_wrong_steps(wrong: str, diagnose: bool) -> None:
    """Also where weights are shared."""
    kind, says, changes = WRONG_STEPS[wrong]
    arguments = {"inputs": A, "output_gradients": G, "damping": DAMPING, **changes}
    arguments = {"state": started(), **arguments}
    with pytest.raises(kind, match=says) as caught:
        weight_sharing_step(**arguments, diagnose=diagnose)
    assert caught.type is kind


WRONG_VALUES: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "inputs, NaN": (ValueError, r"`inputs` or .* contain NaN or Inf", {"inputs": A * np.nan}),
    "gradients, Inf": (
        ValueError,
        r"`output_gradients` contain NaN or Inf",
        {"output_gradients": np.where(G > 1, np.inf, G)},
    ),
    "damping 0": (ValueError, r"`damping` is 0.0; it must be positive", {"damping": 0}),
    "damping NaN": (ValueError, r"`damping` is nan", {"damping": np.nan}),
    "damping None": (TypeError, r"`damping` is None", {"damping": None}),
    "damping 0-d": (ValueError, r"`damping` holds values", {"damping": np.asarray(-1.0)}),
    "damping shape": (ValueError, r"`damping` has shape \(8,\)", {"damping": np.ones(M)}),
}


@pytest.mark.parametrize("wrong", list(WRONG_VALUES))
def test_wrong_values(wrong: str) -> None:
    """Where weights are computed."""
    kind, says, changes = WRONG_VALUES[wrong]
    arguments = {"inputs": A, "output_gradients": G, "damping": DAMPING, **changes}
    with np.errstate(invalid="ignore"), pytest.raises(kind, match=says) as caught:
        weight_sharing_step(weight_sharing_init("exact", M), **arguments)
    assert caught.type is kind


def test_values_are_looked_at_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    bad, g = valued_backend.asarray([x.astype(real) for x in (A * np.nan, G)])
    state = weight_sharing_init("every", M, period=2)
    with np.errstate(invalid="ignore"):
        with pytest.raises(ValueError, match="`inputs` or `output_gradients` contain NaN or Inf"):
            weight_sharing_step(state, bad, g, DAMPING)
        v, _ = weight_sharing_step(state, bad, g, DAMPING, check=False)
        assert np.all(np.isnan(valued_backend.numpy(v)))


def test_a_state_on_another_device() -> None:
    here, there = (
        [strict_array(x, device=Device(name)) for x in (A, G)] for name in ("device1", "device2")
    )
    _, state = weight_sharing_step(weight_sharing_init("exact", M), *here, DAMPING)
    with pytest.raises(ValueError, match=r"`inputs` is on device .*device2.* but `state` is on"):
        weight_sharing_step(state, *there, DAMPING)


def test_one_flag_is_read_with_checks_and_none_without() -> None:
    """And none where weights are shared."""
    a, g = (strict_array(x, device=Device("device1")) for x in (A, G))
    for check in (False, True):
        state = weight_sharing_init("shared", M, period=1)
        for diagnose, expected in ((True, check), (False, False), (True, check)):
            with counted_host_reads() as reads:
                _, state = weight_sharing_step(state, a, g, DAMPING, diagnose=diagnose, check=check)
            assert len(reads) == expected

"""Dataclasses as pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import fields_of
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend.pytrees import array_fields, mapped, register_pytree

D, ROWS, L = 4, 6, 3
STRUCTURES = ("upper-triangular", "diagonal")
OPTIONS: dict[str, Any] = {"damping": 0.1, "step_size": 0.1, "momentum": 0.5, "check": False}


def test_a_dataclass_becomes_a_pytree_of_jax() -> None:
    jax = pytest.importorskip("jax")

    @register_pytree(static=("name",))
    @dataclasses.dataclass(frozen=True, eq=False)
    class Pair:
        array: Any
        name: str

    pair = jax.jit(lambda p: Pair(p.array + 1, p.name))(Pair(np.zeros(2), "x"))
    assert pair.name == "x"
    np.testing.assert_array_equal(pair.array, [1, 1])


def state_of(X: Any, batch: tuple[int, ...] = ()) -> ngdla.InverseFreeState:
    start = ngdla.inverse_free_init(D, D, structures=STRUCTURES, like=X, batch=batch)
    return after(start, X)


def after(state: ngdla.InverseFreeState, X: Any) -> ngdla.InverseFreeState:
    statistics = ngdla.inverse_free_statistics(state, X, 2 * X, positions=False, check=False)
    return ngdla.inverse_free_update(state, statistics, **OPTIONS)


def moment(X: Any) -> Any:
    return X.mT @ X


def squares(state: Any) -> Any:
    """Return a state in which signs, which eigenvectors may have either way, do not show."""
    return mapped(lambda x: x * x, state)


# What makes each kind of state from samples, and what is then done with it and other samples.
KINDS: dict[str, tuple[Callable[..., Any], Callable[[Any, Any], Any]]] = {
    "InverseFreeState": (state_of, after),
    "InverseFreeStatistics": (
        lambda X, batch=(): ngdla.inverse_free_statistics(
            state_of(X, batch), X, X, positions=False, check=False
        ),
        lambda statistics, X: statistics + statistics,
    ),
    "InverseFreeReport": (
        lambda X, batch=(): state_of(X, batch).report,
        lambda report, X: report.bound_K * X[..., 0, 0],
    ),
    "StructuredMatrix": (
        lambda X, batch=(): state_of(X, batch).K,
        lambda K, X: (K @ K).inverse().square_matmul(X.mT),
    ),
    "OnlineEigh": (
        lambda X, batch=(): ngdla.online_eigh_init(X, 2, check=False),
        lambda state, X: squares(ngdla.online_eigh_update(state, X, decay=0.5, check=False)),
    ),
    "LowRankEigh": (
        lambda X, batch=(): ngdla.randomized_eigh(moment(X), 2, check=False),
        lambda eigh, X: eigh.solve(X.mT, 0.5, check=False),
    ),
    "NystromFactor": (
        lambda X, batch=(): ngdla.nystrom_factor(moment(X), 2, check=False),
        lambda factor, X: factor.solve(X.mT, 0.5, check=False),
    ),
}


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((L, ROWS, D))


def close(found: Any, expected: Any) -> None:
    mapped(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), found, expected)


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    mapped(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_no_sequences(kind: str, samples: np.ndarray) -> None:
    """So that nobody unpacks them by order, and no optimiser takes them for lists."""
    state: Any = KINDS[kind][0](samples[0])
    assert type(state).__name__ == kind
    for wrong in (iter, len, list, lambda x: x[0]):
        with pytest.raises(TypeError):
            wrong(state)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(state, dataclasses.fields(state)[0].name, None)
    assert not hasattr(state, "_replace")
    names = array_fields(state)
    assert names is not None
    same(dataclasses.replace(state, **{n: getattr(state, n) for n in names}), state)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_taken_apart_and_put_together(
    library: str, kind: str, samples: np.ndarray
) -> None:
    state = KINDS[kind][0](samples[0])
    if library == "jax":
        tree = pytest.importorskip("jax").tree_util
    else:
        tree = pytest.importorskip("torch.utils._pytree")
    leaves, structure = tree.tree_flatten(state)
    assert leaves
    assert not any(x is None for x in leaves)
    parts = (structure, leaves) if library == "jax" else (leaves, structure)
    same(tree.tree_unflatten(*parts), state)
    same(tree.tree_map(lambda x: x, state), state)
    paths, again = tree.tree_flatten_with_path(state)
    assert again == structure
    assert len({str(path) for path, _ in paths}) == len(leaves)
    assert all(x is y for x, (_, y) in zip(leaves, paths, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_mapped_by_torch(kind: str, samples: np.ndarray) -> None:
    """A stack of states, the states of a batch, and one after the other: the same."""
    torch = pytest.importorskip("torch")
    make, use = KINDS[kind]
    X = torch.asarray(samples)
    one_by_one = [make(x) for x in X]
    stack = torch.utils._pytree.tree_map(lambda *xs: torch.stack(xs), *one_by_one)
    batched = make(X, (L,))
    close(batched, stack)
    found = torch.func.vmap(use)(stack, X)
    close(found, use(stack, X))
    close(torch.func.vmap(use)(batched, X), use(batched, X))
    looped = [use(state, x) for state, x in zip(one_by_one, X)]
    close(found, torch.utils._pytree.tree_map(lambda *xs: torch.stack(xs), *looped))


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_mapped_by_jax(kind: str, samples: np.ndarray) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    make, use = KINDS[kind]
    batched = make(samples, (L,))
    found = jax.jit(jax.vmap(use))(batched, samples)
    close(jax.tree.map(np.asarray, found), use(batched, samples))


def test_absent_parts_are_no_leaves(samples: np.ndarray) -> None:
    state = ngdla.inverse_free_init(D, D, like=samples, momentum=False)
    parts = fields_of(state)
    assert parts[2:6] == [(), (), (), ()]
    assert not any(x is None for x in parts)
    tree = pytest.importorskip("torch.utils._pytree")
    assert len(tree.tree_leaves(state)) == 2 + 1 + 7  # factors, the step, and the report

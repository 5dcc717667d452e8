"""Trees are taken apart and put together again, by the library of their arrays."""

from __future__ import annotations

import collections
import dataclasses
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from backends import Backend

from ngdla._backend.trees import holds_arrays, tree_leaves


class Layer(NamedTuple):
    weight: Any
    bias: Any


def tree(backend: Backend) -> Any:
    one, two, three, four = (backend.asarray(np.full((2,), float(i), "float32")) for i in range(4))
    return {"b": Layer(one, [two]), "a": (three, collections.OrderedDict(z=four))}


def test_a_tree_is_what_it_was(backend: Backend) -> None:
    given = tree(backend)
    leaves, form = tree_leaves(given)
    assert len(leaves) == 4
    again = form.with_leaves(leaves)
    assert again["b"].bias[0] is given["b"].bias[0]
    assert isinstance(again["b"], Layer)
    assert isinstance(again["a"][1], collections.OrderedDict)
    assert again["a"][1]["z"] is given["a"][1]["z"]


def test_paths_name_the_leaves(backend: Backend) -> None:
    leaves, form = tree_leaves(tree(backend))
    places = {"weight": 0, "['b'][0]": 0, "['z']": 3}
    for leaf, path in zip(leaves, form.paths, strict=True):
        for end, number in places.items():
            if path.endswith(end) and backend.has_values:
                assert float(backend.numpy(leaf)[0]) == number


def test_trees_of_one_form_are_equal(backend: Backend) -> None:
    (_, one), (leaves, other) = tree_leaves(tree(backend)), tree_leaves(tree(backend))
    assert one == other
    assert hash(one) == hash(other)
    assert one.leaves_of(other.with_leaves(leaves)) is not None
    for wrong in ({"b": leaves[0]}, leaves, leaves[0], {1: leaves[0], "b": leaves[1]}, None):
        assert one.leaves_of(wrong) is None


def test_a_form_is_pickled() -> None:
    _, form = tree_leaves({"a": [np.ones(2)], "b": (np.ones(3),)})
    assert pickle.loads(pickle.dumps(form)) == form


def test_the_order_of_a_dict_is_that_of_its_library() -> None:
    leaves, _ = tree_leaves({"b": np.ones(1), "a": np.zeros(1)})
    assert [float(leaf[0]) for leaf in leaves] == [0.0, 1.0]
    torch = pytest.importorskip("torch")
    leaves, _ = tree_leaves({"b": torch.ones(1), "a": torch.zeros(1)})
    assert [float(leaf[0]) for leaf in leaves] == [1.0, 0.0]


def test_dicts_in_another_order_are_of_the_same_form(backend: Backend) -> None:
    one, two = (backend.asarray(np.ones(2, "float32")) for _ in range(2))
    _, form = tree_leaves({"b": one, "a": one})
    leaves = form.leaves_of({"a": one, "b": two})
    assert leaves is not None
    assert leaves[form.paths.index("['b']")] is two


def test_keys_that_cannot_be_sorted_stay_in_their_order() -> None:
    leaves, form = tree_leaves({"b": np.ones(1), 0: np.zeros(1)})
    assert [float(leaf[0]) for leaf in leaves] == [1.0, 0.0]
    assert list(form.with_leaves(leaves)) == ["b", 0]


def test_what_holds_arrays_is_seen_at_its_first_leaf() -> None:
    assert holds_arrays({"a": [None, (np.ones(1),)], "b": 1.0})
    deep: Any = np.ones(1)
    for _ in range(10_000):
        deep = [deep]
    for wrong in ({}, [], [1.0, np.ones(1)], {"a": None}, "a", iter([]), deep, None, {1.0}):
        assert not holds_arrays(wrong)


def test_a_container_of_another_class_holds_arrays_wherever_it_is() -> None:
    jax = pytest.importorskip("jax")

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Module:
        weight: Any

    module = Module(jax.numpy.ones(2))
    for one in (module, {"net": module}, [module], ({"net": [module]},)):
        assert holds_arrays(one)
        leaves, _ = tree_leaves(one)
        assert leaves[0] is module.weight
    assert not holds_arrays({"net": Module("name")})


def test_a_dict_with_defaults_is_put_together() -> None:
    given = collections.defaultdict(list, b=np.ones(1), a=np.zeros(1))
    leaves, form = tree_leaves(given)
    again = form.with_leaves(leaves)
    assert again == given
    assert again.default_factory is list
    assert form.leaves_of(given) is not None


def test_containers_that_hold_themselves_are_no_tree(backend: Backend) -> None:
    one = backend.asarray(np.ones(1, "float32"))
    endless: dict[str, Any] = {"a": one}
    endless["b"] = endless
    with pytest.raises(RecursionError):
        tree_leaves(endless)
    assert tree_leaves({"a": one})[1].leaves_of(endless) is None

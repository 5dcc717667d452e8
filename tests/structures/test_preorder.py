"""Reflexive and transitive relations: what they are checked for, and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patterns import closure, diagonal_blocks, random_preorder
from spectra import refused

from ngdla.structures.preorder import Preorder


@st.composite
def preorders(draw: Any) -> np.ndarray:
    d = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return random_preorder(rng, d, draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])))


@given(preorders())
def test_what_a_preorder_says(mask: np.ndarray) -> None:
    """Each property is that of the table of truth values."""
    d = len(mask)
    relation = Preorder.of(mask)
    assert relation.size == d
    np.testing.assert_array_equal(relation.pattern, mask)
    np.testing.assert_array_equal(relation.weights, mask * (2.0 - mask.T))
    assert relation.is_total == bool(np.all(mask | mask.T))
    groups = {tuple(group) for group in relation.groups}
    assert groups == {tuple(map(int, J)) for J in diagonal_blocks(mask)}
    for j in range(d):
        np.testing.assert_array_equal(relation.support(j), np.flatnonzero(mask[:, j]))


@given(preorders())
def test_products_keep_the_pattern(mask: np.ndarray) -> None:
    assert not np.any((mask.astype(int) @ mask > 0) & ~mask)
    np.testing.assert_array_equal(closure(mask), mask)


@given(st.permutations(range(8)), st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_total_relations_are_ordered(order: list[int], levels: list[int]) -> None:
    """In that order they are block upper triangular, and indices of one group are neighbours."""
    level = np.asarray(levels)[order]
    mask = level[:, None] <= level
    relation = Preorder.of(mask)
    assert relation.is_total
    sorted_ = mask[np.ix_(relation.order, relation.order)]
    assert np.all(np.triu(sorted_) == np.triu(np.ones((8, 8), bool)))
    assert list(level[relation.order]) == sorted(level)


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_the_first_pair_that_is_missing_is_named(d: int, seed: int) -> None:
    """A random table is refused if and only if it differs from its closure."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((d, d)) < 0.3) | np.eye(d, dtype=bool)
    missing = closure(mask) & ~mask
    if not missing.any():
        Preorder.of(mask)
        return
    text = refused(ValueError, "mask", lambda: Preorder.of(mask))
    named = [tuple(map(int, pair.split(", "))) for pair in _pairs(text)]
    (i, middle), (same, j), (i_, j_) = named
    assert (i, middle, j) == (i_, same, j_)
    assert mask[i, middle] and mask[middle, j] and not mask[i, j]  # noqa: PT018
    two_steps = (mask.astype(int) @ mask > 0) & ~mask
    assert i == np.flatnonzero(two_steps.any(axis=1))[0]


def _pairs(text: str) -> list[str]:
    return [part.split(")")[0] for part in text.split("(")[1:]]


def test_equal_relations_are_equal() -> None:
    table = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    relations = [Preorder.of(x) for x in (table, np.array(table), np.array(table, bool))]
    assert len({hash(relation) for relation in relations}) == 1
    assert relations[0] == relations[1] == relations[2] == Preorder((5, 2, 4))


WRONG: dict[str, Any] = {
    "not square": [[1, 0]],
    "ragged": [[1, 0], [1]],
    "empty": [],
    "empty array": np.ones((0, 0)),
    "vector": [1, 1],
    "number": 3,
    "batch": np.ones((2, 2, 2)),
    "no booleans": [[1, 2], [0, 1]],
    "names": [["1"]],
    "NaN": [[np.nan]],
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_masks(wrong: str) -> None:
    refused(ValueError, "mask", lambda: Preorder.of(WRONG[wrong]))


def test_the_diagonal_must_be_held() -> None:
    text = refused(ValueError, "mask", lambda: Preorder.of([[1, 0], [0, 0]]))
    assert "(1, 1) is missing" in text

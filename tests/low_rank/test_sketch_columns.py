"""Columns to start from and fresh ones: which there are, of which shape, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import random_array
from spectra import needs, refused

from ngdla._backend.random import gaussian
from ngdla.low_rank.sketch_columns import (
    gaussian_columns,
    require_basis,
    require_rng,
    sketch_columns,
)

D = 9


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("known", "start", "fresh"), [(0, 4, 2), (3, 4, 2), (3, 3, 2), (5, 4, 0), (0, 0, 3), (0, 20, 0)]
)
def test_blocks(
    backend: Backend, dtype: str, batch: tuple[int, ...], known: int, start: int, fresh: int
) -> None:
    """The basis comes first, then columns of norm about 1; fresh ones are standard normal."""
    needs(backend, dtype)
    like = backend.asarray(np.zeros((*batch, D, D), dtype))
    basis = random_array(np.random.default_rng(1), (*batch, D, known), dtype)
    options: dict[str, Any] = {"shape": (*batch, D), "dtype": dtype}

    def run(like: Any, basis: Any) -> list[Any]:
        found = sketch_columns(basis if known else None, 3, start, fresh, like=like, **options)
        return [x for x in found if x is not None]

    found = backend.call(run, like, backend.asarray(basis) if known else like)
    fill = max(0, min(start, D) - known)
    drawn = gaussian(3, (D, fill + fresh), np.zeros(1), dtype)
    stacked = np.broadcast_to(drawn, (*batch, *drawn.shape))
    first = np.concatenate([basis, stacked[..., :fill] / D**0.5], axis=-1)
    expected = [x for x in (first, stacked[..., fill:]) if x.shape[-1]]
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        backend.assert_matches(one, other, like=like, dtype=dtype, tolerance=1e-6)


def test_nothing_is_drawn_where_nothing_is_missing() -> None:
    """Neither from the Generator nor from a test matrix, whose width is then not looked at."""
    rng, basis = np.random.default_rng(0), np.eye(D, 4)
    before = rng.bit_generator.state
    found = sketch_columns(basis, rng, 3, 0, like=basis, shape=(D,), dtype="float64")
    assert found.start is basis
    assert found.fresh is None
    assert rng.bit_generator.state == before


def test_a_generator_moves_on_and_a_seed_does_not() -> None:
    options: dict[str, Any] = {"like": np.zeros(1), "shape": (D,), "dtype": "float32"}
    for rng, same in ((4, True), (np.random.default_rng(4), False)):
        one, other = (gaussian_columns(rng, 3, **options) for _ in range(2))
        assert np.array_equal(one, other) is same


def test_a_test_matrix_is_taken_in_the_dtype_of_the_work(dtype: str) -> None:
    """Also one for each matrix of a batch."""
    for shape in ((D, 2), (3, D, 2)):
        given = random_array(np.random.default_rng(2), shape, "float32")
        found = gaussian_columns(given, 2, like=np.zeros(1), shape=(3, D), dtype=dtype)
        np.testing.assert_array_equal(found, np.broadcast_to(given, (3, D, 2)).astype(dtype))


def test_a_basis_is_taken_in_the_dtype_of_the_work() -> None:
    like = np.zeros((D, D))
    assert require_basis(None, like, (D,), "float64") is None
    basis = np.eye(D, 2, dtype="float32")
    found = require_basis(basis, like, (D,), "complex64")
    assert found is not None
    assert found.dtype == "complex64"


@pytest.mark.parametrize("rng", [0, np.int64(3), np.random.default_rng(0), np.ones((3, 2))])
def test_what_columns_can_be_drawn_from(rng: Any) -> None:
    require_rng(rng)


@pytest.mark.parametrize(
    ("rng", "kind"),
    [(-1, ValueError), (1.5, TypeError), (None, TypeError), (np.ones(3), ValueError)]
    + [(np.ones((3, 2), int), TypeError), (False, TypeError), ([1, 2], TypeError)],
)
def test_what_columns_cannot_be_drawn_from(rng: Any, kind: type[Exception]) -> None:
    refused(kind, "rng", lambda: require_rng(rng))

"""Matrices made of blocks, and parts of matrices, eagerly written into and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, random_array
from spectra import needs

from ngdla._backend.blocks import (
    add_to_middle,
    block_matrix,
    ends_replaced,
    in_one_row,
    scaled_copies,
    squared_columns,
)
from ngdla._backend.sums_together import add_multiples, add_to_multiples, multiples

BATCH = (2,)


def assembled(A: Any, B: Any, C: Any) -> Any:
    return block_matrix(((A, B), (None, C)))


def test_block_matrix(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    blocks = [random_array(rng, (*BATCH, *shape), dtype) for shape in ((2, 2), (2, 3), (4, 3))]
    exact = np.zeros((*BATCH, 6, 5), dtype)
    exact[:, :2, :2], exact[:, :2, 2:], exact[:, 2:, 2:] = blocks
    given = [backend.asarray(block) for block in blocks]
    found = backend.call(assembled, *given)
    backend.assert_matches(found, exact, like=given[0], dtype=dtype, tolerance=0)


def middle(total: Any, factor: Any, X: Any) -> Any:
    return add_to_middle(total + 0, 1, 4, factor, X)


def middle_rows(total: Any, factor: Any, X: Any) -> Any:
    return add_to_middle(total + 0, 1, 6, factor, X, axis=-2)


def test_sums_in_the_middle(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    total = random_array(rng, (*BATCH, 6, 5), dtype)
    for function, part, shape in (
        (middle, np.s_[:, :, 1:4], (2, 1, 3)),
        (middle_rows, np.s_[:, 1:], (2, 5, 1)),
    ):
        factor, X = random_array(rng, shape, dtype), random_array(rng, total[part].shape, dtype)
        exact = total.copy()
        exact[part] += factor * X
        given = [backend.asarray(x) for x in (total, factor, X)]
        found = backend.call(function, *given)
        backend.assert_matches(found, exact, like=given[0], dtype=dtype, tolerance=16 * U[dtype])


def replaced(total: Any, ends: Any, factor: Any) -> Any:
    return ends_replaced(total + 0, ends, 1, factor)


def replaced_rows(total: Any, ends: Any, factor: Any) -> Any:
    return ends_replaced(total + 0, ends, 1, factor, axis=-2)


def test_ends(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    total = random_array(rng, (*BATCH, 5, 5), dtype)
    ends, factor = random_array(rng, (*BATCH, 5, 3), dtype), random_array(rng, (2, 1, 2), dtype)
    exact = np.concatenate([ends[..., :1], total[..., 1:3] * factor, ends[..., 1:]], axis=-1)
    for function, turn in ((replaced, lambda x: x), (replaced_rows, lambda x: x.mT.copy())):
        given = [backend.asarray(turn(x)) for x in (total, ends, factor)]
        found = backend.call(function, *given)
        tolerance = 16 * U[dtype]
        backend.assert_matches(found, turn(exact), like=given[0], dtype=dtype, tolerance=tolerance)


def squares(X: Any) -> Any:
    return squared_columns(X + 0)


def test_squares(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    needs(backend, dtype)
    X = random_array(rng, (*BATCH, 6, 5), dtype)
    exact = (X.conj() * X).sum(axis=-2)
    given = backend.asarray(X)
    found = backend.call(squares, given)
    backend.assert_matches(found, exact, like=given, dtype=dtype, tolerance=32 * U[dtype])


def copies(A: Any, b: Any) -> Any:
    return scaled_copies([A[..., :2, 1:], A[..., 3:, :2]], [1.0, 2.0], b)


def row(A: Any, b: Any) -> Any:
    return in_one_row([A[..., 1, :2], A[..., 0, 1:], b])


@pytest.mark.parametrize("batch", [(), BATCH], ids=str)
def test_copies_and_rows(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    needs(backend, dtype)
    A, b = random_array(rng, (*batch, 6, 5), dtype), random_array(rng, (*batch, 3), dtype)
    given = [backend.asarray(x) for x in (A, b)]
    found = backend.call(copies, *given)
    for x, exact in zip(found, (A[..., :2, 1:], 2 * A[..., 3:, :2], b), strict=True):
        backend.assert_matches(x, exact, like=given[0], dtype=dtype, tolerance=0)
    exact = np.concatenate([A[..., 1, :2], A[..., 0, 1:], b], axis=-1)
    found = backend.call(row, *given)
    backend.assert_matches(found, exact, like=given[0], dtype=dtype, tolerance=0)


def test_what_torch_takes_together_lies_in_memory_by_itself() -> None:
    torch = pytest.importorskip("torch")
    total = torch.arange(20.0, dtype=torch.float64).reshape(4, 5)
    first, second = scaled_copies([total[:2, :2], total[:, 1:]], [1.0, 2.0])
    assert first.is_contiguous()
    assert second.is_contiguous()
    assert torch.equal(second, 2 * total[:, 1:])
    pair, c = (first, second), torch.tensor(3.0, dtype=torch.float64)
    for factor in (3.0, c):
        expected = [x + 3 * x for x in pair]
        for made in (
            add_multiples(multiples(pair, 1.0), factor, pair),
            add_to_multiples(multiples(pair, 1.0), factor, pair),
        ):
            assert all(map(torch.equal, made, expected))
        assert all(map(torch.equal, multiples(pair, factor), [3 * x for x in pair]))

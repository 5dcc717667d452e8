"""Added axes, columns, chunks, and linear functions in the dtype that all promote to."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from references import random_array

from ngdla._backend import shapes


def test_added_axes(valued_backend: Backend) -> None:
    x = valued_backend.asarray(np.arange(6.0, dtype="float32").reshape(2, 3))
    assert tuple(shapes.expanded(x, 0).shape) == (2, 3)
    assert tuple(shapes.expanded(x, 2).shape) == (2, 3, 1, 1)
    assert shapes.expanded(0.5, 2) == 0.5
    columns = shapes.expanded(x, 1)
    assert shapes.as_given(columns, vector=False) is columns
    np.testing.assert_array_equal(
        valued_backend.numpy(shapes.as_given(columns, vector=True)), valued_backend.numpy(x)
    )


@pytest.mark.parametrize("axis", [-1, -2])
def test_joined(valued_backend: Backend, axis: int) -> None:
    parts = [np.full((2, 2), float(i), "float32") for i in range(3)]
    found = shapes.joined(valued_backend.asarray(parts), axis=axis)
    np.testing.assert_array_equal(valued_backend.numpy(found), np.concatenate(parts, axis=axis))
    (one,) = valued_backend.asarray(parts[:1])
    assert shapes.joined([one], axis=axis) is one


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(("length", "width", "batch"), [(10, 3, ()), (10, 3, (2,)), (1, 500, ())])
def test_spans_hold_at_most_a_chunk(
    dtype: str, length: int, width: int, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at least one row, all of them once; what is not copied is taken whole."""
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 200)
    assert list(shapes.spans(length, width, batch, dtype, copied=False)) == [None]
    spans = list(shapes.spans(length, width, batch, dtype, copied=True))
    rows = [slice(0, length)] if spans == [None] else spans
    assert [i for span in rows for i in range(length)[span]] == list(range(length))
    of_a_row = np.dtype(dtype).itemsize * width * int(np.prod(batch))
    for span in rows:
        count = len(range(length)[span])
        assert count * of_a_row <= 200 or count == 1


@pytest.mark.parametrize(
    ("matrix", "vector", "calls"),
    [
        ("float32", "float64", ["float64"]),
        ("float64", "complex64", ["float64", "float64"]),  # real factors are not made complex
        ("complex64", "float64", ["complex128"]),
        ("complex64", "complex64", ["complex64"]),
    ],
)
def test_linear_functions_in_a_common_dtype(
    matrix: str, vector: str, calls: list[str], rng: np.random.Generator
) -> None:
    A, V = random_array(rng, (3, 3), matrix), random_array(rng, (3, 2), vector)
    seen = []

    def product(A: np.ndarray, V: np.ndarray) -> np.ndarray:
        seen.append((A.dtype.name, V.dtype.name))
        return A @ V

    found = shapes.in_common_dtype(product, A, V)
    assert seen == [(name, name) for name in calls]
    assert found.dtype == np.result_type(A, V)
    np.testing.assert_allclose(found, A @ V, rtol=1e-5)

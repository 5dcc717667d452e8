"""Right-hand sides in every form that callers use."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from references import random_array
from spectra import quick_compilation  # noqa: F401

from ngdla._backend.dtypes import real_name
from ngdla.damped import right_hand_side as vectors
from ngdla.score_matrices.column_blocks import column_blocks
from ngdla.score_matrices.parameter_forms import ONE_ARRAY, BlockSequence


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_a_solution_leaves_as_the_right_hand_side_entered(
    backend: Backend, dtype: str, vector: bool, paired: bool, rng: np.random.Generator
) -> None:
    expected = "complex64" if paired else dtype
    x = random_array(rng, (2, 5, 1 if vector else 3), dtype)
    working = "float32" if paired else dtype
    layout = vectors.Layout(vector, paired, ONE_ARRAY, expected, working, working)
    like = backend.asarray(x)
    entered = layout.to_columns(like)
    backend.assert_kind(
        entered, like=like, dtype=working, shape=(2, 5, x.shape[-1] * (2 if paired else 1))
    )
    reference = x[..., 0] if vector else x
    backend.assert_matches(
        layout.from_columns((entered,)), reference, like=like, dtype=expected, tolerance=0
    )


def test_norms(valued_backend: Backend, rng: np.random.Generator) -> None:
    backend = valued_backend
    dtype = backend.dtypes[-1]
    x = random_array(rng, (9, 2), dtype)
    pieces = tuple(backend.asarray(part) for part in (x[:4], x[4:5], x[5:]))
    reference = np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(backend.numpy(vectors.column_norms(pieces)), reference, rtol=1e-6)
    working = real_name(dtype)
    layout = vectors.Layout(False, True, ONE_ARRAY, dtype, working, working)
    halves = layout.to_columns(backend.asarray(x))
    np.testing.assert_allclose(backend.numpy(layout.norm(halves)), reference, rtol=1e-6)


def test_pieces_keep_their_order(rng: np.random.Generator) -> None:
    blocks = column_blocks([rng.standard_normal((3, m)) for m in (2, 4)])
    v = (rng.standard_normal(2), rng.standard_normal(4))
    pieces, vector = vectors.parameter_vector(blocks, v, "v")
    assert vector
    assert [piece.shape for piece in pieces] == [(2, 1), (4, 1)]
    layout = vectors.Layout(True, False, BlockSequence(list, 2), "float64", "float64", "float64")
    assert layout.from_columns(pieces)[1].shape == (4,)


def test_square_right_hand_sides_are_matrices_where_their_shape_says_so() -> None:
    """An (m, k) with k = m is k right-hand sides; a batch (b, m) is one for each matrix."""
    stacked = column_blocks(np.ones((4, 3, 4)))
    assert vectors.parameter_vector(stacked, np.ones((4, 4)), "v")[1]
    assert not vectors.parameter_vector(stacked, np.ones((4, 4, 2)), "v")[1]
    single = column_blocks(np.ones((3, 4)))
    assert not vectors.parameter_vector(single, np.ones((4, 4)), "v")[1]

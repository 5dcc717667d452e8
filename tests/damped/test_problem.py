"""Checked arguments of a damped problem."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend

from ngdla.damped.problem import Options, damped_problem
from ngdla.damped.right_hand_side import LeastSquares
from ngdla.score_matrices.column_blocks import column_blocks


def test_the_problem_keeps_a_number_a_number(valued_backend: Backend) -> None:
    """A 0-d array would promote or synchronise; a Python float does neither."""
    dtype = valued_backend.dtypes[0]
    scores = column_blocks(valued_backend.asarray(np.ones((2, 3), dtype=dtype)))
    for damping in (1, 0.5, np.float32(0.5), np.float64(0.5), np.int64(2)):
        given = damped_problem(scores, damping, Options(), dtype)
        assert type(given.damping) is float


def test_the_problem_casts_a_damping_array(valued_backend: Backend) -> None:
    backend = valued_backend
    scores = column_blocks(backend.asarray(np.ones((4, 2, 3), dtype="complex64")))
    for damping in (np.asarray(0.5, dtype="float32"), np.full(4, 0.5, dtype="float32")):
        array = backend.asarray(damping)
        given = damped_problem(scores, array, Options(), "complex64")
        backend.assert_kind(given.damping, like=array, dtype="float32", shape=(4,))


def test_the_problem_scales_by_the_root_of_the_metric() -> None:
    scores = column_blocks(np.ones((2, 3)))
    given = damped_problem(scores, 1.0, Options(metric=np.array([1.0, 4.0, 16.0])), "float64")
    assert given.scores.scales is not None
    np.testing.assert_allclose(given.scores.scales[0][:, 0], [1.0, 0.5, 0.25])
    assert scores.scales is None


@pytest.mark.parametrize(
    ("S", "f", "dtype", "working"),
    [
        ("float32", "float32", "float32", "float32"),
        ("float32", "complex64", "complex64", "float32"),
        ("float32", "complex128", "complex128", "float64"),
        ("complex64", "float64", "complex128", "complex128"),
    ],
)
def test_layout(S: str, f: str, dtype: str, working: str) -> None:
    scores = column_blocks(np.ones((2, 3), dtype=S))
    layout = LeastSquares.checked(scores, np.ones(2, dtype=f), None).layout(scores)
    assert (layout.dtype, layout.working) == (dtype, working)
    assert layout.paired == (working != dtype)

"""Kronecker factors as they are given: what is read off them before they are used."""

from __future__ import annotations

import numpy as np
import pytest

from ngdla import kronecker_solve
from ngdla._backend.calls import ValueChecks
from ngdla.kronecker.factor import eigenbasis, kronecker_factor


def test_a_dense_factor_is_decomposed_and_a_pair_is_taken_as_it_is() -> None:
    V = np.ones((2, 3))
    A = np.diag([3.0, 1.0, 2.0])
    basis = eigenbasis(kronecker_factor(A, V, "A", 3), "A", ValueChecks(enabled=True))
    np.testing.assert_allclose(basis.eigenvalues, [1, 2, 3])
    assert basis.trace == 6
    values, vectors = np.array([3.0, 1.0]), np.eye(3, 2)
    pair = kronecker_factor((values, vectors), V, "A", 3)
    assert pair.eigenvalues is values
    assert pair.eigenvectors is vectors
    assert pair.tail == 0
    assert pair.trace == 4


@pytest.mark.parametrize("coupling", ["joint", "factored"])
def test_nan_in_either_triangle_and_negative_pairs_are_seen(coupling: str) -> None:
    V = np.ones((3, 3))
    for place in ((0, 1), (1, 0)):
        A = np.eye(3)
        A[place] = np.nan
        with pytest.raises(ValueError, match="`A` contains NaN or Inf"):
            kronecker_solve(A, np.eye(3), V, 1.0, coupling=coupling)
    with pytest.raises(ValueError, match="`G` is not positive semi-definite"):
        kronecker_solve(np.eye(3), (-np.ones(3), np.eye(3)), V, 0.1, coupling=coupling)

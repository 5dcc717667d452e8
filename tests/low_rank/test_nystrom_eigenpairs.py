"""Eigenpairs of a Nystrom approximation: from its root, from Y, and in descending order."""

from __future__ import annotations

import numpy as np
from references import H, U, narrow
from spectra import norm, orthonormal, power_law, psd

from ngdla.low_rank.nystrom_eigenpairs import in_descending_order, root_eigenpairs
from ngdla.low_rank.nystrom_root import nystrom_root

D = 20


def test_eigenpairs_of_a_root(dtype: str, rng: np.random.Generator) -> None:
    """Those of B B^H - shift, the shift taken off and negative ones cut off."""
    A, Q = psd(rng, power_law(D), dtype), orthonormal(rng, D, 6, dtype)
    root = nystrom_root(Q, A @ Q, U[dtype])
    values, V = root_eigenpairs(root, 4)
    assert values.shape == (6,)
    assert V.shape == (D, 4)
    B = narrow(root.B)
    exact = np.linalg.eigvalsh(B @ H(B))[: -6 - 1 : -1] - root.shift
    assert norm(values - exact) <= 8 * D * U[dtype] * norm(A)
    assert norm(B @ (H(B) @ V) - V * (values[:4] + root.shift)) <= 8 * D * U[dtype] * norm(A)


def test_descending() -> None:
    values, V = in_descending_order(np.array([[1.0, 2.0]]), np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    np.testing.assert_array_equal(values, [[2.0, 1.0]])
    np.testing.assert_array_equal(V, [[[2.0, 1.0], [4.0, 3.0]]])

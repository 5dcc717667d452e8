"""Test matrices: orthonormal, and equal on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Backend
from references import H, U

from ngdla._backend.random import orthonormal_columns


def test_orthonormal_columns(backend: Backend, dtype: str) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    like = backend.asarray(np.zeros(2, dtype))

    def drawn(like: Any) -> Any:
        return orthonormal_columns(5, (2, 9, 4), like, dtype)

    Q = backend.call(drawn, like)
    reference = orthonormal_columns(5, (2, 9, 4), np.zeros(1), dtype)
    backend.assert_matches(Q, reference, like=like, dtype=dtype, tolerance=0.0)
    gram = H(reference.astype("complex128")) @ reference
    assert np.abs(gram - np.eye(4)).max() <= 20 * U[dtype]
    assert np.linalg.norm(reference - orthonormal_columns(6, (2, 9, 4), np.zeros(1), dtype)) > 1

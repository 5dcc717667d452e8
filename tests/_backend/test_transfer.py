"""Bringing NumPy arrays to the library and device that work with them."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from references import random_array

from ngdla._backend import transfer


def test_arrays_arrive(valued_backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, (3, 8), dtype)
    like = backend.asarray(S[:1, :1])
    for block in (S, S[:, 2:5], S[1:2, :], S[:, ::2]):
        sent = transfer.sent(block, like)
        backend.assert_matches(sent, block, like=like, dtype=dtype, tolerance=0.0)


def test_read_only_blocks(valued_backend: Backend) -> None:
    S = np.ones((3, 8), valued_backend.dtypes[0])
    S.flags.writeable = False
    sent = transfer.sent(S, valued_backend.asarray(S))
    np.testing.assert_array_equal(valued_backend.numpy(sent), S)

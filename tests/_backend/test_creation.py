"""New arrays are like one that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from backends import Backend

from ngdla._backend.creation import constant, host_array, identity_like, unit_columns, zeros


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (2, 4, 2)], ids=str)
def test_unit_columns(backend: Backend, shape: tuple[int, ...]) -> None:
    for dtype in backend.dtypes:
        like = backend.asarray(np.ones(shape, dtype))
        result = backend.call(unit_columns, like)
        reference = np.eye(*shape[-2:])
        backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=0.0)


def test_zeros_and_identities(backend: Backend) -> None:
    for dtype in backend.dtypes:
        like = backend.asarray(np.ones((2, 3), dtype))
        made = backend.call(partial(lambda like, name: zeros((2, 4), like, name), name=dtype), like)
        backend.assert_matches(made, np.zeros((2, 4)), like=like, dtype=dtype, tolerance=0.0)
        made = backend.call(lambda like: identity_like(like, 4), like)
        backend.assert_matches(made, np.eye(4), like=like, dtype=dtype, tolerance=0.0)


def test_constants_are_numbers_of_the_host(valued_backend: Backend) -> None:
    like = valued_backend.asarray(np.ones(1, "float32"))
    values = host_array([[1, 2], [3, 4]], "float64")
    assert isinstance(values, np.ndarray)
    made = constant(values, like, "float32")
    assert str(made.dtype).endswith("float32")
    np.testing.assert_array_equal(valued_backend.numpy(made), values)


@pytest.mark.slow
def test_states_of_jax_lie_where_their_first_array_does() -> None:
    """Two devices take a process of their own."""
    pytest.importorskip("jax")
    program = """
import jax, jax.numpy as jnp, ngdla
there = jax.devices()[1]
X = jax.device_put(jnp.ones((9, 4)), there)
state = ngdla.inverse_free_init(4, 4, like=X)
states = state, ngdla.online_eigh_init(X, 2), ngdla.load_state_dict(state, ngdla.state_dict(state))
assert all(x.devices() == {there} for x in jax.tree.leaves(states))
"""
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | two)

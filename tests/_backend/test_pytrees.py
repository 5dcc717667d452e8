"""Dataclasses as pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ngdla._backend.pytrees import register_pytree


def test_a_dataclass_becomes_a_pytree_of_jax() -> None:
    jax = pytest.importorskip("jax")

    @register_pytree(static=("name",))
    @dataclasses.dataclass(frozen=True, eq=False)
    class Pair:
        array: Any
        name: str

    pair = jax.jit(lambda p: Pair(p.array + 1, p.name))(Pair(np.zeros(2), "x"))
    assert pair.name == "x"
    np.testing.assert_array_equal(pair.array, [1, 1])

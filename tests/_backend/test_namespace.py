"""Dtypes by name, and pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import array_api_strict
import numpy as np
import pytest
from backends import DTYPES, Backend

from ngdla._backend import namespace as ns


@pytest.mark.parametrize("one", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_result_name_is_that_of_numpy(one: str, other: str) -> None:
    assert ns.result_name(one, other) == np.result_type(one, other).name


def test_limits_are_those_of_numpy(dtype: str) -> None:
    info = np.finfo(dtype)
    assert ns.unit_roundoff(dtype) == info.eps / 2
    assert ns.normal_range(dtype) == (info.smallest_normal, info.max)
    assert ns.real_name(dtype) == np.zeros(1, dtype).real.dtype.name


def test_dtype_names(valued_backend: Backend, dtype: str) -> None:
    if dtype in valued_backend.dtypes:
        x = valued_backend.asarray(np.zeros(2, dtype))
        assert ns.dtype_name(x.dtype) == dtype
        assert ns.is_complex(x) == dtype.startswith("complex")
        assert ns.astype(x, dtype) is x


def test_dtypes_of_different_libraries_are_not_compared() -> None:
    """array-api-strict warns when one is: a shared cache of names must not do so."""
    assert ns.dtype_name(np.dtype("float32")) == ns.dtype_name(array_api_strict.float32)


def test_a_dataclass_becomes_a_pytree_of_jax() -> None:
    jax = pytest.importorskip("jax")

    @ns.register_pytree(static=("name",))
    @dataclasses.dataclass(frozen=True, eq=False)
    class Pair:
        array: Any
        name: str

    ns._register_pytrees()
    pair = jax.jit(lambda p: Pair(p.array + 1, p.name))(Pair(np.zeros(2), "x"))
    assert pair.name == "x"
    np.testing.assert_array_equal(pair.array, [1, 1])

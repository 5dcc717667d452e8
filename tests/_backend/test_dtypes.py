"""Dtypes by name."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from backends import DTYPES, Backend

from ngdla._backend import dtypes


@pytest.mark.parametrize("one", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_result_name_is_that_of_numpy(one: str, other: str) -> None:
    assert dtypes.result_name(one, other) == np.result_type(one, other).name


def test_limits_are_those_of_numpy(dtype: str) -> None:
    info = np.finfo(dtype)
    assert dtypes.unit_roundoff(dtype) == info.eps / 2
    assert dtypes.normal_range(dtype) == (info.smallest_normal, info.max)
    assert dtypes.real_name(dtype) == np.zeros(1, dtype).real.dtype.name


def test_dtype_names(valued_backend: Backend, dtype: str) -> None:
    if dtype in valued_backend.dtypes:
        x = valued_backend.asarray(np.zeros(2, dtype))
        assert dtypes.dtype_name(x.dtype) == dtype
        assert dtypes.is_complex(x) == dtype.startswith("complex")
        assert dtypes.astype(x, dtype) is x


def test_dtypes_of_different_libraries_are_not_compared() -> None:
    """array-api-strict warns when one is: a shared cache of names must not do so."""
    assert dtypes.dtype_name(np.dtype("float32")) == dtypes.dtype_name(array_api_strict.float32)

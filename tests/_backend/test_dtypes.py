"""Dtypes by name."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as xp
import array_api_strict
import numpy as np
import pytest
from backends import DTYPES, Backend, half_dtype

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


# ------------------------------------------------------------------------------- bfloat16


def as_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take NumPy arrays for CuPy's, which `where` of CuPy takes but in bfloat16."""
    monkeypatch.setattr(dtypes, "is_numpy_namespace", lambda xp: False)
    monkeypatch.setattr(dtypes, "is_cupy_namespace", lambda xp: True)
    original = xp.where

    def without_bfloat16(flag: Any, x: Any, y: Any) -> Any:
        assert "bfloat16" not in (str(x.dtype), str(y.dtype))
        return original(flag, x, y)

    monkeypatch.setattr(xp, "where", without_bfloat16)


def test_bfloat16_of_numpy_and_cupy_is_that_of_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert dtypes.dtype_of(xp, "bfloat16") is ml_dtypes.bfloat16
    as_cupy(monkeypatch)
    assert dtypes.dtype_of(xp, "bfloat16") is ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "complex64", "int32", "bool"])
@pytest.mark.parametrize("cupy", [False, True])
def test_where_of_numbers_that_are_only_stored(
    name: str, cupy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, NaN and signs of zeros included, in any layout, for a flag that broadcasts."""
    if cupy:
        as_cupy(monkeypatch)
    dtype = half_dtype(name)
    x = np.array([[1.5, -0.0, 7.0], [2.0, 0.0, 3.0]]).astype(dtype)
    if name not in ("int32", "bool"):
        x[:, 2] = np.nan, np.inf
    y = np.arange(6).reshape(3, 2).T.astype(dtype)
    flag = np.array([[True], [False]])
    chosen = dtypes.where(flag, x, y)
    assert chosen.dtype == dtype
    expected = np.stack([x[0], y[1]])
    np.testing.assert_array_equal(chosen.view("uint8"), expected.view("uint8"))
    np.testing.assert_array_equal(
        dtypes.where(np.asarray(True), x, y).view("uint8"), x.view("uint8")
    )

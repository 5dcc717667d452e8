"""What is Hermitian and positive, up to roundings, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import Backend, inside
from references import H, U, random_array

from ngdla._backend.calls import ValueChecks
from ngdla.matrix_functions.positive import (
    not_finite,
    not_positive,
    positive_values,
    require_hermitian,
)

D = 30


def error_of(require: Callable[..., None], A: Any, name: str) -> str:
    """Return what is said of a matrix, or of its eigenvalues, as public functions would say it."""

    def called(A: Any) -> None:
        checks = ValueChecks(enabled=True)
        require(A, name, checks)
        checks.read()

    try:
        inside(called)(A)
    except ValueError as error:
        return str(error)
    return ""


def positive_in(dtype: str, values: Any, name: str, checks: ValueChecks, **options: Any) -> None:
    positive_values(values, name, dtype, checks, **options)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_hermitian_up_to_roundings(
    valued_backend: Backend, dtype: str, scale: float, rng: np.random.Generator
) -> None:
    if dtype not in valued_backend.dtypes:
        pytest.skip("no such dtype here")
    A = random_array(rng, (D, D), dtype)
    A = (scale * (A + H(A))).astype(dtype)
    off = np.array(A)
    off[0, 1] *= 1 + 1e4 * U[dtype]
    like, other = valued_backend.asarray([A, off])
    assert error_of(require_hermitian, like, "A") == ""
    assert error_of(require_hermitian, other, "A").startswith("`A` is not Hermitian: |(A - A^H) g|")


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (2, 2)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_said_to_be_so(place: tuple[int, int], value: float) -> None:
    A = np.eye(3)
    A[place] = value
    assert error_of(require_hermitian, A, "K") == str(not_finite("K"))
    assert str(not_finite("A", "G")).startswith("`A` or `G` contains NaN or Inf")


def test_negative_by_more_than_roundings(valued_backend: Backend, dtype: str) -> None:
    if dtype not in valued_backend.dtypes:
        pytest.skip("no such dtype here")
    real = np.zeros(0, dtype).real.dtype
    for least, refused in ((-U[dtype], False), (-20 * U[dtype], True)):
        values = valued_backend.asarray(np.array([least, 0.5, 1.0], real))
        message = error_of(partial(positive_in, dtype), values, "A")
        assert message.startswith("`A` is not positive semi-definite") == refused


def test_definite_by_more_than_roundings(valued_backend: Backend, dtype: str) -> None:
    if dtype not in valued_backend.dtypes:
        pytest.skip("no such dtype here")
    real = np.zeros(0, dtype).real.dtype
    for least, refused in ((20 * U[dtype], False), (U[dtype], True), (0.0, True)):
        values = valued_backend.asarray(np.array([least, 0.5, 1.0], real))
        message = error_of(partial(positive_in, dtype, definite=True), values, "A")
        assert message.startswith("`A` is not positive definite") == refused


def test_errors_name_the_matrix_what_was_found_and_a_remedy() -> None:
    assert str(not_positive("G", -0.5, 1e-3, "bfloat16")) == (
        "`G` is not positive semi-definite: its smallest eigenvalue is -5.00e-01, where roundings "
        "of bfloat16 allow -1.00e-03. Pass G plus a multiple of the identity, or clip its "
        "eigenvalues."
    )
    assert "Pass A plus a damping times the identity" in str(
        not_positive("A", 0.0, 1e-3, "float32", definite=True)
    )

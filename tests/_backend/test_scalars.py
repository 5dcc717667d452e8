"""Dampings, steps and weights of the past: which are taken, in which dtype and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend

from ngdla._backend.calls import ValueChecks
from ngdla._backend.scalars import (
    damping_values,
    eigenvalue_damping,
    fraction_values,
    positive_values,
    real_values,
)

LIKE = np.ones((2, 3, 3), "float32")


def damping(value: Any) -> Any:
    checks = ValueChecks(enabled=True)
    made = eigenvalue_damping(value, LIKE, "A", (2,), checks)
    checks.read()
    return made


def checked(function: Any, name: str, value: Any) -> Any:
    checks = ValueChecks(enabled=True)
    made = function(value, name, LIKE, "A", (2,), checks)
    checks.read()
    return made


def test_numbers_stay_numbers() -> None:
    assert damping_values(np.float64(0.5), LIKE, "S", "float32", (2,)) == 0.5
    step, decay = checked(positive_values, "step", 2), checked(fraction_values, "decay", 0)
    assert (damping(1), step, decay) == (1.0, 2.0, 0.0)
    assert {type(x) for x in (damping(1), step, decay)} == {float}


def test_arrays_have_the_shape_of_the_batch(valued_backend: Backend) -> None:
    like = valued_backend.asarray(LIKE)
    for given in (np.asarray(0.5, "float32"), np.asarray([0.5, 0.25], "float32")):
        made = real_values(valued_backend.asarray(given), "x", like, "A", "float32", (2,))
        np.testing.assert_array_equal(valued_backend.numpy(made), np.broadcast_to(given, 2))


def test_a_damping_never_promotes() -> None:
    made = damping(np.asarray([0.5, 0.25]))
    assert made.dtype == "float32"
    np.testing.assert_array_equal(made, [0.5, 0.25])
    assert damping(np.asarray([1, 2])).dtype == "float32"


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, 1e-50, 1e50])
def test_a_damping_is_positive_in_its_dtype(value: float) -> None:
    """As a number and in an array; what is beyond the range of float32 is neither."""
    with pytest.raises(ValueError, match="`damping`"):
        damping(value)
    with pytest.raises(ValueError, match="`damping`"), np.errstate(all="ignore"):
        damping(np.asarray([1.0, value]))


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, np.nan])
def test_a_fraction_is_below_one(value: float) -> None:
    for given in (value, np.asarray([0.5, value])):
        with pytest.raises(ValueError, match=r"`decay` .* must be in \[0, 1\)"):
            checked(fraction_values, "decay", given)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_step_is_positive(value: float) -> None:
    for given in (value, np.asarray([0.5, value])):
        with pytest.raises(ValueError, match="`step`"):
            checked(positive_values, "step", given)


@pytest.mark.parametrize("value", [True, "0.1", None, [0.1, 0.2], 1j])
def test_other_kinds_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="`damping`"):
        damping(value)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"batch shape \(2,\) of `A`"):
        damping(np.ones(shape))

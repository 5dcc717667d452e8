"""Two readings of an array: samples with positions, or layers side by side."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import Backend

import ngdla
from ngdla._backend.positions import require_positions, with_positions


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((5, 4), None, False),
        ((5, 4), False, False),
        ((5, 3, 4), True, True),
        ((5, 3, 4), False, False),
        ((2, 5, 3, 4), True, True),
        ((2, 5, 3, 4), False, False),
        ((0, 3, 4), True, True),
    ],
)
def test_what_is_said_and_what_need_not_be(
    shape: tuple[int, ...], given: bool | None, expected: bool
) -> None:
    assert require_positions(np.ones(shape), given, "x") is expected


def test_an_axis_is_put_in_without_positions(backend: Backend) -> None:
    x = np.arange(24.0).astype(backend.dtypes[0]).reshape(2, 3, 4)
    like = backend.asarray(x)
    dtype = backend.dtypes[0]
    found = backend.call(with_positions, like, False)
    backend.assert_matches(found, x[:, :, None], like=like, dtype=dtype, tolerance=0)
    assert with_positions(like, True) is like


MISSING = {
    (12, 64, 256): "`inputs` has shape (12, 64, 256): pass positions=True for 12 samples of 64 "
    "positions, (..., M, T, d), or positions=False for a stack of 12 layers with 64 samples, "
    "(..., M, d).",
    (3, 5, 7, 4): "`inputs` has shape (3, 5, 7, 4): pass positions=True for 5 samples of 7 "
    "positions in a stack of 3 layers, (..., M, T, d), or positions=False for a stack of 3 x 5 "
    "layers with 7 samples, (..., M, d).",
}


@pytest.mark.parametrize("shape", list(MISSING), ids=str)
def test_both_readings_are_shown(shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(MISSING[shape])}$"):
        require_positions(np.ones(shape), None, "inputs")


def test_arrays_of_two_axes_have_no_positions() -> None:
    with pytest.raises(ValueError, match=r"`x` has shape \(5, 4\), \(M, d\), without an axis"):
        require_positions(np.ones((5, 4)), True, "x")


@pytest.mark.parametrize("value", ["True", 1, 0, np.True_, [True]], ids=repr)
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)], ids=str)
def test_only_true_and_false_say_it(shape: tuple[int, ...], value: Any) -> None:
    with pytest.raises(TypeError, match=r"`positions` is .*; it must be True or False"):
        require_positions(np.ones(shape), value, "x")


# ------------------------------------------------------------------------ functions that ask

C = np.ones((3, 5))
STATE = ngdla.weight_sharing_init("exact", 5)
FUNCTIONS = {
    "sample_gram": ngdla.sample_gram,
    "weighted_gradient": partial(ngdla.weighted_gradient, c=C),
    "weight_sharing_step": partial(ngdla.weight_sharing_step, STATE, damping=0.1),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_no_function_guesses(name: str) -> None:
    """A stack of 3 layers with 5 samples is not taken for 3 samples with 5 positions."""
    a, g = np.ones((3, 5, 4)), np.ones((3, 5, 2))
    call = partial(FUNCTIONS[name], inputs=a, output_gradients=g)
    with pytest.raises(TypeError, match=r"positions=True for 3 samples of 5 positions"):
        call()
    call(positions=False)
    with pytest.raises(ValueError, match="without an axis of positions"):
        call(inputs=a[0], output_gradients=g[0], positions=True)

"""Checks of arguments: what passes, and what the error of what does not says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ngdla._backend.checks import (
    not_hermitian,
    require_array,
    require_choice,
    require_columns,
    require_count,
)


def test_the_error_of_what_is_not_hermitian_names_product_and_probe() -> None:
    assert str(not_hermitian("A", 2.0, 3.0, product="W^H {} W", probe="the test matrix W")) == (
        "`A` is not Hermitian: |W^H (A - A^H) W| = 2.00e+00 for the test matrix W, where "
        "|W^H A W| = 3.00e+00. Pass (A + A^H) / 2 if that is meant."
    )


@pytest.mark.parametrize("choices", [("a", "b"), {"a": 1, "b": 2}], ids=["tuple", "table"])
def test_a_choice_is_one_of_a_tuple_or_of_the_names_of_a_table(choices: Any) -> None:
    require_choice("b", "option", choices)
    for wrong in ("c", "A", None, 1, ["a"]):
        with pytest.raises(ValueError, match=r"`option` is .*; it must be one of 'a', 'b'\."):
            require_choice(wrong, "option", choices)


def test_a_count_is_an_integer_that_is_large_enough() -> None:
    require_count(np.int64(2), "rank", least=2)
    with pytest.raises(TypeError, match="`rank` is True; it must be an integer"):
        require_count(True, "rank")
    with pytest.raises(TypeError, match=r"`rank` is 2\.0; it must be an integer"):
        require_count(2.0, "rank")
    with pytest.raises(ValueError, match="`rank` is 1; it must be 2 or more"):
        require_count(1, "rank", least=2)


def test_columns_come_with_or_without_their_axis() -> None:
    S = np.ones((3, 4))
    v = np.arange(4.0)
    columns, vector = require_columns(v, "v", (4,), S, "S", (3, 4))
    assert vector
    np.testing.assert_array_equal(columns, v[:, None])
    columns, vector = require_columns(np.ones((4, 2)), "v", (4,), S, "S", (3, 4))
    assert not vector
    assert columns.shape == (4, 2)
    with pytest.raises(ValueError, match=r"`v` has shape \(3,\) but `S` has shape \(3, 4\)"):
        require_columns(np.ones(3), "v", (4,), S, "S", (3, 4))


def test_an_array_of_integers_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"`S` has dtype int64; .* Convert it"):
        require_array(np.ones((2, 2), dtype="int64"), "S")

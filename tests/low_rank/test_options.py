"""Options that type checkers know are those that are accepted when a function runs."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import pytest
from spectra import refused

import ngdla
from ngdla.low_rank.low_rank_eigh import TAILS, Tail
from ngdla.low_rank.nystrom_factor import FACTOR_TAILS, FactorTail
from ngdla.low_rank.operand import PRODUCT_PRECISIONS, ProductPrecision
from ngdla.low_rank.sketches import SKETCH_METHODS, SketchMethod

OPTIONS = {
    Tail: TAILS,
    FactorTail: FACTOR_TAILS,
    ProductPrecision: PRODUCT_PRECISIONS,
    SketchMethod: SKETCH_METHODS,
}


@pytest.mark.parametrize("kind", OPTIONS, ids=str)
def test_types_hold_the_values_of_the_tables(kind: Any) -> None:
    assert get_args(kind) == OPTIONS[kind]


@pytest.mark.parametrize(
    ("function", "name", "kind"),
    [
        (ngdla.randomized_eigh, "method", SketchMethod),
        (ngdla.randomized_eigh, "tail", Tail),
        (ngdla.randomized_eigh, "precision", ProductPrecision),
        (ngdla.nystrom_factor, "tail", FactorTail),
        (ngdla.nystrom_factor, "precision", ProductPrecision),
        (ngdla.online_eigh_result, "tail", Tail),
        (ngdla.LowRankEigh.truncate, "tail", Tail),
    ],
)
def test_public_functions_take_these_options(function: Any, name: str, kind: Any) -> None:
    assert get_type_hints(function)[name] == kind
    assert inspect.signature(function).parameters[name].default in get_args(kind)


def test_another_value_is_refused_with_all_of_them() -> None:
    text = refused(ValueError, "method", lambda: ngdla.randomized_eigh([[1.0]], 1, method="eigh"))
    assert all(repr(value) in text for value in SKETCH_METHODS)

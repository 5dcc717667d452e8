"""What a claim has to say of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[[], Any]


def tracked(
    what: str, *, unit: str = "ratio", at_least: float | None = None, at_most: float | None = None
) -> Callable[[Function], Function]:
    """Describe a `track_` function: what it measures, in which unit, and its target."""

    def describe(function: Any) -> Function:
        function.what, function.unit = what, unit
        function.at_least, function.at_most = at_least, at_most
        return function

    return describe

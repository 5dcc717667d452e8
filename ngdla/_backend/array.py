"""The types of arrays in annotations; `array.pyi` is what type checkers read."""

from __future__ import annotations

from typing import Any

__all__ = ["Array", "Native"]

Array = Any  # of any library: what all of them have
Native = Any  # of a library that is known at the place: what that one has

"""The types of arrays in annotations; `array.pyi` is what type checkers read."""

from __future__ import annotations

from typing import Any

__all__ = ["AnyArray", "Array"]

Array = Any  # what arrays of all libraries have: what is asked of an argument
AnyArray = Any  # what that of one library has: a result, which is of the library of its caller

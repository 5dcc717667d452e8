"""The dtypes of a kernel's parameters, decided as CuPy does (cupy/_core/_kernel.pyx).

A parameter has a dtype by name, which an array must have exactly, or a letter, whose dtype is that
of the arrays that bear it: all the same. A letter that only numbers bear is an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays import ndarray

__all__ = ["Parameter", "decided", "parameters"]


class Parameter(NamedTuple):
    """One parameter of a kernel."""

    raw: bool
    type: str
    name: str


def parameters(text: str) -> list[Parameter]:
    """Return the parameters of "T x, raw float32 y"."""
    found = []
    for part in text.split(","):
        words = part.split()
        raw = words[0] == "raw"
        kind, name = words[raw:]
        found.append(Parameter(raw, kind, name))
    return found


def decided(
    ins: list[Parameter], outs: list[Parameter], given: list[Any], places: list[ndarray]
) -> tuple[list[np.dtype], list[np.dtype]]:
    """Return the dtypes of all parameters."""
    letters: dict[str, np.dtype] = {}
    for parameter, x in [*zip(outs, places, strict=False), *zip(ins, given, strict=True)]:
        if isinstance(x, ndarray):
            wanted = letters.get(parameter.type, x.dtype)
            if len(parameter.type) > 1:
                wanted = np.dtype(parameter.type)
            if x.dtype != wanted:
                msg = f"Type is mismatched. {parameter.name} {x.dtype} {wanted}"
                raise TypeError(msg)
            letters.setdefault(parameter.type, x.dtype)
    return [_of(p, letters) for p in ins], [_of(p, letters) for p in outs]


def _of(parameter: Parameter, letters: dict[str, np.dtype]) -> np.dtype:
    if len(parameter.type) > 1:
        return np.dtype(parameter.type)
    return letters[parameter.type]  # KeyError, as in CuPy

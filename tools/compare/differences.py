"""What differs between the records of two commits, a line for each difference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .records import RAISED, Numbers, Results

__all__ = ["differences"]

PARTS = {"complex64": "float32", "complex128": "float64"}
ROUNDOFFS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def differences(old: Results, new: Results, library: str) -> Iterator[str]:
    """Yield a line for each part of a result that is not the same, bit for bit."""
    for mode, name in dict.fromkeys([*old, *new]):
        where = f"{library} {mode}: {name}"
        one, other = old.get((mode, name)), new.get((mode, name))
        if one is None and other is None:
            continue
        if one is None or other is None:
            yield f"{where}: only in {'NEW' if one is None else 'OLD'}"
            continue
        if (RAISED in one) != (RAISED in other):
            raised = (_shown(x[RAISED]) if RAISED in x else "no exception" for x in (one, other))
            yield f"{where}: {' | '.join(raised)}"
            continue
        for path in dict.fromkeys([*one, *other]):
            difference = _difference(one.get(path), other.get(path))
            if difference:
                yield f"{where}: {path}: {difference}"


def _difference(one: Numbers | str | None, other: Numbers | str | None) -> str:
    """Return what differs in one place, or nothing."""
    if one == other:
        return ""
    if not isinstance(one, Numbers) or not isinstance(other, Numbers):
        return f"{_shown(one)} | {_shown(other)}"
    for what, a, b in zip(one._fields, one[:-1], other[:-1]):
        if a != b:
            return f"{what} {a} | {b}"
    return _difference_of_bits(one, other)


def _shown(x: Numbers | str | None) -> str:
    """Return one line for a text, an array, or nothing."""
    if isinstance(x, Numbers):
        return f"{x.kind} of {x.dtype} {x.shape}"
    return "nothing" if x is None else " ".join(x.split())


def _difference_of_bits(one: Numbers, other: Numbers) -> str:
    """Return how far apart two arrays of one dtype and shape are; nothing where only NaN differ."""
    a, b = _values(one), _values(other)
    bits = [np.frombuffer(x.content, np.uint8).reshape(a.size, -1) for x in (one, other)]
    unlike = np.any(bits[0] != bits[1], axis=-1) & ~(np.isnan(a) & np.isnan(b))
    if not np.any(unlike):
        return ""
    return f"{np.count_nonzero(unlike)} of {a.size} numbers differ{_distance(a, b, one.dtype)}"


def _values(x: Numbers) -> np.ndarray:
    """Return the numbers of an array in one axis, of complex ones the real and imaginary parts."""
    if x.dtype == "bfloat16":
        return (np.frombuffer(x.content, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(x.content, PARTS.get(x.dtype, x.dtype))


def _distance(a: np.ndarray, b: np.ndarray, dtype: str) -> str:
    """Return the largest difference in units of the roundoff of the largest entry, or its kind."""
    if a.dtype.kind != "f":
        return ""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if np.any(finite != np.isfinite(b)):
        return ": one is finite where the other is not"
    largest = max(np.max(np.abs(x[finite]), initial=0.0) for x in (a, b))
    apart = np.max(np.abs(a[finite] / 2 - b[finite] / 2), initial=0.0)  # twice that may overflow
    u = ROUNDOFFS[PARTS.get(dtype, dtype)]
    return f" by up to {2 * (apart / largest) / u:.2g} u" if apart else " in their signs"

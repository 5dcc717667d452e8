"""The words that ranks exchange before they do something together, and what must be equal in them.

A packet is a row of double precision numbers on the host: whether the rank is well, at which place
of the call it is and arrays of which shape and dtype it sends next, what all ranks must have in
common, what its share is, and a payload of a few numbers. What was noted of data is a sum with
fixed weights, which may differ by the roundings of equal calculations.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dtypes import unit_roundoff
from .messages import shown

__all__ = [
    "PAYLOAD",
    "WORDS",
    "Packets",
    "checksum",
    "disagreement",
    "packet",
    "word_of",
    "word_of_dtype",
    "word_of_library",
]

PAYLOAD = 5
_FIELDS = (
    "well",
    "place",
    "sent",
    "axis",
    "size",
    "share",
    "declared",
    "dtype",
    "library",
    "damping",
    "options",
    "data",
    "tolerance",
)
_PLACE = ("damping", "place", "sent")  # where ranks are in a call
WORDS = len(_FIELDS) + PAYLOAD  # of a packet
_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_LIBRARIES = ("numpy", "cupy", "torch", "jax", "array_api_strict")
_ROUNDINGS = 1e3  # of equal data, which ranks may have computed each by itself


def packet(fields: dict[str, float], payload: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the words of one rank; what is not given is 0."""
    words = np.zeros(WORDS)
    words[: len(_FIELDS)] = [fields.get(name, 0.0) for name in _FIELDS]
    words[len(_FIELDS) : len(_FIELDS) + len(payload)] = payload
    return words


@dataclasses.dataclass(frozen=True)
class Packets:
    """The packets of all ranks."""

    table: np.ndarray  # (ranks, words)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one field of all ranks."""
        return self.table[:, _FIELDS.index(name)]

    @property
    def payload(self) -> np.ndarray:
        """The payloads of all ranks, (ranks, PAYLOAD)."""
        return self.table[:, len(_FIELDS) :]


def word_of(value: Any) -> float:
    """Return a number that stands for a value, by its repr."""
    return float(zlib.crc32(repr(value).encode()))


def word_of_dtype(name: str) -> float:
    """Return a number that stands for a dtype."""
    return float(_DTYPES.index(name))


def word_of_library(name: str) -> float:
    """Return a number that stands for an array library, the same one for all that are unknown."""
    return float(_LIBRARIES.index(name)) if name in _LIBRARIES else float(len(_LIBRARIES))


def checksum(
    values: np.ndarray, salt: str, dtype: str, *, solved: bool = False
) -> tuple[float, float]:
    """Return a sum of values with fixed weights, and by how much equal ones may differ in it.

    `dtype` is that in which they were computed, perhaps from what was `solved` for on each rank,
    which multiplies differences by a condition number.
    """
    u = unit_roundoff(dtype)
    relative = u**0.5 if solved else _ROUNDINGS * u
    flat = np.ascontiguousarray(values).reshape(-1)
    if np.iscomplexobj(flat):
        flat = flat.view(flat.real.dtype)
    weights = np.cos(np.arange(flat.size) + zlib.crc32(salt.encode()) % 1000)
    terms = weights * flat.astype(np.float64)
    return float(terms.sum()), relative * float(np.abs(terms).sum())


def disagreement(packets: Packets, name: str, common: str, arguments: Sequence[str]) -> str | None:
    """Return what differs between ranks, None if nothing does.

    `common` says of which axis all have equally many, "rows" or "columns"; `arguments` are those
    that the data are of.
    """
    if (text := _of_parts(packets, name, common) or _of_totals(packets, name, common)) is not None:
        return text
    damping = packets["damping"]
    if (r := _first_other(damping)) is not None and damping[0] and damping[r]:  # 0 is none
        return (
            f"`damping` is {shown(float(damping[0]))} on rank 0 but {shown(float(damping[r]))} on "
            f"rank {r} (of arrays, a sum); it must be the same on all ranks."
        )
    if (r := _first_other(packets["options"])) is not None:
        return (
            f"rank {r} was called with other options than rank 0, such as method, precision, "
            f"refine or batch axes; they must be the same on all ranks."
        )
    if (r := _first_other(packets["data"], packets["tolerance"])) is not None:
        which = " or ".join(f"`{argument}`" for argument in arguments)
        return f"{which} differs between rank 0 and rank {r}; it must be equal on all ranks."
    others = [_first_other(packets[name]) for name in _PLACE]
    if (r := next((r for r in others if r is not None), None)) is not None:
        return (
            f"rank {r} is at another place of a call than rank 0, or has vectors of another shape "
            f"or dtype; make the same calls on all ranks, in the same order, with the same "
            f"arguments and options, dtypes and numbers of right-hand sides."
        )
    return None


def _of_parts(packets: Packets, name: str, common: str) -> str | None:
    """Return how the parts of ranks are not those of one score matrix."""
    dtype, size = packets["dtype"], packets["size"]
    if (r := _first_other(packets["axis"])) is not None:
        return (
            f"rank {r} has other shards of `{name}` than rank 0; pass ColumnShards on all ranks, "
            f"or RowShards on all."
        )
    if (r := _first_other(size)) is not None:
        return (
            f"`{name}` has {size[0]:.0f} {common} on rank 0 but {size[r]:.0f} on rank {r}; parts "
            f"of one score matrix have equally many."
        )
    if (r := _first_other(dtype)) is not None:
        ours, theirs = (_DTYPES[int(word)] for word in (dtype[0], dtype[r]))
        return f"`{name}` is {ours} on rank 0 but {theirs} on rank {r}; convert one of them."
    if (r := _first_other(packets["library"])) is not None:
        known = (*_LIBRARIES, "foreign")
        ours, theirs = (known[int(packets["library"][rank])] for rank in (0, r))
        return f"`{name}` is a {ours} array on rank 0 but a {theirs} one on rank {r}; convert one."
    return None


def _of_totals(packets: Packets, name: str, common: str) -> str | None:
    """Return what is wrong with the shares of all ranks together."""
    other = "columns" if common == "rows" else "rows"
    total, declared = int(packets["share"].sum()), packets["declared"]
    if (r := _first_other(declared)) is not None:
        return f"`{other}` of `{name}` differs between rank 0 and rank {r}; pass the same number."
    if declared[0] and declared[0] != total:
        shares = ", ".join(f"{share:.0f}" for share in packets["share"][:8])
        return (
            f"the {other} of `{name}` do not add up: {shares}{', ...' * (len(declared) > 8)} are "
            f"{total} in all, but `{other}` is {declared[0]:.0f}."
        )
    if total == 0:
        return f"`{name}` has no {other} on any rank; there is nothing to solve."
    return None


def _first_other(words: np.ndarray, tolerance: np.ndarray | None = None) -> int | None:
    """Return the first rank whose word is not that of rank 0, None if there is none."""
    same = (words == words[0]) | (np.isnan(words) & np.isnan(words[0]))
    if tolerance is not None:
        same |= np.abs(words - words[0]) <= np.maximum(tolerance, tolerance[0])
    return None if same.all() else int(np.argmin(same))

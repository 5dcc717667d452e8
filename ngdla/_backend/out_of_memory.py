"""Errors of libraries that run out of memory, as one kind that says what asked for how much."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NamedMemoryError", "is_out_of_memory", "naming_memory"]


class NamedMemoryError(MemoryError):
    """Memory ran out; the message names the part, its bytes and the remedy."""


@contextmanager
def naming_memory(part: str, nbytes: int, remedy: str) -> Iterator[None]:
    """Turn errors of a library that is out of memory into a `MemoryError` that names the part.

    `part` begins the message, "block 3 of `S`", `nbytes` is what it takes, and `remedy` says what
    to do. The error of the library is the cause. What its functions held is let go of, so that
    whoever catches the error has that memory. An error that names its part already passes as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, NamedMemoryError) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        told = str(error).strip().partition("\n")[0]
        msg = f"{part} takes up to {nbytes:,} bytes, for which memory is short. {remedy}"
        raise NamedMemoryError(f"{msg} ({told})" if told else msg) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error of any library says that memory of the host or a device ran out."""
    if isinstance(error, MemoryError):  # of Python, NumPy and `cupy.cuda.memory`
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    told = {"XlaRuntimeError": "RESOURCE_EXHAUSTED", "JaxRuntimeError": "RESOURCE_EXHAUSTED"}
    told["CUDARuntimeError"] = "cudaErrorMemoryAllocation"  # of pinned memory in CuPy
    name = type(error).__name__
    return name in told and told[name] in str(error)

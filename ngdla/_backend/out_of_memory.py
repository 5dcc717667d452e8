"""Errors of libraries that run out of memory, as one kind that says what asked for how much."""

from __future__ import annotations

import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from .kept_arrays import give_up_kept

__all__ = [
    "Matrix",
    "NamedMemoryError",
    "is_out_of_memory",
    "let_go",
    "naming_memory",
    "of_call",
    "with_room",
]

Result = TypeVar("Result")


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
        raise _named(error, f"{part} takes up to {nbytes:,} bytes", remedy) from error


class Matrix(NamedTuple):
    """What a matrix in memory is called, and what to do where it is too large."""

    part: str
    shape: tuple[int, ...]
    dtype: str
    remedy: str


def with_room(
    work: Callable[[], Result], matrix: Callable[[], Matrix], *, again: bool = True
) -> Result:
    """Return what `work` returns; if memory is short for it, the error names the matrix it makes.

    Unless it uses something up, it is called `again` before, without what is kept.
    """
    try:
        return work()
    except Exception as error:
        if isinstance(error, NamedMemoryError) or not is_out_of_memory(error):
            raise
        let_go(error)
        if not again:
            raise _of_matrix(error, matrix()) from error
    return with_room(work, matrix, again=False)


def _of_matrix(error: BaseException, matrix: Matrix) -> NamedMemoryError:
    part, shape, dtype, remedy = matrix
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    what = f"{part} ({' x '.join(map(str, shape))}, {dtype})"
    return _named(error, f"{what} takes {nbytes:,} bytes and more", remedy)


def let_go(error: BaseException) -> None:
    """Let go of what the functions held that an error passed through, and of what is kept.

    The error forgets where it was: functions in a cleared frame keep what they enclose.
    """
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    give_up_kept()


_REMEDY = (
    "Pass smaller arrays, scores as blocks of an `ngdla.ColumnStream`; compute in a lower "
    "precision; or free memory, also that of the pools of other libraries."
)


def of_call(error: BaseException, function: str) -> NamedMemoryError:
    """Return the error of a whole call, for that of a library, which says how much it asked for."""
    size = _ASKED_FOR.search(str(error))
    much = f"{size[1]} {size[2]}" if size else "more bytes than there are"
    return _named(error, f"`{function}` asked for {much}", _REMEDY)


# "Out of memory allocating 8 bytes", "Tried to allocate 2.00 GiB", "Unable to allocate 4. PiB"
_ASKED_FOR = re.compile(r"allocat(?:e|ing) ([\d.,]*\d)\.? ?(bytes|[KMGTPE]iB)")


def _named(error: BaseException, what: str, remedy: str) -> NamedMemoryError:
    told = str(error).strip().partition("\n")[0]
    msg = f"{what}, for which memory is short. {remedy}"
    return NamedMemoryError(f"{msg} ({told})" if told else msg)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error of any library says that memory of the host or a device ran out."""
    if isinstance(error, MemoryError):  # of Python, NumPy and `cupy.cuda.memory`
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    told = {"XlaRuntimeError": "RESOURCE_EXHAUSTED", "JaxRuntimeError": "RESOURCE_EXHAUSTED"}
    told["RuntimeError"] = "can't allocate memory"  # of torch on the host
    told["CUDARuntimeError"] = "cudaErrorMemoryAllocation"  # of pinned memory in CuPy
    name = type(error).__name__
    return name in told and told[name] in str(error)

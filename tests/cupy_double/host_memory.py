"""Memory of the host as a device sees it: what is page-locked, and reading it unasked.

A part of the stand-in for CuPy. Nothing is really locked: a table says what would be.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

PAGE_LOCKED: dict[int, int] = {}  # bytes from each address on that the driver has pinned


def borrowed(source: np.ndarray) -> np.ndarray:
    """Return the same memory as an array that does not keep it alive, if it is page-locked."""
    if not is_page_locked(source) or source.size == 0:
        return source
    start, stop = address_range(source)
    offset = source.ctypes.data - start
    raw = bytes_at(start, stop - start)
    return np.ndarray(source.shape, source.dtype, raw, offset, source.strides)


class _Unowned:
    """Bytes at an address, as NumPy asks for them."""

    def __init__(self, start: int, length: int) -> None:
        self.__array_interface__ = {
            "shape": (length,),
            "typestr": "|u1",
            "data": (start, False),
            "version": 3,
        }


def bytes_at(start: int, length: int) -> np.ndarray:
    """Return bytes at an address, which the array does not keep alive."""
    return np.asarray(_Unowned(start, length))


def is_borrowed(x: Any) -> bool:
    """Tell whether an array leaves it to others to keep its memory."""
    while isinstance(x, np.ndarray) and x.base is not None:
        x = x.base
    return isinstance(x, _Unowned)


def address_range(x: np.ndarray) -> tuple[int, int]:
    """Return the address of the first byte of an array, and of that behind the last."""
    return np.lib.array_utils.byte_bounds(x)


def is_page_locked(x: np.ndarray) -> bool:
    """Tell whether all of an array is in memory that the driver has pinned."""
    start, stop = address_range(x)
    return any(
        first <= start and stop <= first + length for first, length in list(PAGE_LOCKED.items())
    )


def checksum(x: np.ndarray) -> int:
    """Return a number that tells the contents of an array."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))

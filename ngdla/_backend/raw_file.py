"""Blocks of a matrix in a file, as views of the page cache of the operating system."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import mmap
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from .messages import shown
from .namespace import Array
from .pickles import part

__all__ = ["RawFile", "raw_file"]

_BLOCK_BYTES = 128 * 2**20
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which Python does not name
_DTYPES = ("float16", "float32", "float64", "complex64", "complex128")


def raw_file(
    path: Any,
    shape: tuple[int, int],
    dtype: str,
    chunk: int | None,
    offset: int,
    *,
    axis: int,
    ahead: bool,
) -> RawFile:
    """Check that a file holds a matrix, and return its blocks of `chunk` rows or columns."""
    if dtype not in _DTYPES:
        msg = f"`dtype` is {dtype!r}; a file holds numbers of one of {', '.join(_DTYPES)}."
        raise TypeError(msg)
    try:
        place = os.fspath(path)
    except TypeError:
        msg = f"`path` is {shown(path)}; it must be a string or a path of a file."
        raise TypeError(msg) from None
    if chunk is None:
        chunk = max(1, _BLOCK_BYTES // (shape[1 - axis] * np.dtype(dtype).itemsize))
    file = RawFile(place, shape, dtype, min(chunk, shape[axis]), offset, axis, ahead)
    there, needed = os.stat(place).st_size - offset, file.end - offset
    if there != needed:
        msg = (
            f"{place!r} holds {there} bytes from `offset` {offset} on, but `shape` "
            f"{shape} of {dtype} takes {needed}. Correct `shape`, `dtype` or `offset`."
        )
        raise ValueError(msg)
    return file


@part
@dataclasses.dataclass(frozen=True)
class RawFile:
    """A C-ordered matrix in a file; each call goes through it once.

    Each block is a memory map of its own, so that pages do not pile up in the memory of this
    process. Copies in buffers would take longer than the products that they are made for.
    """

    path: Any
    shape: tuple[int, int]
    dtype: str
    chunk: int  # rows (axis 0) or columns (axis 1) of a block
    offset: int  # in bytes
    axis: int
    ahead: bool  # ask for the next block while one is used

    @property
    def end(self) -> int:
        """Number of bytes up to the end of the matrix."""
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __call__(self) -> Generator[Array, None, None]:
        """Yield views of the blocks."""
        length = self.shape[self.axis]
        with open(self.path, "rb") as file:
            for start in range(0, length, self.chunk):
                stop = min(start + self.chunk, length)
                if self.ahead and stop < length:
                    self._ask_for(file.fileno(), stop, min(stop + self.chunk, length))
                yield self._view(file.fileno(), start, stop)

    def _view(self, file: int, start: int, stop: int) -> Array:
        if os.fstat(file).st_size < self.end:  # to touch what is not there would end the process
            msg = f"{self.path!r} has become shorter"
            raise EOFError(msg)
        # never written to, but torch wants arrays that could be
        pages = mmap.mmap(file, self.end, access=mmap.ACCESS_COPY)
        self._populate(pages, start, stop)
        S = np.frombuffer(pages, self.dtype, offset=self.offset).reshape(self.shape)
        return S[start:stop] if self.axis == 0 else S[:, start:stop]

    def _ask_for(self, file: int, start: int, stop: int) -> None:
        """Let the operating system read rows or columns in the background, where it can."""
        if hasattr(os, "posix_fadvise"):
            for position, count in self._spans(start, stop):
                os.posix_fadvise(file, position, count, os.POSIX_FADV_WILLNEED)

    def _populate(self, pages: mmap.mmap, start: int, stop: int) -> None:
        """Map the pages of rows or columns at once, which faults would do a few at a time."""
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):  # of older kernels
            for position, count in self._spans(start, stop):
                first = position - position % mmap.PAGESIZE
                pages.madvise(_POPULATE_READ, first, position + count - first)

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield positions in the file and numbers of bytes of rows or columns."""
        itemsize, (n, m) = np.dtype(self.dtype).itemsize, self.shape
        if self.axis == 0:
            yield self.offset + start * m * itemsize, (stop - start) * m * itemsize
            return
        for row in range(n):
            yield self.offset + (row * m + start) * itemsize, (stop - start) * itemsize

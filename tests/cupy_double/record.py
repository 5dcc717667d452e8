"""What the stand-in for CuPy writes down: launches, host reads, copies, uploads and memory.

A launch is one call into CuPy, cuBLAS or cuSOLVER that works on the device. A host read is a value
that the host waits for. An allocation is new memory on the device; a copy is one that holds what
another array holds already, in another order or place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Record", "allocated", "current", "freed", "launched", "read", "recorded", "uploaded"]


@dataclass
class Record:
    """What happened since `recorded` was entered."""

    launches: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)  # bytes
    allocations: list[tuple[str, int]] = field(default_factory=list)  # by what, bytes
    in_use: int = 0
    peak: int = 0

    @property
    def largest(self) -> int:
        """Bytes of the largest allocation."""
        return max((size for _, size in self.allocations), default=0)


_records: list[Record] = []


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """Record what the body does; records nest."""
    record = Record()
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def current() -> list[Record]:
    """Return all records that are being made."""
    return _records


def launched(name: str) -> None:
    for record in _records:
        record.launches.append(name)


def read(name: str) -> None:
    for record in _records:
        record.reads.append(name)


def uploaded(size: int) -> None:
    for record in _records:
        record.uploads.append(size)


def allocated(name: str, size: int) -> None:
    for record in _records:
        record.allocations.append((name, size))
        record.in_use += size
        record.peak = max(record.peak, record.in_use)


def freed(size: int) -> None:
    for record in _records:
        record.in_use -= size

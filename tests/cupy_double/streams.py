"""Streams, events and copies of a device that is not there, and what must not happen on it.

A part of the stand-in for CuPy; CuPy's own is `cupy/cuda/stream.pyx`. Work is done where it is
asked for, in one process, but the order in which a device might do it is kept by vector clocks:
each stream knows which work of the others its own comes after, by events, by the null stream, or
because the host has waited for that work. A line in `VIOLATIONS` says what may happen at the wrong
time:

* work on memory that another stream wrote, or still reads, with no event between the two;
* device memory dropped while a stream other than the one it was allocated on may still work with
  it: CuPy's pool gives it out again on the latter, at once (`_Chunk.arena` in `memory.pyx`);
* pinned memory that the host writes or gives back to the pool while a copy may still read it.

Copies from pinned memory are late, as late as any device could be: they read the host's buffer
only when the host waits for them, or when work that comes after them needs what they bring. As
nothing ends by itself here, `done` is False until the host has waited for it.

What it is not: it has no speed and no kernels, sees no write of the host but by the contents of a
buffer when copies read it and when they have been waited for, takes the whole host for one
timeline (threads of Python order themselves), and captures no graphs.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .host_memory import address_range, borrowed, checksum, is_borrowed, is_page_locked

VIOLATIONS: list[str] = []

Clock = dict[Any, int]  # up to which of its works each stream is known to be done

_LOCK = threading.RLock()
_HERE = threading.local()
_HOST: Clock = {}  # what the host has waited for
_CLOCKS: dict[Any, Clock] = {}  # of each stream: what its next work comes after
_DEVICES: dict[Any, int] = {}  # of each stream
_BLOCKING: dict[int, set[Any]] = {}  # streams of each device that wait for its null stream
_COPIES: list[_Copy] = []  # that the host has not waited for
_NUMBERS = itertools.count(1)


def locked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let one thread at a time change the clocks."""

    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return function(*args, **kwargs)

    return alone


@locked
def reset() -> None:
    """Forget violations and copies, as if all devices had been waited for."""
    for name in list(_CLOCKS):
        _HOST[name] = max(_HOST.get(name, 0), _CLOCKS[name].get(name, 0))
        _CLOCKS[name].clear()
    _COPIES.clear()
    VIOLATIONS.clear()


def current_device() -> int:
    """Return the device of this thread, as `cudaGetDevice`."""
    return getattr(_HERE, "device", 0)


def set_current_device(device_id: int) -> None:
    """Change the device of this thread, as `cudaSetDevice`."""
    _HERE.device = device_id


# --------------------------------------------------------------------------------- order


class _Work(NamedTuple):
    stream: Any  # its name
    number: int  # on that stream


def _comes_after(clock: Clock, work: _Work) -> bool:
    return max(clock.get(work.stream, 0), _HOST.get(work.stream, 0)) >= work.number


def _join(clock: Clock, other: Clock) -> None:
    """Let what comes after `clock` come after `other` too; what the host waited for is known."""
    for name, number in list(other.items()):
        if number > max(clock.get(name, 0), _HOST.get(name, 0)):
            clock[name] = number


def _clock(name: Any, device: int) -> Clock:
    """Return what the next work of a stream comes after.

    The null stream waits for all streams of its device that do not say otherwise, and they for it.
    """
    clock = _CLOCKS.setdefault(name, {})
    _DEVICES[name] = device
    if name == ("null", device):
        for other in _BLOCKING.get(device, ()):
            _join(clock, _CLOCKS.get(other, {}))
    elif name in _BLOCKING.get(device, ()):
        _join(clock, _CLOCKS.get(("null", device), {}))
    for other in [other for other in clock if clock[other] <= _HOST.get(other, 0)]:
        del clock[other]
    return clock


def _ask(stream: Stream) -> tuple[_Work, Clock]:
    """Return the next work of a stream, and its clock."""
    name = stream.name
    clock = _clock(name, stream.device)
    number = max(clock.get(name, 0), _HOST.get(name, 0)) + 1
    clock[name] = number
    return _Work(name, number), clock


def _host_waits(clock: Clock) -> None:
    for name, number in list(clock.items()):
        _HOST[name] = max(_HOST.get(name, 0), number)
    for copy in list(_COPIES):
        if _comes_after({}, copy.work):
            copy.run()
            copy.look("was written before the host waited for a copy from it")
            _COPIES.remove(copy)


# -------------------------------------------------------------------------------- memory


class Memory:
    """One allocation of a device; arrays and their views share it. It holds no numbers."""

    def __init__(self, device_id: int, nbytes: int) -> None:
        self.device_id, self.nbytes = device_id, nbytes
        self.number = next(_NUMBERS)
        home = get_current_stream(device_id)
        self.home = home.name if home.ptr else ("null", device_id)  # where it is used again
        self.written: _Work | None = None
        self.read: dict[Any, _Work] = {}  # since then, the last one of each stream

    def __repr__(self) -> str:
        return f"memory {self.number} ({self.nbytes} bytes on device {self.device_id})"

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ends():
            _dropped(self)

    def reaches(self, clock: Clock, *, writes: bool) -> list[str]:
        """Return what other work has to do with it that this does not come after."""
        found = []
        if self.written is not None and not _comes_after(clock, self.written):
            found.append(f"wrote {self!r}")
        elif writes and not all(_comes_after(clock, work) for work in self.read.values()):
            found.append(f"may still read {self!r}")
        return found


@locked
def _dropped(memory: Memory) -> None:
    if memory.reaches(_clock(memory.home, memory.device_id), writes=True):
        VIOLATIONS.append(
            f"{memory!r} was dropped, to be used again on stream {memory.home}, while another "
            f"stream may still work with it"
        )


@locked
def worked(reads: Iterable[Memory], writes: Iterable[Memory]) -> None:
    """Note that one piece of work was asked for on the current stream."""
    _work(get_current_stream(), list(reads), list(writes))


def _work(stream: Stream, reads: list[Memory], writes: list[Memory]) -> _Work:
    work, clock = _ask(stream)
    if _COPIES:
        touched = {memory.number for memory in (*reads, *writes)}
        for copy in [copy for copy in _COPIES if copy.target in touched]:
            if _comes_after(clock, copy.work):
                copy.run()
    for memories, does in ((reads, "reads"), (writes, "writes")):
        for memory in memories:
            found = memory.reaches(clock, writes=does == "writes")
            VIOLATIONS.extend(
                f"{stream!r} {does} memory although another stream {what}, and no event is "
                f"between them"
                for what in found
            )
    for memory in reads:
        memory.read[work.stream] = work
    for memory in writes:
        memory.written, memory.read = work, {}
    return work


# -------------------------------------------------------------------------------- copies


class _Copy:
    """A copy from pinned memory that the host has not waited for."""

    def __init__(self, work: _Work, source: np.ndarray, target: int, write: Any) -> None:
        self.work, self.target, self._write = work, target, write
        self.start, self.stop = address_range(source)
        self._buffer = borrowed(source)
        self._sum = checksum(self._buffer)

    def run(self) -> None:
        """Read the buffer, if that was not done yet."""
        write, self._write = self._write, None
        if write is not None:
            self.look("was written before a copy from it was done")
            write()

    def look(self, complaint: str) -> None:
        """Report a buffer that has other contents than when the copy was asked for."""
        if self._sum is not None and checksum(self._buffer) != self._sum:
            self._sum = None
            VIOLATIONS.append(f"pinned memory at {self.start:#x} {complaint}")


@locked
def copy_to_device(
    source: np.ndarray, target: Memory, write: Callable[[], None], stream: Stream
) -> None:
    """Ask for a copy from the host, which is done by `write()`, on a stream.

    `write` must not keep pinned memory alive, as no real copy does: let it read
    ``borrowed(source)``. From pageable memory CUDA has made a copy when the call returns.
    """
    _require_borrowed(source, write)
    work = _work(stream, [], [target])
    if is_page_locked(source):
        _COPIES.append(_Copy(work, source, target.number, write))
    else:
        write()


def _require_borrowed(source: np.ndarray, write: Callable[[], None]) -> None:
    if not is_page_locked(source):
        return
    held = [cell.cell_contents for cell in getattr(write, "__closure__", None) or ()]
    held += [*(getattr(write, "__defaults__", None) or ()), *getattr(write, "args", ())]
    for x in held:
        if isinstance(x, np.ndarray) and is_page_locked(x) and not is_borrowed(x):
            msg = "`write` keeps the pinned buffer alive; let it hold `borrowed(source)`."
            raise TypeError(msg)


@locked
def released(start: int, stop: int, how: str) -> None:
    """Report copies that may still read pinned memory that is given back."""
    VIOLATIONS.extend(
        f"pinned memory at {start:#x} was {how} while a copy may still read it"
        for copy in list(_COPIES)
        if copy.start < stop and start < copy.stop
    )


# ---------------------------------------------------------------------- what CuPy names so


class Event:
    """`cupy.cuda.Event`."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        self._clock: Clock = {}

    @property
    def done(self) -> bool:
        """Whether the host has waited for it; an event that was never recorded is done."""
        with _LOCK:
            return all(_comes_after({}, _Work(*item)) for item in list(self._clock.items()))

    @locked
    def record(self, stream: Stream | None = None) -> None:
        """Record it on a stream, by default the current one."""
        stream = get_current_stream() if stream is None else stream
        self._clock = dict(_ask(stream)[1])

    @locked
    def synchronize(self) -> None:
        """Let the host wait."""
        _host_waits(self._clock)


class Stream:
    """`cupy.cuda.Stream`."""

    null: Stream
    ptds: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = 0
    ) -> None:
        self.is_non_blocking = non_blocking and not null and not ptds
        self._number = 0 if null else -1 if ptds else next(_NUMBERS)
        self.device_id = -1 if null or ptds else current_device()
        if not null and not ptds and not non_blocking:
            _BLOCKING.setdefault(self.device_id, set()).add(self.name)

    @property
    def ptr(self) -> int:
        """A number that tells streams apart: 0 and 2 are those of CUDA."""
        return {0: 0, -1: 2}.get(self._number, self._number + 16)

    def is_capturing(self) -> bool:
        """No graph of CUDA is made here."""
        return False

    @property
    def device(self) -> int:
        """The device that its work is done on."""
        return current_device() if self.device_id == -1 else self.device_id

    @property
    def name(self) -> Any:
        """What the clocks know it by."""
        if self._number > 0:
            return self._number
        if self._number == 0:
            return ("null", self.device)
        name = ("ptds", threading.get_ident(), self.device)
        _BLOCKING.setdefault(self.device, set()).add(name)
        return name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __enter__(self) -> Stream:
        self._require_device()
        before = _current(current_device())
        _stack().append((current_device(), before))
        _streams()[current_device()] = self
        return self

    def __exit__(self, *raised: object) -> None:
        device, before = _stack().pop()
        _streams()[device] = before

    def use(self) -> Stream:
        """Make it the current stream of this thread."""
        self._require_device()
        _streams()[current_device()] = self
        return self

    def _require_device(self) -> None:
        if self.device_id not in (-1, current_device()):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match "
                f"with the current device ({current_device()})"
            )

    @property
    def done(self) -> bool:
        """Whether the host has waited for all of its work."""
        with _LOCK:
            number = _CLOCKS.get(self.name, {}).get(self.name, 0)
            return _HOST.get(self.name, 0) >= number

    @locked
    def record(self, event: Event | None = None) -> Event:
        """Return an event of all that was asked for so far."""
        event = Event() if event is None else event
        event.record(self)
        return event

    @locked
    def wait_event(self, event: Event) -> None:
        """Let what is asked for from now on come after an event."""
        _join(_CLOCKS.setdefault(self.name, {}), event._clock)

    @locked
    def synchronize(self) -> None:
        """Let the host wait."""
        _host_waits(_ask(self)[1])


@locked
def synchronize_device(device_id: int) -> None:
    """Let the host wait for all streams of a device: `cudaDeviceSynchronize`."""
    for name in list(_CLOCKS):
        if _DEVICES.get(name, device_id) == device_id:
            _host_waits(dict(_CLOCKS[name]))


def _streams() -> dict[int, Stream]:
    return _HERE.__dict__.setdefault("streams", {})


def _stack() -> list[tuple[int, Stream]]:
    return _HERE.__dict__.setdefault("stack", [])


def _current(device_id: int) -> Stream:
    return _streams().get(device_id, Stream.null)


def get_current_stream(device_id: int | None = None) -> Stream:
    """Return the current stream of this thread on a device, by default the current one."""
    return _current(current_device() if device_id in (None, -1) else device_id)


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)

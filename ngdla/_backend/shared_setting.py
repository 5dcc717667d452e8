"""A setting of the whole process that calls in several threads hold at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["SharedSetting"]


class SharedSetting:
    """The precision of products, full or reduced, as long as any call holds it.

    Of the calls in one thread the innermost one counts. Products have full precision while one
    thread asks for it, and reduced precision while all that hold the setting allow it. The last
    call to leave restores what the user had set; a value that was not written here is the user's.
    Where a setting may read as another one that it follows, `source` gives what it is set to.

    Parameters
    ----------
    read, write : callable
        Give and set the value.
    full, reduced
        The values to be set.
    kind : callable
        Gives the same for values that are as good as each other: none is written for another.
    source : callable
        Gives what is to be written to restore a value that was read.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        write: Callable[[Any], None],
        *,
        full: Any,
        reduced: Any,
        kind: Callable[[Any], Any],
        source: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self._read, self._write = read, write
        self._values, self._kind, self._source = (reduced, full), kind, source
        self._lock = threading.Lock()
        self._asked: dict[int, list[bool]] = {}  # of each thread, the innermost call last
        self._users = self._now = None  # what the user set, and what is set, while it is held
        self._restored: Any = None  # what the user's value is set by, once another one is written

    def hold(self, thread: int, *, full: bool) -> None:
        """Ask for full precision, or allow reduced precision, until `release`."""
        with self._lock:
            asked = self._asked.setdefault(thread, [])
            asked.append(full)
            try:
                self._settle()
            except BaseException:
                self._leave(thread)
                raise

    def is_held(self, thread: int, *, full: bool) -> bool:
        """Tell whether the innermost call of a thread asks for this."""
        asked = self._asked.get(thread)
        return asked is not None and asked[-1] == full

    def release(self, thread: int) -> None:
        """Take back what the thread asked for last."""
        with self._lock:
            self._leave(thread)
            if self._asked:
                self._settle()
                return
            users, now = self._users, self._now
            self._users = self._now = None
            if users != now and self._read() == now:
                self._write(self._restored)

    def _leave(self, thread: int) -> None:
        asked = self._asked[thread]
        asked.pop()
        if not asked:
            del self._asked[thread]

    def _settle(self) -> None:
        """Write what the threads ask for, where it has to be written."""
        value = self._read()
        if value != self._now:
            self._users = self._now = value
        wanted = self._values[any(asked[-1] for asked in self._asked.values())]
        if self._kind(value) != self._kind(wanted):
            good = self._kind(self._users) == self._kind(wanted)
            if self._now == self._users:
                self._restored = self._source(value)
            self._write(self._restored if good else wanted)
            self._now = self._read()  # which may be less, on a device that does not have it

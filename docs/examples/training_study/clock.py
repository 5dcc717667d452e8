"""Seconds by phase of a training step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

PHASES = ("network", "statistics", "decomposition", "application")
"""Forward and backward; moments and factors; what is inverted or decomposed; the step itself."""


class Clock:
    """Adds up what passes in ``with clock(phase):``.

    Parameters
    ----------
    wait : callable
        Called at both ends of a phase; returns once the device has done all it was given.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._wait = wait
        self._phase = ""

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the seconds of what is done within to a phase."""
        if phase not in self.seconds:
            msg = f"no phase {phase!r}: one of {', '.join(PHASES)}"
            raise KeyError(msg)
        if self._phase:
            msg = f"{phase} within {self._phase} would be counted twice"
            raise RuntimeError(msg)
        self._wait()
        self._phase = phase
        start = time.perf_counter()
        try:
            yield
            self._wait()
        finally:
            self.seconds[phase] += time.perf_counter() - start
            self._phase = ""

"""Seconds by phase of a training step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from unittest import mock

PHASES = ("network", "statistics", "decomposition", "application")
"""Forward and backward; rows and averages; what is inverted or decomposed; the step itself."""


class Clock:
    """Adds up what passes in ``with clock(phase):``, an inner phase apart from the outer one.

    Parameters
    ----------
    wait : callable
        Called at both ends of a phase; returns once the device has done all it was given.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._wait = wait
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the seconds of what is done within to a phase."""
        if phase not in self.seconds:
            msg = f"no phase {phase!r}: one of {', '.join(PHASES)}"
            raise KeyError(msg)
        self._turn()
        self._open.append(phase)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give the time until now to the phase that is open."""
        self._wait()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def of_calls(self, phases: dict[tuple[Any, str], str]) -> Iterator[None]:
        """Count calls of functions, each named by what it belongs to, as phases of their own."""
        with contextlib.ExitStack() as stack:
            for (owner, name), phase in phases.items():
                counted = self._counted(getattr(owner, name), phase)
                stack.enter_context(mock.patch.object(owner, name, counted))
            yield

    def _counted(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self(phase):
                return function(*args, **kwargs)

        return counted

"""What every public function opens, and what is read when it is left."""

from __future__ import annotations

from types import TracebackType

from .checks import ValueChecks
from .namespace import Array, namespace
from .settings import library_settings

__all__ = ["opened"]


class opened:
    """Hold the settings of the library of `like`, and gather value checks, read on leaving.

    An exception of the body is never replaced by one of the checks. With `tf32`, products may drop
    to TF32 where the device has it.
    """

    def __init__(self, like: Array, check: bool = True, *, tf32: bool = False) -> None:
        self._settings = library_settings(namespace(like), tf32=tf32)
        self._checks = ValueChecks(enabled=check)

    def __enter__(self) -> ValueChecks:
        self._settings.__enter__()
        return self._checks

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._checks.read()
        finally:
            self._settings.__exit__(kind, error, trace)

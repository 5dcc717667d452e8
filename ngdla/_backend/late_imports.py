"""What is done once a library is imported, be it before this one or after."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["when_imported"]

Action = Callable[[], None]


def when_imported(library: str, action: Action) -> None:
    """Call `action` now if a top-level module has been imported, else once it has been.

    Nothing is imported for that: a finder waits in `sys.meta_path` and changes how no other module
    is found or loaded.
    """
    if sys.modules.get(library) is not None and library not in _FINDER.waiting:
        action()
        return
    _FINDER.waiting.setdefault(library, []).append(action)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder(importlib.abc.MetaPathFinder):
    """Lets others find a module that is waited for, and hears when it has been executed."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}
        self._asking: set[str] = set()  # by name: other threads may import the other library

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname not in self.waiting or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = partial(self._executed, execute, fullname)  # type: ignore[method-assign]
        return spec

    def _executed(self, execute: Callable[[ModuleType], None], name: str, module: Any) -> None:
        execute(module)
        del module.__spec__.loader.exec_module  # which is that of its class again
        for action in self.waiting.pop(name, ()):
            action()
        if not self.waiting:
            sys.meta_path.remove(self)


_FINDER = _Finder()

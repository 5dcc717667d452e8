"""Pickles that outlive moves of modules: they name classes by a word, not by a place."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable, Mapping
from inspect import get_annotations
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from .pytrees import register_safe

__all__ = ["name_public", "part"]

Class = TypeVar("Class", bound=type)

_PARTS: dict[str, type] = {}


def part(cls: Class) -> Class:
    """Let pickles hold instances of an internal class, a dataclass or a NamedTuple, by its name.

    Each name stands for one class, which may be defined again, as in a notebook.
    """
    taken = _PARTS.get(cls.__name__, cls)
    if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        msg = (
            f"{cls.__module__}.{cls.__qualname__} cannot be a part of pickles: the name "
            f"{cls.__name__} is that of {taken.__module__}.{taken.__qualname__}. Rename it."
        )
        raise ValueError(msg)
    _PARTS[cls.__name__] = cls
    copyreg.pickle(cls, _reduced)
    return cls


def _reduced(x: Any) -> tuple[Any, ...]:
    fields = x._asdict() if hasattr(x, "_asdict") else x.__getstate__() or {}
    return _restored_part, (type(x).__name__, fields)


def _restored_part(name: str, fields: dict[str, Any]) -> Any:
    """Return the instance that a pickle holds."""
    cls = _PARTS[name]
    if issubclass(cls, tuple):
        return cls(**fields)
    x = object.__new__(cls)
    x.__dict__.update(fields)
    return x


def name_public(module: str, members: Mapping[str, Any], names: Iterable[str]) -> None:
    """Let classes and functions say that they are of the module that makes them public."""
    for item in (members[name] for name in names):
        if isinstance(item, type):
            own = get_annotations(item)
            hints = get_type_hints(item)  # names are looked up where the class says it is
            item.__annotations__ = {name: hints[name] for name in own}
        if not isinstance(item, ModuleType):
            item.__module__ = module


_restored_part.__module__ = "ngdla"  # where pickles look for it
register_safe(_restored_part)  # it makes nothing but parts

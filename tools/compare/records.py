"""Results taken apart into what can be compared: arrays as bytes, everything else as text."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .expressions import Absent

__all__ = ["RAISED", "Numbers", "Record", "Results", "is_array", "outcome", "parts"]


class Numbers(NamedTuple):
    """An array: what holds it, its dtype and shape, and its bytes in C order."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes


# Everything that a case gave, by where it stands in the result.
Record = dict[str, Numbers | str]
# By mode and name of a case; None where a commit does not have a name that the case needs.
Results = dict[tuple[str, str], Record | None]
RAISED = "raised"  # where an exception stands, alone but for warnings


def outcome(call: Callable[[], dict[str, Any]], numbers: Callable[[Any], Numbers]) -> Record | None:
    """Return the parts of what a call returns, or what it raises, and its warnings in order.

    None where a commit does not have a name that the call needs.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*persistent compilation cache")  # not of the result
        try:
            found = call()
        except Absent:
            return None
        except Exception as error:  # noqa: BLE001  whatever is raised is the result
            found = {RAISED: said(error)}
    record = {path: numbers(x) if is_array(x) else x for path, x in found.items()}
    for i, warning in enumerate(caught):
        record[f"warnings[{i}]"] = said(warning.message) + _place(warning.filename)
    return record


def parts(x: Any, path: str = "result") -> Iterator[tuple[str, Any]]:
    """Yield the arrays in a result, and the text of what is none, by where they stand.

    Classes of `ngdla` that are not public, which attributes may have, are left out.
    """
    fields, kind = _fields(x), type(x)
    if is_array(x):
        yield path, x
    elif fields is not None and _is_public(kind):
        yield f"type of {path}", kind.__name__
        for place, item in fields:
            yield from parts(item, f"{path}{place}")
    elif _is_public(kind):
        yield path, kind.__name__ if kind.__repr__ is object.__repr__ else text(repr(x))


def _is_public(kind: type) -> bool:
    """Tell whether a class is a public one of `ngdla`, or not of `ngdla`."""
    root = kind.__module__.partition(".")[0]
    if root != "ngdla":
        return True
    modules = map(sys.modules.get, (root, f"{root}.structures"))  # older commits have no structures
    return any(kind.__name__ in module.__all__ for module in modules if module)


def _fields(x: Any) -> list[tuple[str, Any]] | None:
    """Return the parts of a container or a result with their places; None if it is none."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        names = {field.name for field in dataclasses.fields(x)} | _documented(type(x))
        return [(f".{name}", getattr(x, name)) for name in sorted(names)]
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return [(f".{name}", getattr(x, name)) for name in x._fields]
    if isinstance(x, (list, tuple)):
        return [(f"[{i}]", item) for i, item in enumerate(x)]
    if isinstance(x, dict):
        return [(f"[{key!r}]", item) for key, item in x.items()]
    return None


def _documented(kind: type) -> set[str]:
    """Return the attributes that the docstring of a class names; some may be properties."""
    section = re.search(r"Attributes\n *-+\n((?:.*\n?)*)", kind.__doc__ or "")
    names = re.findall(r"^    (\w+)(?: :.*)?$", section[1] if section else "", re.MULTILINE)
    return {name for name in names if hasattr(kind, name)}


def is_array(x: Any) -> bool:
    """Tell whether something is an array of any library, or a number of NumPy."""
    return hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__array__")


def said(message: BaseException) -> str:
    """Return the kind of an exception or a warning and its text."""
    kind = type(message)
    module = "ngdla" if kind.__module__.startswith("ngdla.") else kind.__module__
    name = kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"
    return f"{name}: {text(str(message))}"


def _place(file: str) -> str:
    """Return a remark where a warning points into `ngdla`, and not to the line that called it."""
    return " (in ngdla)" if Path(sys.modules["ngdla"].__file__).parent in Path(file).parents else ""


def text(x: str) -> str:
    """Return a text without what is another one in each process: addresses in memory."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x...", x)

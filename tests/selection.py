"""Which tests run: few cases where many cost much or show little, none on GPUs that are absent.

Where a library traces or compiles, each case of a test costs seconds; read-only NumPy arrays and
strict ones without float64 take the ways of others. `@pytest.mark.thinned` leaves there as few
cases as have every value of every parameter; the others are `slow`. What needs a GPU
is deselected where there is none: `--require-backend` makes that a failure. A run may leave out
what passed in another, unless its outcome depends on the packages that are installed.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import DTYPES, THINNED, usable
from capability_record import ON_GPUS

DOUBLE = "cupy-double"
MARK = "cupy_double"


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what `thinned` leaves out; leave out what passed and what has no GPU."""
    mark_slow(items)
    libraries = {item: library_of(item) for item in items}
    devices = {*ON_GPUS, DOUBLE}
    missing = {name for name in set(libraries.values()) & devices if not usable(name)}
    on_double = config.getoption("--cupy-double")
    file = config.getoption("--leave-out-passed")
    passed = set(Path(file).read_text(encoding="utf-8").splitlines()) if file else set()

    def left_out(item: pytest.Item) -> bool:
        if (libraries[item] == DOUBLE or MARK in item.keywords) != on_double:
            return True
        again = item.get_closest_marker("environment") is not None
        return libraries[item] in missing or (item.nodeid in passed and not again)

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


def record_passed(terminalreporter: Any) -> None:
    """Write down which tests passed, if that is asked for."""
    file = terminalreporter.config.getoption("--record-passed")
    if file:
        passed = (report.nodeid for report in terminalreporter.stats.get("passed", []))
        Path(file).write_text("\n".join(passed), encoding="utf-8")


def library_of(item: pytest.Item) -> str | None:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    names = ("backend", "valued_backend", "library")
    return next((parameters[name] for name in names if name in parameters), None)


LONGEST = Path(__file__).with_name("longest.txt")


def mark_slow(items: list[pytest.Item]) -> None:
    longest = set(LONGEST.read_text(encoding="utf-8").splitlines())
    groups: dict[tuple[str, str, int], list[tuple[pytest.Item, dict[str, Any]]]] = defaultdict(list)
    for item in items:
        if item.nodeid in longest:
            item.add_marker("slow")
        mark = item.get_closest_marker("thinned")
        if mark is not None:
            parameters: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
            library = library_of(item)
            if library in THINNED:
                key = item.nodeid.partition("[")[0], library, *(mark.args or (1,))
                groups[key].append((item, parameters))
    for (_, _, strength), group in groups.items():
        kept = covering([parameters for _, parameters in group], strength)
        for i, (item, _) in enumerate(group):
            if i not in kept:
                item.add_marker("slow")


def covering(cases: list[dict[str, Any]], strength: int) -> set[int]:
    """Return few of the cases in which every `strength` parameters have all values they have."""
    named = [sorted((name, repr(value)) for name, value in split(case)) for case in cases]
    held = [set(itertools.combinations(values, strength)) for values in named]
    missing, kept, uses = set().union(*held), set(), Counter[tuple[str, str]]()
    while missing:
        most = max(len(one & missing) for one in held)
        ties = [i for i, one in enumerate(held) if len(one & missing) == most]
        best = min(ties, key=lambda i: sum(uses[value] for value in named[i]))  # in equal shares
        kept.add(best)
        missing -= held[best]
        uses.update(named[best])
    return kept


def split(case: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Take a dtype for two parameters: all four of them are seldom four ways through the code."""
    for name, value in case.items():
        if isinstance(value, str) and value in DTYPES:
            yield f"{name} complex", value.startswith("complex")
            yield f"{name} single", value in ("float32", "complex64")
        else:
            yield name, value

"""Cases, tables of them over all values of all options, and few that still have every value."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

__all__ = ["DTYPES", "EAGER", "HALF", "INTERPRETED", "Case", "grid", "thinned"]

DTYPES = ("float32", "float64", "complex64", "complex128")
# Options of grids: what is not run under jit, and not at all where operations are compiled.
EAGER: dict[str, Any] = {"compiled": ("eager",)}
INTERPRETED: dict[str, Any] = {"compiled": ()}
HALF: dict[str, Any] = {"dtype": ("float16", "bfloat16"), **EAGER}


class Case(NamedTuple):
    """An expression of arrays of one dtype, and how its options are called."""

    group: str
    options: tuple[tuple[str, str], ...]
    dtype: str
    build: Callable[[], Any]
    compiled: tuple[str, ...] = ("eager", "jit")

    @property
    def name(self) -> str:
        """Return the group and all options in one line."""
        return " ".join([self.group, *(f"{axis}={label}" for axis, label in self.options)])

    @property
    def expression(self) -> Any:
        """Return what is to be computed, which is built when it is asked for."""
        return self.build()


def grid(
    group: str,
    build: Callable[..., Any],
    *,
    dtype: Iterable[str] = DTYPES,
    compiled: tuple[str, ...] = ("eager", "jit"),
    **axes: Iterable[Any],
) -> Iterator[Case]:
    """Yield a case for each combination of the values of the axes; a mapping names its values.

    `build` makes the expression from a value of each axis but the dtype. `compiled` are the modes
    in which the cases are run where operations are compiled, which takes long.
    """
    named = {"dtype": {name: name for name in dtype}, **{a: _named(v) for a, v in axes.items()}}
    for labels in itertools.product(*named.values()):
        options = tuple(zip(named, labels))
        values = {axis: named[axis][label] for axis, label in options if axis != "dtype"}
        yield Case(group, options, labels[0], partial(build, **values), compiled)


def _named(values: Iterable[Any]) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {str(value): value for value in values}


def thinned(cases: Iterable[Case], strength: int) -> list[Case]:
    """Return few of the cases of each group, in which all `strength` options have all values."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    return [case for group in groups.values() for case in _covering(group, strength)]


def _covering(cases: list[Case], strength: int) -> list[Case]:
    """Return cases with all combinations, taking first those that have many not seen yet."""
    size = min(strength, len(cases[0].options))
    held = [set(itertools.combinations(case.options, size)) for case in cases]
    missing, kept = set().union(*held), set()
    least = len(held[0])
    while missing:
        for i, combinations in enumerate(held):
            if len(combinations & missing) >= least:
                kept.add(i)
                missing -= combinations
        least = (least + 1) // 2
    return [cases[i] for i in sorted(kept)]

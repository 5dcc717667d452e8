"""Every public function and method, with all values of all options: one file for each subject."""

from __future__ import annotations

from collections.abc import Iterator

from compare.grids import Case

from . import decompositions, inverse_free, layers, refusals, solves, structures

__all__ = ["all_cases"]


def all_cases() -> Iterator[Case]:
    """Yield all cases."""
    for subject in (solves, decompositions, structures, inverse_free, layers, refusals):
        yield from subject.cases()

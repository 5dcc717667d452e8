"""Search for damped solves that are wrong without a word: hostile problems, and exact answers.

    python tools/fuzz_solves.py                       # 20,000 cases on every library
    python tools/fuzz_solves.py --quick               # a few hundred
    python tools/fuzz_solves.py --case 4711           # one case

A case is one integer: its number modulo 200 is the program (shapes, dtypes, options), and all of it
seeds its data. Findings are lines on stdout; exit code 1: some of them are faults.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial

import numpy as np
from fuzz import search
from fuzz.cases import make_case
from fuzz.judge import KINDS, Finding, findings, solutions
from fuzz.libraries import LIBRARIES
from fuzz.programs import PROGRAMS

FAULTS = ("bound", "silent", "rounded", "refused", "raised")


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and return the exit code."""
    return search.main(
        search.Search(str(__doc__), run, len(PROGRAMS), KINDS, FAULTS, compiled=10), arguments
    )


def run(libraries: list[str], numbers: list[int]) -> search.Found:
    """Return how many cases were run on each library, and what was found."""
    counts: Counter[str] = Counter()
    found: list[Finding] = []
    with np.errstate(all="ignore"):
        for number in numbers:
            case = make_case(number)
            right = solutions(case)
            for name in libraries:
                library = LIBRARIES[name]()
                if library.serves(case.program):
                    again = partial(library.answer, case, check=False)
                    counts[name] += 1
                    found += findings(case, name, library.answer(case), right, again)
    return counts, found


if __name__ == "__main__":
    sys.exit(main())

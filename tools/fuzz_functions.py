"""Search for decompositions, functions of matrices and averages that are wrong without a word.

    python tools/fuzz_functions.py                    # 20,000 cases on every library
    python tools/fuzz_functions.py --quick            # a few hundred
    python tools/fuzz_functions.py --case 4711        # one case

It is to everything that computes, solves apart, what fuzz_solves.py is to damped solves. A case is
one integer: its number modulo 200 is the program (function, sizes, dtype, options; some are
derivatives), and all of it seeds its data. Findings are lines on stdout; exit code 1: some of them
are faults. The name of an output file gets the ending _functions.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
from fuzz import search
from fuzz.functions.calls import LIBRARIES
from fuzz.functions.cases import make_case
from fuzz.functions.judge import FAULTS, KINDS, findings, problems
from fuzz.functions.programs import PROGRAMS
from fuzz.judge import Finding


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and return the exit code."""
    found = search.Search(
        str(__doc__), run, len(PROGRAMS), KINDS, FAULTS, compiled=25, ending="_functions"
    )
    return search.main(found, arguments)


def run(libraries: list[str], numbers: list[int]) -> search.Found:
    """Return how many cases were run on each library, and what was found."""
    counts: Counter[str] = Counter()
    found: list[Finding] = []
    with np.errstate(all="ignore"):
        for number in numbers:
            case = make_case(number)
            batch = problems(case)
            for name in libraries:
                library = LIBRARIES[name]()
                if library.serves(case.program):
                    counts[name] += 1
                    found += findings(case, name, library.answer(case), batch)
    return counts, found


if __name__ == "__main__":
    sys.exit(main())

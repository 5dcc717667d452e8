"""Search for damped solves that are wrong without a word: hostile problems against exact answers.

    python tools/fuzz_solves.py                       # 20,000 cases on every library
    python tools/fuzz_solves.py --quick               # a few hundred
    python tools/fuzz_solves.py --case 4711           # one case, with its traceback

A case is one integer: number modulo 200 is the program (shapes, dtypes, options), and the rest seeds
its data. Findings are lines on stdout; exit code 1: there are some that are faults.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from fuzz.cases import make_case
from fuzz.judge import KINDS, Finding, findings, solutions
from fuzz.libraries import LIBRARIES, installed
from fuzz.programs import PROGRAMS

QUICK_DRAWS, QUICK_COMPILED = 2, 5  # of each program; of every so many programs under jit
FAULTS = ("bound", "silent", "unsaid", "rounded", "refused", "raised")


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and return the exit code."""
    options = parsed(arguments)
    start = time.perf_counter()
    if options.case is not None:
        counts, found = run(options.libraries, [options.case])
    else:
        draws = QUICK_DRAWS if options.quick else options.draws
        work = [(options.libraries, chunk, options.quick) for chunk in chunks(draws)]
        counts, found = Counter(), []
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for more, others in pool.imap_unordered(_run, work):
                counts, found = counts + more, found + others
                print(
                    *(
                        f"{f.kind}: {f.library} {f.case}: {f.text}"
                        for f in others
                        if f.kind != "list"
                    ),
                    sep="\n",
                    end="\n" if any(f.kind != "list" for f in others) else "",
                    flush=True,
                )
    report(counts, found, time.perf_counter() - start, options.output)
    return int(any(f.kind in FAULTS for f in found))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=installed())
    parser.add_argument("--draws", type=int, default=100, help="cases of each of the 200 programs")
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--case", type=int, help="one case")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="a JSON file for counts and findings")
    return parser.parse_args(arguments)


def chunks(draws: int) -> Iterator[list[int]]:
    """Yield the cases of each program, so that it is compiled once."""
    for program in range(len(PROGRAMS)):
        yield [program + len(PROGRAMS) * draw for draw in range(draws)]


def _run(work: tuple[list[str], list[int], bool]) -> tuple[Counter, list[Finding]]:
    libraries, numbers, quick = work
    if quick and (numbers[0] + 1) % QUICK_COMPILED:
        libraries = [name for name in libraries if not LIBRARIES[name].traced]
    return run(libraries, numbers)


def run(libraries: list[str], numbers: list[int]) -> tuple[Counter, list[Finding]]:
    """Return how many cases were run on each library, and what was found."""
    counts: Counter = Counter()
    found: list[Finding] = []
    with np.errstate(all="ignore"):
        for number in numbers:
            case = make_case(number)
            right = solutions(case)
            for name in libraries:
                library = LIBRARIES[name]()
                if library.serves(case.program):
                    answer = library.answer(case)
                    counts[name] += 1
                    found += findings(
                        case, name, answer, right, lambda: library.answer(case, check=False)
                    )
    if "jax" in libraries:
        import jax

        jax.clear_caches()
    return counts, found


def report(counts: Counter, found: list[Finding], seconds: float, output: Path | None) -> None:
    """Print, and keep, what was found."""
    kinds = {kind: Counter(f.library for f in found if f.kind == kind) for kind in KINDS}
    print(f"cases: {dict(counts)}, {seconds:.0f} s")
    for kind, text in KINDS.items():
        print(f"{text}: {dict(kinds[kind]) or 'none'}")
    if output is not None:
        record = {"cases": counts, "seconds": round(seconds), "found": kinds}
        record["faults"] = [f._asdict() for f in found if f.kind in FAULTS]
        output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

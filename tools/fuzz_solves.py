"""Search for damped solves that are wrong without a word: hostile problems, and exact answers.

    python tools/fuzz_solves.py                       # 20,000 cases on every library
    python tools/fuzz_solves.py --quick               # a few hundred
    python tools/fuzz_solves.py --case 4711           # one case

A case is one integer: its number modulo 200 is the program (shapes, dtypes, options), and all of it
seeds its data. Findings are lines on stdout; exit code 1: some of them are faults.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from fuzz.cases import make_case
from fuzz.judge import KINDS, Finding, findings, solutions
from fuzz.libraries import LIBRARIES, installed
from fuzz.programs import PROGRAMS

QUICK_COMPILED = 10  # of so many programs one is compiled
FAULTS = ("bound", "silent", "rounded", "refused", "raised")
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}

Found = tuple[Counter[str], list[Finding]]


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and return the exit code."""
    os.environ |= SETTINGS  # which processes inherit before they import anything
    options = parsed(arguments)
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    found: list[Finding] = []
    for more, others in results(options):
        counts, found = counts + more, found + others
        for finding in others:
            if finding.kind in FAULTS:
                print(
                    f"{finding.kind}: {finding.library} {finding.case}: {finding.text}", flush=True
                )
    report(counts, found, time.perf_counter() - start, options.output)
    return int(any(finding.kind in FAULTS for finding in found))


def results(options: argparse.Namespace) -> Iterator[Found]:
    """Yield what the cases of one program after the other gave."""
    if options.case is not None:
        yield run(options.libraries, [options.case])
        return
    draws = 1 if options.quick else options.draws
    work = [(options.libraries, numbers, options.quick) for numbers in programs(draws)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        yield from pool.imap_unordered(_run, work)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=installed())
    parser.add_argument("--draws", type=int, default=100, help="cases of each of the 200 programs")
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--case", type=int, help="one case")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="a JSON file for counts and findings")
    return parser.parse_args(arguments)


def programs(draws: int) -> Iterator[list[int]]:
    """Yield the cases of each program, so that it is compiled once."""
    for program in range(len(PROGRAMS)):
        yield [program + len(PROGRAMS) * draw for draw in range(draws)]


def _run(work: tuple[list[str], list[int], bool]) -> Found:
    libraries, numbers, quick = work
    if quick and numbers[0] % QUICK_COMPILED:
        libraries = [name for name in libraries if not LIBRARIES[name].traced]
    return run(libraries, numbers)


def run(libraries: list[str], numbers: list[int]) -> Found:
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
    if "jax" in libraries:
        import jax

        jax.clear_caches()
    return counts, found


def environment() -> dict[str, object]:
    """Return what the cases were run with."""
    versions = {}
    for name in ("numpy", "scipy", "torch", "jax", "array-api-strict", "mpmath"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": " ".join(["python", *sys.argv]),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def report(counts: Counter, found: list[Finding], seconds: float, output: Path | None) -> None:
    """Print, and keep, what was found."""
    kinds = {kind: Counter(f.library for f in found if f.kind == kind) for kind in KINDS}
    print(f"cases: {dict(counts)}, {seconds:.0f} s")
    for kind, text in KINDS.items():
        print(f"{text}: {dict(kinds[kind]) or 'none'}")
    if output is not None:
        record = {"environment": environment(), "cases": counts, "seconds": round(seconds)}
        record["found"] = {KINDS[kind]: dict(libraries) for kind, libraries in kinds.items()}
        record["faults"] = [f._asdict() for f in found if f.kind in FAULTS]
        output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""What all searches have in common: options, one program after the other, and the report."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .judge import Finding
from .libraries import installed

__all__ = ["Found", "Search", "main"]

Found = tuple[Counter[str], list[Finding]]

SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}


class Search(NamedTuple):
    """A search: how its cases are run, and what it may find."""

    text: str
    run: Callable[[list[str], list[int]], Found]  # of libraries and cases; to be pickled
    programs: int
    kinds: dict[str, str]  # of findings
    faults: tuple[str, ...]
    compiled: int  # of so many programs a quick search compiles one
    ending: str = ""  # of names of output files


def main(search: Search, arguments: list[str] | None = None) -> int:
    """Run the cases and return the exit code."""
    os.environ |= SETTINGS  # which processes inherit before they import anything
    options = parsed(search, arguments)
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    found: list[Finding] = []
    for more, others in results(search, options):
        counts, found = counts + more, found + others
        for finding in others:
            if finding.kind in search.faults:
                print(
                    f"{finding.kind}: {finding.library} {finding.case}: {finding.text}", flush=True
                )
    report(search, counts, found, time.perf_counter() - start, options.output)
    return int(any(finding.kind in search.faults for finding in found))


def results(search: Search, options: argparse.Namespace) -> Iterator[Found]:
    """Yield what the cases of one program after the other gave."""
    if options.case is not None:
        yield search.run(options.libraries, [options.case])
        return
    draws = 1 if options.quick else options.draws
    work = [(search, options.libraries, cases, options.quick) for cases in programs(search, draws)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        yield from pool.imap_unordered(_run, work)


def parsed(search: Search, arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=search.text, formatter_class=layout)
    names = ("numpy", "torch", "strict", "jax")
    parser.add_argument("--libraries", nargs="+", choices=names, default=installed())
    parser.add_argument("--draws", type=int, default=100, help="cases of each of the 200 programs")
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--case", type=int, help="one case")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="a JSON file for counts and findings")
    return parser.parse_args(arguments)


def programs(search: Search, draws: int) -> Iterator[list[int]]:
    """Yield the cases of each program, so that it is compiled once."""
    for program in range(search.programs):
        yield [program + search.programs * draw for draw in range(draws)]


def _run(work: tuple[Search, list[str], list[int], bool]) -> Found:
    search, libraries, numbers, quick = work
    if quick and numbers[0] % search.compiled:
        libraries = [name for name in libraries if name != "jax"]
    found = search.run(libraries, numbers)
    if "jax" in libraries:
        import jax

        jax.clear_caches()
    return found


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


def report(
    search: Search, counts: Counter, found: list[Finding], seconds: float, output: Path | None
) -> None:
    """Print, and keep, what was found."""
    kinds = {kind: Counter(f.library for f in found if f.kind == kind) for kind in search.kinds}
    print(f"cases: {dict(counts)}, {seconds:.0f} s")
    for kind, text in search.kinds.items():
        print(f"{text}: {dict(kinds[kind]) or 'none'}")
    if output is not None:
        record = {"environment": environment(), "cases": counts, "seconds": round(seconds)}
        record["found"] = {search.kinds[kind]: dict(names) for kind, names in kinds.items()}
        record["faults"] = [f._asdict() for f in found if f.kind in search.faults]
        if not output.stem.endswith(search.ending):
            output = output.with_stem(output.stem + search.ending)
        output.write_text(json.dumps(record, indent=1) + "\n")

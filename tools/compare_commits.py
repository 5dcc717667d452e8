"""Show whether two commits compute the same, bit for bit.

    python tools/compare_commits.py main HEAD
    python tools/compare_commits.py HEAD $(git stash create) --libraries numpy torch

Both are checked out into temporary folders, and every public function and method is called with the
same arguments: all options, dtypes, shapes and wrong arguments that `tools/compare/cases` lists, on
all array libraries that are installed. A difference is a line on stdout: of an array, in any bit
(NaN is NaN), of a dtype, a shape, a warning or an exception. Exit code 1: differences, 2: cannot
compare.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from compare.cases import all_cases
from compare.differences import differences
from compare.libraries import LIBRARIES, installed
from compare.records import Results

TOOLS = Path(__file__).resolve().parent
REPOSITORY = TOOLS.parent
# One thread, so that sums are made in one order; no device but the CPU, which all machines have;
# what XLA compiled for one commit serves the other one too.
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def main(arguments: list[str] | None = None) -> int:
    """Compare two commits and return the exit code."""
    options = parsed(arguments)
    if not any(options.only in case.name for case in all_cases()):
        complain(f"no case has {options.only!r} in its name")
    libraries = usable(options.libraries)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, side) for side in ("old", "new")]
        for commit, folder in zip((options.old, options.new), folders):
            checkout(commit, folder)
        counts = [compare(library, folders, options.only) for library in libraries]
    cases, found = (sum(column) for column in zip(*counts))
    print(f"in all: {cases} cases, {found} differences")
    return 1 if found else 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", metavar="OLD", help="a commit, by any name that git knows")
    parser.add_argument("new", metavar="NEW", help="another one")
    parser.add_argument(
        "--libraries", nargs="+", choices=LIBRARIES, help="default: all that are installed"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose names contain it")
    return parser.parse_args(arguments)


def complain(message: str) -> NoReturn:
    """Leave with one line."""
    print(f"compare_commits: {message}", file=sys.stderr)
    sys.exit(2)


def usable(chosen: list[str] | None) -> list[str]:
    """Return the libraries to compare on; name those that are absent."""
    there = installed()
    absent = [name for name in chosen or LIBRARIES if name not in there]
    if chosen and absent:
        complain(f"not installed: {', '.join(absent)}")
    if absent:
        print(f"not installed, and left out: {', '.join(absent)}")
    return chosen or there


def checkout(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder; leave where there is no such commit."""
    try:
        archive = git("archive", "--format=tar", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        complain(f"{commit!r} is no commit of this repository")
    except OSError as error:
        complain(f"git cannot be run ({error.strerror})")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def git(*arguments: str) -> bytes:
    """Return what git writes, in the repository of this file."""
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True
    ).stdout


# ----------------------------------------------------------------------------- comparison


def compare(library: str, folders: list[Path], text: str) -> tuple[int, int]:
    """Print what differs on a library, and return the numbers of cases and of differences."""
    old, new = computed(library, folders, text)
    found = 0
    for line in differences(old, new, library):
        print(line, flush=True)
        found += 1
    cases = sum(old.get(case) is not None or new.get(case) is not None for case in old | new)
    print(f"{library}: {cases} cases, {found} differences", flush=True)
    return cases, found


def computed(library: str, folders: list[Path], text: str) -> list[Results]:
    """Return what all cases give with the commits in the folders, which run at the same time."""
    with ExitStack() as stack:
        for process in [stack.enter_context(worker(library, folder, text)) for folder in folders]:
            process.wait()
    return [results_of(library, folder) for folder in folders]


@contextmanager
def worker(library: str, folder: Path, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that runs the cases with the commit in a folder; yield it, and end it.

    NEW begins with the last case, so that both meet, and each finds what the other has compiled.
    """
    paths = {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, TOOLS))),
        "JAX_COMPILATION_CACHE_DIR": str(folder.with_name("compiled")),
    }
    results, log = files_of(library, folder)
    order = ["--backwards"] if folder.name == "new" else []
    arguments = [folder, library, results, "--only", text, *order]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "compare.worker", *arguments],
            cwd=folder,
            env={**os.environ, **SETTINGS, **paths},
            stdout=said,
            stderr=said,
        )
        try:
            yield process
        finally:
            process.kill()  # of no effect where it has ended
            process.wait()


def results_of(library: str, folder: Path) -> Results:
    """Return what a worker wrote; leave with its last line where it did not finish."""
    results, log = files_of(library, folder)
    if not results.exists():
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        complain(f"{folder.name.upper()} did not finish on {library}: {last[0]}")
    return pickle.loads(results.read_bytes())


def files_of(library: str, folder: Path) -> tuple[Path, Path]:
    """Return the files of a worker: of its results, and of what it says."""
    stem = folder.with_name(f"{folder.name}-{library}")
    return stem.with_suffix(".pickle"), stem.with_suffix(".log")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that folders are removed
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        complain("interrupted")

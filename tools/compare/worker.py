"""One process for one commit and one library: runs all cases and writes what they gave.

python -m compare.worker FOLDER LIBRARY FILE
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

from .cases import all_cases
from .grids import Case
from .libraries import LIBRARIES, Numpy
from .records import Results

__all__ = ["results"]


def main() -> None:
    """Run the cases on a library with the `ngdla` of a folder."""
    options = parsed()
    ngdla = module_in(options.folder.resolve())
    library = LIBRARIES[options.library]()
    cases = [case for case in all_cases() if options.only in case.name]
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # where cases may write files
        found = results(library, ngdla, cases, backwards=options.backwards)
        os.chdir(options.folder)
    options.file.write_bytes(pickle.dumps(found))


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where a commit is checked out")
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("file", type=Path, help="to write results into")
    parser.add_argument("--only", default="", help="what names of cases must contain")
    parser.add_argument("--backwards", action="store_true", help="begin with the last case")
    return parser.parse_args()


def module_in(folder: Path) -> Any:
    """Import `ngdla`, and make sure that it is that of a folder."""
    import ngdla

    found = Path(ngdla.__file__).resolve()
    if not found.is_relative_to(folder):
        msg = f"`ngdla` comes from {found.parent}, not from {folder}"
        raise ImportError(msg)
    return ngdla


def results(library: Numpy, ngdla: Any, cases: list[Case], *, backwards: bool = False) -> Results:
    """Return what cases give, by mode and name; None for those that need an absent name."""
    runs = [
        (mode, case, run)
        for mode, (chosen, run) in library.modes().items()
        for case in chosen(cases)
    ]
    found = {(mode, case.name): run(case, ngdla) for mode, case, run in runs[:: 1 - 2 * backwards]}
    return {(mode, case.name): found[mode, case.name] for mode, case, _ in runs}


if __name__ == "__main__":
    main()

"""What works where, as Markdown, from the table that the tests run (tests/capabilities.py)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "capabilities.py"
sys.path += [str(SOURCE.parent), str(ROOT / "asv_benchmarks")]

from capabilities import EXCEPTIONS, FUNCTIONS, LIBRARIES, MODES  # noqa: E402
from tables import table  # noqa: E402

NBSP = "\N{NO-BREAK SPACE}"
GPU = ("cupy", "torch-cuda", "jax-gpu")  # those that `make gpu-test` requires


def on_cpu() -> str:
    """Return the table of the libraries that `make test` runs."""
    return capability_table([library for library in LIBRARIES if library not in GPU])


def on_gpu() -> str:
    """Return the table of the libraries that `make gpu-test` runs."""
    return capability_table([library for library in LIBRARIES if library in GPU])


def capability_table(libraries, exceptions=EXCEPTIONS) -> str:
    """Return one row a function, one column a library, modes in the cells, exceptions below."""
    notes: list[str] = []

    def described(function, library, mode):
        reason = exceptions.get((function, library, mode))
        if reason is None:
            return f"✓{NBSP}{mode}"
        if reason not in notes:
            notes.append(reason)
        return f"✗{NBSP}{mode}{NBSP}({notes.index(reason) + 1})"

    def cell(function, library):
        return ", ".join(described(function, library, mode) for mode in MODES[library])

    rows = [["function", *(LIBRARIES[library] for library in libraries)]]
    rows += [[f"`{name}`", *(cell(name, library) for library in libraries)] for name in FUNCTIONS]
    reasons = [f"({number}) {reason}" for number, reason in enumerate(notes, 1)]
    return "\n\n".join([table(rows), *reasons])

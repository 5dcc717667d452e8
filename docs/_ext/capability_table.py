"""What works where, as Markdown, from the table that the tests run (tests/capabilities.py)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "capabilities.py"
sys.path += [str(SOURCE.parent), str(ROOT / "asv_benchmarks")]

from capabilities import (  # noqa: E402
    DERIVATIVES,
    EXCEPTIONS,
    FUNCTIONS,
    KEPT,
    LIBRARIES,
    MODES,
    REFUSE_DEFICIENT,
    SPECTRA,
)
from capability_record import ON_GPUS, SUFFIX, DamagedRecordError, read  # noqa: E402
from tables import table  # noqa: E402

__all__ = ["SOURCE", "DamagedRecordError", "derivatives", "files", "on_cpu", "on_gpu"]

NBSP = "\N{NO-BREAK SPACE}"
RECORDS = ROOT / "docs" / "benchmarks"  # what `make gpu-evidence` writes


def files(folder: Path = RECORDS) -> list[Path]:
    """Return what the table of the libraries on a GPU is made of."""
    return [SOURCE, *records_in(folder)]


def records_in(folder: Path) -> list[Path]:
    """Return the records of runs on a GPU."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def on_cpu() -> str:
    """Return the table of the libraries that `make test` runs."""
    return "\n\n".join(
        [capability_table([name for name in LIBRARIES if name not in ON_GPUS]), of_kept()]
    )


def of_kept() -> str:
    """Return which results are constants to `backward`."""
    names = ", ".join(f"`{name}`" for name in KEPT)
    return (
        "States and averages are kept from step to step and hold no graph: PyTorch's `backward` "
        f"takes them as constants. Their derivatives, of {names}, are by `torch.func.grad`."
    )


def on_gpu(folder: Path = RECORDS) -> str:
    """Return what runs on a GPU have shown, or that there was none."""
    records = [read(path) for path in records_in(folder)]
    if not records:
        return NO_RECORD
    seen = outcomes(records)
    shown = capability_table([name for name in LIBRARIES if name in ON_GPUS], seen=seen)
    return "\n".join([shown, "", *map(described_run, records)])


NO_RECORD = (
    "Written, not yet run on a device: the tests exist for every function on "
    f"{', '.join(LIBRARIES[name] for name in ON_GPUS)}, but no run of them is recorded, so nothing "
    "is ticked here."
)


def outcomes(records) -> dict[tuple[str, str, str], str]:
    """Return the outcome of each recorded entry; what failed on one device has failed."""
    found: dict[tuple[str, str, str], str] = {}
    for record in records:
        for function, libraries in record["outcomes"].items():
            for library, modes in libraries.items():
                for mode, outcome in modes.items():
                    if found.get((function, library, mode)) != "failed":
                        found[function, library, mode] = outcome
    return found


def described_run(record) -> str:
    """Return where, when and with what a record was made."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    made = f"`{record['command']}`, {record['date']}, commit {record['commit']}"
    return f"* {record['device']}: {made}; {versions}."


def derivatives() -> str:
    """Return where derivatives are NaN, and which functions refuse the matrix itself."""

    def cell(function, spectrum):
        if spectrum == "deficient" and function in REFUSE_DEFICIENT:
            return "refused"
        return "NaN" if spectrum in DERIVATIVES.get(function, ((), ""))[0] else "right"

    named = sorted({*DERIVATIVES, *REFUSE_DEFICIENT}, key=list(FUNCTIONS).index)
    rows = [["function", *SPECTRA, "why"]]
    for name in named:
        why = DERIVATIVES.get(name, ((), "not positive definite"))[1]
        rows.append([f"`{name}`", *(cell(name, spectrum) for spectrum in SPECTRA), why])
    rows.append(["all others", *("right" for _ in SPECTRA), ""])
    return table(rows)


def capability_table(libraries, exceptions=EXCEPTIONS, seen=None) -> str:
    """Return one row a function, one column a library, modes in the cells, exceptions below.

    Given the outcomes that were `seen`, nothing else is ticked.
    """
    notes: list[str] = []

    def described(function, library, mode):
        outcome = "passed" if seen is None else seen.get((function, library, mode))
        if outcome is None:
            return f"–{NBSP}{mode}"
        if outcome == "failed":
            return f"✗{NBSP}{mode}{NBSP}(failed)"
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

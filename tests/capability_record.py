"""What a run of test_capabilities.py on a GPU leaves: which entries passed, where and with what.

    make gpu-test ON="cupy torch-cuda jax-gpu" ARGS="--record-capabilities docs/benchmarks"

writes DEVICE.tests.json there, as `make gpu-evidence` does. The documentation has ticks for a GPU
from these files alone.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capabilities import MODES

if TYPE_CHECKING:  # the documentation is built without it
    import pytest

__all__ = ["ON_GPUS", "OPTION", "SUFFIX", "DamagedRecordError", "Recorder", "read", "write"]

ON_GPUS = ("cupy", "torch-cuda", "jax-gpu")  # what ON of `make gpu-test` may hold
OPTION = "--record-capabilities"
SUFFIX = ".tests.json"
TEXTS = ("device", "date", "commit", "command")
OUTCOMES = ("passed", "failed")
LIBRARIES = ("torch", "jax", "cupy")

Outcomes = dict[str, dict[str, dict[str, str]]]  # function, library, mode


class DamagedRecordError(ValueError):
    """A record that is not what a run leaves."""


# ------------------------------------------------------------------------------- reading


def read(path: Path) -> dict[str, Any]:
    """Return the record in a file, every part of it checked.

    Raises
    ------
    DamagedRecordError
        Naming the file and what is wrong.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        require_record(found)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedRecordError(f"{path} cannot be read as JSON: {error}") from error
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{path} {error}") from None
    return found


def require_record(found: Any) -> None:
    """Raise if it is not a record, in words that follow a file name."""
    keys = {*TEXTS, "versions", "outcomes"}
    if not isinstance(found, dict) or found.keys() != keys:
        raise DamagedRecordError(f"does not hold exactly {', '.join(sorted(keys))}")
    for key in TEXTS:
        if not isinstance(found[key], str) or not found[key]:
            raise DamagedRecordError(f"has no text as `{key}`")
    try:
        date.fromisoformat(found["date"])
    except ValueError:
        raise DamagedRecordError(f"has a `date` that is none: {found['date']}") from None
    versions = found["versions"]
    if not isinstance(versions, dict) or not versions:
        raise DamagedRecordError("has no `versions`")
    if not all(isinstance(version, str) and version for version in versions.values()):
        raise DamagedRecordError("has `versions` that are not text")
    require_outcomes(found["outcomes"])


def require_outcomes(outcomes: Any) -> None:
    """Raise if these are not outcomes of entries on a GPU; functions may be of an older table."""
    if not isinstance(outcomes, dict) or not outcomes:
        raise DamagedRecordError("has no `outcomes`")
    for function, of_libraries in outcomes.items():
        if not isinstance(of_libraries, dict) or not of_libraries:
            raise DamagedRecordError(f"has no libraries for {function}")
        for library, of_modes in of_libraries.items():
            if library not in ON_GPUS:
                raise DamagedRecordError(f"has {library}, which is not a library on a GPU")
            if not isinstance(of_modes, dict) or not of_modes.keys() <= {*MODES[library]}:
                raise DamagedRecordError(f"has modes that {library} does not have")
            if not all(outcome in OUTCOMES for outcome in of_modes.values()):
                raise DamagedRecordError(f"has outcomes other than {' and '.join(OUTCOMES)}")


# ------------------------------------------------------------------------------- writing


def record(device: str, outcomes: Outcomes, command: str) -> dict[str, Any]:
    """Return the record of a run that ends now."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed
    from asv_benchmarks.gpu.report import surroundings

    found = surroundings()
    loaded = {name: sys.modules[name].__version__ for name in LIBRARIES if name in sys.modules}
    return {
        "device": device,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": found["commit"],
        "command": command,
        "versions": found["versions"] | loaded,
        "outcomes": outcomes,
    }


def write(found: dict[str, Any], folder: Path) -> Path:
    """Write a record as DEVICE.tests.json; a reader never sees half a file."""
    require_record(found)
    slug = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug}{SUFFIX}"
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


class Recorder:
    """A plugin of pytest that collects outcomes of `test_entry` and writes them in the end."""

    def __init__(self, folder: Path, device: Any) -> None:
        self.folder, self.device = folder, device
        self.outcomes: Outcomes = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of an entry; a failure of any phase is one, a skip is none."""
        entry = re.search(rf"::test_entry\[(\w+)-({'|'.join(ON_GPUS)})-(\w+)\]$", report.nodeid)
        if entry is None or not (report.failed or (report.passed and report.when == "call")):
            return
        function, library, mode = entry.groups()
        modes = self.outcomes.setdefault(function, {}).setdefault(library, {})
        if modes.get(mode) != "failed":
            modes[mode] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the record, if there is anything to tell."""
        if self.outcomes:
            command = shlex.join(["pytest", *without_folder(session.config.invocation_params.args)])
            write(record(self.device(), self.outcomes, command), self.folder)


def without_folder(arguments: Iterable[str]) -> list[str]:
    """Return the arguments without the place of the record, which is no part of the run."""
    kept = list(arguments)
    if OPTION in kept:
        place = kept.index(OPTION)
        del kept[place : place + 2]
    return [argument for argument in kept if not argument.startswith(f"{OPTION}=")]

"""What is known of GPUs, as Markdown: runs on a device, launches on the stand-in, open choices."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "asv_benchmarks"))

from results import DamagedResultError  # noqa: E402
from tables import table  # noqa: E402

from ngdla._backend import choices as choices_module  # noqa: E402
from ngdla._backend.choices import CHOICES  # noqa: E402

__all__ = ["CHOICES_SOURCE", "LAUNCHES", "RUNS", "choices", "launches", "runs"]

RUNS = ROOT / "docs" / "benchmarks"  # what `make gpu-evidence` writes
LAUNCHES = ROOT / "tests" / "launches.json"
CHOICES_SOURCE = Path(choices_module.__file__)

NO_RUN = (
    "**Nothing of ngdla has run on a GPU yet.** No run is recorded, so this page has no times. It "
    "says how calls are written for a GPU, and what was tested without one."
)


def runs(folder: Path = RUNS) -> str:
    """Return on which devices something has run, or that there was none."""
    pages = sorted(folder.glob("*.md"))
    if not pages:
        return NO_RUN
    links = ", ".join(f"{{doc}}`/{folder.name}/{page.stem}`" for page in pages)
    return f"Runs on a GPU are recorded: {links}."


def launches(path: Path = LAUNCHES) -> str:
    """Return the launches and host reads of calls, as the tests count them."""
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        rows = [[f"`{call}`", *map(_count, found.values())] for call, found in counts.items()]
        head = ["call", *next(iter(counts.values()))]
    except (AttributeError, StopIteration, TypeError, ValueError) as error:
        msg = f"{path}: {type(error).__name__}: {error}"
        raise DamagedResultError(msg) from error
    return table([head, *rows], numbers=True)


def _count(number: object) -> str:
    if not isinstance(number, int):
        msg = f"{number!r} is no count"
        raise TypeError(msg)
    return f"{number:,}"


def choices() -> str:
    """Return what only a device can decide, with the ways to it and the one that is taken."""
    rows = [
        [choice.question, ", ".join(map(_code, choice.ways)), _code(choice.way)]
        for choice in CHOICES.values()
    ]
    return table([["question", "ways", "taken until then"], *rows])


def _code(text: str) -> str:
    return f"`{text}`"

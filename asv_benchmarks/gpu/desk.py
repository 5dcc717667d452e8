"""One part of `make gpu-evidence` in a process of its own, and the file that it leaves.

python -m asv_benchmarks.gpu.desk "gram, cupy" --device cpu --seconds 20 --folder /tmp/parts
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .double import makers
from .engines import Engine, Unavailable
from .parts import part
from .report import as_json, slug, write_whole

if TYPE_CHECKING:
    from .run import Plan

__all__ = ["Desk", "main", "part_file"]

ROOT = Path(__file__).resolve().parents[2]
SPARE = 2.0  # seconds before the end in which a part says how far it came


class Desk:
    """What a part is given, and where it lays what it finds, complete at any time."""

    def __init__(self, name: str, device: str, seconds: float, folder: Path, output: Path) -> None:
        self.name, self.device, self.folder, self.output = name, device, folder, output
        self.end = time.monotonic() + seconds
        self.measured: dict[str, Any] = {}
        self.faults: list[str] = []
        self.was_cut = False

    @property
    def rehearsal(self) -> bool:
        """Whether sizes are tiny."""
        return self.device != "gpu"

    @property
    def plan(self) -> Plan:
        """Sizes of everything."""
        from .run import FULL, REHEARSAL  # not before a part wants it: all parts load this file

        return REHEARSAL if self.rehearsal else FULL

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - SPARE - time.monotonic()

    def over(self) -> bool:
        """Whether the time is spent; a part that asks, and stops for it, was cut off."""
        self.was_cut = self.was_cut or self.left() <= 0
        return self.was_cut

    def keep(self, **found: Any) -> None:
        """Lay down what was found under its names."""
        self.measured |= found
        self.store()

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Lay down one more row."""
        self.measured.setdefault(name, []).append(row)
        self.store()

    def fault(self, what: str, error: BaseException | None = None) -> str:
        """Note a fault, with its traceback in the log, and go on."""
        text = what
        if error is not None:
            text += f": {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            traceback.print_exception(error, file=sys.stdout)
        print(f"fault: {text}", flush=True)
        self.faults.append(text)
        self.store()
        return text

    def other(self, name: str) -> dict[str, Any]:
        """Return what another part has measured, empty if nothing."""
        path = part_file(self.folder, name)
        return json.loads(path.read_text(encoding="utf-8"))["measured"] if path.exists() else {}

    def store(self, verdict: str | None = None) -> None:
        """Write the file of this part; without a verdict it is under way."""
        found = {"verdict": verdict, "faults": self.faults, "measured": self.measured}
        write_whole(part_file(self.folder, self.name), as_json(found))

    def verdict(self) -> str:
        """Return one line."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            return f"failed: {self.faults[0]}{more}"
        return "cut off: its time is spent" if self.was_cut else "passed"


def part_file(folder: Path, name: str) -> Path:
    """Return the file of a part."""
    return folder / f"{slug(name)}.json"


def main(arguments: list[str] | None = None) -> None:
    """Run one part; its verdict is in its file."""
    parser = argparse.ArgumentParser(prog="python -m asv_benchmarks.gpu.desk")
    parser.add_argument("name")
    parser.add_argument("--device", choices=("gpu", "cpu", "double"), default="gpu")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"))
    chosen = parser.parse_args(arguments)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(chosen.seconds - 1.0, 0.1))  # where it hangs
    sys.path.insert(0, str(ROOT / "tests"))  # the table of public functions, the double of CuPy
    desk = Desk(chosen.name, chosen.device, chosen.seconds, chosen.folder, chosen.output)
    desk.store()
    try:
        _run(desk)
    except Unavailable as reason:
        desk.store(f"skipped: {part(desk.name).library} {reason}".replace("  ", " "))
    else:
        desk.store(desk.verdict())


def _run(desk: Desk) -> None:
    described = part(desk.name)
    module, _, name = described.function.rpartition(".")
    given: tuple[Any, ...] = (desk,)
    if described.library:
        given += (_engine(desk.device, described.library),)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(importlib.import_module(f"asv_benchmarks.gpu.parts.{module}"), name)(*given)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a library says is a verdict
        desk.fault(desk.name, error)


def _engine(device: str, library: str) -> Engine:
    opened, skipped = makers(device)
    if library in skipped:
        raise Unavailable(skipped[library])
    return opened[library]()


if __name__ == "__main__":
    main()

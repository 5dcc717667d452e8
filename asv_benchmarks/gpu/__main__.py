"""Measure ngdla on this machine's GPU and write DEVICE.json and DEVICE.md.

python -m asv_benchmarks.gpu                   # into docs/benchmarks, in seven minutes at most
python -m asv_benchmarks.gpu --device cpu      # tiny sizes, to see that it runs: rehearsal.*
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .engines import open_engines
from .report import driver, surroundings, write
from .run import FULL, REHEARSAL, Run

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run; return 2 where there is nothing to measure on."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=420.0, help="no row starts after these")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: a rehearsal")
    chosen = parser.parse_args(arguments)
    rehearsal = chosen.device == "cpu"
    engines, skipped = open_engines(chosen.device)
    if not engines:
        reasons = ", ".join(f"{name} {reason}" for name, reason in skipped.items())
        what = "gpu-bench: no library sees a GPU, so that this step does not apply here"
        print(f"{what}: {reasons}", file=sys.stderr)
        return 2
    name = "rehearsal" if rehearsal else engines[0].device()
    result: dict[str, Any] = {
        "device": name,
        "driver": "none" if rehearsal else driver(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": _command(sys.argv[1:] if arguments is None else arguments),
        "surroundings": surroundings(),
        "skipped": skipped,
    }

    def progress(line: str) -> None:
        print(line, flush=True)
        write(result, chosen.output, name)  # what was measured survives an end from outside

    for library, reason in skipped.items():
        print(f"        {library}: skipped: {reason}", flush=True)
    Run(engines, REHEARSAL if rehearsal else FULL, chosen.seconds, result, progress)()
    return 0


def _command(arguments: list[str]) -> str:
    """Return the command, without the folder, which is not part of the measurement."""
    kept = list(arguments)
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return shlex.join(["python", "-m", "asv_benchmarks.gpu", *kept])


if __name__ == "__main__":
    sys.exit(main())

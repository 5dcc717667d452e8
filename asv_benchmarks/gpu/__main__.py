"""Measure ngdla on this machine's GPU and write DEVICE.json and DEVICE.md.

python -m asv_benchmarks.gpu                   # into docs/benchmarks, in eight minutes at most
python -m asv_benchmarks.gpu --device cpu      # tiny sizes, to see that it runs: rehearsal.*
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .engines import open_engines
from .report import driver, surroundings, unwritable, write
from .run import FULL, REHEARSAL, Run

__all__ = ["main"]

GRACE = 45.0  # seconds for the row that is under way when the time is spent


def main(arguments: list[str] | None = None) -> int:
    """Run; return 1 where no row was measured, 2 where nothing could be begun."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m asv_benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="FOLDER")
    help_seconds = f"no row starts after these, and none lives {GRACE:.0f} s longer"
    parser.add_argument("--seconds", type=_duration, default=420.0, help=help_seconds)
    parser.add_argument("--slow", action="store_true", help="also svda, and eigh at n = 4096")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: a rehearsal")
    chosen = parser.parse_args(arguments)
    if reason := unwritable(chosen.output):
        print(f"gpu-bench: {reason}: give another folder by --output", file=sys.stderr)
        return 2
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

    writing = threading.Lock()

    def progress(line: str) -> None:
        print(line, flush=True)
        with writing:
            write(result, chosen.output, name)  # what was measured survives an end from outside

    def cut() -> None:
        """End the process: a call into a library cannot be interrupted. The files are complete."""
        writing.acquire(timeout=5)
        print("gpu-bench: out of time: the row under way was cut off", file=sys.stderr, flush=True)
        os._exit(_verdict(result))

    for library, reason in skipped.items():
        print(f"        {library}: skipped: {reason}", flush=True)
    left = chosen.seconds - (time.monotonic() - start)
    plan = REHEARSAL if rehearsal else FULL._replace(slow=chosen.slow)
    run = Run(engines, plan, left, result, progress)
    watchdog = threading.Timer(left + GRACE, cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        run()
    finally:
        watchdog.cancel()
    return _verdict(result)


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        msg = f"must be a finite number of seconds > 0, not {text}"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _verdict(result: dict[str, Any]) -> int:
    """Return the exit code, with a line where it is not 0."""
    if any("seconds" in row for row in result["rows"]):
        return 0
    print("gpu-bench: no row was measured; the result says why", file=sys.stderr, flush=True)
    return 1


def _command(arguments: list[str]) -> str:
    """Return the command, without the folder, which is not part of the measurement."""
    kept = list(arguments)
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return shlex.join(["python", "-m", "asv_benchmarks.gpu", *kept])


if __name__ == "__main__":
    sys.exit(main())

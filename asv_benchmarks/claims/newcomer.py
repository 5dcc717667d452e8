"""What a newcomer waits for: the two commands of README.md in a clean clone, nothing installed."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from .tracked import tracked

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("make demo ARGS=--quick", "make test")


@cache
def waited() -> tuple[float, int]:
    """Return the seconds of both commands, and how many tests passed."""
    shell = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch, "ngdla")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        start = time.perf_counter()
        for command in COMMANDS:
            done = subprocess.run(
                command.split(), cwd=clone, env=shell, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise NotImplementedError(f"{command}: {(done.stdout + done.stderr)[-300:]}")
        seconds = time.perf_counter() - start
    return seconds, int(re.findall(r"(\d+) passed", done.stdout)[-1])


@tracked(
    f"{' and '.join(COMMANDS)} in a clean clone, installing included", unit="seconds", at_most=240
)
def track_seconds() -> float:
    return waited()[0]


@tracked("tests that pass there, on NumPy and array-api-strict", unit="tests")
def track_tests() -> float:
    return float(waited()[1])

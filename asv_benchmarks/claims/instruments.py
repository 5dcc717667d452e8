"""How long the instruments of this project take, and what a browser finds wrong with their pages.

What they need is installed beforehand. No front page has these numbers: they are for those who
work on the project.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from .tracked import tracked

ROOT = Path(__file__).resolve().parents[2]


def make(target: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the Makefile; what it lacks skips the claim."""
    command = ["make", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "findings" not in done.stdout:
        lines = done.stderr.strip().splitlines() or [f"make {target} failed"]
        raise NotImplementedError(lines[0])
    return done


def seconds(target: str) -> float:
    """Return how long a target takes."""
    start = time.perf_counter()
    make(target)
    return time.perf_counter() - start


@tracked("make docs, nothing built before", unit="seconds", at_most=300)
def track_docs() -> float:
    for folder in ("_build", "auto_examples"):
        shutil.rmtree(ROOT / "docs" / folder, ignore_errors=True)
    return seconds("docs")


@tracked("make bench", unit="seconds", at_most=300)
def track_bench() -> float:
    return seconds("bench")


@cache
def looks() -> list[dict[str, int]]:
    """Return the numbers of looks and findings in the documentation and in asv's pages."""
    make("bench-site")
    found = re.findall(r"^(\d+) looks, (\d+) findings", make("look").stdout, re.MULTILINE)
    return [{"looks": int(count), "findings": int(findings)} for count, findings in found]


@tracked(
    "findings of make look in the documentation and asv's pages, at 1280 and 390 pixels",
    unit="findings",
    at_most=0,
)
def track_findings() -> float:
    return float(sum(site["findings"] for site in looks()))


def details() -> list[dict[str, Any]]:
    """Return looks and findings of each site."""
    try:
        return looks()
    except NotImplementedError:
        return []

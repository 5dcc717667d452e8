"""What results depend on, and should stand beside them: command, hardware, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ngdla

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


def environment(command: str, *packages: str) -> dict[str, Any]:
    """Return what is to be known about runs that are made now, as JSON can hold it."""
    versions = {"ngdla": ngdla.__version__} | {
        name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)
    }
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": device(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def commit() -> str:
    """Return the commit of this folder, with a mark where the code differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HERE), *arguments]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # no git
            return ""
        return answer.stdout.strip()

    code = [":/ngdla", *(f":(top)docs/examples/{name}" for name in ("optimizers", HERE.name))]
    results = [f":!{name}.json" for name in ("results", "rules")]
    dirty = "-dirty" if git("status", "--porcelain", "--", *code, *results) else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + dirty


def device() -> str:
    """Return the name of the GPU that torch computes on, or "CPU"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())

"""What results depend on, and should stand beside them: command, hardware, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = ("ngdla", "numpy", "scipy", "scikit-learn", "array-api-compat")


def environment(command: str, library: str) -> dict[str, Any]:
    """Return what is to be known about runs that are made now, as JSON can hold it."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions[library] = import_module(library).__version__
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": device(library),
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

    code = ("--", ":/ngdla", ":(top)docs/examples/training_study", ":!results.json")
    dirty = "-dirty" if git("status", "--porcelain", *code) else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + dirty


def device(library: str) -> str:
    """Return the name of the GPU that a library computes on, or "CPU"."""
    module = import_module(library)
    if library == "torch" and module.cuda.is_available():
        return module.cuda.get_device_name()
    if library == "cupy":
        return module.cuda.runtime.getDeviceProperties(0)["name"].decode()
    if library == "jax" and module.default_backend() != "cpu":
        return module.devices()[0].device_kind
    return "CPU"


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())

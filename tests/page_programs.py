"""The programs of docs/guide/engines.md, and what they write when they are started as it says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["PROGRAMS", "launch", "printed"]

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guide" / "engines.md"
LIMIT = 120.0  # seconds for the processes of a program

spec = importlib.util.spec_from_file_location("launch", TESTS / "distributed" / "launch.py")
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

# The line that starts a program, and the program.
BLOCKS = re.findall(
    r"^```sh\n(.*?(\w+\.py))\n```\n\n```python\n(.*?)^```",
    PAGE.read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = {name: (command, text) for command, name, text in BLOCKS}


def words_of(command):
    """Return what a command of the page is here, and the variables that it sets."""
    words = shlex.split(command)
    names = {"mpiexec": [launch.mpiexec()], "python": [sys.executable]}
    names["torchrun"] = [sys.executable, "-m", "torch.distributed.run"]
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program = [word for word in words if word.partition("=")[0] not in variables]
    return [part for word in program for part in names.get(word, [word])], variables


def printed(name, folder):
    """Return what a program of the page writes, started in a folder."""
    command, text = PROGRAMS[name]
    (folder / name).write_text(text, encoding="utf-8")
    words, variables = words_of(command)
    given = launch.environment(folder, 2, 0)
    given.pop("XLA_FLAGS", None)
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=given | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err
    return out

"""Other commits, and processes that answer requests, a line of JSON each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "answering", "folder_of"]

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent


@contextlib.contextmanager
def folder_of(commit: str) -> Iterator[str]:
    """Yield a folder with the library of a commit."""
    command = ["git", "-C", str(ROOT), "archive", commit, "ngdla"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise NotImplementedError(f"commit {commit} is not in this clone")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield folder


@contextlib.contextmanager
def answering(
    module: str, *arguments: str, environment: dict[str, str]
) -> Iterator[Callable[[Any], Any]]:
    """Yield what asks a new process of a module that lies below this folder."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=FOLDER,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None

        def ask(request: Any) -> Any:
            print(json.dumps(request), file=started.stdin, flush=True)
            return json.loads(started.stdout.readline())

        yield ask
        started.stdin.close()

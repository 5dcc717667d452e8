"""The file of finished runs: a line of JSON each, which survives an end at any moment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training_study.runs import Run

START = b'{"key": '
"""Of every line."""


class DamagedStoreError(ValueError):
    """A line, other than the last, is not what a study writes."""


class Store:
    """Finished runs in a file, which need not be there yet.

    Parameters
    ----------
    path : Path
    environment : dict
        Where the runs that are added are made; it is written beside each.
    """

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self.path, self.environment = path, environment
        self.lines = read(path)
        self.records = {line["key"]: line["record"] for line in self.lines}
        drop_broken_line(path, first=not self.lines)

    def __contains__(self, run: Run) -> bool:
        return run.key in self.records

    def append(self, run: Run, record: dict[str, Any]) -> None:
        """Add a run, and return once it is on the disk."""
        settings = dict(run.settings)
        line = {
            "key": run.key,
            "run": asdict(run) | {"settings": settings},
            "record": record,
            "environment": self.environment,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        self.records[run.key] = record


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; none where there is no file, and not a last line cut short.

    Raises
    ------
    DamagedStoreError
        Naming the file and the line.
    """
    if not path.exists():
        return []
    lines = []
    whole = path.read_bytes().rpartition(b"\n")[0]
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append({name: line[name] for name in ("key", "run", "record", "environment")})
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{path}, line {number} is not a run: remove the line, and it is done again"
            raise DamagedStoreError(msg) from error
    return lines


def drop_broken_line(path: Path, *, first: bool) -> None:
    """Cut off what follows the last end of a line; make the file where there is none.

    Raises
    ------
    DamagedStoreError
        If it is all there is in the file and was not begun by a study.
    """
    with path.open("a+b") as file:  # fails here, not after the first run, if it cannot be written
        file.seek(0)
        whole, _, broken = file.read().rpartition(b"\n")
        if first and broken[: len(START)] != START[: len(broken)]:
            msg = f"{path} was not written by a study: choose another file"
            raise DamagedStoreError(msg)
        if broken:
            file.truncate(len(whole) + 1 if whole else 0)

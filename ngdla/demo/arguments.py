"""Checks of what the demo was asked for, before anything is computed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from ngdla.demo.problems import FEWEST_SITES, MOST_SITES

PACKAGES = ("matplotlib", "tqdm", "rich")
ENDINGS = (".png", ".pdf", ".svg")


def check_packages() -> None:
    """Raise a ValueError where a package that the demo draws and reports with is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        msg = f'{", ".join(missing)} {verb} not installed: pip install "ngdla[demo]"'
        raise ValueError(msg)


def check_numbers(systems: list[str], sites: int | None, steps: int | None, seed: int) -> None:
    """Raise a ValueError where sites, steps or seed cannot be used with these systems."""
    if sites is not None and not FEWEST_SITES <= sites <= MOST_SITES:
        msg = f"--sites {sites}: a chain of {FEWEST_SITES} to {MOST_SITES} sites is needed"
        raise ValueError(msg)
    if sites is not None and sites % 2 and "mg" in systems:
        msg = f"--sites {sites}: system mg needs an even number of sites (zero magnetisation)"
        raise ValueError(msg)
    if steps is not None and steps < 1:
        msg = f"--steps {steps}: at least 1 step is needed"
        raise ValueError(msg)
    if seed < 0:
        msg = f"--seed {seed}: a seed of 0 or more is needed"
        raise ValueError(msg)


def check_output(path: Path) -> None:
    """Raise a ValueError where a picture cannot be written to `path`."""
    if path.suffix.lower() not in ENDINGS:
        msg = f"--output {path}: the name must end in {', '.join(ENDINGS)}"
        raise ValueError(msg)
    if path.is_dir():
        msg = f"--output {path}: this is a folder; give the name of a file"
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"--output {path}: there is no folder {path.parent}"
        raise ValueError(msg)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        msg = f"--output {path}: no permission to write there"
        raise ValueError(msg)

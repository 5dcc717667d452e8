"""Checks of what the demo was asked for, before anything is computed."""

from __future__ import annotations

import os
import stat
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ngdla.demo.problems import FEWEST_SITES, MOST_SITES, SYSTEMS, Problem

PACKAGES = ("matplotlib", "tqdm", "rich")
ENDINGS = (".png", ".pdf", ".svg")
SHOWN = 80


def check_packages() -> None:
    """Raise a ValueError where a package that the demo draws and reports with is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        msg = f'{", ".join(missing)} {verb} not installed: pip install "ngdla[demo]"'
        raise ValueError(msg)


def check_options(options: Any) -> None:
    """Raise a ValueError where the options of the command line cannot be used."""
    systems = systems_of(options.system)
    check_numbers(systems, options.sites, options.steps, options.seed)
    check_output(options.output)
    check_checkpoint(options.checkpoint, options.checkpoint_every)


def systems_of(choice: str) -> list[str]:
    """Return the names of the systems that --system asks for."""
    return list(SYSTEMS) if choice == "all" else [choice]


def check_ranks(problems: list[Problem], ranks: int) -> None:
    """Raise a ValueError where a rank would have no walker."""
    for problem in problems:
        if ranks > problem.walkers:
            msg = f"{ranks} processes share {problem.walkers} walkers of {problem.name}: start"
            raise ValueError(f"{msg} at most {problem.walkers}")


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


def check_checkpoint(path: Path | None, every: int) -> None:
    """Raise a ValueError where a checkpoint cannot be written to `path`, or that often."""
    if every < 1:
        msg = f"--checkpoint-every {every}: at least 1 step is needed"
        raise ValueError(msg)
    if path is not None:
        check_file("--checkpoint", path)
        check_file("--checkpoint", being_written(path))


def being_written(path: Path) -> Path:
    """Return the file beside a checkpoint that takes its name when it is whole."""
    target = Path(os.path.realpath(path))
    return target.with_name(f"{target.name}.part")


def check_output(path: Path) -> None:
    """Raise a ValueError where a picture cannot be written to `path`."""
    if path.suffix.lower() not in ENDINGS:
        msg = f"--output {shown(path)}: give a name that ends in {', '.join(ENDINGS)}"
        raise ValueError(msg)
    check_file("--output", path)


def check_file(option: str, path: Path) -> None:
    """Raise a ValueError where no file can be written to `path`, which an option gave."""
    try:
        fault = obstacle(path)
    except OSError as error:  # too long, links in a circle, no permission to look there
        fault = f"{(error.strerror or str(error)).lower()}; choose another file"
    except ValueError as error:  # a NUL byte, characters that no file system takes
        fault = f"this cannot be the name of a file ({error})"
    if fault:
        msg = f"{option} {shown(path)}: {fault}"
        raise ValueError(msg)


def obstacle(path: Path) -> str:
    """What keeps a file from being written to `path`, "" for nothing."""
    target = Path(os.path.realpath(path))  # a link may lead to a folder that is not there
    try:
        if stat.S_ISDIR(target.stat().st_mode):
            return "this is a folder; give the name of a file"
    except (FileNotFoundError, NotADirectoryError):
        target = target.parent
        if not target.is_dir():
            return f"there is no folder {shown(target)}"
    return "" if os.access(target, os.W_OK) else "no permission to write there"


def shown(path: Path) -> str:
    """Name of a file for a message: printable, and without its middle where it is long."""
    name = str(path)
    name = name if name.isprintable() else ascii(name)
    half = SHOWN // 2
    return name if len(name) <= SHOWN else f"{name[:half]}...{name[-half:]}"


def check_drawing() -> None:
    """Raise a ValueError where matplotlib is installed and cannot be loaded.

    MPLBACKEND is hidden from it: the picture needs no window, and an unknown name would stop the
    import.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import_module("ngdla.demo.picture")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        msg = f"matplotlib cannot be loaded: {error}"
        raise ValueError(msg) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend

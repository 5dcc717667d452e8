"""One demonstration from start to end: optimise, show progress, report, also when interrupted."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ngdla.demo.exact import Reference, reference_energy
from ngdla.demo.problems import Problem
from ngdla.demo.vmc import DivergedError, Step, last_mean, optimise

DONE, FAILED, INTERRUPTED = 0, 1, 130


@dataclass
class Run:
    """A problem, its exact energy and the steps measured so far."""

    problem: Problem
    reference: Reference
    steps: list[Step] = field(default_factory=list)

    @property
    def energy(self) -> tuple[float, float]:
        """Mean energy of the last 20 steps and its standard error."""
        return last_mean(self.steps)

    @property
    def relative_error(self) -> float:
        """|E - E0| / |E0| of that mean."""
        return abs(self.energy[0] - self.reference.energy) / abs(self.reference.energy)


def run_demo(problems: list[Problem], library: Any, seed: int, output: Path) -> int:
    """Optimise the problems one after the other, print a table and save a picture.

    Parameters
    ----------
    problems : list of Problem
    library : Library
        Namespace `xp`, `device` and `label` of the array library that computes.
    seed : int
        The same for each problem.
    output : pathlib.Path
        Picture; its folder exists.

    Returns
    -------
    int
        Exit code: 0, 1 where the optimisation diverged or the picture could not be written, 130
        after Ctrl-C.  Table and picture show in every case what was done.
    """
    from ngdla.demo.picture import save_picture
    from ngdla.demo.report import follow, print_table

    runs: list[Run] = []
    code = DONE
    try:
        for problem in problems:
            run = Run(problem, reference_energy(problem.chain))
            runs.append(run)
            follow(run, optimise(problem, library.xp, library.device, seed))
    except KeyboardInterrupt:
        code = INTERRUPTED
        tell("interrupted; what was done so far:")
    except DivergedError as error:
        code = FAILED
        tell(f"stopped: {error}")
    measured = [run for run in runs if run.steps]
    if not measured:
        tell("no step was finished: no table, no picture")
        return code
    print_table(measured, library.label, seed)
    try:
        save_picture(measured, library.label, output)
    except OSError as error:
        tell(f"the picture could not be written to {output}: {error}")
        return code or FAILED
    print(f"picture: {output}")
    return code


def tell(message: str) -> None:
    """Print on stderr; where that cannot be written, table and picture still come."""
    with suppress(OSError):
        print(message, file=sys.stderr)

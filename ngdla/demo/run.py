"""One demonstration from start to end: optimise, show progress, report, also when interrupted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ngdla._backend.communicator import Communicator
from ngdla.demo.checkpoint import Checkpoint, CheckpointError
from ngdla.demo.exact import Reference, reference_energy
from ngdla.demo.problems import Problem
from ngdla.demo.ranks import share
from ngdla.demo.vmc import DivergedError, Step, last_mean, started, trajectory

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


def run_demo(
    problems: list[Problem],
    library: Any,
    seed: int,
    output: Path,
    comm: Communicator,
    checkpoint: Checkpoint | None = None,
) -> int:
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
    comm : Communicator
        The ranks, which share the walkers. Rank 0 speaks and draws.
    checkpoint : Checkpoint or None
        Where the runs go on from, and are kept.

    Returns
    -------
    int
        Exit code: 0, 1 where the optimisation diverged or a file could not be written, 130 after
        Ctrl-C.  Table and picture show in every case what was done.
    """
    from ngdla.demo.report import follow

    runs: list[Run] = []
    code = DONE
    speaks = comm.rank == 0  # the standard output of the others goes nowhere
    try:
        for problem in problems:
            run = Run(problem, reference_energy(problem.chain))
            runs.append(run)
            follow(run, steps_of(run, library, seed, comm, checkpoint))
    except KeyboardInterrupt:
        code = INTERRUPTED
        tell("interrupted; what was done so far:", speaks)
    except (DivergedError, CheckpointError) as error:
        code = FAILED
        tell(f"stopped: {error}", speaks)
    if not speaks:
        return code
    measured = [run for run in runs if run.steps]
    if not measured:
        tell("no step was finished: no table, no picture")
        return code
    shown = show(measured, library.label, seed, output, comm.size)
    return code or shown


def show(runs: list[Run], library: str, seed: int, output: Path, ranks: int) -> int:
    """Print the table and save the picture; return an exit code."""
    from ngdla.demo.picture import save_picture
    from ngdla.demo.report import print_table

    print_table(runs, library if ranks == 1 else f"{library}, {ranks} processes", seed)
    try:
        save_picture(runs, library, output)
    except OSError as error:
        tell(f"the picture could not be written to {output}: {error}")
        return FAILED
    print(f"picture: {output}")
    return DONE


def steps_of(
    run: Run, library: Any, seed: int, comm: Communicator, checkpoint: Checkpoint | None
) -> Iterator[Step]:
    """Return the steps of a run that are still to be made, with those of its checkpoint in it."""
    problem, xp, on = run.problem, library.xp, library.device
    if checkpoint is None or not checkpoint.holds(problem):
        state = started(problem, xp, on, seed, share(problem.walkers, comm.rank, comm.size))
    else:
        state, run.steps = checkpoint.restored(problem, xp, on, seed)
        print(f"{problem.title}  goes on after step {state.step} of {checkpoint.path}")
    following = trajectory(problem, state, comm)
    if checkpoint is None:
        return (step for _, step in following)
    return checkpoint.kept(problem, seed, run.steps, following)


def tell(message: str, speaks: bool = True) -> None:
    """Print on stderr; where that cannot be written, table and picture still come."""
    if speaks:
        with suppress(OSError):
            print(message, file=sys.stderr)

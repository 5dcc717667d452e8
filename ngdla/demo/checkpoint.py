"""Checkpoints: a file that runs go on from, which is whole whenever it is there."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngdla._backend.communicator import Communicator
from ngdla._backend.transfer import host_values
from ngdla.demo.arguments import being_written, shown
from ngdla.demo.problems import SYSTEMS, Problem
from ngdla.demo.ranks import first_at_fault, gathered, share
from ngdla.demo.streams import Streams
from ngdla.demo.vmc import State, Step

PARTS = ("problem", "parameters", "spins", "direction", "position", "steps")
NO_CHECKPOINT = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class Checkpoint:
    """The runs that a file holds, one a system, and the file that they are kept in.

    A run is kept whole, with the walkers of all ranks, so that any number of ranks goes on from it:
    the same number to the last bit.

    Parameters
    ----------
    path : pathlib.Path
        Need not be there yet.
    every : int
        Steps between two writes; the last state of a run is always written.
    comm : Communicator
        All ranks read the file, and rank 0 writes it.

    Raises
    ------
    ValueError
        If the file is not a checkpoint.
    """

    def __init__(self, path: Path, every: int, comm: Communicator) -> None:
        self.path, self.every, self.comm = Path(os.path.realpath(path)), every, comm
        self.arrays = read(self.path)

    def holds(self, problem: Problem) -> bool:
        """Tell whether there is a run of a system in the file."""
        return f"{problem.name}.problem" in self.arrays

    def check(self, problems: list[Problem], seed: int) -> None:
        """Raise a ValueError where the file holds another run of one of these problems."""
        for problem in filter(self.holds, problems):
            held = self._settings(problem)
            if (difference := differing(held, settings(problem, seed))) is not None:
                msg = f"holds a run of {problem.name} with {difference}; give another file"
                raise ValueError(f"--checkpoint {shown(self.path)}: {msg}")
            if (steps := len(self.arrays[f"{problem.name}.steps"])) > problem.steps:
                msg = f"holds {steps} steps of {problem.name}, more than the {problem.steps} asked"
                raise ValueError(f"--checkpoint {shown(self.path)}: {msg} for; give another file")
            if (part := self._odd_part(problem)) is not None:
                msg = f"its {problem.name}.{part} cannot be gone on from; give another file"
                raise ValueError(f"--checkpoint {shown(self.path)}: {msg}")

    def _settings(self, problem: Problem) -> dict[str, Any]:
        try:
            return dict(json.loads(str(self.arrays[f"{problem.name}.problem"])))
        except (ValueError, TypeError) as error:
            msg = "is not a checkpoint of the demo; give another file"
            raise ValueError(f"--checkpoint {shown(self.path)}: {msg}") from error

    def _odd_part(self, problem: Problem) -> str | None:
        """Return the name of an array that no run has written, or None."""
        parameters = problem.model.initial(np.random.default_rng(0), problem.scale)
        shapes = {
            "parameters": parameters.shape,
            "spins": (problem.walkers, problem.chain.sites),
            "direction": parameters.shape,
            "position": (),
            "steps": (len(self.arrays[f"{problem.name}.steps"]), len(Step._fields)),
        }
        for part, shape in shapes.items():
            array = self.arrays[f"{problem.name}.{part}"]
            if array.shape != shape or array.dtype.kind not in "fciu":
                return part
            if not np.all(np.isfinite(array)):
                return part
        return None

    def __str__(self) -> str:
        """Return a text that differs where another file has been read."""
        checksums = {name: zlib.crc32(array.tobytes()) for name, array in self.arrays.items()}
        return json.dumps(checksums, sort_keys=True)

    def restored(self, problem: Problem, xp: Any, on: Any, seed: int) -> tuple[State, list[Step]]:
        """Return the state that this rank goes on from, and what was measured until then."""
        _, parameters, spins, direction, position, measured = (
            self.arrays[f"{problem.name}.{part}"] for part in PARTS
        )
        walkers = share(problem.walkers, self.comm.rank, self.comm.size)
        here = spins[walkers.start : walkers.stop].astype(np.float64)
        state = State(
            len(measured),
            xp.asarray(parameters, device=on),
            xp.asarray(here, device=on),
            xp.asarray(direction, device=on),
            Streams(seed, walkers, int(position)),
        )
        steps = [
            Step(energy, error, bool(certified), *seconds)
            for energy, error, certified, *seconds in measured.tolist()
        ]
        return state, steps

    def kept(
        self,
        problem: Problem,
        seed: int,
        measured: list[Step],
        following: Iterator[tuple[State, Step]],
    ) -> Iterator[Step]:
        """Yield the steps that follow on those measured, and keep their states in the file."""
        steps = list(measured)
        for state, step in following:
            steps.append(step)
            if state.step % self.every == 0 or state.step == problem.steps:
                self.keep(problem, seed, state, steps)
            yield step

    def keep(self, problem: Problem, seed: int, state: State, steps: list[Step]) -> None:
        """Write the state into the file, or raise a CheckpointError on all ranks."""
        spins = gathered(host_values(state.spins), problem.walkers, self.comm)
        parts: tuple[NDArray[Any], ...] = (
            np.array(json.dumps(settings(problem, seed))),
            host_values(state.parameters),
            spins.astype(np.int8),
            host_values(state.direction),
            np.array(state.rng.position),
            np.array(steps, dtype=np.float64),
        )
        self.arrays |= {
            f"{problem.name}.{part}": array for part, array in zip(PARTS, parts, strict=True)
        }
        fault = None
        if self.comm.rank == 0:
            try:
                write(self.path, self.arrays)
            except OSError as error:
                fault = error
        if first_at_fault(fault is not None, self.comm) is not None:
            msg = f"the checkpoint could not be written to {shown(self.path)}: {fault}"
            raise CheckpointError(msg)


def settings(problem: Problem, seed: int) -> dict[str, Any]:
    """Return what decides a run, apart from its length, by name."""
    found: dict[str, Any] = {"seed": seed}
    for name, value in asdict(problem).items():
        inner = value if isinstance(value, dict) else {}
        found |= {f"{name}.{key}": part for key, part in inner.items()} or {name: value}
    return {name: found[name] for name in found if name not in ("name", "title", "steps")}


def differing(held: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Return the first setting that differs, in words, or None."""
    for name in [*wanted, *held]:
        if (there := held.get(name)) != (here := wanted.get(name)):
            return f"{name} = {there}, and this is one with {here}"
    return None


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint, none where there is no file, or raise a ValueError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
    except FileNotFoundError:
        return {}
    except (*NO_CHECKPOINT, AttributeError, TypeError) as error:  # the last two: a .npy file
        msg = f"cannot be read as a checkpoint ({error}); remove it, or give another file"
        raise ValueError(f"--checkpoint {shown(path)}: {msg}") from error
    systems = [name for name in SYSTEMS if f"{name}.problem" in found]
    if not found or found.keys() != {f"{name}.{part}" for name in systems for part in PARTS}:
        msg = "is not a checkpoint of the demo; give another file"
        raise ValueError(f"--checkpoint {shown(path)}: {msg}")
    return found


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint: whatever happens meanwhile, the file is the old or the new one.

    The new one has reached the disk before it takes the name of the old one.
    """
    part = being_written(path)
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

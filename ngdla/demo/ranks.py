"""The processes of a run: who they are, which walkers are whose, and how they end together."""

from __future__ import annotations

import os
import sys
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import NoReturn

import numpy as np

from ngdla._backend.communicator import Communicator

# What Open MPI and the MPIs that descend from MPICH tell the processes that their mpiexec starts.
LAUNCHERS = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
ALONE = (0, 1)
FAILED = 1


def launched() -> tuple[int, int]:
    """Return the rank of this process and how many mpiexec started: `ALONE` without it."""
    for rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return ALONE


def communicator() -> Communicator:
    """Return the communicator of the processes that mpiexec started, or that of one process.

    Raises a ValueError where they cannot speak to each other.
    """
    _, size = launched()
    if size == 1:
        from ngdla.distributed import SerialCommunicator

        return SerialCommunicator()
    if find_spec("mpi4py") is None:
        msg = f"mpiexec started {size} processes, and mpi4py is not installed: pip install mpi4py"
        raise ValueError(msg)
    from ngdla.distributed import MPICommunicator

    comm = MPICommunicator()
    if comm.size != size:
        msg = (
            f"mpiexec started {size} processes, and mpi4py sees {comm.size}: it was built for "
            f"another MPI. Use the mpiexec of that one, or build it anew: "
            f"pip install --no-binary mpi4py mpi4py"
        )
        raise ValueError(msg)
    return comm


def share(walkers: int, rank: int, size: int) -> range:
    """Return the numbers of the walkers of a rank: shares differ by one walker at most."""
    return range(rank * walkers // size, (rank + 1) * walkers // size)


def gathered(rows: np.ndarray, walkers: int, comm: Communicator) -> np.ndarray:
    """Return the rows of all walkers, on every rank, from those of each rank's walkers."""
    largest = -(-walkers // comm.size)  # collectives need equal shapes
    filled = np.zeros((largest, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    parts = np.asarray(comm.all_gather(filled))
    lengths = [len(share(walkers, rank, comm.size)) for rank in range(comm.size)]
    return np.concatenate([part[:length] for part, length in zip(parts, lengths, strict=True)])


def first_at_fault(fault: bool, comm: Communicator) -> int | None:
    """Return the lowest rank that has a fault, the same on all, or None."""
    faults = comm.all_gather(np.array([float(fault)]))
    return next((rank for rank in range(comm.size) if faults[rank, 0]), None)


def agree(text: str, comm: Communicator) -> bool:
    """Tell whether all ranks have the same text, by its checksum."""
    checksums = comm.all_gather(np.array([float(zlib.crc32(text.encode()))]))
    return bool(np.all(checksums == checksums[0]))


@contextmanager
def one_voice(comm: Communicator) -> Iterator[None]:
    """Send what ranks other than 0 print to nowhere; their errors are still seen."""
    if comm.rank == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def ending_together(comm: Communicator) -> Iterator[None]:
    """Let an error of one rank, for which no other is prepared, end all of them."""
    try:
        yield
    except Exception:
        if comm.size == 1:
            raise
        traceback.print_exc()
        end_at_once()


def end_at_once() -> NoReturn:
    """Leave without MPI_Finalize, which would wait for ranks that wait for this one.

    To mpiexec this is a process that failed: it ends the others.
    """
    sys.stderr.flush()
    os._exit(FAILED)

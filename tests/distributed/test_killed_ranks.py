"""A process that is killed within a calculation, and a thread that does not come.

MPI ends all processes of the job; the others of gloo are told by their communicator. That a process
does not come is a case of `cases_faults.py`.
"""

import importlib.util
import re
import time
from pathlib import Path

import numpy as np
import pytest
from thread_ranks import outcomes

import ngdla

CASES = """
import os, signal
import numpy as np, ngdla, pytest


def case_killed(comm, xp):
    S = xp.asarray(np.random.default_rng(comm.rank).standard_normal((5, 8)))
    f = xp.ones(5, dtype=xp.float64)

    def blocks():
        yield S[:, :4]
        if comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield S[:, 4:]

    ngdla.damped_lstsq(ngdla.ColumnShards(S, comm), f, 0.1)  # all are there
    comm.timeout = 1.0
    stream = ngdla.ColumnStream(blocks, (5, 8), dtype=S.dtype, like=S)
    with pytest.raises((TimeoutError, ConnectionError), match="Look for its error first"):
        ngdla.damped_lstsq(ngdla.ColumnShards(stream, comm), f, 0.1)
    print("TOLD", comm.rank, flush=True)

"""


@pytest.fixture
def launch(tmp_path, monkeypatch, request):
    """Return the module that starts ranks, for the cases above."""
    (tmp_path / "cases_left.py").write_text(CASES)
    monkeypatch.setenv("RANKS_CASES", str(tmp_path))
    path = Path(__file__).with_name("launch.py")
    spec = importlib.util.spec_from_file_location("launch_of_killed_ranks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(launch, engine, size, folder, name):
    """Return what ranks wrote, and what became of the case on each."""
    lacking = launch.missing(engine)
    if lacking is not None:
        pytest.skip(lacking)
    said = launch.start(engine, size, folder, [f"left:{name}"])
    return said, launch.read(folder, size, [f"left:{name}"], said)[f"left:{name}"]


@pytest.mark.ranks
def test_mpi_ends_the_job(launch, tmp_path):
    said, ranks = started(launch, "mpi", 2, tmp_path, "killed")
    assert {rank["state"] for rank in ranks} == {"begun"}
    assert re.search(r"signal 9|SIGKILL|Killed", said), said


@pytest.mark.ranks
def test_the_others_of_gloo_are_told(launch, tmp_path):
    said, ranks = started(launch, "gloo", 2, tmp_path, "killed")
    assert ranks[1]["state"] == "begun"
    assert "TOLD 0" in said.splitlines(), said


def test_a_thread_that_never_comes():
    def ranks(comm):
        if comm.rank == 1:
            time.sleep(1)
            return None
        S = np.ones((3, 2))
        return ngdla.damped_lstsq(ngdla.ColumnShards(S, comm), np.ones(3), 0.1)

    error, _ = outcomes(2, ranks, timeout=0.2)
    assert isinstance(error, TimeoutError)
    assert "waited 0.2 s in all_gather" in str(error)

"""The processes of a run: shares of walkers, what they agree on, and how they are started."""

import sys

import array_api_compat.numpy as np_compat
import numpy as np
import pytest
from thread_ranks import run_ranks

from ngdla.demo import make_problem, quick, ranks
from ngdla.demo.ranks import agree, communicator, ending_together, first_at_fault, gathered, share
from ngdla.demo.vmc import optimise, started, trajectory
from ngdla.distributed import SerialCommunicator

SIZES = [1, 2, 3, 7]


@pytest.fixture(autouse=True)
def no_mpiexec(monkeypatch):
    for names in ranks.LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("size", SIZES)
def test_every_walker_has_one_rank(size):
    shares = [share(10, rank, size) for rank in range(size)]
    assert [walker for here in shares for walker in here] == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_gathered_rows_are_in_the_order_of_walkers(size):
    rows = np.arange(20.0).reshape(10, 2)

    def gather(comm):
        here = share(10, comm.rank, comm.size)
        return gathered(rows[here.start : here.stop], 10, comm)

    for found in run_ranks(size, gather):
        np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("system", ["tfim", "mg"])  # rows summed, and exchanged for columns
@pytest.mark.parametrize("size", [2, 3])
def test_steps_do_not_depend_on_the_number_of_ranks(size, system):
    problem = quick(make_problem(system, 6)).with_steps(6)

    def follow(comm):
        walkers = share(problem.walkers, comm.rank, comm.size)
        state = started(problem, np_compat, None, 3, walkers)
        states, steps = zip(*trajectory(problem, state, comm), strict=True)
        return states[-1].parameters, [step[:3] for step in steps]

    expected = [step[:3] for step in optimise(problem, np_compat, seed=3)]
    parameters, steps = zip(*run_ranks(size, follow), strict=True)
    np.testing.assert_allclose(steps[0], expected, rtol=1e-10)
    for rank in range(1, size):  # to the last bit, or ranks would part
        assert steps[rank] == steps[0]
        np.testing.assert_array_equal(parameters[rank], parameters[0])


def test_the_lowest_rank_at_fault_speaks():
    assert run_ranks(4, lambda comm: first_at_fault(comm.rank in (1, 2), comm)) == [1] * 4
    assert run_ranks(2, lambda comm: first_at_fault(False, comm)) == [None] * 2


def test_ranks_agree_or_not():
    assert run_ranks(3, lambda comm: agree("seed 1", comm)) == [True] * 3
    assert run_ranks(3, lambda comm: agree(f"seed {comm.rank == 2}", comm)) == [False] * 3


def test_alone_there_is_nobody_to_speak_to(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert communicator() == SerialCommunicator()
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert communicator() == SerialCommunicator()


@pytest.mark.parametrize(("rank", "size"), ranks.LAUNCHERS)
def test_mpiexec_without_mpi4py(rank, size, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv(rank, "0")
    monkeypatch.setenv(size, "3")
    with pytest.raises(ValueError, match=r"3 processes, and mpi4py .*: pip install mpi4py"):
        communicator()


def test_mpiexec_of_another_mpi(monkeypatch):
    monkeypatch.setattr(ranks, "find_spec", lambda name: object())
    monkeypatch.setattr("ngdla.distributed.MPICommunicator", SerialCommunicator)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 processes, and mpi4py sees 1"):
        communicator()


def test_an_error_of_one_rank_ends_all(monkeypatch, capsys):
    ends = []
    monkeypatch.setattr(ranks, "end_at_once", lambda: ends.append(None))

    def fail(comm):
        with ending_together(comm):
            raise MemoryError("no room")

    with pytest.raises(MemoryError):  # of one process: as ever
        fail(SerialCommunicator())
    run_ranks(2, fail)
    assert len(ends) == 2
    assert "no room" in capsys.readouterr().err

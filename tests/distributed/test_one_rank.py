"""The communicator of one rank, and the one that records."""

import sys

import numpy as np
import pytest
from thread_ranks import run_ranks

import ngdla
from ngdla._backend.communicator import Communicator
from ngdla.distributed import (
    Collective,
    MPICommunicator,
    RecordingCommunicator,
    SerialCommunicator,
    TorchCommunicator,
)

SERIAL = SerialCommunicator()


def test_one_rank_sends_nothing(valued_backend):
    x = valued_backend.asarray(np.arange(6.0, dtype="float32").reshape(1, 2, 3))
    assert SERIAL.all_reduce_sum(x) is x
    assert SERIAL.all_to_all(x) is x
    assert tuple(SERIAL.all_gather(x).shape) == (1, 1, 2, 3)
    assert (SERIAL.rank, SERIAL.size, SERIAL.timeout) == (0, 1, None)


def test_it_is_equal_by_value_and_hashable():
    assert {SERIAL, SerialCommunicator()} == {SERIAL}
    assert RecordingCommunicator(SERIAL) != SERIAL
    assert repr(RecordingCommunicator(SERIAL)) == "RecordingCommunicator(SerialCommunicator())"


@pytest.mark.parametrize("comm", [SERIAL, RecordingCommunicator(SERIAL)], ids=repr)
def test_they_are_communicators(comm):
    assert isinstance(comm, Communicator)


def test_refusals():
    with pytest.raises(ValueError, match=r"for each of the 1 ranks .* shape \(2, 3\)"):
        SERIAL.all_to_all(np.ones((2, 3)))
    for collective in (SERIAL.all_reduce_sum, SERIAL.all_gather, SERIAL.all_to_all):
        with pytest.raises(TypeError, match=r"SerialCommunicator\(\) takes arrays, and got \[1\]"):
            collective([1])


def test_collectives_are_written_down_and_passed_on():
    def ranks(comm):
        comm = RecordingCommunicator(comm)
        assert (comm.size, comm.timeout) == (2, 20.0)
        total = comm.all_reduce_sum(np.ones((3, 3), "complex64"))
        comm.all_gather(np.ones(4))
        comm.all_to_all(np.ones((2, 7)))
        comm.all_gather(np.asarray(comm.rank))
        return total[0, 0], comm.collectives, comm.words(), comm.words("all_gather")

    written = [
        Collective("all_reduce_sum", 9, "complex64"),
        Collective("all_gather", 4, "float64"),
        Collective("all_to_all", 14, "float64"),
        Collective("all_gather", 1, "int64"),
    ]
    assert run_ranks(2, ranks) == [(2, written, 28, 5)] * 2


def test_they_may_be_cleared():
    comm = RecordingCommunicator(SERIAL)
    comm.all_gather(np.ones(3))
    comm.collectives.clear()
    assert comm.words() == 0


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match="mpi4py"):
        MPICommunicator()


def test_torch_without_a_group():
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=r"has no process group yet. Start the program by"):
        TorchCommunicator()


def test_it_is_reached_from_the_package():
    assert ngdla.distributed.SerialCommunicator is SerialCommunicator
    assert SerialCommunicator.__module__ == "ngdla.distributed"

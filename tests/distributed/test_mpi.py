"""What MPICommunicator asks of an MPI, on a stand-in for mpi4py that has one rank.

The cases of `cases_collectives.py` run on an MPI.
"""

import sys
import types

import numpy as np
import pytest

from ngdla.distributed import MPICommunicator


class Request:
    """A collective that ends after it has been asked for a number of times."""

    def __init__(self, finish, asked):
        self.finish = finish
        self.left = asked

    def Test(self):
        self.left -= 1
        if self.left == 0:
            self.finish()
        return self.left <= 0


class Comm:
    """COMM_WORLD of one rank."""

    def __init__(self):
        self.called = []
        self.kinds = None
        self.asked = 1

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 1

    def Get_info(self):
        return types.SimpleNamespace(Get={"mpi_memory_alloc_kinds": self.kinds}.get)

    def Allreduce(self, in_place, y, operation):
        self.called.append(("Allreduce", y, operation))

    def Allgather(self, sent, received):
        self.called.append(("Allgather", sent, received))
        received[0, ...] = sent

    def Alltoall(self, sent, received):
        self.called.append(("Alltoall", sent, received))
        received[...] = sent

    def __getattr__(self, name):
        blocking = getattr(self, name[1:].capitalize())
        return lambda *arguments: Request(lambda: blocking(*arguments), self.asked)


@pytest.fixture
def world(monkeypatch):
    """Return COMM_WORLD of a stand-in for mpi4py."""
    comm = Comm()
    mpi = types.SimpleNamespace(
        COMM_WORLD=comm, SUM="sum", MAX="max", IN_PLACE="in place", __file__="none.so"
    )
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=mpi))
    monkeypatch.delenv("MPICH_GPU_SUPPORT_ENABLED", raising=False)
    return comm


def test_which_mpi_is_cuda_aware(world, monkeypatch):
    assert MPICommunicator().staged
    for kinds in ("mpi,system", "mpi,system,cuda:device"):
        world.kinds = kinds
        assert MPICommunicator().staged == ("cuda" not in kinds)
    world.kinds = None
    monkeypatch.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert not MPICommunicator().staged


@pytest.mark.parametrize("answer", [0, 1])
def test_an_mpi_that_answers_is_believed(world, monkeypatch, answer):
    library = types.SimpleNamespace(MPIX_Query_cuda_support=lambda: answer)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert MPICommunicator().staged == (not answer)


def test_contiguous_arrays_are_handed_over_as_they_are(world):
    x, parts = np.ones((3, 3)), np.ones((1, 3))
    comm = MPICommunicator()
    assert comm.all_reduce_sum(x) is x
    comm.all_to_all(parts)
    assert world.called[0][1] is x
    assert world.called[1][1] is parts


def test_half_precision_is_summed_in_float32(world):
    x = np.ones(3, "float16")
    assert MPICommunicator().all_reduce_sum(x).dtype == "float16"
    (_, y, operation) = world.called[0]
    assert (y.dtype, operation) == ("float32", "sum")


@pytest.mark.parametrize("asked", [1, 3, 200])
def test_a_time_limit_polls(world, asked):
    world.asked = asked
    comm = MPICommunicator(timeout=20)
    np.testing.assert_array_equal(comm.all_gather(np.arange(3)), [[0, 1, 2]])
    assert repr(comm) == "MPICommunicator(rank=0, size=1)"


def test_what_mpi_may_still_write_to_is_kept(world):
    world.asked = 10**9
    comm = MPICommunicator(timeout=0.01)
    x = np.ones(3)
    with pytest.raises(TimeoutError, match=r"all_reduce_sum did not end within 0.01 seconds: an"):
        comm.all_reduce_sum(x)
    assert any(kept is x for _, arrays in comm._unfinished for kept in arrays)


@pytest.mark.cupy_double
@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128", "bool"])
def test_cupy_arrays(world, aware, dtype):
    import cupy
    import cupy_double

    world.kinds = "cuda" if aware else None
    comm = MPICommunicator()
    assert comm.staged == (not aware)
    values = np.arange(6).reshape(1, 2, 3).astype(dtype)
    with cupy_double.recorded() as record:
        x = cupy.asarray(values)
        results = (
            comm.all_reduce_sum(x),
            comm.all_gather(x)[0],
            comm.all_to_all(x),
            comm.all_reduce_sum(x.transpose(2, 1, 0)).transpose(2, 1, 0),
        )
    assert len(record.reads) == (0 if aware else 4)
    for result in results:
        assert isinstance(result, cupy.ndarray)
        assert result.dtype == dtype
        np.testing.assert_array_equal(cupy.asnumpy(result), values)
    kind = cupy.ndarray if aware else np.ndarray
    assert all(isinstance(called[1], kind) for called in world.called)
    violations = list(cupy_double.VIOLATIONS)
    cupy_double.VIOLATIONS.clear()
    assert not violations

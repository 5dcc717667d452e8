"""TorchCommunicator in a group of one process, and its words for errors of engines."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from ngdla.distributed import TorchCommunicator  # noqa: E402


@pytest.fixture
def comm(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/a", rank=0, world_size=1)
    yield TorchCommunicator(timeout=10)
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float32", "complex64", "complex128"])
def test_collectives(comm, dtype):
    x = torch.arange(6).reshape(1, 2, 3).to(getattr(torch, dtype))
    for result in (comm.all_reduce_sum(x), comm.all_gather(x)[0], comm.all_to_all(x)):
        assert result.dtype == x.dtype
        assert torch.equal(result, x)
    assert (comm.rank, comm.size) == (0, 1)
    assert repr(comm) == "TorchCommunicator(rank=0, size=1)"


def test_numpy_arrays(comm):
    x = np.arange(6.0).reshape(2, 3)[::-1]
    np.testing.assert_array_equal(comm.all_gather(x), x[None])
    assert isinstance(comm.all_reduce_sum(x), np.ndarray)


def test_tensors_with_a_graph(comm):
    x = torch.ones(3, requires_grad=True)
    assert not comm.all_reduce_sum(x * 2).requires_grad


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("Operation timed out!", TimeoutError, "did not end within 10 seconds"),
        ("Application timeout caused pair closure", TimeoutError, "did not end within 10 seconds"),
        ("Connection closed by peer [127.0.0.1]", ConnectionError, "lost the connection"),
        ("an unknown one", RuntimeError, "an unknown one"),
    ],
)
def test_errors_of_the_engine(comm, monkeypatch, said, kind, message):
    class Work:
        def wait(self, limit):
            raise RuntimeError(said)

    monkeypatch.setattr(dist, "all_reduce", lambda *args, **kwargs: Work())
    with pytest.raises(kind, match=message):
        comm.all_reduce_sum(torch.ones(3))


def test_the_time_limit_of_the_group(comm, monkeypatch):
    class Work:
        def wait(self):
            msg = "Timed out waiting 1000ms for recv operation to complete"
            raise RuntimeError(msg)

    comm.timeout = None
    monkeypatch.setattr(dist, "all_reduce", lambda *args, **kwargs: Work())
    with pytest.raises(TimeoutError, match="within the time limit of the engine"):
        comm.all_reduce_sum(torch.ones(3))

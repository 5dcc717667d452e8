"""Arrays of other libraries than an engine's own."""

import numpy as np
import pytest


def case_torch_and_jax_on_mpi(comm, xp):
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    for x in (torch.ones(2, 2), torch.ones(2, dtype=torch.bfloat16), jax.numpy.ones((2, 2))):
        for y, factor in ((comm.all_gather(x), 1), (comm.all_reduce_sum(x), comm.size)):
            assert type(y) is type(x)
            assert y.dtype == x.dtype
            assert bool((y == factor).all())
    half = jax.numpy.full(2, comm.rank, dtype="bfloat16")
    assert comm.all_gather(half).tolist() == [[i, i] for i in range(comm.size)]
    with pytest.raises(TypeError, match=r"no traced and no sharded ones.*Use JaxAxis inside"):
        jax.jit(comm.all_reduce_sum)(jax.numpy.ones(2))


case_torch_and_jax_on_mpi.engines = ("mpi",)
case_torch_and_jax_on_mpi.sizes = (2,)


def case_jax_on_gloo(comm, xp):
    jax = pytest.importorskip("jax")
    message = r"TorchCommunicator\(.*\) takes torch tensors and NumPy arrays, and got a jax array"
    with pytest.raises(TypeError, match=message + ".* Use JaxAxis"):
        comm.all_reduce_sum(jax.numpy.ones(2))


case_jax_on_gloo.engines = ("gloo",)
case_jax_on_gloo.sizes = (2,)


def case_dask_arrays(comm, xp):
    array = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"got a dask array. Convert it to one of these"):
        comm.all_reduce_sum(array.ones(3))


case_dask_arrays.engines = ("mpi", "gloo")
case_dask_arrays.sizes = (2,)


def case_staged(comm, xp):
    """The MPI of wheels is built without CUDA."""
    assert isinstance(comm.staged, bool)


case_staged.engines = ("mpi",)
case_staged.sizes = (2,)


def case_dtensors(comm, xp):
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from ngdla.distributed import TorchCommunicator

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    own = TorchCommunicator.of_mesh(mesh, timeout=comm.timeout)
    assert (own.rank, own.size) == (comm.rank, comm.size)
    rows = np.random.default_rng(0).standard_normal((3, 7))
    S = distribute_tensor(torch.from_numpy(rows), mesh, [Shard(1)])
    part = own.local_part(S)
    assert tuple(part.shape) == (3, 4 if own.rank == 0 else 3)
    x = own.as_sharded(2 * part[0], S)
    assert x.placements == (Shard(0),)
    np.testing.assert_array_equal(x.full_tensor().numpy(), 2 * rows[0])
    for wrong in (distribute_tensor(torch.ones(3), mesh, [Replicate()]), torch.ones(3)):
        with pytest.raises(TypeError, match="sharded over a mesh of one axis"):
            own.local_part(wrong)


case_dtensors.engines = ("gloo",)
case_dtensors.sizes = (2,)

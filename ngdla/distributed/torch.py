"""Ranks of torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.namespace import (
    Array,
    as_array,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

from .refusals import (
    foreign,
    left_alone,
    need_array,
    need_part_for_each,
    need_timeout,
    too_late,
)

__all__ = ["TorchCommunicator"]

_TAKES = "torch tensors and NumPy arrays"


class TorchCommunicator:
    """The ranks of a process group of `torch.distributed`, with gloo or NCCL.

    Tensors are sent from the device on which they lie. NumPy arrays, and tensors on the CPU in a
    group that has NCCL alone, pass through the current device.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        All ranks by default.
    timeout : float, optional
        Seconds after which a collective raises TimeoutError; by default those that the group was
        made with.

    Attributes
    ----------
    rank, size : int
        The number of this rank in the group, and of all.
    timeout : float or None
        As given.

    Raises
    ------
    RuntimeError
        `torch.distributed.init_process_group` has not been called.

    Notes
    -----
    A sum of truth values is "or", as in torch. With gloo, a group whose collective timed out
    cannot be used any more.

    Examples
    --------
    One file for all ranks, started by ``torchrun --nproc-per-node 2 file.py``:

    >>> import torch  # doctest: +SKIP
    >>> from ngdla.distributed import TorchCommunicator
    >>> torch.distributed.init_process_group("gloo")  # doctest: +SKIP
    >>> comm = TorchCommunicator(timeout=60)  # doctest: +SKIP
    >>> comm.all_reduce_sum(torch.ones(2))  # doctest: +SKIP
    tensor([2., 2.])
    """

    def __init__(self, group: Any = None, *, timeout: float | None = None) -> None:
        import torch.distributed as dist

        need_timeout(timeout)
        if not dist.is_initialized():
            msg = (
                "torch.distributed has no process group yet. Start the program by torchrun and "
                "call torch.distributed.init_process_group first."
            )
            raise RuntimeError(msg)
        self._group = dist.group.WORLD if group is None else group
        self.rank: int = dist.get_rank(self._group)
        self.size: int = dist.get_world_size(self._group)
        self.timeout = timeout

    @classmethod
    def of_mesh(cls, mesh: Any, *, timeout: float | None = None) -> TorchCommunicator:
        """Return the communicator of the ranks over which DTensors of a mesh are sharded.

        Parameters
        ----------
        mesh : torch.distributed.DeviceMesh
            Of one axis.
        timeout : float, optional
            Seconds after which a collective raises TimeoutError.

        Returns
        -------
        TorchCommunicator
        """
        return cls(mesh.get_group(), timeout=timeout)

    def local_part(self, x: AnyArray) -> Array:
        """Return the part of a DTensor that is on this rank.

        Parameters
        ----------
        x : torch.distributed.tensor.DTensor
            Sharded over one axis of a mesh of one axis.

        Returns
        -------
        torch.Tensor
            The shard itself, not a copy.
        """
        if len(getattr(x, "placements", ())) != 1 or not x.placements[0].is_shard():
            given = getattr(x, "placements", type(x).__name__)
            msg = f"`x` has to be a DTensor that is sharded over a mesh of one axis, not {given}."
            raise TypeError(msg)
        return x.to_local()

    def as_sharded(self, x: AnyArray, like: AnyArray) -> Array:
        """Return the DTensor whose part on this rank is x.

        Parameters
        ----------
        x : torch.Tensor
            A solution, whose last axis is the part of this rank of the sharded axis of `like`.
        like : torch.distributed.tensor.DTensor
            The scores that `x` was computed of, as `local_part` takes them.

        Returns
        -------
        torch.distributed.tensor.DTensor
            Sharded over its last axis.
        """
        import torch
        from torch.distributed.tensor import DTensor, Shard

        self.local_part(like)
        shape = torch.Size((*x.shape[:-1], like.shape[like.placements[0].dim]))
        return DTensor.from_local(
            x.contiguous(),
            like.device_mesh,
            [Shard(x.ndim - 1)],
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of x over ranks.

        Parameters
        ----------
        x : torch.Tensor or numpy.ndarray
            Of the same shape and dtype on all ranks. It may be written to.

        Returns
        -------
        torch.Tensor or numpy.ndarray
        """
        return self._passed(self._sum, x)

    def all_gather(self, x: Array) -> Array:
        """Return the x of all ranks, in their order.

        Parameters
        ----------
        x : torch.Tensor or numpy.ndarray
            Of the same shape and dtype on all ranks.

        Returns
        -------
        torch.Tensor or numpy.ndarray, (size, ...)
            Part j is the x of rank j.
        """
        return self._passed(self._gather, x)

    def all_to_all(self, x: Array) -> Array:
        """Return, as part j, the part of the x of rank j that is for this rank.

        Parameters
        ----------
        x : torch.Tensor or numpy.ndarray, (size, ...)
            Part i is for rank i.

        Returns
        -------
        torch.Tensor or numpy.ndarray, (size, ...)
        """
        need_array(x, repr(self))
        need_part_for_each(x, self.size)
        return self._passed(self._exchange, x)

    def __repr__(self) -> str:
        return f"TorchCommunicator(rank={self.rank}, size={self.size})"

    def _passed(self, collective: Callable[[AnyArray], AnyArray], x: AnyArray) -> AnyArray:
        """Return what a collective makes of x as a tensor, in the library of x."""
        import numpy as np
        import torch

        need_array(x, repr(self))
        x = as_array(x)
        if is_numpy_namespace(namespace(x)):
            y = np.array(x) if not x.flags.writeable or min(x.strides, default=0) < 0 else x
            sent = torch.from_numpy(y)
            return np.asarray(self._from_device(collective, sent).numpy())
        if not is_torch_namespace(namespace(x)):
            raise foreign(x, repr(self), _TAKES)
        return self._from_device(collective, x.detach().resolve_conj().resolve_neg())

    def _from_device(self, collective: Callable[[AnyArray], AnyArray], x: AnyArray) -> AnyArray:
        """Return what a collective makes of a tensor, which lies where the group can send it."""
        import torch
        import torch.distributed as dist

        here = x.device
        if here.type == "cpu" and dist.get_backend(self._group) == "nccl":
            x = x.to(torch.device("cuda", torch.cuda.current_device()))
        return _of_reals(collective, x.contiguous()).to(here)

    def _sum(self, x: AnyArray) -> AnyArray:
        import torch
        import torch.distributed as dist

        if x.dtype == torch.bool:
            y = x.view(torch.uint8)
            self._run("all_reduce_sum", dist.all_reduce, y, op=dist.ReduceOp.MAX)
        else:
            self._run("all_reduce_sum", dist.all_reduce, x)
        return x

    def _gather(self, x: AnyArray) -> AnyArray:
        import torch.distributed as dist

        # the name that torch 2.13 gave it, or that of older ones
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        flat = x.reshape(-1)
        received = flat.new_empty(self.size * flat.numel())
        self._run("all_gather", gather, received, flat)
        return received.reshape(self.size, *x.shape)

    def _exchange(self, x: AnyArray) -> AnyArray:
        import torch.distributed as dist

        received = x.new_empty(x.shape)
        self._run("all_to_all", dist.all_to_all_single, received, x)
        return received

    def _run(self, kind: str, call: Callable[..., Any], *tensors: AnyArray, **options: Any) -> None:
        """Call the engine, and say in the words of all engines that a rank does not answer."""
        try:
            work = call(*tensors, group=self._group, async_op=True, **options)
            if self.timeout is None:
                work.wait()
            else:
                work.wait(timedelta(seconds=self.timeout))
        except RuntimeError as error:
            text = str(error).lower()
            if "timed out" in text or "timeout" in text:
                raise too_late(kind, self.timeout) from error
            if "connection" in text or "closed" in text or "abort" in text:
                raise left_alone(kind) from error
            raise


def _of_reals(collective: Callable[[AnyArray], AnyArray], x: AnyArray) -> AnyArray:
    """Return what a collective makes of x, which is sent as pairs of reals if it is complex."""
    import torch

    if not x.is_complex():
        return collective(x)
    return torch.view_as_complex(collective(torch.view_as_real(x)))

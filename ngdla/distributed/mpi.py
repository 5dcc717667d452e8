"""Ranks of MPI, through mpi4py."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.dtypes import dtype_name
from ngdla._backend.namespace import Array, as_array, is_cupy_namespace, namespace

from .host_arrays import on_host
from .refusals import need_array, need_part_for_each, need_timeout, too_late

__all__ = ["MPICommunicator"]

_TAKES = "NumPy, CuPy and JAX arrays and torch tensors on the CPU"
_HALF = ("float16", "bfloat16")  # of which not every MPI forms sums
_SPIN = 1e-3  # seconds in which a collective is asked for without a pause


class MPICommunicator:
    """The ranks of a communicator of mpi4py.

    NumPy arrays are handed to MPI as they lie in memory; sums are formed in place, if the array is
    contiguous and may be written to. torch tensors on the CPU share their memory. JAX arrays, eager
    ones on one device, pass through the host.

    CuPy arrays are passed by pointer if the MPI is CUDA-aware, after the current stream has been
    waited for. Otherwise they pass through the host: see `staged`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        COMM_WORLD by default. Hand over ``comm.Dup()`` if other parts of the program have
        collectives of their own under way.
    timeout : float, optional
        Seconds after which a collective raises TimeoutError. By default it waits for as long as
        MPI does. A program that is left alone has to end by ``comm.Abort()``: MPI waits for all
        ranks at its regular end.

    Attributes
    ----------
    rank, size : int
        The number of this rank, and of all.
    timeout : float or None
        As given.
    staged : bool
        Whether CuPy arrays pass through the host. They do unless the MPI says that it is
        CUDA-aware: by ``MPIX_Query_cuda_support``, by the info key ``mpi_memory_alloc_kinds``, or
        by the variable ``MPICH_GPU_SUPPORT_ENABLED`` of its environment.

    Raises
    ------
    ImportError
        mpi4py is not installed.

    Notes
    -----
    Half precision is summed in float32, and a sum of truth values is "or", as in NumPy.

    Examples
    --------
    One file for all ranks, started by ``mpiexec -n 2 python file.py``:

    >>> import numpy as np
    >>> from ngdla.distributed import MPICommunicator
    >>> comm = MPICommunicator(timeout=60)  # doctest: +SKIP
    >>> comm.all_reduce_sum(np.ones(2))  # doctest: +SKIP
    array([2., 2.])
    """

    def __init__(self, comm: Any = None, *, timeout: float | None = None) -> None:
        from mpi4py import MPI

        need_timeout(timeout)
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD if comm is None else comm
        self._unfinished: list[Any] = []  # MPI may still write to these arrays
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self.timeout = timeout
        self.staged = not _is_cuda_aware(MPI)

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of x over ranks.

        Parameters
        ----------
        x : array
            Of the same shape and dtype on all ranks. It may be written to.

        Returns
        -------
        array
            The same on all ranks, bit for bit if the MPI sums in one order for all.
        """
        return self._passed(self._sum, x)

    def all_gather(self, x: Array) -> Array:
        """Return the x of all ranks, in their order.

        Parameters
        ----------
        x : array
            Of the same shape and dtype on all ranks.

        Returns
        -------
        array, (size, ...)
            Part j is the x of rank j.
        """
        return self._passed(self._gather, x)

    def all_to_all(self, x: Array) -> Array:
        """Return, as part j, the part of the x of rank j that is for this rank.

        Parameters
        ----------
        x : array, (size, ...)
            Part i is for rank i.

        Returns
        -------
        array, (size, ...)
        """
        need_array(x, repr(self))
        need_part_for_each(x, self.size)
        return self._passed(self._exchange, x)

    def __repr__(self) -> str:
        return f"MPICommunicator(rank={self.rank}, size={self.size})"

    def _passed(self, collective: Callable[[AnyArray], AnyArray], x: AnyArray) -> AnyArray:
        """Return what a collective makes of x, in the library of x."""
        need_array(x, repr(self))
        x = as_array(x)
        if is_cupy_namespace(namespace(x)) and not self.staged:
            return self._by_pointer(collective, x)
        y, back = on_host(x, repr(self), _TAKES)
        return back(collective(y))

    def _by_pointer(self, collective: Callable[[AnyArray], AnyArray], x: AnyArray) -> AnyArray:
        with x.device:
            return collective(x)

    def _sum(self, x: AnyArray) -> AnyArray:
        name = dtype_name(x.dtype)
        if name in _HALF:
            return self._sum(x.astype("float32")).astype(x.dtype)
        if name == "bool":
            return self._reduced(x.view("uint8"), self._mpi.MAX).view("bool")
        return self._reduced(x, self._mpi.SUM)

    def _reduced(self, x: AnyArray, operation: Any) -> AnyArray:
        y = _contiguous(x)
        if not getattr(y.flags, "writeable", True):  # CuPy has no read-only arrays
            y = y.copy()
        self._run("all_reduce_sum", "allreduce", self._mpi.IN_PLACE, y, operation)
        return y

    def _gather(self, x: AnyArray) -> AnyArray:
        sent = _as_bytes(_contiguous(x))
        received = namespace(x).empty((self.size, *sent.shape), dtype=sent.dtype)
        self._run("all_gather", "allgather", sent, received)
        return received.view(x.dtype)

    def _exchange(self, x: AnyArray) -> AnyArray:
        sent = _as_bytes(_contiguous(x))
        received = namespace(x).empty(sent.shape, dtype=sent.dtype)
        self._run("all_to_all", "alltoall", sent, received)
        return received.view(x.dtype)

    def _run(self, kind: str, call: str, *arguments: Any) -> None:
        """Call MPI, in a way that can be waited for if there is a time limit."""
        if is_cupy_namespace(namespace(arguments[1])):
            import cupy

            cupy.cuda.get_current_stream().synchronize()  # MPI knows of no streams
        if self.timeout is None:
            getattr(self._comm, call.capitalize())(*arguments)
            return
        request = getattr(self._comm, f"I{call}")(*arguments)
        if not _ends(request, self.timeout):
            self._unfinished.append((request, arguments))
            raise too_late(kind, self.timeout)


def _ends(request: Any, seconds: float) -> bool:
    """Wait for a request of MPI; tell whether it ended within a number of seconds."""
    start = time.monotonic()
    pause = 1e-5
    while not request.Test():
        waited = time.monotonic() - start
        if waited > seconds:
            return False
        if waited > _SPIN:
            time.sleep(pause)
            pause = min(2 * pause, _SPIN)
    return True


def _contiguous(x: AnyArray) -> AnyArray:
    return x if x.flags.c_contiguous else x.copy(order="C")


def _as_bytes(x: AnyArray) -> AnyArray:
    """Return what is sent without being computed with in a dtype that every MPI has."""
    return x.view("uint16") if dtype_name(x.dtype) in _HALF else x


def _is_cuda_aware(MPI: Any) -> bool:
    """Tell whether an MPI says that it takes pointers to memory of a GPU."""
    try:
        return bool(ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support())
    except (AttributeError, OSError):  # an extension that not every MPI has
        kinds = MPI.COMM_WORLD.Get_info().Get("mpi_memory_alloc_kinds") or ""
        return "cuda" in kinds or os.environ.get("MPICH_GPU_SUPPORT_ENABLED") == "1"

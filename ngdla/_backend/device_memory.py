"""How much memory a GPU has, and how much of it is to spare."""

from __future__ import annotations

from typing import Any

from .array import AnyArray
from .device_streams import device_of, has_streams
from .mesh_axes import mesh_of
from .namespace import is_cupy_namespace, namespace
from .out_of_memory import NamedMemoryError

__all__ = ["memory_to_spare", "require_square_on_each_device"]

_RESERVE = 4  # a quarter of the device at least, also for other libraries and programs


def memory_to_spare(like: AnyArray, work: int) -> int:
    """Return how many bytes of the device of an array may hold what could be done without.

    A reserve is left, of at least the bytes that the work takes.
    What the pools of CuPy and torch hold and do not use is free; a limit of CuPy's pool is held.
    For other libraries, and on the host, it is 0.
    """
    if not has_streams(like):
        return 0
    with device_of(like):
        free, total = _cupy_memory() if is_cupy_namespace(namespace(like)) else _torch_memory()
    return max(0, free - max(total // _RESERVE, work))


def _cupy_memory() -> tuple[int, int]:
    """Return the bytes that are free on the current device, and all that it has."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool()
    free, limit = free + pool.free_bytes(), pool.get_limit()
    if limit:
        free, total = min(free, limit - pool.used_bytes()), min(total, limit)
    return free, total


def _torch_memory() -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + held, total


def require_square_on_each_device(S: AnyArray) -> None:
    """Require of an array of JAX on several devices that each has room for S S^H, which it factors.

    Where XLA is not asked how much memory it may take, as on the host, nothing is required.
    """
    mesh, n = mesh_of(S), S.shape[-2]
    limit = None if mesh is None or mesh.size == 1 else _memory_of_each_device(mesh)
    nbytes = n * n * S.dtype.itemsize
    if limit is not None and nbytes > limit:
        msg = (
            f"a matrix of {n} x {n} numbers ({S.dtype}) takes {nbytes:,} bytes, and is factored on "
            f"each device, which has {limit:,}. n is the smaller one of the numbers of samples and "
            f"of parameters: pass fewer, or a lower precision, or factor such a matrix on all "
            f"devices by jaxmg (arXiv 2601.14466)."
        )
        raise NamedMemoryError(msg)


def _memory_of_each_device(mesh: Any) -> int | None:
    """Return the bytes that XLA may take on a device of a mesh, None where they are not known."""
    import jax

    kind = getattr(mesh, "abstract_device", None)
    if kind is None:
        return None
    usage = jax.local_devices(backend=kind.platform)[0].memory_stats() or {}
    return usage.get("bytes_limit")

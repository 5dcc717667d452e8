"""Bringing arrays to the library and device that work with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device

from .array import AnyArray
from .dtypes import dtype_name
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

__all__ = ["host_tensor", "host_values", "is_host_array", "moved", "on_host", "sent"]


def on_host() -> AnyArray:
    """Return a NumPy array, for work that nothing else has given a device."""
    return np.zeros(1)


def is_host_array(x: Any) -> bool:
    """Tell whether `x` is a NumPy array."""
    return isinstance(x, np.ndarray)


def host_values(x: AnyArray) -> np.ndarray:
    """Return the values of an array of any library on the host, as they are.

    Those of bfloat16 in torch, which NumPy does not have, are float32.
    """
    xp = namespace(x)
    if is_torch_namespace(xp):
        x = x.detach().resolve_conj().resolve_neg().cpu()
        return (x.float() if dtype_name(x.dtype) == "bfloat16" else x).numpy()
    if is_cupy_namespace(xp):
        return xp.asnumpy(x)
    if is_dask_namespace(xp):
        return np.asarray(x.compute())
    return np.asarray(x) if is_numpy_namespace(xp) or is_jax_namespace(xp) else np.from_dlpack(x)


def moved(x: AnyArray, like: AnyArray) -> AnyArray:
    """Return an array where `like` lives; the array itself where it lives there already."""
    xp = namespace(like)
    if namespace(x) is not xp:
        return sent(host_values(x), like)
    if is_torch_namespace(xp):
        return x.detach().to(like.device)
    if is_jax_namespace(xp):
        import jax

        return jax.device_put(x, like.sharding) if like.committed else x
    if is_cupy_namespace(xp) and x.device != like.device:
        return sent(host_values(x), like)
    return x


def sent(x: AnyArray, like: AnyArray) -> AnyArray:
    """Return a NumPy array as one of the library and device of `like`.

    It may be overwritten once the work that it is sent for has been asked for: what works later, on
    a device or by itself, has a copy.
    """
    xp = namespace(like)
    if is_numpy_namespace(xp):
        return np.asarray(x)
    if is_torch_namespace(xp):
        return host_tensor(x).to(like.device)
    if is_cupy_namespace(xp):
        with like.device:
            return xp.asarray(x, blocking=True)  # pinned memory too has been read by then
    if is_jax_namespace(xp):
        import jax

        # `device_put` on a CPU may keep the memory of the array, and work is done later
        return jax.device_put(np.array(x), like.sharding if like.committed else None)
    return xp.asarray(np.asarray(x), device=device(like))


def host_tensor(x: AnyArray) -> AnyArray:
    """Return a tensor of torch over the memory of a NumPy array, if it may be written to."""
    import torch

    # torch warns of memory that it must not write to
    return torch.from_numpy(np.asarray(x) if x.flags.writeable else np.array(x))

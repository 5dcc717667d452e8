"""Arrays of any library as NumPy arrays, in the same memory where that lies on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ngdla._backend.array import AnyArray
from ngdla._backend.namespace import (
    is_cupy_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

from .refusals import foreign

__all__ = ["on_host"]

OnHost: TypeAlias = "tuple[np.ndarray[Any, Any], Callable[[np.ndarray[Any, Any]], AnyArray]]"


def on_host(x: AnyArray, communicator: str, takes: str) -> OnHost:
    """Return x as a NumPy array, and what brings another one to the library and device of x."""
    xp = namespace(x)
    if is_numpy_namespace(xp):
        return x, lambda y: y
    if is_torch_namespace(xp) and x.device.type == "cpu":
        return _torch_on_host(x)
    if is_jax_namespace(xp):
        return _jax_on_host(x, communicator, takes)
    if is_cupy_namespace(xp):
        return _cupy_on_host(x)
    raise foreign(x, communicator, takes)


def _torch_on_host(x: AnyArray) -> OnHost:
    import torch

    y = x.detach().resolve_conj().resolve_neg()
    if y.dtype == torch.bfloat16:  # which torch does not hand to NumPy
        return y.float().numpy(), lambda z: torch.from_numpy(z).bfloat16()
    return y.numpy(), torch.from_numpy


def _jax_on_host(x: AnyArray, communicator: str, takes: str) -> OnHost:
    import jax

    if isinstance(x, jax.core.Tracer) or len(x.devices()) != 1:
        raise foreign(x, communicator, f"{takes}, but no traced and no sharded ones")
    (device,) = x.devices()
    return np.asarray(x), lambda y: jax.device_put(y, device)


def _cupy_on_host(x: AnyArray) -> OnHost:
    import cupy

    def back(y: np.ndarray[Any, Any]) -> AnyArray:
        with x.device:
            return cupy.asarray(y)

    return cupy.asnumpy(x), back

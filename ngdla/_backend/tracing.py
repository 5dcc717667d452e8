"""Whether the values of an array can be read, and what to do where they cannot.

They cannot be read inside `jax.jit`, `jax.vmap`, `torch.vmap` and `torch.compile`, on torch's meta
and fake devices, and they are not read of lazy Dask arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .namespace import (
    Array,
    is_dask_namespace,
    is_jax_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)

__all__ = ["choose", "chooses", "concrete", "is_traced", "number"]


def concrete(flag: Array) -> bool | None:
    """Return the truth value of a 0-d array, or None where it cannot be read."""
    return None if (value := _read(bool, flag)) is None else bool(value)


def number(x: Array) -> float | None:
    """Return the value of a real 0-d array, or None where it cannot be read."""
    return None if (value := _read(float, x)) is None else float(value)


def _read(kind: type, x: Array) -> Any:
    if isinstance(x, np.generic):
        return x
    xp = namespace(x)
    if is_dask_namespace(xp):
        return None
    if is_jax_namespace(xp):
        import jax

        try:
            return kind(x)
        except jax.errors.ConcretizationTypeError:
            return None
    if is_torch_namespace(xp):
        if torch_compiling() or x.device.type == "meta":
            return None
        try:
            return kind(x.detach())
        except RuntimeError:  # torch.vmap and fake tensors refuse data-dependent control flow
            return None
    return kind(x)


def is_traced(x: Array) -> bool:
    """Tell without reading it whether the values of `x` cannot be read."""
    xp = namespace(x)
    if is_dask_namespace(xp):
        return True
    if is_jax_namespace(xp):
        import jax

        return isinstance(x, jax.core.Tracer)
    if is_torch_namespace(xp):
        if torch_compiling() or x.device.type == "meta":
            return True
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        return isinstance(x, FakeTensor) or torch._C._functorch.is_batchedtensor(x)
    return False


def chooses(x: Array) -> bool:
    """Tell whether `choose` computes only one of its two results."""
    return bool(is_jax_namespace(namespace(x)))


def choose(flag: Array, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return then() where a 0-d flag is set, else otherwise(), without reading the flag.

    Where the device cannot choose, it is then() in any case.
    """
    if not chooses(flag):
        return then()
    import jax

    return jax.lax.cond(flag, then, otherwise)

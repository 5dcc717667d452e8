"""Sums in which one array is used up: written into where the library and its caller allow it."""

from __future__ import annotations

from typing import Any

from .array import AnyArray
from .dtypes import astype, dtype_name
from .kernels_cupy import add_multiple_cupy, add_to_multiple_cupy
from .namespace import (
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)

__all__ = [
    "add_multiple",
    "add_to_multiple",
    "writable",
]


def add_multiple(total: AnyArray, factor: Any, x: AnyArray) -> AnyArray:
    """Return total + factor x. `total` is used up.

    `factor` is a Python number, or an array that broadcasts, of the dtype of the others or its real
    one.
    """
    if not writable(total, factor, x):
        return total + factor * x
    xp = namespace(total)
    if is_cupy_namespace(xp):
        return add_multiple_cupy(total, factor, x)
    if not is_torch_namespace(xp):
        total += factor * x
        return total
    if isinstance(factor, float):
        return total.add_(x, alpha=factor)
    return total.addcmul_(x, astype(factor, dtype_name(total.dtype)))


def add_to_multiple(total: AnyArray, factor: Any, x: AnyArray) -> AnyArray:
    """Return factor total + x. `total` is used up, as above."""
    if not writable(total, factor, x):
        return factor * total + x
    xp = namespace(total)
    if is_cupy_namespace(xp):
        return add_to_multiple_cupy(total, factor, x)
    if not is_torch_namespace(xp):
        total *= factor
        total += x
        return total
    import torch

    if isinstance(factor, float):
        return torch.add(x, total, alpha=factor, out=total)
    return torch.addcmul(x, total, astype(factor, dtype_name(total.dtype)), out=total)


def writable(total: AnyArray, *others: Any) -> bool:
    """Tell whether an array of ours may be written into, with values that depend on others.

    JAX arrays may not, nor torch tensors that are compiled, transformed, or have a gradient or a
    tangent.
    """
    xp = namespace(total)
    if not is_torch_namespace(xp):
        return is_numpy_namespace(xp) or is_cupy_namespace(xp)
    import torch

    if torch_compiling() or torch.autograd.forward_ad._current_level >= 0:
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    for x in (total, *others):
        if isinstance(x, torch.Tensor) and (
            type(x) is not torch.Tensor or x.requires_grad or wrapped(x)
        ):
            return False
    return True

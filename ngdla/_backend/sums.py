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
from .shapes import expanded

__all__ = [
    "add_multiple",
    "add_multiples",
    "add_to_multiple",
    "add_to_multiples",
    "multiples",
    "writable",
]

Arrays = tuple[AnyArray, ...]


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


def multiples(arrays: Arrays, factor: Any) -> Arrays:
    """Return factor x of each of some arrays (..., *), for a number or a real array (...)."""
    if _taken_together(arrays, factor):
        import torch

        return tuple(torch._foreach_mul(arrays, factor))
    return tuple(x * _over(factor, x) for x in arrays)


def add_multiples(totals: Arrays, factor: Any, arrays: Arrays) -> Arrays:
    """Return total + factor x of each pair. The totals are used up."""
    if not _taken_together(totals, factor, *arrays):
        return tuple(add_multiple(a, _over(factor, a), x) for a, x in zip(totals, arrays))
    import torch

    if isinstance(factor, float):
        torch._foreach_add_(totals, arrays, alpha=factor)
    else:
        torch._foreach_add_(totals, torch._foreach_mul(arrays, factor))
    return totals


def add_to_multiples(totals: Arrays, factor: Any, arrays: Arrays) -> Arrays:
    """Return factor total + x of each pair. The totals are used up."""
    if not _taken_together(totals, factor, *arrays):
        return tuple(add_to_multiple(a, _over(factor, a), x) for a, x in zip(totals, arrays))
    import torch

    if isinstance(factor, float):
        return tuple(torch._foreach_add(arrays, totals, alpha=factor))
    torch._foreach_mul_(totals, factor)
    torch._foreach_add_(totals, arrays)
    return totals


def _taken_together(arrays: Arrays, factor: Any, *others: AnyArray) -> bool:
    """Tell whether torch takes all arrays at once, with a number or one that lies in an array."""
    if len(arrays) == 1 or not is_torch_namespace(namespace(arrays[0])):
        return False
    alike = isinstance(factor, float) or (factor.ndim == 0 and factor.dtype == arrays[0].dtype)
    return alike and writable(*arrays, factor, *others)


def _over(factor: Any, x: AnyArray) -> Any:
    """Return a number, or an array of the leading axes of x, to be combined with x."""
    return factor if isinstance(factor, float) else expanded(factor, x.ndim - factor.ndim)


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

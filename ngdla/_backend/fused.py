"""Expressions that a library computes in fewer operations than the array-API standard has.

On a GPU each operation is sent by itself, and on small arrays that is all it costs. Results are
new arrays, derivatives those of the plain expressions, and so are results to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .array import AnyArray
from .dtypes import astype, dtype_name, is_complex
from .kernels_cupy import finite_cupy, largest_cupy
from .namespace import is_cupy_namespace, is_torch_namespace, namespace, torch_compiling
from .sums import writable

__all__ = [
    "all_of",
    "bounded",
    "filled",
    "finite_along",
    "in_one_kernel",
    "largest_along",
    "not_negative",
    "plus_multiple",
    "plus_product",
]

_FEW = 4096  # entries, up to which torch's largest norm is as fast on the CPU as its other maximum


def in_one_kernel(formula: Callable[..., Any], *arrays: Any) -> Any:
    """Return formula(xp, *arrays), entry by entry, which CuPy compiles to one kernel.

    `formula` is a function of a module. It has operators, and where, abs, sqrt, minimum, maximum
    and isfinite of the namespace; its arguments are arrays that broadcast, numbers, or None.
    """
    for x in arrays:
        if not isinstance(x, _NUMBERS):
            xp = namespace(x)
            break
    else:  # as NumPy arrays that hold one number are passed
        return formula(np, *arrays)
    return _compiled_by_cupy(formula)(*arrays) if is_cupy_namespace(xp) else formula(xp, *arrays)


_NUMBERS = (float, int, complex, type(None))


@cache
def _compiled_by_cupy(formula: Callable[..., Any]) -> Any:
    import cupy

    def of_cupy(*arrays: Any) -> Any:
        return formula(cupy, *arrays)

    return cupy.fuse(kernel_name=f"ngdla_{formula.__name__.strip('_')}")(of_cupy)


def plus_multiple(x: AnyArray, factor: AnyArray, y: AnyArray) -> AnyArray:
    """Return x + factor y, for a factor that broadcasts, of their dtype or its real one."""
    if not is_torch_namespace(namespace(x)):
        return in_one_kernel(_plus_multiple, x, factor, y)
    import torch

    return torch.addcmul(x, astype(factor, dtype_name(x.dtype)), y)


def _plus_multiple(xp: Any, x: AnyArray, factor: Any, y: AnyArray) -> AnyArray:
    return x + factor * y


def plus_product(C: AnyArray, A: AnyArray, B: AnyArray, factor: float = 1.0) -> AnyArray:
    """Return C + factor A B for matrices, or stacks of them, of one dtype and one batch."""
    xp = namespace(C)
    if is_torch_namespace(xp) and C.ndim == A.ndim == B.ndim and C.ndim <= 3:
        import torch

        product = torch.addmm if C.ndim == 2 else torch.baddbmm
        return product(C, A, B, alpha=factor)
    AB = xp.matmul(A, B)
    return C - AB if factor == -1.0 else C + (AB if factor == 1.0 else factor * AB)


def filled(x: AnyArray, flag: AnyArray, value: float) -> AnyArray:
    """Return x with a number where a flag is set."""
    xp = namespace(x)
    if is_cupy_namespace(xp):
        return xp.where(flag, x.dtype.type(value), x)
    if is_torch_namespace(xp):
        return x.masked_fill(flag, value)
    return xp.where(flag, xp.full_like(x, value), x)


def bounded(x: AnyArray, least: Any = None, largest: Any = None) -> AnyArray:
    """Return real x, not below one number or array and not above another one; NaN stays.

    array-api-compat 1.16 bounds CuPy's arrays by masks, each of which the host waits for.
    """
    xp = namespace(x)
    return x.clip(least, largest) if is_cupy_namespace(xp) else xp.clip(x, least, largest)


def not_negative(x: AnyArray) -> AnyArray:
    """Return x, or 0 where it is negative; NaN stays."""
    xp = namespace(x)
    if is_torch_namespace(xp) and writable(x):  # derivatives of NaN would be 0
        return x.clamp(min=0)
    return filled(x, x < 0, 0.0)


def largest_along(
    x: AnyArray, axis: int | tuple[int, ...] | None, *, keepdims: bool = False
) -> AnyArray:
    """Return max |x| along some axes, or all, which are not empty; by torch NaN where one is."""
    xp = namespace(x)
    if is_torch_namespace(xp) and not is_complex(x):
        import torch

        if x.device.type != "cpu" or x.numel() <= _FEW:
            return torch.linalg.vector_norm(x, ord=math.inf, dim=axis, keepdim=keepdims)
    if is_cupy_namespace(xp):
        return largest_cupy(x, axis, keepdims=keepdims)
    return xp.max(xp.abs(x), axis=axis, keepdims=keepdims)


def finite_along(x: AnyArray, axis: int | tuple[int, ...] | None) -> AnyArray:
    """Tell along some axes, or all, whether no entry is NaN or Inf."""
    xp = namespace(x)
    if is_cupy_namespace(xp) and x.dtype.kind in "fc":
        return finite_cupy(x, axis)
    if not is_torch_namespace(xp) or torch_compiling() or 0 in x.shape:  # compilers fuse
        return xp.all(xp.isfinite(x), axis=axis)
    x = x.detach()
    if is_complex(x):  # |x| of finite numbers may be beyond the range
        import torch

        x, last = torch.view_as_real(x.resolve_conj()), x.ndim
        axis = axis if axis is None else (*_negative_axes(axis, last), -1)
    if axis is None and x.device.type == "cpu" and x.numel() > _FEW:  # no |x| in memory
        least, largest = x.aminmax()  # NaN where any is
        return (least > -math.inf) & (largest < math.inf)
    return largest_along(x, axis) < math.inf


def _negative_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return axes, counted from the end, of an array to which one more is added there."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(i % ndim - ndim - 1 for i in axes)


def all_of(flag: AnyArray) -> AnyArray:
    """Return the 0-d flag that tells whether all are set; one by itself as it is."""
    if not flag.ndim:
        return flag
    xp = namespace(flag)
    if is_cupy_namespace(xp) and flag.size == 1:  # a view
        return flag.reshape(())
    return xp.all(flag)

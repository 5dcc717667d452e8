"""Powers of two: units that numbers are divided by without rounding."""

from __future__ import annotations

import math

import numpy as np

from .array import AnyArray
from .dtypes import astype, dtype_name, normal_range
from .fused import bounded
from .kernels_cupy import power_of_two_cupy
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .tracing import detached

__all__ = ["power_of_two"]


def power_of_two(x: AnyArray) -> AnyArray:
    """Return the power of two next to positive real numbers, a constant for derivatives.

    It is within a factor of 2, and a normal number whose reciprocal is one: the smallest such for
    0, and 1 for what is not finite.
    """
    least, largest = normal_range(dtype_name(x.dtype))
    if isinstance(x, (np.ndarray, np.generic)) and x.ndim == 0:  # without a dozen calls of NumPy
        value = float(x) if math.isfinite(x) else 1.0
        _, exponent = math.frexp(min(max(value, least), largest / 4))
        return np.asarray(math.ldexp(1.0, exponent - 1), dtype=x.dtype)
    xp, x = namespace(x), detached(x)
    if is_cupy_namespace(xp):
        return power_of_two_cupy(x, least, largest / 4)
    if is_torch_namespace(xp):
        x = x.nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)
    else:
        x = xp.where(xp.isfinite(x), x, xp.ones_like(x))
    return _rounded_to_one_bit(bounded(x, least, largest / 4))


def _rounded_to_one_bit(x: AnyArray) -> AnyArray:
    xp = namespace(x)
    if is_torch_namespace(xp):  # whose ldexp is a power and a product
        mantissa, _ = xp.frexp(x)  # from 1/2 on
        return 0.5 * (x / mantissa)
    if is_numpy_namespace(xp) or is_cupy_namespace(xp) or is_jax_namespace(xp):
        _, exponent = xp.frexp(x)
        return xp.ldexp(xp.ones_like(x), exponent - 1)
    if is_dask_namespace(xp):
        return x.map_blocks(_rounded_to_one_bit, meta=x._meta)
    exponent = xp.floor(xp.log2(x))
    return astype(xp.pow(2 * xp.ones_like(x), exponent), dtype_name(x.dtype))

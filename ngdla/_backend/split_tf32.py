"""Gram matrices of float32 numbers from products in TF32, with nearly all digits of float32.

TF32 keeps 11 of the 24 significant bits of float32, and GPUs multiply it several times as fast.
With S = hi + lo, where hi is S rounded to TF32 and lo what that leaves off, exactly,

    S S^T = hi hi^T + (hi lo^T + its transpose) + lo lo^T,

of which the last term is dropped: by symmetry two products remain. What is lost of a product of
entries is |lo lo'| <= 2^-22 |s s'|, and of each lo the last of its 12 bits, 2^-23 |s|, so that

    |error_ij| <= (2^-21 + 4 u sqrt(m)) |s_i| |s_j|

for the rows s_i of S, where the second term is that of sums of m terms in float32. `lo` is taken
2^11 times as large, the size of S: its products underflow no earlier than those of S. The bound
holds where |s_i| |s_j| exceeds 2^-104, which is 2^22 times the smallest normal number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from .array import AnyArray
from .chunks import is_chunked
from .column_loops import loop_over_columns
from .cupy_products import product_cupy
from .dtypes import SPLIT_TF32, stored_name
from .gram import gram
from .implicit import with_derivatives_of
from .namespace import is_cupy_namespace, is_jax_namespace, is_torch_namespace, namespace
from .settings import library_settings
from .tracing import detached, is_traced

__all__ = ["gram_in", "gram_split_tf32", "multiplies_in_tf32"]

_UPSCALED = 2.0**11  # of lo
# Bytes of hi and lo of some columns: at most these, and 1/8 of S if that is more than the least.
_MOST, _LEAST = 256 * 2**20, 4 * 2**20
_ALIGNED = 64  # columns, of which the width of a chunk is a multiple

# To the nearest of 10 explicit bits, ties away from zero, as the devices themselves round. What
# rounds to Inf is so large that the squared norm of its row overflows as well.
_HALF_A_BIT, _KEPT_BITS = 0x1000, -0x2000


def multiplies_in_tf32(like: AnyArray) -> bool:
    """Tell whether arrays lie on an NVIDIA GPU, as far as is known while JAX traces."""
    if is_chunked(like):
        return False
    xp = namespace(like)
    if is_cupy_namespace(xp):
        import cupy

        return not cupy.cuda.runtime.is_hip
    if is_torch_namespace(xp):
        import torch

        return like.device.type == "cuda" and torch.version.hip is None
    return bool(is_jax_namespace(xp)) and _is_cuda_of_jax(like)


def _is_cuda_of_jax(like: AnyArray) -> bool:
    import jax

    device = jax.devices()[0] if is_traced(like) else next(iter(like.devices()))
    return device.platform == "gpu" and "rocm" not in device.client.platform_version.lower()


def gram_in(precision: str) -> tuple[Callable[[AnyArray], AnyArray], str]:
    """Return the function that forms Gram matrices in a precision, and the dtype for it."""
    return gram_split_tf32 if precision == SPLIT_TF32 else gram, stored_name(precision)


def gram_split_tf32(S: AnyArray) -> AnyArray:
    """Return S S^T, (..., n, n), for real S in float32, from two products in TF32.

    Parts of S are copied, 256 MB or 1/8 of it at a time. Derivatives are those of `gram`.
    """
    xp, constant = namespace(S), detached(S)
    if is_jax_namespace(xp):
        products = _products_jax()(constant)
        squares, crosses = products[..., 0, :, :], products[..., 1, :, :]
    else:
        with library_settings(S, tf32=True):
            squares, crosses = _products(constant)
    G = squares + (crosses + xp.matrix_transpose(crosses)) / _UPSCALED
    return with_derivatives_of(gram, G, (S,))


def _products(S: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return hi hi^T and 2^11 hi lo^T, summed over chunks of columns."""
    squares = crosses = None
    for span in _spans(S):
        hi, lo = _split(S[..., span])
        square, cross = multiply_in_tf32(hi, hi), multiply_in_tf32(hi, lo)
        if squares is None or crosses is None:
            squares, crosses = square, cross
        else:
            squares += square
            crosses += cross
    assert squares is not None
    assert crosses is not None
    return squares, crosses


@cache
def _products_jax() -> Any:
    """Return the compiled function that gives the same, stacked."""
    import jax
    import jax.numpy as jnp

    def of_columns(S: AnyArray) -> tuple[AnyArray, None]:
        hi, lo = _split(S)
        products = [multiply_in_tf32(hi, hi), multiply_in_tf32(hi, lo)]
        return jnp.stack(products, axis=-3), None

    def products(S: AnyArray) -> AnyArray:
        return loop_over_columns(S, of_columns, columns=_width(S))[0]

    return jax.jit(products)


def multiply_in_tf32(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A B^T with sums in float32. CuPy and torch are set to TF32 by the caller."""
    xp = namespace(A)
    if is_jax_namespace(xp):
        return xp.matmul(A, xp.matrix_transpose(B), precision="tensorfloat32")
    if is_cupy_namespace(xp):
        return product_cupy(A, B, right="T")
    return xp.matmul(A, xp.matrix_transpose(B))


def _width(S: AnyArray) -> int:
    """Return the number of columns of a chunk."""
    column = 8 * math.prod(S.shape[:-1])
    most = min(_MOST, max(_LEAST, 4 * math.prod(S.shape) // 8))
    width = max(1, most // column)
    return width if width < _ALIGNED else width - width % _ALIGNED


def _spans(S: AnyArray) -> Iterator[slice]:
    m, width = S.shape[-1], _width(S)
    for start in range(0, m, width):
        yield slice(start, min(start + width, m))


# ----------------------------------------------------------------------------------- splitting


def _split(S: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return hi and 2^11 lo, new arrays."""
    xp = namespace(S)
    if is_cupy_namespace(xp):
        hi, lo = _splitting_cupy()(S)
        return hi, lo
    if is_torch_namespace(xp):
        import torch

        S = S.resolve_neg()
        hi = (S.view(torch.int32) + _HALF_A_BIT).bitwise_and_(_KEPT_BITS).view(torch.float32)
        return hi, (S - hi).mul_(_UPSCALED)
    import jax

    bits = jax.lax.bitcast_convert_type(S, "int32")
    hi = jax.lax.bitcast_convert_type((bits + _HALF_A_BIT) & _KEPT_BITS, "float32")
    return hi, (S - hi) * _UPSCALED


@cache
def _splitting_cupy() -> Any:
    """Return the kernel of CuPy that reads S once, where operations on its bits would four times.

    The double of CuPy in the tests knows it by its name.
    """
    import cupy

    return cupy.ElementwiseKernel(
        "float32 s",
        "float32 hi, float32 lo",
        f"""
        hi = __int_as_float((__float_as_int(s) + {_HALF_A_BIT}) & {_KEPT_BITS});
        lo = (s - hi) * {_UPSCALED}f;
        """,
        "ngdla_split_tf32",
    )

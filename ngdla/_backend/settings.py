"""Settings under which the library computes, held for a call and given back to the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .namespace import is_cupy_namespace, is_jax_namespace, is_torch_namespace, torch_compiling

__all__ = ["library_settings"]


def library_settings(xp: Any, *, tf32: bool = False) -> AbstractContextManager[Any]:
    """Hold the settings under which this library computes, and restore the caller's.

    Products of float32 matrices run in float32, never in TF32 or bfloat16, nor in half precision by
    `torch.autocast` (a Gram matrix squares the condition number, so that their 1e-3 would drown
    every damping in use), and NumPy keeps silent about NaN and overflow, which are reported by the
    checks with the argument's name.
    With `tf32`, products may drop to TF32 where the device has it.
    """
    if is_torch_namespace(xp):
        return _torch_products("tf32" if tf32 else "ieee")
    if is_jax_namespace(xp):
        import jax

        precision = "tensorfloat32" if tf32 else "highest"
        held: AbstractContextManager[Any] = jax.default_matmul_precision(precision)
        return held
    if is_cupy_namespace(xp):
        return _cupy_products("TF32" if tf32 else "FP32")
    return np.errstate(all="ignore")  # array-api-strict computes by NumPy


class _Unchanged:
    """Settings that are right already.

    `torch.compile` traces it in a `with`, and within `opened`, if it is made where it is held; of a
    `contextlib.nullcontext` it cannot trace `__enter__`.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None


def _torch_products(wanted: str) -> AbstractContextManager[Any]:
    import torch

    if torch_compiling():
        return _Unchanged()
    # The flags are touched only where they have to be: writing them marks the process as a user of
    # the newer interface, and torch then warns users of the older one.
    products = [torch.backends.cuda.matmul]
    if wanted == "ieee":
        products.append(torch.backends.mkldnn.matmul)
    lower = ("tf32", "bf16")
    before = [
        (product, precision)
        for product in products
        if ((precision := product.fp32_precision) in lower) != (wanted in lower)
    ]
    lowered = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    return _torch_precision(before, wanted, lowered) if before or lowered else _Unchanged()


@contextlib.contextmanager
def _torch_precision(
    before: list[tuple[Any, str]], wanted: str, lowered: list[str]
) -> Iterator[None]:
    import torch

    try:
        for product, _ in before:
            product.fp32_precision = wanted
        with contextlib.ExitStack() as stack:
            for device in lowered:  # products in half precision
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for product, precision in before:
            product.fp32_precision = precision


@contextlib.contextmanager
def _cupy_products(wanted: str) -> Iterator[None]:
    # TF32 may be on by the environment variable CUPY_TF32 or by the user's own call.
    from cupy._core import _routines_linalg as routines

    before = routines.get_compute_type(np.float32)
    routines.set_compute_type(np.float32, getattr(routines, f"COMPUTE_TYPE_{wanted}"))
    try:
        yield
    finally:
        routines.set_compute_type(np.float32, before)

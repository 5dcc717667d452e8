"""Settings under which the library computes, held for a call and given back to the caller."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from .array import AnyArray
from .namespace import (
    is_cupy_namespace,
    is_jax_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)
from .shared_setting import SharedSetting

__all__ = ["device_of", "library_settings"]


def library_settings(like: AnyArray, *, tf32: bool = False) -> AbstractContextManager[Any]:
    """Hold the settings under which the library of `like` computes, and restore the caller's.

    Products of float32 matrices run in float32, never in TF32 or bfloat16, nor in half precision by
    `torch.autocast` (a Gram matrix squares the condition number, so that their 1e-3 would drown
    every damping in use), and NumPy keeps silent about NaN and overflow, which are reported by the
    checks with the argument's name. JAX may be told to raise where dtypes or shapes are promoted,
    as a help in finding faults of the caller's code; here numbers of rows, columns and matrices are
    checked first.
    With `tf32`, products may drop to TF32 where the device has it. Of the settings, those of torch
    and CuPy are of the whole process: threads share them, and full precision wins. CuPy's current
    device is that of `like`.
    """
    if isinstance(like, np.ndarray):  # soon, for matrices that hold this within a call
        return np.errstate(all="ignore")
    xp = namespace(like)
    if is_torch_namespace(xp):
        if torch_compiling() or _is_held_for_torch(full=not tf32):
            return _Unchanged()
        return _TorchProducts(full=not tf32)
    if is_jax_namespace(xp):
        return _jax_settings("tensorfloat32" if tf32 else "highest")
    if is_cupy_namespace(xp):
        from cupy._core import _routines_linalg as routines

        return _CupyProducts([_cupy_products(routines)], like.device, full=not tf32)
    return np.errstate(all="ignore")  # array-api-strict computes by NumPy


def device_of(like: AnyArray) -> AbstractContextManager[Any]:
    """Let the device of CuPy's arrays be the current one; the other libraries look at arrays."""
    return like.device if is_cupy_namespace(namespace(like)) else _Unchanged()


@contextmanager
def _jax_settings(precision: str) -> Iterator[None]:
    import jax

    with (
        jax.default_matmul_precision(precision),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


class _Unchanged:
    """Settings that are right already.

    `torch.compile` traces it in a `with`, and within `opened`, if it is made where it is held; of a
    `contextlib.nullcontext` it cannot trace `__enter__`.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None


class _Held:
    """Settings of the whole process that a call holds."""

    def __init__(self, settings: list[SharedSetting], *, full: bool) -> None:
        self._settings, self._full = settings, full
        self._held: list[SharedSetting] = []

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        try:
            for setting in self._settings:
                setting.hold(self._thread, full=self._full)
                self._held.append(setting)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *raised: object) -> None:
        while self._held:
            self._held.pop().release(self._thread)


class _CupyProducts(_Held):
    """Products of CuPy, on the device of an array: CuPy works on the current device alone."""

    def __init__(self, settings: list[SharedSetting], device: Any, *, full: bool) -> None:
        super().__init__(settings, full=full)
        self._device = device

    def __enter__(self) -> None:
        self._device.__enter__()
        try:
            super().__enter__()
        except BaseException:
            self._device.__exit__()
            raise

    def __exit__(self, *raised: object) -> None:
        super().__exit__()
        self._device.__exit__(*raised)


class _TorchProducts(_Held):
    """Products of torch in full precision, or in TF32; by `torch.autocast` in neither case."""

    def __init__(self, *, full: bool) -> None:
        matmul, mkldnn = _torch_products()
        super().__init__([matmul, mkldnn] if full else [matmul], full=full)
        self._autocast: list[AbstractContextManager[Any]] = []  # of this thread alone

    def __enter__(self) -> None:
        import torch

        super().__enter__()
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                self._autocast.append(torch.autocast(device, enabled=False))
                self._autocast[-1].__enter__()

    def __exit__(self, *raised: object) -> None:
        try:
            while self._autocast:
                self._autocast.pop().__exit__(None, None, None)
        finally:
            super().__exit__()


def _is_held_for_torch(*, full: bool) -> bool:
    """Tell whether a call is made inside of another one that holds the same settings."""
    import torch

    thread, (matmul, mkldnn) = threading.get_ident(), _torch_products()
    held = matmul.is_held(thread, full=full) and (not full or mkldnn.is_held(thread, full=True))
    return held and not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))


@functools.cache
def _torch_products() -> tuple[SharedSetting, ...]:
    """Return the precision of torch's products on GPUs and on CPUs.

    They are written only where they have to be: writing them marks the process as a user of the
    newer interface, and torch then warns users of the older one.
    """
    import torch

    backends = {"cuda": torch.backends.cuda, "mkldnn": torch.backends.mkldnn}
    return tuple(
        SharedSetting(
            functools.partial(getattr, backend.matmul, "fp32_precision"),
            functools.partial(setattr, backend.matmul, "fp32_precision"),
            full="ieee",
            reduced="tf32",
            kind=("tf32", "bf16").__contains__,
            source=functools.partial(_set_in_torch, name),
        )
        for name, backend in backends.items()
    )


def _set_in_torch(backend: str, value: str) -> str:
    """Return what the precision of products is set to that reads as `value`: that, or "none".

    Where it is "none", it reads as that of the back end, and where that is too, as that of all of
    torch. They tell by what happens as these are changed for a moment, to no lower precision.
    """
    import torch

    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    if value == "none" or read(backend, "all") != value:
        return value
    other = "none" if value == "ieee" else "ieee"
    changed: list[tuple[str, str]] = []
    try:
        for level in ("generic", backend):
            if read(level, "all") != other:  # set there, not above
                changed.append((level, read(level, "all")))
                write(level, "all", other)
        return "none" if read(backend, "matmul") == other else value
    finally:
        for level, before in reversed(changed):
            write(level, "all", before)


@functools.cache
def _cupy_products(routines: Any) -> SharedSetting:
    """Return the precision of CuPy's products, which `routines` of CuPy keep for all threads.

    TF32 may be on by the environment variable CUPY_TF32 or by the user's own call.
    """
    return SharedSetting(
        functools.partial(routines.get_compute_type, np.float32),
        functools.partial(routines.set_compute_type, np.float32),
        full=routines.COMPUTE_TYPE_FP32,
        reduced=routines.COMPUTE_TYPE_TF32,
        kind=int,
    )

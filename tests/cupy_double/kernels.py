"""ElementwiseKernel and ReductionKernel: the twin in NumPy of each kernel that this library has.

CuPy compiles the source of a kernel with NVRTC, which needs a device. Here a kernel is found by
its name. That both compute the same is seen on a device alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import made, operand

__all__ = ["TWINS", "ElementwiseKernel", "ReductionKernel"]

TWINS: dict[str, Callable[..., Any]] = {}


def twin(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def added(call: Callable[..., Any]) -> Callable[..., Any]:
        TWINS[name] = call
        return call

    return added


class _Kernel:
    def __init__(self, in_params: str, out_params: str, *source: Any, **options: Any) -> None:
        self.name = options.get("name") or source[-1]
        if self.name not in TWINS:
            msg = f"no twin of the kernel {self.name!r} in tests/cupy_double/kernels.py"
            raise NotImplementedError(msg)
        self.inputs = _count(in_params)
        self.outputs = _count(out_params)

    def __call__(self, *args: Any, **options: Any) -> Any:
        given, places = args[: self.inputs], list(args[self.inputs :])
        options.pop("size", None)
        with np.errstate(all="ignore"):
            results = TWINS[self.name](*(operand(x) for x in given), **options)
        results = results if isinstance(results, tuple) else (results,)
        if places:
            for place, result in zip(places, results, strict=True):
                place._on_current(self.name)
                place._host[...] = result
            made(self.name, np.zeros(1), *given)  # one launch
            return places[0] if len(places) == 1 else tuple(places)
        new = [
            made(self.name, np.array(x, order="C"), *given, launches=i == 0)
            for i, x in enumerate(results)
        ]
        return new[0] if len(new) == 1 else tuple(new)


class ElementwiseKernel(_Kernel):
    """cupy.ElementwiseKernel."""


class ReductionKernel(_Kernel):
    """cupy.ReductionKernel."""


def _count(params: str) -> int:
    return len([part for part in params.split(",") if part.strip()])


@twin("ngdla_factored")
def _(x: np.ndarray, info: np.ndarray, axis: int) -> np.ndarray:
    return np.all(np.isfinite(x) & (info == 0), axis=axis)


@twin("ngdla_lower_or_nan")
def _(x: np.ndarray, ok: np.ndarray, n: int) -> np.ndarray:
    return np.where(np.tri(n, dtype=bool), np.where(ok, x, x.dtype.type(np.nan)), x.dtype.type(0))


@twin("ngdla_split_tf32")
def _(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = np.ascontiguousarray(s).view(np.int32)
    hi = ((bits + 0x1000) & -0x2000).view(np.float32)
    return hi, (s - hi) * np.float32(2048)

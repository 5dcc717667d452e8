"""ElementwiseKernel and ReductionKernel: the twin in NumPy of each kernel that this library has.

CuPy compiles the source of a kernel with NVRTC, which needs a device. Here a kernel is found by
its name. That both compute the same is seen on a device alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import record
from .arrays import Traced, made, ndarray, operand
from .kernel_types import decided, parameters
from .streams import worked

__all__ = ["CALLED", "TWINS", "ElementwiseKernel", "ReductionKernel"]

CALLED: dict[tuple[str, ...], Any] = {}  # kernels by their names and types
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
        self.inputs, self.outputs = parameters(in_params), parameters(out_params)
        self.source, self.options = source, options

    def __call__(self, *args: Any, **options: Any) -> Any:
        given, places = list(args[: len(self.inputs)]), list(args[len(self.inputs) :])
        in_types, out_types = decided(self.inputs, self.outputs, given, places)
        CALLED[self.name, *map(str, in_types), *map(str, out_types)] = self
        options.pop("size", None)
        hosts = [_typed(operand(x), dtype) for x, dtype in zip(given, in_types, strict=True)]
        with np.errstate(all="ignore"):
            results = TWINS[self.name](*hosts, **options)
        results = results if isinstance(results, tuple) else (results,)
        for x in places:
            x._on_current(self.name)
        if not places:
            places = [
                ndarray(np.shape(x), dtype) for x, dtype in zip(results, out_types, strict=True)
            ]
        if any(x.size for x in places):
            record.launched(self.name)
            worked([], [x.memory for x in places])
        for place, result in zip(places, results, strict=True):
            place._host[...] = result
        return places[0] if len(places) == 1 else tuple(places)


def _typed(x: Any, dtype: np.dtype) -> Any:
    """Return a number in the dtype of its parameter; arrays have it."""
    return x if isinstance(x, np.ndarray) and x.ndim else np.asarray(x).astype(dtype)


class ElementwiseKernel(_Kernel):
    """cupy.ElementwiseKernel."""


class ReductionKernel(_Kernel):
    """cupy.ReductionKernel.

    For CUB, the names of parameters are replaced in its source wherever their letters stand
    (`_try_to_call_cub_reduction` in cupy/_core/_cub_reduction.pyx).
    """

    def __init__(self, in_params: str, out_params: str, *source: Any, **options: Any) -> None:
        super().__init__(in_params, out_params, *source, **options)
        if len(self.inputs) == len(self.outputs) == 1:
            for (_, _, name), text in ((self.inputs[0], source[0]), (self.outputs[0], source[2])):
                if text.count(name) != len(re.findall(rf"\b{name}\b", text)):
                    msg = f"{self.name!r} is not compiled: {text.replace(name, 'in0')!r}"
                    raise RuntimeError(msg)


def _sum_of_squares(x: np.ndarray, axis: Any, **options: Any) -> np.ndarray:
    return np.sum(x.real * x.real + x.imag * x.imag, axis=axis, **options)


def _paired(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(x + 1j * y, dtype=np.result_type(x.dtype, np.complex64))


def _norm(x: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    wide = x.astype(np.result_type(x.dtype, np.float64))
    return np.sqrt(_sum_of_squares(wide, axis, keepdims=keepdims)).astype(x.real.dtype)


def _scaled_norm(x: np.ndarray, unit: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    return np.sqrt(_sum_of_squares(x / unit, axis, keepdims=keepdims))


def _unit(x: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    largest = np.max(np.abs(x), axis=axis, keepdims=keepdims)
    usual = (largest > 0) & np.isfinite(largest)
    exponent = np.frexp(np.where(usual, largest, 1))[1] - usual
    return np.where(usual, np.ldexp(np.ones_like(largest), exponent), largest.dtype.type(1))


for _char in "fdFD":
    twin(f"ngdla_inner_{_char}")(
        lambda x, y, axis: np.sum(x.real * y.real + x.imag * y.imag, axis=axis)
    )
    twin(f"ngdla_squares_and_distances_{_char}")(
        lambda x, y, axis: _paired(_sum_of_squares(x, axis), _sum_of_squares(x - y, axis))
    )
    twin(f"ngdla_largest_{_char}")(
        lambda x, axis, keepdims: np.max(np.abs(x), axis=axis, keepdims=keepdims)
    )
for _char in "efdFD":
    twin(f"ngdla_finite_{_char}")(lambda x, axis: np.all(np.isfinite(x), axis=axis))


@twin("ngdla_power_of_two")
def _(x: np.ndarray, least: float, largest: float) -> np.ndarray:
    kept = np.clip(np.where(np.isfinite(x), x, 1), least, largest)
    return np.ldexp(np.ones_like(x), np.frexp(kept)[1] - 1)


def _centred(o: np.ndarray, mean: np.ndarray, scale: Any, kept: Any) -> np.ndarray:
    return np.where(kept, (o - mean) * scale, o.dtype.type(0)).astype(o.dtype)


for _char in "fdFD":
    twin(f"ngdla_centred_{_char}1")(_centred)


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


@twin("ngdla_add_multiple")
def _(total: np.ndarray, factor: Any, x: np.ndarray) -> np.ndarray:
    return total + factor * x


@twin("ngdla_add_to_multiple")
def _(total: np.ndarray, factor: Any, x: np.ndarray) -> np.ndarray:
    return factor * total + x


@twin("ngdla_moved")
def _(memory: np.ndarray, place: np.ndarray, weight: Any) -> np.ndarray:
    return np.where(place < 0, 0, memory[np.maximum(place, 0)] * weight)


@twin("ngdla_doubled_triangle")
def _(x: np.ndarray, n: int, upper: bool) -> np.ndarray:
    once, twice = (np.triu(x), np.triu(x, 1)) if upper else (np.tril(x), np.tril(x, -1))
    return once + twice


ACCEPTED = (ndarray, bool, int, float, complex, np.generic, type(None))


class fuse:
    """cupy.fuse: a function of traced arrays, which know no shapes and cannot be indexed.

    cupy/_core/_fusion_interface.py, fusion.pyx: operators and elementwise functions, of arrays,
    Python numbers (weak, as everywhere) and None. One launch, whatever is in it.
    """

    def __init__(self, *args: Any, kernel_name: str = "") -> None:
        self.name, self.function = kernel_name, args[0] if args else None

    def __call__(self, *args: Any) -> Any:
        if self.function is None:
            return fuse(*args, kernel_name=self.name)
        for x in args:
            if not isinstance(x, ACCEPTED):
                msg = f"Invalid argument type for {self.name!r}: ({type(x)!r})"
                raise TypeError(msg)
        if not any(isinstance(x, ndarray) for x in args):
            return self.function(*args)
        traced = [Traced(operand(x)) if isinstance(x, ndarray) else x for x in args]
        results = self.function(*traced)
        several = isinstance(results, tuple)
        hosts = [getattr(x, "host", x) for x in (results if several else [results])]
        shape = np.broadcast_shapes(*(x.shape for x in args if isinstance(x, ndarray)))
        new = [
            made(self.name, np.array(np.broadcast_to(x, shape), order="C"), *args, launches=i == 0)
            for i, x in enumerate(hosts)
        ]
        return tuple(new) if several else new[0]


for _char in "fF":
    twin(f"ngdla_norm_{_char}")(_norm)
for _char in "dD":
    twin(f"ngdla_scaled_norm_{_char}")(_scaled_norm)
    twin(f"ngdla_unit_{_char}")(_unit)
for _char in "FD":
    twin(f"ngdla_centred_{_char}2")(lambda *args: ((d := _centred(*args)).real, d.imag))

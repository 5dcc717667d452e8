"""Modules named as CuPy's, made of the parts of this package."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np

from . import devices, kernels, linear_algebra, pinned, pointers, streams
from .arrays import ndarray
from .functions import ALIASES, CONSTANTS, DTYPES, FUNCTIONS

__all__ = ["install", "is_installed", "modules"]

VERSION = "14.2.0"


def install() -> Any:
    """Put the modules where `import` finds them, and return `cupy`."""
    if "cupy" in sys.modules and not is_installed():
        msg = "CuPy itself is imported in this process."
        raise RuntimeError(msg)
    for name, contents in modules().items():
        _module(name, contents)
    cupy = sys.modules["cupy"]
    vars(cupy).update({"is_a_double": True, "__version__": VERSION})
    return cupy


def modules() -> dict[str, dict[str, Any]]:
    """Return the names that the stand-in offers, module by module, from the top."""
    return {
        "cupy": _namespace(),
        "cupy.linalg": linear_algebra.LINALG,
        "cupy.fft": _fft(),
        "cupy.random": {"default_rng": np.random.default_rng},
        "cupy.cublas": linear_algebra.CUBLAS_PYTHON,
        "cupy._core": {},
        "cupy._core._routines_linalg": _compute_types(),
        "cupy.cuda": _cuda(),
        "cupy.cuda.device": {
            "Device": devices.Device,
            "get_cublas_handle": lambda: 1,
            "get_cusolver_handle": lambda: 1,
        },
        "cupy.cuda.memory": {"OutOfMemoryError": devices.OutOfMemoryError},
        "cupy.cuda.pinned_memory": _pinned_memory(),
        "cupy.cuda.runtime": _runtime(),
        "cupyx": {"empty_pinned": pinned.empty_pinned, "zeros_pinned": pinned.zeros_pinned},
        "cupyx.lapack": linear_algebra.LAPACK,
        "cupyx.scipy": {},
        "cupyx.scipy.linalg": linear_algebra.SCIPY_LINALG,
        "cupy_backends": {},
        "cupy_backends.cuda": {},
        "cupy_backends.cuda.libs": {},
        "cupy_backends.cuda.libs.cublas": pointers.CUBLAS,
        "cupy_backends.cuda.libs.cusolver": pointers.CUSOLVER,
    }


def is_installed() -> bool:
    """Tell whether `import cupy` gives the stand-in."""
    return getattr(sys.modules.get("cupy"), "is_a_double", False)


class _Pool:
    """cupy.get_default_memory_pool(): what is in use, and limits."""

    def used_bytes(self) -> int:
        return devices.used(devices.current_device())

    total_bytes = used_bytes

    def free_bytes(self) -> int:
        return 0  # memory that is let go of is given back at once

    def get_limit(self) -> int:
        return devices.limited() or 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        devices.limit(size or None)


def _module(name: str, contents: dict[str, Any]) -> types.ModuleType:
    """Make a module, or fill the one that is there, and hang it up in its parent."""
    module = sys.modules.setdefault(name, types.ModuleType(name))
    vars(module).update(contents)
    module.__path__ = []  # type: ignore[attr-defined]
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def _namespace() -> dict[str, Any]:
    names = dict(FUNCTIONS)
    names |= {new: FUNCTIONS[old] for new, old in ALIASES.items()}
    names |= {name: getattr(np, name) for name in DTYPES} | CONSTANTS
    names |= {
        "ndarray": ndarray,
        "generic": np.generic,
        "ElementwiseKernel": kernels.ElementwiseKernel,
        "ReductionKernel": kernels.ReductionKernel,
        "fuse": kernels.fuse,
        "get_default_memory_pool": _Pool,
    }
    return names


def _fft() -> dict[str, Any]:
    from .arrays import made, operand

    def transform(name: str) -> Any:
        def call(a: ndarray, n: Any = None, axis: int = -1, norm: Any = None) -> ndarray:
            single = a.dtype in (np.float32, np.complex64)
            result = getattr(np.fft, name)(operand(a), n, axis, norm)
            if single:
                result = result.astype(np.complex64 if result.dtype.kind == "c" else np.float32)
            return made(name, result, a, launches=2)

        return call

    names = ["fft", "ifft", "rfft", "irfft"]
    return {name: transform(name) for name in names}


def _compute_types() -> dict[str, Any]:
    table = linear_algebra.compute_types

    def get_compute_type(dtype: Any) -> int:
        return table.get(np.dtype(dtype).name, linear_algebra.FP32)

    def set_compute_type(dtype: Any, compute_type: int) -> None:
        table[np.dtype(dtype).name] = compute_type

    return {
        "COMPUTE_TYPE_TBD": linear_algebra.TBD,
        "COMPUTE_TYPE_FP32": linear_algebra.FP32,
        "COMPUTE_TYPE_TF32": linear_algebra.TF32,
        "get_compute_type": get_compute_type,
        "set_compute_type": set_compute_type,
    }


def _cuda() -> dict[str, Any]:
    return {
        "Device": devices.Device,
        "Event": streams.Event,
        "Stream": streams.Stream,
        "alloc_pinned_memory": pinned.alloc_pinned_memory,
        "get_current_stream": streams.get_current_stream,
        "is_available": lambda: True,
    }


def _runtime() -> dict[str, Any]:
    return {
        "getDevice": streams.current_device,
        "getDeviceCount": lambda: devices.COUNT,
        "getDeviceProperties": lambda device: {"name": b"stand-in for a GPU"},
        "hostRegister": pinned.hostRegister,
        "hostUnregister": pinned.hostUnregister,
        "is_hip": False,
        "memGetInfo": lambda: devices.Device().mem_info,
        "runtimeGetVersion": lambda: 13000,
    }


def _pinned_memory() -> dict[str, Any]:
    return {
        "_add_to_watch_list": pinned._add_to_watch_list,
        "is_memory_pinned": pinned.is_memory_pinned,
    }

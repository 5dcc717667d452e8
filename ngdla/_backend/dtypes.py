"""The four dtypes that LAPACK knows and two in which arrays may be stored, by their names.

All libraries share the names; dtypes of different libraries must not be compared.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import numpy as np
from array_api_compat import device

from .array import AnyArray
from .late_imports import when_imported
from .namespace import (
    Array,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

__all__ = [
    "SPLIT_TF32",
    "astype",
    "conjugate",
    "double_name",
    "dtype_name",
    "dtype_of",
    "has_double",
    "is_complex",
    "is_double",
    "normal_range",
    "real_name",
    "real_part",
    "result_name",
    "single_name",
    "stored_name",
    "unit_roundoff",
    "where",
]

SPLIT_TF32 = "split-tf32"  # of Gram matrices only, which are float32: see split_tf32.py
_UNIT_ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
    "complex64": 2.0**-24,
    "complex128": 2.0**-53,
    "tf32": 2.0**-11,  # of products only
    SPLIT_TF32: 2.0**-21,
}
_REAL = {
    "float16": "float32",  # stored, never computed with
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
    SPLIT_TF32: "float32",
}
_NAMES: dict[tuple[type, Any], str] = {}  # dtypes of different libraries must not be compared
_TORCH_NAMES: dict[Any, str] = {}
_TORCH_DTYPE: type | None = None  # once torch is imported


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of any library: 'float32', 'complex128', ..."""
    kind = type(dtype)
    if kind is _TORCH_DTYPE:
        return _TORCH_NAMES[dtype]
    name = _NAMES.get((kind, dtype))
    if name is None:
        name = _NAMES[kind, dtype] = str(dtype).rpartition(".")[2]
    return name


def _register_torch_dtypes() -> None:
    """Know the names of torch's dtypes before torch.compile asks.

    Its graphs are made anew where a dictionary that was read has grown, which theirs does not.
    """
    import torch

    global _TORCH_DTYPE  # noqa: PLW0603 - one comparison with it in each call
    dtypes = {x for x in vars(torch).values() if isinstance(x, torch.dtype)}
    _TORCH_NAMES.update({dtype: str(dtype).rpartition(".")[2] for dtype in dtypes})
    _TORCH_DTYPE = torch.dtype


when_imported("torch", _register_torch_dtypes)


def is_complex(x: Array) -> bool:
    """Tell whether `x` has a complex dtype."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind == "c"
    return dtype_name(x.dtype).startswith("complex")


def conjugate(x: Array) -> Array:
    """Return the conjugate of `x`; `x` itself where it is real."""
    return namespace(x).conj(x) if is_complex(x) else x


def real_part(x: Array) -> Array:
    """Return Re x in a real dtype; `x` itself where it is real."""
    return namespace(x).real(x) if is_complex(x) else x


def real_name(name: str) -> str:
    """Return the name of the real dtype of the same precision."""
    return _REAL[name]


def stored_name(name: str) -> str:
    """Return the name of the dtype in which numbers of a precision are stored."""
    return "float32" if name == SPLIT_TF32 else name


def result_name(*names: str) -> str:
    """Return the dtype that the given ones promote to, as `result_type` does, from float32 up."""
    result = _RESULTS.get(names)
    return _result_name(*names) if result is None else result


def _result_name(*names: str) -> str:
    double = any(_REAL[name] == "float64" for name in names)
    if any(name.startswith("complex") for name in names):
        return "complex128" if double else "complex64"
    return "float64" if double else "float32"


_RESULTS = {names: _result_name(*names) for k in (1, 2, 3) for names in product(_REAL, repeat=k)}


def unit_roundoff(name: str) -> float:
    """Return u = eps / 2 of a dtype."""
    return _UNIT_ROUNDOFF[name]


def single_name(name: str) -> str:
    """Return the name of the dtype of the same kind in single precision."""
    return "complex64" if name.startswith("complex") else "float32"


def double_name(name: str) -> str:
    """Return the name of the dtype of the same kind in double precision."""
    return "complex128" if name.startswith("complex") else "float64"


def is_double(name: str) -> bool:
    """Tell whether the named dtype has double precision."""
    return _REAL[name] == "float64"


def has_double(x: AnyArray) -> bool:
    """Tell whether the library and device of `x` have double precision."""
    xp = namespace(x)
    if is_jax_namespace(xp):
        import jax

        return bool(jax.config.jax_enable_x64)
    if is_torch_namespace(xp):
        return x.device.type != "mps"
    if is_numpy_namespace(xp) or is_cupy_namespace(xp) or is_dask_namespace(xp):
        return True
    info = xp.__array_namespace_info__()
    return "float64" in info.dtypes(device=device(x), kind="real floating")


def normal_range(name: str) -> tuple[float, float]:
    """Return the smallest normal and the largest finite number of a dtype."""
    if _REAL[name] == "float32":
        return 2.0**-126, (2 - 2.0**-23) * 2.0**127
    return sys.float_info.min, sys.float_info.max


def astype(x: AnyArray, name: str) -> AnyArray:
    """Return `x` in the named dtype; `x` itself where it has that dtype already."""
    if isinstance(x, (np.ndarray, np.generic)):  # as `dtype_name` says, without a call
        own = _NAMES.get((type(x.dtype), x.dtype))
    else:
        own = dtype_name(x.dtype)
    if own == name:
        return x
    xp = namespace(x)
    if is_cupy_namespace(xp):  # which converts on the device that is the current one
        with x.device:
            return x.astype(dtype_of(xp, name), copy=False)
    return xp.astype(x, dtype_of(xp, name), copy=False)


def dtype_of(xp: Any, name: str) -> Any:
    """Return the named dtype of a library; bfloat16 of NumPy and CuPy is that of ml_dtypes."""
    if name == "bfloat16" and (is_numpy_namespace(xp) or is_cupy_namespace(xp)):
        return _bfloat16()
    return getattr(xp, name)


def where(flag: Array, x: AnyArray, y: AnyArray) -> AnyArray:
    """Return x where a flag is set, else y, of one dtype, which may be one that is only stored.

    CuPy converts bfloat16 and tests it for NaN, but its `where` does not take it.
    """
    xp = namespace(x)
    if is_cupy_namespace(xp) and dtype_name(x.dtype) == "bfloat16":
        return xp.where(flag, x.view(xp.uint16), y.view(xp.uint16)).view(x.dtype)
    return xp.where(flag, x, y)


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        msg = (
            "NumPy and CuPy have no bfloat16 by themselves; install ml_dtypes, or use float16 or "
            "float32."
        )
        raise TypeError(msg) from None
    return bfloat16

"""Which library an array belongs to, which dtype a result has, and whether a value can be read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)

__all__ = [
    "Array",
    "LinAlgError",
    "as_array",
    "astype",
    "conjugate",
    "double_name",
    "dtype_name",
    "dtype_of",
    "has_double",
    "is_array",
    "is_complex",
    "is_cupy_namespace",
    "is_dask_namespace",
    "is_jax_namespace",
    "is_numpy_namespace",
    "is_torch_namespace",
    "library",
    "namespace",
    "normal_range",
    "real_name",
    "real_part",
    "register_pytree",
    "result_name",
    "single_name",
    "torch_compiling",
    "unit_roundoff",
]

Array = Any
LinAlgError = np.linalg.LinAlgError

_UNIT_ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
    "complex64": 2.0**-24,
    "complex128": 2.0**-53,
    "tf32": 2.0**-11,  # of products only
}
_REAL = {
    "float16": "float32",  # stored, never computed with
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


_NAMESPACES: dict[type, Any] = {}
_PLAIN = {bool, int, float, complex, str, list, tuple, dict, type(None)}


def namespace(x: Array) -> Any:
    """Return the array-API namespace of `x`."""
    xp = _NAMESPACES.get(type(x))
    if xp is None:
        xp = array_namespace(x)
        if not (
            is_torch_namespace(xp) and torch_compiling()
        ):  # which cannot trace the registration
            _NAMESPACES[type(x)] = xp
            _register_pytrees()
    return xp


def torch_compiling() -> bool:
    """Tell whether `torch.compile` is tracing this call."""
    import torch

    return bool(torch.compiler.is_compiling())


def is_array(x: Any) -> bool:
    """Tell whether `x` is an array of any library."""
    if type(x) in _PLAIN:  # torch.compile fails in array-api-compat: it goes through sys.modules
        return False
    return type(x) in _NAMESPACES or is_array_api_obj(x)


def library(x: Array) -> str:
    """Return the name of the library of `x`, for messages: 'numpy', 'torch', 'jax', ..."""
    return type(x).__module__.partition(".")[0].replace("jaxlib", "jax")


# ---------------------------------------------------------------------------------- dtypes
# The four dtypes that LAPACK knows and two in which arrays may be stored, by their names, which
# all libraries share.


_NAMES: dict[tuple[type, Any], str] = {}  # dtypes of different libraries must not be compared


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of any library: 'float32', 'complex128', ..."""
    key = (type(dtype), dtype)
    name = _NAMES.get(key)
    if name is None:
        name = _NAMES[key] = str(dtype).rpartition(".")[2]
    return name


def is_complex(x: Array) -> bool:
    """Tell whether `x` has a complex dtype."""
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


_RESULTS: dict[tuple[str, ...], str] = {}


def result_name(*names: str) -> str:
    """Return the dtype that the given ones promote to, as `result_type` does, from float32 up."""
    result = _RESULTS.get(names)
    if result is None:
        double = any(_REAL[name] == "float64" for name in names)
        if any(name.startswith("complex") for name in names):
            result = "complex128" if double else "complex64"
        else:
            result = "float64" if double else "float32"
        _RESULTS[names] = result
    return result


def unit_roundoff(name: str) -> float:
    """Return u = eps / 2 of a dtype."""
    return _UNIT_ROUNDOFF[name]


def single_name(name: str) -> str:
    """Return the name of the dtype of the same kind in single precision."""
    return "complex64" if name.startswith("complex") else "float32"


def double_name(name: str) -> str:
    """Return the name of the dtype of the same kind in double precision."""
    return "complex128" if name.startswith("complex") else "float64"


def has_double(x: Array) -> bool:
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


def as_array(x: Array) -> Array:
    """Return a NumPy scalar, as reductions give them, as a 0-d array; arrays as they are."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def astype(x: Array, name: str) -> Array:
    """Return `x` in the named dtype; `x` itself where it has that dtype already."""
    if dtype_name(x.dtype) == name:
        return x
    xp = namespace(x)
    return xp.astype(x, dtype_of(xp, name), copy=False)


def dtype_of(xp: Any, name: str) -> Any:
    """Return the named dtype of a library; bfloat16 of NumPy is that of ml_dtypes."""
    if name == "bfloat16" and is_numpy_namespace(xp):
        return _numpy_bfloat16()
    return getattr(xp, name)


def _numpy_bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        msg = "NumPy has no bfloat16 by itself; install ml_dtypes, or use float16 or float32."
        raise TypeError(msg) from None
    return bfloat16


# --------------------------------------------------------------------------------- pytrees

_PENDING: dict[str, list[tuple[type, tuple[str, ...], tuple[str, ...]]]] = {"jax": [], "torch": []}


def register_pytree(*, static: tuple[str, ...] = ()) -> Callable[[type], type]:
    """Make a dataclass a pytree of JAX and of torch, as soon as either is in use.

    Fields named in `static` are compared by value and never traced; all others are leaves.
    """

    def register(cls: type) -> type:
        leaves = tuple(f.name for f in dataclasses.fields(cls) if f.name not in static)
        for pending in _PENDING.values():
            pending.append((cls, leaves, static))
        return cls

    return register


def _register_pytrees() -> None:
    for name, pending in _PENDING.items():
        if pending and name in sys.modules:
            _REGISTER[name](pending)


def _register_with_jax(pending: list[Any]) -> None:
    import jax

    while pending:
        cls, leaves, static = pending.pop()
        jax.tree_util.register_dataclass(cls, data_fields=list(leaves), meta_fields=list(static))


def _register_with_torch(pending: list[Any]) -> None:
    from torch.utils import _pytree

    while pending:
        cls, leaves, static = pending.pop()
        _pytree.register_pytree_node(
            cls,
            partial(_flatten, leaves, static),
            partial(_unflatten, cls, leaves, static),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )


def _flatten(leaves: tuple[str, ...], static: tuple[str, ...], x: Any) -> tuple[list[Any], Any]:
    return [getattr(x, name) for name in leaves], tuple(getattr(x, name) for name in static)


def _unflatten(
    cls: type, leaves: tuple[str, ...], static: tuple[str, ...], values: Any, context: Any
) -> Any:
    return cls(**dict(zip(leaves, values)), **dict(zip(static, context)))


_REGISTER: dict[str, Callable[[list[Any]], None]] = {
    "jax": _register_with_jax,
    "torch": _register_with_torch,
}

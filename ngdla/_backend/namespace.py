"""Which library an array belongs to, which dtype a result has, and whether a value can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
    "computing",
    "conjugate",
    "constant",
    "double_name",
    "dtype_name",
    "has_double",
    "host_array",
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
    "zeros",
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
    return xp.astype(x, _dtype(xp, name), copy=False)


def zeros(shape: tuple[int, ...], like: Array, name: str) -> Array:
    """Return zeros of the named dtype, of the library and on the device of `like`."""
    xp = namespace(like)
    return xp.zeros(shape, dtype=_dtype(xp, name), device=_placed(xp, like))


def host_array(values: Any, name: str) -> np.ndarray:
    """Return nested sequences of numbers as an array on the host, to be made a `constant`."""
    return np.asarray(values, dtype=name)


def constant(values: Any, like: Array, name: str) -> Array:
    """Return numbers of the host as a constant, of the library and on the device of `like`."""
    xp = namespace(like)
    if is_dask_namespace(xp):  # which takes host arrays as they are, and as indices only these
        return np.asarray(values, dtype=name)
    return xp.asarray(np.asarray(values, dtype=name), device=_placed(xp, like))


def _placed(xp: Any, like: Array) -> Any:
    if is_numpy_namespace(xp) or is_dask_namespace(xp) or is_jax_namespace(xp):
        return None  # JAX places constants itself
    # array-api-compat's `device` goes through sys.modules, where torch.compile fails
    return like.device if is_torch_namespace(xp) else device(like)


def _dtype(xp: Any, name: str) -> Any:
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


# -------------------------------------------------------------------------------- settings


def computing(xp: Any, *, tf32: bool = False) -> AbstractContextManager[Any]:
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


_NOTHING = contextlib.nullcontext()


def _torch_products(wanted: str) -> AbstractContextManager[Any]:
    import torch

    if torch_compiling():
        return _NOTHING
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
    return _torch_precision(before, wanted, lowered) if before or lowered else _NOTHING


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

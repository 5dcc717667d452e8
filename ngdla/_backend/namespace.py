"""Which library an array belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from .array import Array
from .late_imports import when_imported

__all__ = [
    "Array",
    "LinAlgError",
    "as_array",
    "is_array",
    "is_cupy_namespace",
    "is_dask_namespace",
    "is_jax_namespace",
    "is_numpy_namespace",
    "is_torch_namespace",
    "library",
    "namespace",
    "torch_compiling",
]

LinAlgError = np.linalg.LinAlgError

_NAMESPACES: dict[type, Any] = {}
_PLAIN = {bool, int, float, complex, str, list, tuple, dict, type, type(None)}


def namespace(x: Array) -> Any:
    """Return the array-API namespace of `x`."""
    xp = _NAMESPACES.get(type(x))
    if xp is None:
        xp = array_namespace(x)
        if not (is_torch_namespace(xp) and torch_compiling()):  # a trace has no side effects
            _NAMESPACES[type(x)] = xp
    return xp


# Those of array-api-compat keep their results in caches, of which torch.compile warns.


def is_numpy_namespace(module: Any) -> bool:
    """Tell whether a namespace is that of NumPy."""
    return module.__name__ in ("numpy", "array_api_compat.numpy")


def is_cupy_namespace(module: Any) -> bool:
    """Tell whether a namespace is that of CuPy."""
    return module.__name__ in ("cupy", "array_api_compat.cupy")


def is_torch_namespace(module: Any) -> bool:
    """Tell whether a namespace is that of torch."""
    return module.__name__ in ("torch", "array_api_compat.torch")


def is_jax_namespace(module: Any) -> bool:
    """Tell whether a namespace is that of JAX."""
    return bool(module.__name__ == "jax.numpy")


def is_dask_namespace(module: Any) -> bool:
    """Tell whether a namespace is that of Dask."""
    return module.__name__ in ("dask.array", "array_api_compat.dask.array")


def _know_tensors() -> None:
    """Know torch's arrays before torch.compile meets them, which cannot trace how they are."""
    import torch

    for kind in (torch.Tensor, torch.nn.Parameter):
        _NAMESPACES[kind] = array_namespace(torch.empty(0))


when_imported("torch", _know_tensors)


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


def as_array(x: Array) -> Array:
    """Return a NumPy scalar, as reductions give them, as a 0-d array; arrays as they are."""
    return np.asarray(x) if isinstance(x, np.generic) else x

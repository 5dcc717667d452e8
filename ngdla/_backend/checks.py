"""What every public function asks of its arguments, and what it says when the answer is no.

Kinds, dtypes, shapes, libraries and devices are checked always; they cost microseconds. Values
(NaN, Inf, signs) are those of `calls.py`.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
from array_api_compat import device

from .array import AnyArray
from .chunks import is_chunked, require_known_shape
from .dtypes import astype, dtype_name, result_name
from .messages import shown
from .namespace import (
    Array,
    is_array,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    library,
    namespace,
)

__all__ = [
    "DTYPES",
    "Empty",
    "not_hermitian",
    "require_array",
    "require_batch",
    "require_choice",
    "require_columns",
    "require_count",
    "require_dense",
    "require_flag",
    "require_like",
    "square_matrix",
]

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")

Empty = bool | Literal["all"]  # whether axes may be: none, all but the last, or all


def require_array(
    x: Any,
    name: str,
    *,
    ndim: int = 0,
    blocks: bool = True,
    empty: Empty = False,
) -> None:
    """Raise unless `x` is a dense floating-point array with at least `ndim` axes, none empty.

    `blocks` says whether the caller takes lists of column blocks too, for the remedy. With `empty`,
    only the last axis must not be empty: zero rows are rows; if "all" any may be.
    """
    if not isinstance(x, np.ndarray) or type(x) is not np.ndarray:
        require_dense(x, name, blocks=blocks)
    if dtype_name(x.dtype) not in DTYPES:
        msg = (
            f"`{name}` has dtype {dtype_name(x.dtype)}; it must be one of {', '.join(DTYPES)}, "
            f"in native byte order. Convert it, for example to float64."
        )
        raise TypeError(msg)
    if x.ndim < ndim:
        msg = f"`{name}` has shape {tuple(x.shape)}; it needs at least {ndim} axes."
        raise ValueError(msg)
    if is_chunked(x):
        require_dense(x._meta, name)
        require_known_shape(x, name)
    if empty != "all" and 0 in (x.shape[-1:] if empty else x.shape):
        msg = f"`{name}` has shape {tuple(x.shape)}; an empty array has nothing to solve."
        raise ValueError(msg)


def require_dense(x: Any, name: str, *, blocks: bool = True) -> None:
    """Raise unless `x` is one dense array of any dtype."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    layout = str(getattr(x, "layout", "torch.strided"))
    sparse = "sparse" in kind or layout not in ("torch.strided", "torch.jagged")
    if not blocks and (sparse or isinstance(x, dict)):
        msg = f"`{name}` is a {kind}; it must be one dense array."
        raise TypeError(msg)
    if isinstance(x, (dict, list, tuple)):
        msg = f"`{name}` is a {type(x).__name__}; it must be one array."
        raise TypeError(msg)
    if sparse:
        msg = (
            f"`{name}` is sparse ({kind}); only dense scores are supported. Pass a dense array, or "
            f"a list of dense column blocks."
        )
        raise TypeError(msg)
    if getattr(x, "is_nested", False):
        msg = f"`{name}` is a nested tensor; pass one dense array, padded if need be."
        raise TypeError(msg)
    if isinstance(x, (np.matrix, np.ma.MaskedArray)):
        msg = f"`{name}` is a {kind}; pass a plain array, with masked entries filled."
        raise TypeError(msg)
    if not is_array(x):
        msg = f"`{name}` is a {kind}; it must be an array of NumPy, CuPy, PyTorch, JAX or the like."
        raise TypeError(msg)


def require_like(x: Array, name: str, like: Array, like_name: str) -> None:
    """Raise unless `x` and `like` belong to one library and live on one device."""
    if type(x) is type(like) and isinstance(x, np.ndarray):
        return
    xp = namespace(like)
    if namespace(x) is not xp:
        msg = (
            f"`{name}` is a {library(x)} array but `{like_name}` is a {library(like)} array. "
            f"Convert one of them: arrays are not moved between libraries silently."
        )
        raise TypeError(msg)
    here, there = _device(xp, x), _device(xp, like)
    if here is not None and there is not None and here != there:
        msg = (
            f"`{name}` is on device {here} but `{like_name}` is on {there}. Move one of them: "
            f"arrays are not moved between devices silently."
        )
        raise ValueError(msg)


def _device(xp: Any, x: AnyArray) -> Any:
    """Return the device of `x`, or None where the library places `x` itself."""
    if is_numpy_namespace(xp):
        return None
    if is_torch_namespace(xp):  # array-api-compat asks other libraries first, 5 microseconds
        return x.device
    if not is_jax_namespace(xp):
        return device(x)
    # JAX moves uncommitted arrays by itself; tracers have no device yet.
    import jax

    if isinstance(x, jax.core.Tracer) or not x.committed:
        return None
    return x.devices()


def require_choice(value: Any, name: str, choices: Collection[str]) -> None:
    """Raise unless `value` is one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        msg = f"`{name}` is {shown(value)}; it must be one of {', '.join(map(repr, choices))}."
        raise ValueError(msg)


def require_count(value: Any, name: str, *, least: int = 0) -> None:
    """Raise unless `value` is a Python integer of at least `least`."""
    if type(value) is not int and not _is_integer(value):
        msg = f"`{name}` is {shown(value)}; it must be an integer."
        raise TypeError(msg)
    if int(value) > sys.maxsize:
        msg = f"`{name}` is {shown(value)}; it must be less than 2^63."
        raise ValueError(msg)
    if value < least:
        allowed = f"be {least} or more" if least else "not be negative"
        msg = f"`{name}` is {shown(value)}; it must {allowed}."
        raise ValueError(msg)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def require_flag(value: Any, name: str) -> None:
    """Raise unless `value` is True or False itself: "False" is true, and so is an array of it."""
    if value is not True and value is not False:
        msg = f"`{name}` is {shown(value)}; it must be True or False."
        raise TypeError(msg)


def require_batch(batch: Any) -> None:
    """Raise unless these are leading axes."""
    if not isinstance(batch, (tuple, list)):
        msg = f"`batch` is {shown(batch)}; it must be a tuple of integers, such as (3,)."
        raise TypeError(msg)
    for size in batch:
        require_count(size, "batch", least=1)


def square_matrix(A: Any, name: str) -> Array:
    """Return a checked square matrix (..., d, d), half precision in float32."""
    require_array(A, name, ndim=2, blocks=False)
    if A.shape[-1] != A.shape[-2]:
        msg = f"`{name}` has shape {tuple(A.shape)}; it must be square, (..., d, d)."
        raise ValueError(msg)
    return astype(A, result_name(dtype_name(A.dtype)))


def not_hermitian(
    name: str,
    deviation: float,
    size: float,
    *,
    product: str = "{} g",
    probe: str = "a random vector g",
) -> Exception:
    """Return the error of a matrix A that is not Hermitian, as a product with a probe shows.

    Parameters
    ----------
    name : str
        The name of the argument.
    deviation, size : float
        Norms of the product of A - A^H and of A.
    product : str
        The product, with {} for the matrix, such as "W^H {} W".
    probe : str
        What the matrix was multiplied by.
    """
    difference = product.format(f"({name} - {name}^H)")
    return ValueError(
        f"`{name}` is not Hermitian: |{difference}| = {deviation:.2e} for {probe}, where "
        f"|{product.format(name)}| = {size:.2e}. Pass ({name} + {name}^H) / 2 if that is meant."
    )


def require_columns(
    v: Any,
    name: str,
    expected: tuple[int, ...],
    like: Array,
    like_name: str,
    shape: tuple[int, ...],
) -> tuple[Array, bool]:
    """Return a vector of the expected shape (..., d) or (..., d, k) as (..., d, k).

    Also returned is whether the k axis was absent. `shape`, of `like_name`, is for the message.
    """
    require_array(v, name, empty="all" if 0 in expected else False)  # a rank may have nothing
    require_like(v, name, like, like_name)
    if tuple(v.shape) == expected:
        return v[..., None], True
    if v.ndim == len(expected) + 1 and tuple(v.shape[:-1]) == expected:
        return v, False
    several = f"({', '.join(map(str, expected))}, k)"
    msg = (
        f"`{name}` has shape {tuple(v.shape)} but `{like_name}` has shape {shape}; `{name}` "
        f"must have shape {expected}, or {several} for k right-hand sides."
    )
    raise ValueError(msg)

"""Numbers as options: dampings, steps, decays; one number, or one for each matrix of a stack."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from .array import AnyArray
from .calls import ValueChecks
from .checks import require_dense, require_like
from .chunks import is_chunked, require_known_shape
from .dtypes import astype, dtype_name, has_double, normal_range, real_name, result_name
from .messages import shown
from .namespace import Array, is_array, is_torch_namespace, namespace, torch_compiling

__all__ = [
    "EIGENVALUES",
    "as_float",
    "damping_values",
    "eigenvalue_damping",
    "fraction_values",
    "is_nan",
    "known_or_array",
    "positive_values",
    "real_values",
    "rounded_up",
]

_REAL_DTYPES = ("float16", "bfloat16", "float32", "float64")

# Units of a damping, for messages.
SQUARED = (
    "in units of squared singular values of `{0}`. For a plain least-squares or minimum-norm "
    "solution choose it small against |{0}|^2, not zero"
)
EIGENVALUES = (
    "in units of eigenvalues of `{0}`. For a pseudo-inverse choose it small against |{0}|, not zero"
)


def damping_values(
    damping: Any,
    like: Array,
    like_name: str,
    dtype: str,
    batch: tuple[int, ...],
    unit: str = SQUARED,
) -> float | Array:
    """Return the damping as a Python float, or as an array of shape `batch` in a real dtype.

    The sign of a Python number is checked here, that of an array by the caller's `ValueChecks`.
    """
    if not isinstance(like, np.ndarray):  # small solves are to be few calls
        damping = known_or_array(damping, like)
    if _is_number(damping):
        return _damping_number(damping, like_name, dtype, unit)
    if isinstance(damping, str) or not is_array(damping):
        msg = (
            f"`damping` is {shown(damping)}; it must be a positive real number or an array of them."
        )
        raise TypeError(msg)
    return real_values(damping, "damping", like, like_name, dtype, batch)


def real_values(
    value: Any, name: str, like: Array, like_name: str, dtype: str, batch: tuple[int, ...]
) -> Array:
    """Return an array of real numbers, 0-d or of shape `batch`, as one of shape `batch`."""
    if isinstance(value, str) or not is_array(value):
        msg = f"`{name}` is {shown(value)}; it must be a real number or an array of them."
        raise TypeError(msg)
    require_dense(value, name)
    if is_chunked(value):
        require_known_shape(value, name)
    require_like(value, name, like, like_name)
    xp = namespace(like)
    floating = dtype_name(value.dtype) in _REAL_DTYPES  # NumPy's isdtype refuses ml_dtypes
    if not floating and not xp.isdtype(value.dtype, "integral"):
        msg = f"`{name}` has dtype {dtype_name(value.dtype)}; it must be real."
        raise TypeError(msg)
    if tuple(value.shape) not in ((), batch):
        msg = (
            f"`{name}` has shape {tuple(value.shape)}; it must be a number, a 0-d array, or "
            f"have the batch shape {batch} of `{like_name}`."
        )
        raise ValueError(msg)
    if floating:  # it may be wider than `like`, as right-hand sides may
        dtype = real_name(result_name(dtype, dtype_name(value.dtype)))
    return xp.broadcast_to(astype(value, dtype), batch)


def eigenvalue_damping(
    damping: Any,
    like: Array,
    like_name: str,
    batch: tuple[int, ...],
    checks: ValueChecks,
    unit: str = EIGENVALUES,
) -> float | Array:
    """Return a damping in units of eigenvalues, as a float or in the real dtype of `like`."""
    dtype = real_name(dtype_name(like.dtype))
    damping = damping_values(damping, like, like_name, dtype, batch, unit)
    if isinstance(damping, float):
        return damping
    damping = astype(damping, dtype)  # it promotes nothing, and may be beyond the range
    checks.positive("damping", damping)
    return checks.or_nan(lambda: damping > 0, damping)


def positive_values(
    value: Any, name: str, like: Array, like_name: str, batch: tuple[int, ...], checks: ValueChecks
) -> float | Array:
    """Return a positive number as a float, or numbers as an array of shape `batch`."""
    value = known_or_array(value, like)
    if _is_number(value):
        number = as_float(value)
        if not 0 < number < math.inf:
            msg = f"`{name}` is {shown(value)}; it must be positive and finite."
            raise ValueError(msg)
        return number
    values = _real_values_like(value, name, like, like_name, batch)
    checks.positive(name, values)
    return checks.or_nan(lambda: values > 0, values)


def fraction_values(
    value: Any, name: str, like: Array, like_name: str, batch: tuple[int, ...], checks: ValueChecks
) -> float | Array:
    """Return the weight of the past in an average or a sum, a float or of shape `batch`."""

    def error() -> Exception:
        msg = f"`{name}` is {shown(value)}; it must be in [0, 1): the weight of the past."
        return ValueError(msg)

    value = known_or_array(value, like)
    if _is_number(value):
        number = as_float(value)
        if not 0 <= number < 1:
            raise error()
        return number
    values = _real_values_like(value, name, like, like_name, batch)

    def legal() -> Array:
        return (values >= 0) & (values < 1)

    checks.require(legal, error)
    return checks.or_nan(legal, values)


def known_or_array(value: Any, like: AnyArray) -> Any:
    """Return a number that torch.compile holds as a symbol as a 0-d array; all else as it is.

    The first value of an argument is a constant of the graph. When another one comes, the argument
    becomes a symbol, of which each comparison on the host would make one more graph.
    """
    if not is_torch_namespace(namespace(like)) or not torch_compiling() or not _is_number(value):
        return value
    import torch
    from torch.fx.experimental.symbolic_shapes import has_static_value

    if has_static_value(value):
        return value
    dtype = torch.float64 if has_double(like) else torch.float32
    # of torch.full, a compiled graph would hold the value
    return value * torch.ones((), dtype=dtype, device=like.device)


def is_nan(value: Any, like: Array) -> Array | bool:
    """Tell where numbers that were checked are NaN, which they are in the place of illegal ones."""
    return math.isnan(value) if isinstance(value, float) else namespace(like).isnan(value)


def rounded_up(x: float) -> str:
    """Return a positive number with two digits, none of which makes it smaller, for messages."""
    unit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return f"{math.ceil(x / unit * (1 - 1e-9)) * unit:.1e}"


def as_float(value: Any) -> float:
    """Return a real number as a Python float; +-Inf for an integer or a fraction beyond them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_number(value: Any) -> bool:
    """Tell whether it is a real number of Python or NumPy; a bool is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _real_values_like(
    value: Any, name: str, like: Array, like_name: str, batch: tuple[int, ...]
) -> Array:
    """Return an array of real numbers in the real dtype of `like`, float32 or wider."""
    dtype = real_name(result_name(dtype_name(like.dtype)))
    return astype(real_values(value, name, like, like_name, dtype, batch), dtype)


def _damping_number(damping: Any, like_name: str, dtype: str, unit: str) -> float:
    """Return a damping that is positive, finite and a normal number of the dtype."""
    try:
        value = float(damping)
    except OverflowError:
        value = math.inf if damping > 0 else -math.inf
    if not value > 0 or damping == math.inf:  # NaN fails too; torch.compile cannot trace isnan
        msg = f"`damping` is {value}; it must be positive and finite, {unit.format(like_name)}."
        raise ValueError(msg)
    least, largest = normal_range(dtype)
    if not least <= value <= largest:
        msg = (
            f"`damping` is {value}, beyond the range of {dtype}, {least:.1e} to {largest:.1e}; "
            f"scale `{like_name}` and `damping`, or use float64."
        )
        raise ValueError(msg)
    return value

"""What structured matrices are combined with: checked, and in the dtype to compute in."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

from ngdla._backend.calls import computing
from ngdla._backend.checks import require_array, require_columns, require_like
from ngdla._backend.dtypes import astype, real_name, result_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array
from ngdla._backend.scalars import as_float, known_or_array, real_values
from ngdla._backend.shapes import as_given, in_common_dtype

from .kernels import Leaves
from .storage import StoredMatrix

__all__ = ["in_one_dtype", "on_columns", "on_rows", "real_number", "require_rows"]

Kernel = Callable[[Leaves, Array], Array]
Matrix = TypeVar("Matrix", bound=StoredMatrix)


def on_columns(kernel: Kernel, K: StoredMatrix, V: Array) -> Array:
    """Return what a kernel makes of one or n columns, (..., d) or (..., d, n), of their shape."""
    expected = (*K.batch, K.dimension)
    columns, vector = require_columns(V, "V", expected, K.leaves[0], "K", K.shape)
    return as_given(_computed(kernel, K, columns), vector)


def on_rows(kernel: Kernel, K: StoredMatrix, V: Array) -> Array:
    """Return what a kernel makes of rows (..., n, d)."""
    require_array(V, "V", ndim=2, blocks=False)
    require_rows(V, "V", K, "n")
    return _computed(kernel, K, V)


def _computed(kernel: Kernel, K: StoredMatrix, V: Array) -> Array:
    with computing(K.leaves[0]):
        return in_common_dtype(lambda *a: kernel(a[:-1], a[-1]), *K.leaves, V)


def require_rows(X: Array, name: str, K: StoredMatrix, *counts: str) -> None:
    """Raise unless X has rows of the length of K, and its batch; `counts` names what is between."""
    require_like(X, name, K.leaves[0], "K")
    if (*X.shape[: -1 - len(counts)], X.shape[-1]) != (*K.batch, K.dimension):
        expected = ", ".join(map(str, (*K.batch, *counts, K.dimension)))
        msg = f"`{name}` has shape {tuple(X.shape)}; for {K!r} it must be ({expected})."
        raise ValueError(msg)


def in_one_dtype(K: Matrix, L: Matrix) -> tuple[Matrix, Matrix]:
    """Return both matrices in the dtype that they promote to, or raise if they are not alike."""
    if (K.structure, K.shape) != (L.structure, L.shape):
        msg = (
            f"`K` is {K!r} and `L` is {L!r}; both must be of one structure and one "
            f"shape. Use to_dense() to mix structures."
        )
        raise ValueError(msg)
    require_like(L.leaves[0], "L", K.leaves[0], "K")
    dtype = result_name(K.dtype_name, L.dtype_name)
    return K.astype(dtype), L.astype(dtype)


def real_number(value: Any, name: str, K: StoredMatrix) -> Any:
    """Return a real number as a float, or as an array of the shape of the batch."""
    value = known_or_array(value, K.leaves[0])
    if isinstance(value, numbers.Real):
        number = as_float(value)
        if math.isinf(number) and number != value:
            msg = f"`{name}` is {shown(value)}, which exceeds the range of float64; scale it."
            raise ValueError(msg)
        return number
    dtype = real_name(result_name(K.dtype_name))
    values = real_values(value, name, K.leaves[0], "K", dtype, K.batch)
    return astype(values, dtype)

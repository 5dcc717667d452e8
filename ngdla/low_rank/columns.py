"""What every model of a matrix does with the columns that it is applied to."""

from __future__ import annotations

from collections.abc import Callable

from ngdla._backend.calls import Check, ValueChecks, opened
from ngdla._backend.checks import require_columns
from ngdla._backend.namespace import Array
from ngdla._backend.shapes import as_given

__all__ = ["apply_to_columns"]


def apply_to_columns(
    function: Callable[[Array, ValueChecks], Array],
    V: Array,
    basis: Array,
    name: str,
    *,
    check: Check = True,
) -> Array:
    """Return function(V, checks) of V, (..., d) or (..., d, k), in the shape of V.

    V must fit the rows of `basis`, (..., d, r), the field `name` of the model, and be finite.
    """
    shape = tuple(basis.shape)
    columns, vector = require_columns(V, "V", shape[:-1], basis, name, shape)
    with opened(columns, check, nan=True, waits=True) as checks:
        checks.finite("V", columns, batch=columns.ndim - 2)
        X = function(columns, checks)
    return as_given(X, vector)

"""The columns that a matrix is multiplied with: a basis that is known, and Gaussian ones."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_array, require_count, require_like
from ngdla._backend.chunks import is_chunked
from ngdla._backend.dtypes import astype, dtype_name, is_complex
from ngdla._backend.namespace import Array, is_array, namespace
from ngdla._backend.random import gaussian, require_generator
from ngdla._backend.shapes import joined
from ngdla._backend.tracing import is_traced

__all__ = [
    "SketchColumns",
    "gaussian_columns",
    "is_test_matrix",
    "require_basis",
    "require_finite_columns",
    "require_passes",
    "require_rng",
    "sketch_columns",
]


class SketchColumns(NamedTuple):
    """Columns to start from, of norm about 1, and standard normal ones for the last product.

    Shapes (..., d, k) and (..., d, p); either is None where it has no column.
    """

    start: Array | None
    fresh: Array | None


def sketch_columns(
    basis: Array | None,
    rng: Any,
    start: int,
    fresh: int,
    *,
    like: Array,
    shape: tuple[int, ...],
    dtype: str,
) -> SketchColumns:
    """Return the basis, filled to `start` columns with Gaussian ones, and `fresh` others.

    All have length shape[-1]; batches, shape[:-1], share the Gaussian columns.
    """
    d = shape[-1]
    known = 0 if basis is None else basis.shape[-1]
    fill = max(0, min(start, d) - known)
    drawn = None
    if fill + fresh:
        drawn = gaussian_columns(rng, fill + fresh, like=like, shape=shape, dtype=dtype)
    blocks = [] if basis is None else [basis]
    if fill:
        assert drawn is not None
        blocks.append(drawn[..., :fill] / math.sqrt(d))
    return SketchColumns(
        joined(blocks, axis=-1) if blocks else None,
        None if drawn is None or not fresh else drawn[..., fill:],
    )


def gaussian_columns(
    rng: Any, count: int, *, like: Array, shape: tuple[int, ...], dtype: str, name: str = "A"
) -> Array:
    """Return the caller's test matrix, or standard normal columns, as (..., d, count)."""
    *batch, d = shape
    if not is_test_matrix(rng):
        if not isinstance(rng, numbers.Integral) and is_traced(like) and not is_chunked(like):
            msg = (
                "`rng` is a Generator, which would be drawn from once, while this is compiled; "
                "pass a seed, or standard normal columns as an argument of the compiled function."
            )
            raise TypeError(msg)
        columns = gaussian(rng, (d, count), like, dtype)
    else:
        require_like(rng, "rng", like, name)
        if tuple(rng.shape) not in ((d, count), (*batch, d, count)):
            msg = (
                f"`rng` is a test matrix of shape {tuple(rng.shape)}; here it must have shape "
                f"{(d, count)}: {count} standard normal columns."
            )
            raise ValueError(msg)
        if is_complex(rng) and not dtype.startswith("complex"):
            msg = f"`rng` has dtype {dtype_name(rng.dtype)} but `A` is real; pass real columns."
            raise TypeError(msg)
        columns = astype(rng, dtype)
    return namespace(like).broadcast_to(columns, (*batch, d, count))


def require_passes(passes: Any) -> None:
    """Raise unless `passes` is a positive integer."""
    require_count(passes, "passes")
    if passes < 1:
        msg = f"`passes` is {passes}; at least one product with `A` is needed."
        raise ValueError(msg)


def require_rng(rng: Any) -> None:
    """Raise unless `rng` is a seed, a NumPy Generator, or a test matrix."""
    if is_test_matrix(rng):
        require_array(rng, "rng", ndim=2, blocks=False)
    else:
        require_generator(rng)


def require_finite_columns(checks: ValueChecks, basis: Array | None, rng: Any) -> None:
    """Require finite values of what the caller gave to start from."""
    if basis is not None:
        checks.finite("basis", basis)
    if is_test_matrix(rng):
        checks.finite("rng", rng)


def is_test_matrix(rng: Any) -> bool:
    """Tell a test matrix from a seed, which may be an integer of NumPy."""
    return is_array(rng) and not isinstance(rng, numbers.Number)


def require_basis(basis: Any, like: Array, shape: tuple[int, ...], dtype: str) -> Array | None:
    """Return the checked basis, (..., d, k), in the named dtype."""
    if basis is None:
        return None
    require_array(basis, "basis", ndim=2, blocks=False)
    require_like(basis, "basis", like, "A")
    if tuple(basis.shape[:-1]) != shape or basis.shape[-1] > shape[-1]:
        *batch, d = shape
        expected = f"({', '.join(map(str, (*batch, d, 'k')))})"
        msg = (
            f"`basis` has shape {tuple(basis.shape)}; it must have shape {expected} with k <= {d} "
            f"orthonormal columns, as the eigenvectors of an earlier result have."
        )
        raise ValueError(msg)
    if is_complex(basis) and not dtype.startswith("complex"):
        msg = f"`basis` has dtype {dtype_name(basis.dtype)} but `A` is real; pass a real basis."
        raise TypeError(msg)
    return astype(basis, dtype)

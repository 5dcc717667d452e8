"""A Kronecker factor as it is given: a dense array, a pair of eigenpairs, or a LowRankEigh."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_array, require_like
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, is_array, namespace
from ngdla._backend.products import hermitian_part, trace
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.spectral import eigh
from ngdla._backend.tracing import detached
from ngdla.low_rank.low_rank_eigh import LowRankEigh, combined
from ngdla.matrix_functions.positive import positive_values, require_hermitian

__all__ = [
    "eigenbasis",
    "from_parts",
    "in_working_dtype",
    "kronecker_factor",
    "parts_of",
    "times_factor",
]


def kronecker_factor(F: Any, V: Array, name: str, size: int) -> Array | LowRankEigh:
    """Return a checked factor: a dense array, or eigenpairs with a tail."""
    batch = tuple(V.shape[:-2])
    if isinstance(F, (tuple, list, LowRankEigh)):
        return _eigenpairs(F, V, name, size)
    if not is_array(F):
        msg = (
            f"`{name}` is a {type(F).__name__}; it must be an array, a pair (eigenvalues, "
            f"eigenvectors), or a LowRankEigh."
        )
        raise TypeError(msg)
    require_array(F, name, ndim=2, blocks=False)
    require_like(F, name, V, "V")
    if tuple(F.shape) != (*batch, size, size):
        raise _shape_error(name, "", F, (*batch, size, size), V)
    return F


def _eigenpairs(F: Any, V: Array, name: str, size: int) -> LowRankEigh:
    """Return checked eigenpairs; those of a pair have a tail of 0."""
    batch = tuple(V.shape[:-2])
    pair = (F.eigenvalues, F.eigenvectors) if isinstance(F, LowRankEigh) else tuple(F)
    if len(pair) != 2:
        msg = f"`{name}` is a {type(F).__name__} of {len(F)}; pass (eigenvalues, eigenvectors)."
        raise TypeError(msg)
    values, U = pair
    for what, x in (("eigenvalues", values), ("eigenvectors", U)):
        require_array(x, f"{what} of {name}", ndim=1, blocks=False)
        require_like(x, f"{what} of {name}", V, "V")
    if tuple(U.shape[:-1]) != (*batch, size) or not 1 <= U.shape[-1] <= size:
        raise _shape_error(name, "eigenvectors of ", U, (*batch, size, "r"), V)
    if tuple(values.shape) != (*batch, U.shape[-1]):
        raise _shape_error(name, "eigenvalues of ", values, (*batch, U.shape[-1]), V)
    if isinstance(F, LowRankEigh):
        return F
    return _without_tail(values, U, namespace(values).sum(values, axis=-1))


def _shape_error(name: str, what: str, x: Array, expected: tuple[Any, ...], V: Array) -> Exception:
    """Return the error of a factor, or of a part of one, that does not fit the right-hand side."""
    return ValueError(
        f"`{what}{name}` has shape {tuple(x.shape)}; for `V` of shape {tuple(V.shape)}, (..., "
        f"d_out, d_in), it must be ({', '.join(map(str, expected))})."
    )


def _without_tail(values: Array, U: Array, total: Array) -> LowRankEigh:
    """Return eigenpairs beside which all eigenvalues are 0, so that they have the whole trace."""
    zero = namespace(total).zeros_like(total)
    return LowRankEigh(values, U, zero, total, zero)


def eigenbasis(F: Array | LowRankEigh, name: str, checks: ValueChecks) -> LowRankEigh:
    """Return the eigenpairs of a factor: of a dense one all of them, which have no derivatives."""
    if isinstance(F, LowRankEigh):
        checks.finite(name, F.eigenvalues, batch=F.eigenvalues.ndim - 1)
        values = positive_values(F.eigenvalues, name, dtype_name(F.eigenvalues.dtype), checks)
        return dataclasses.replace(F, eigenvalues=values)
    dtype, F = dtype_name(F.dtype), in_working_dtype(F)
    hermitian = require_hermitian(F, name, checks)
    values, U = eigh(detached(F))
    checks.finite(name, values, batch=values.ndim - 1)
    values = checks.or_nan(hermitian, values)
    return _without_tail(positive_values(values, name, dtype, checks), U, trace(F))


def in_working_dtype(F: Array) -> Array:
    """Return a dense factor in the dtype that is computed with."""
    return astype(F, result_name(dtype_name(F.dtype)))


def parts_of(F: Array | LowRankEigh) -> tuple[Array, ...]:
    """Return the arrays that a factor depends on."""
    if isinstance(F, LowRankEigh):
        return F.eigenvalues, F.eigenvectors, F.tail
    return (in_working_dtype(F),)


def from_parts(parts: tuple[Array, ...]) -> Array | LowRankEigh:
    """Return the factor that depends on these arrays alone."""
    if len(parts) == 1:
        return parts[0]
    values, U, tail = parts
    return LowRankEigh(values, U, tail, tail, tail)


def times_factor(F: Array | LowRankEigh, X: Array) -> Array:
    """Return F X, of the Hermitian part of a dense F, in the dtype that both promote to."""
    if not isinstance(F, LowRankEigh):
        return in_common_dtype(namespace(X).matmul, hermitian_part(F), X)
    tail = expanded(F.tail, 1)
    return combined(F.eigenvectors, X, tail, F.eigenvalues - tail)

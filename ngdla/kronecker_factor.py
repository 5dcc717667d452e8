"""A Kronecker factor as it is given: a dense array, a pair of eigenpairs, or a LowRankEigh."""

from __future__ import annotations

from typing import Any

from ._backend.checks import ValueChecks, all_finite, require_array, require_like
from ._backend.namespace import (
    Array,
    astype,
    dtype_name,
    is_array,
    namespace,
    result_name,
    unit_roundoff,
)
from ._backend.products import rmatvec, trace
from ._backend.random import gaussian
from ._backend.spectral import eigh
from ._backend.tracing import is_traced
from .low_rank import LowRankEigh, clipped

__all__ = [
    "eigenbasis",
    "kronecker_factor",
    "not_finite",
    "require_hermitian",
    "require_positive_values",
]


def kronecker_factor(F: Any, V: Array, name: str, size: int) -> Array | LowRankEigh:
    """Return a checked factor: a dense array, or eigenpairs with a tail."""
    batch = tuple(V.shape[:-2])
    if isinstance(F, (tuple, list)):
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
    return astype(F, result_name(dtype_name(F.dtype)))


def _eigenpairs(F: Any, V: Array, name: str, size: int) -> LowRankEigh:
    batch = tuple(V.shape[:-2])
    if not isinstance(F, LowRankEigh) and len(F) != 2:
        msg = f"`{name}` is a {type(F).__name__} of {len(F)}; pass (eigenvalues, eigenvectors)."
        raise TypeError(msg)
    values, U = F[0], F[1]
    for what, x in (("eigenvalues", values), ("eigenvectors", U)):
        require_array(x, f"{what} of {name}", ndim=1, blocks=False)
        require_like(x, f"{what} of {name}", V, "V")
    if tuple(U.shape[:-1]) != (*batch, size) or not 1 <= U.shape[-1] <= size:
        raise _shape_error(name, "eigenvectors of ", U, (*batch, size, "r"), V)
    if tuple(values.shape) != (*batch, U.shape[-1]):
        raise _shape_error(name, "eigenvalues of ", values, (*batch, U.shape[-1]), V)
    if isinstance(F, LowRankEigh):
        return F
    total = namespace(values).sum(values, axis=-1)
    return _with_tail_zero(values, U, total)


def _shape_error(name: str, what: str, x: Array, expected: tuple[Any, ...], V: Array) -> Exception:
    return ValueError(
        f"`{what}{name}` has shape {tuple(x.shape)}; for `V` of shape {tuple(V.shape)}, (..., "
        f"d_out, d_in), it must be ({', '.join(map(str, expected))})."
    )


def _with_tail_zero(values: Array, U: Array, total: Array) -> LowRankEigh:
    zero = namespace(total).zeros_like(total)
    return LowRankEigh(values, U, zero, total, zero)


def eigenbasis(F: Array | LowRankEigh, name: str, checks: ValueChecks) -> LowRankEigh:
    """Return the eigenpairs of a factor; those of a dense one are all there are."""
    if isinstance(F, LowRankEigh):
        require_positive_values(F.eigenvalues, name, checks)
        return F
    require_hermitian(F, name, checks)
    values, U = eigh(F)
    checks.require(lambda: all_finite(values), lambda: not_finite(name))
    require_positive_values(values, name, checks)
    return _with_tail_zero(clipped(values), U, trace(F))


def require_positive_values(values: Array, name: str, checks: ValueChecks) -> None:
    """Require eigenvalues that are negative by roundings at most."""
    xp = namespace(values)
    least, largest = xp.min(values, axis=-1), xp.max(values, axis=-1)
    rounding = values.shape[-1] * unit_roundoff(dtype_name(values.dtype)) * largest
    checks.require(
        lambda: least >= -rounding,
        lambda: ValueError(
            f"`{name}` is not positive semi-definite: its eigenvalues reach down to "
            f"{float(xp.min(values)):.2e}, beyond rounding. Pass clipped eigenvalues and "
            f"eigenvectors as a pair if that is meant."
        ),
    )


def require_hermitian(F: Array, name: str, checks: ValueChecks) -> None:
    """Require |(F - F^H) g| of roundings for a Gaussian g: factorisations read one triangle."""
    if is_traced(F):
        return
    xp, dtype = namespace(F), dtype_name(F.dtype)
    g = gaussian(0, (F.shape[-1], 1), F, dtype)
    Fg = xp.matmul(F, g)

    def deviation() -> Array:
        return xp.linalg.matrix_norm(Fg - rmatvec(F, g))

    rounding = 8 * unit_roundoff(dtype) * F.shape[-1] ** 0.5 * xp.linalg.matrix_norm(Fg)
    checks.require(lambda: all_finite(Fg), lambda: not_finite(name))
    checks.require(
        lambda: deviation() <= rounding,
        lambda: ValueError(
            f"`{name}` is not Hermitian: |({name} - {name}^H) g| = {_largest(deviation()):.2e} for "
            f"a random vector g, where |{name} g| = {_largest(xp.linalg.matrix_norm(Fg)):.2e}. "
            f"Pass ({name} + {name}^H) / 2 if that is meant."
        ),
    )


def _largest(x: Array) -> float:
    return float(namespace(x).max(x))


def not_finite(*names: str) -> Exception:
    """Return the error of arguments that are not finite."""
    text = " or ".join(f"`{name}`" for name in names)
    return ValueError(f"{text} contains NaN or Inf; pass finite values.")

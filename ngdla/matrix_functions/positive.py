"""What matrices that are to be Hermitian and positive must show, with one message a failure."""

from __future__ import annotations

from ngdla._backend.checks import ValueChecks, all_finite
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import rmatvec
from ngdla._backend.random import gaussian
from ngdla._backend.tracing import is_traced

__all__ = [
    "not_finite",
    "not_finite_or_beyond",
    "require_hermitian",
    "require_positive_values",
]


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


def not_finite_or_beyond() -> Exception:
    """Return the error of an `A` that is not finite, or of which a function is not."""
    msg = "`A` contains NaN or Inf, or the result is beyond its dtype; pass finite values."
    return ValueError(msg)

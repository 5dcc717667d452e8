"""Checks that a matrix is Hermitian and positive, with one message for each failure."""

from __future__ import annotations

from ngdla._backend.calls import ValueChecks, place_in_batch
from ngdla._backend.checks import not_hermitian
from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import frobenius_norm, rmatvec
from ngdla._backend.random import gaussian
from ngdla._backend.tracing import is_traced, largest_number

__all__ = [
    "not_finite",
    "not_finite_or_beyond",
    "not_positive",
    "not_positive_with_damping",
    "require_hermitian",
    "require_positive_values",
]


def require_positive_values(
    values: Array, name: str, checks: ValueChecks, *, definite: bool = False
) -> None:
    """Require eigenvalues (..., r) that are negative by rounding at most; positive if `definite`.

    Rounding is r u times the largest eigenvalue.
    """
    xp = namespace(values)

    def positive() -> Array:
        least, largest = xp.min(values, axis=-1), xp.max(values, axis=-1)
        rounding = values.shape[-1] * unit_roundoff(dtype_name(values.dtype)) * largest
        return least > rounding if definite else least >= -rounding

    checks.require(positive, lambda: not_positive(name, float(xp.min(values)), definite=definite))


def require_hermitian(F: Array, name: str, checks: ValueChecks) -> None:
    """Require F to be Hermitian up to rounding, tested by |(F - F^H) g| for a Gaussian g.

    Factorisations read one triangle, and would not see the other one.
    """
    if is_traced(F):
        return
    xp, dtype = namespace(F), dtype_name(F.dtype)
    g = gaussian(0, (F.shape[-1], 1), F, dtype)
    Fg = xp.matmul(F, g)

    def deviation() -> Array:
        return frobenius_norm(Fg - rmatvec(F, g))

    rounding = 8 * unit_roundoff(dtype) * F.shape[-1] ** 0.5 * frobenius_norm(Fg)
    checks.finite(name, Fg, batch=F.ndim - 2)
    checks.require(
        lambda: deviation() <= rounding,
        lambda: not_hermitian(
            name, largest_number(deviation()), largest_number(frobenius_norm(Fg))
        ),
    )


# -------------------------------------------------------------------------------- errors


def not_positive(name: str, least: float, *, definite: bool = False) -> Exception:
    """Return the error of a Hermitian matrix whose smallest eigenvalue is not positive enough."""
    kind, remedy = ("definite", "") if definite else ("semi-definite", ", or clip its eigenvalues")
    return ValueError(
        f"`{name}` is not positive {kind}: its smallest eigenvalue is {least:.2e}, not positive "
        f"beyond rounding. Pass {name} plus a multiple of the identity{remedy}."
    )


def not_positive_with_damping(name: str, *, example: str = "") -> Exception:
    """Return the error of a matrix plus its damping that has no Cholesky factor.

    `example` may say which matrices are right, such as ", as from `sample_gram`".
    """
    return ValueError(
        f"`{name}` with its damping is not positive definite, or it contains NaN or Inf; pass a "
        f"finite, positive semi-definite matrix{example}, or a larger damping."
    )


def not_finite(*names: str, place: str = "") -> Exception:
    """Return the error of arguments that are not finite, at a `place_in_batch`."""
    text = " or ".join(f"`{name}`" for name in names)
    return ValueError(f"{text} contains NaN or Inf{place}; pass finite values.")


def not_finite_or_beyond(*values: Array) -> Exception:
    """Return the error of an `A` that is not finite, or of which a function is not.

    The place in the batch is that of A, or of a result, (..., d, d).
    """
    place = place_in_batch(values[0].ndim - 2, *values) if values else ""
    comma = "," if place else ""
    msg = (
        f"`A` contains NaN or Inf, or the result is beyond its dtype{comma}{place}; pass finite "
        f"values."
    )
    return ValueError(msg)

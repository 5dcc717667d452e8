"""Checks that a matrix is Hermitian and positive, with one message for each failure."""

from __future__ import annotations

from collections.abc import Callable

from ngdla._backend.calls import ValueChecks, all_finite, matrix_of_batch, place_in_batch
from ngdla._backend.checks import not_hermitian
from ngdla._backend.creation import generic_column
from ngdla._backend.dtypes import dtype_name, normal_range, unit_roundoff
from ngdla._backend.fused import bounded, not_negative
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.products import rmatvec
from ngdla._backend.tracing import concrete, is_traced, largest_number, number_if_free

__all__ = [
    "not_finite",
    "not_finite_or_beyond",
    "not_positive",
    "not_positive_with_damping",
    "positive_values",
    "require_hermitian",
    "rounding_of",
]


def positive_values(
    values: Array, name: str, dtype: str, checks: ValueChecks, *, definite: bool = False
) -> Array:
    """Return checked eigenvalues (..., r) of a positive semi-definite matrix, or a definite one.

    `dtype` is that in which the matrix came. Eigenvalues that are negative by rounding at most
    count as 0. Where others cannot raise, all of a matrix are NaN.
    """
    xp = namespace(values)
    least = xp.min(values, axis=-1)
    smallest = None if definite else number_if_free(xp.min(least) if least.ndim else least)
    if smallest is not None and smallest >= 0:
        return values
    rounding = rounding_of(values, dtype)

    def positive() -> Array:
        if not definite:
            return least >= -rounding
        largest = xp.max(values, axis=-1)
        return least > values.shape[-1] * unit_roundoff(dtype_name(values.dtype)) * largest

    def error() -> Exception:
        worst = xp.argmin(xp.reshape(least + (0 if definite else rounding), (-1,)))
        found, allowed = (float(xp.reshape(x, (-1,))[worst]) for x in (least, rounding))
        place = matrix_of_batch(int(worst), tuple(least.shape))
        return not_positive(name, found, allowed, dtype, place, definite=definite)

    checks.require(positive, error)
    values = checks.or_nan(positive, values)
    return values if definite else not_negative(values)


def rounding_of(values: Array, dtype: str) -> Array:
    """Return how far below 0 rounding takes eigenvalues, (..., r), of a semi-definite A, (...).

    It is 4 u |A|_F for the roundoff of the dtype in which A came, and r u max(values) for that of
    eigenvalues.
    """
    xp = namespace(values)
    largest = xp.max(xp.abs(values), axis=-1)
    size = xp.where(largest > 0, largest, xp.ones_like(largest))
    norm = xp.linalg.vector_norm(values / xp.expand_dims(size, axis=-1), axis=-1)
    own = values.shape[-1] * unit_roundoff(dtype_name(values.dtype))
    return size * xp.maximum(4 * unit_roundoff(dtype) * norm, own + 0 * norm)


def require_hermitian(F: Array, name: str, checks: ValueChecks) -> Callable[[], Array]:
    """Require F to be Hermitian up to rounding, tested by |(F - F^H) g| for one vector g.

    Factorisations read one triangle, and would not see the other one. Returned is the test, (...),
    for where nothing can raise.
    """
    xp, u = namespace(F), unit_roundoff(dtype_name(F.dtype))
    _, largest = normal_range(dtype_name(F.dtype))

    def probed() -> tuple[Array, Array]:
        """Return F g and |(F - F^H) g|, for a g that no structure of F is orthogonal to."""
        g = generic_column(F)
        Fg = xp.matmul(F, g)
        return Fg, frobenius_norm(Fg - rmatvec(F, g))

    def hermitian(deviation: Array) -> Array:
        # g may be nearly orthogonal to all that F does: what counts is |F| |g|
        allowed = 8 * u * F.shape[-1] ** 0.5 * frobenius_norm(F)
        return deviation <= bounded(allowed, largest=largest)  # which Inf and NaN exceed

    def error() -> Exception:
        place = place_in_batch(F.ndim - 2, Fg)
        if not concrete(all_finite(Fg)):
            return ValueError(f"`{name}` contains NaN or Inf{place}; pass finite values.")
        return not_hermitian(
            name,
            largest_number(deviation),
            largest_number(frobenius_norm(Fg)),
            probe="a vector g",
        )

    if checks.enabled and not is_traced(F):
        Fg, deviation = probed()
        checks.require(lambda: hermitian(deviation), error)
    return lambda: hermitian(probed()[1])


# -------------------------------------------------------------------------------- errors


def not_positive(
    name: str, least: float, rounding: float, dtype: str, place: str = "", *, definite: bool = False
) -> Exception:
    """Return the error of a Hermitian matrix whose smallest eigenvalue is not positive enough."""
    if definite:
        return ValueError(
            f"`{name}` is not positive definite{place}: its smallest eigenvalue is {least:.2e}, "
            f"not positive beyond rounding. Pass {name} plus a damping times the identity."
        )
    return ValueError(
        f"`{name}` is not positive semi-definite{place}: its smallest eigenvalue is {least:.2e}, "
        f"where roundings of {dtype} allow {-rounding:.2e}. Pass {name} plus a multiple of the "
        f"identity, or clip its eigenvalues."
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

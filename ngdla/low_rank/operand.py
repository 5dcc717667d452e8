"""A positive semi-definite matrix accessed only through products, and checks of these products."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal

from ngdla._backend.calls import ValueChecks, all_finite, place_in_batch
from ngdla._backend.checks import not_hermitian, require_array, require_choice
from ngdla._backend.dtypes import (
    astype,
    dtype_name,
    is_complex,
    normal_range,
    real_name,
    result_name,
    unit_roundoff,
)
from ngdla._backend.fused import filled
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array, is_jax_namespace, namespace
from ngdla._backend.powers import power_of_two
from ngdla._backend.products import adjoint, matmul_stored, trace
from ngdla._backend.scalars import as_float, known_or_array, real_values
from ngdla._backend.settings import library_settings
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import eigh
from ngdla._backend.tracing import concrete, detached, largest_number

from .low_rank_eigh import clipped

__all__ = [
    "PRODUCT_PRECISIONS",
    "HermitianOperand",
    "ProductPrecision",
    "hermitian_operand",
    "operand_like",
    "require_positive",
    "scaled_operand",
    "trace_unit",
    "unit_or_zero",
]

ProductPrecision = Literal["native", "tf32"]
PRODUCT_PRECISIONS = ("native", "tf32")
_STUCK = 2.0**-16  # of the smallest normal number: 2^7 subnormal ones in float32


@dataclasses.dataclass(frozen=True)
class HermitianOperand:
    """A, (..., d, d), in the dtype that is worked in; `product_eps` is that of its products.

    What is worked with is A / unit, for a power of two next to its trace as `unit`, (...): squares
    of the entries of a factor of small gradients would underflow in float32.
    """

    like: Array
    batch: tuple[int, ...]
    size: int
    dtype: str
    product_eps: float
    came_in: str  # the dtype of A
    trace: Array
    product: Callable[[Array], Array]
    unit: Array  # (...)
    halves: tuple[Array, Array]  # two powers of two whose product is the unit
    roundoff: Array  # (...): what a product with A loses over the size of A

    @property
    def rounded(self) -> float:
        """How many roundings of products those of A itself may be, which came in half precision."""
        return unit_roundoff(self.came_in) / self.product_eps

    def times(self, X: Array) -> Array:
        """Return A X / unit.

        Half of the division comes before the product: entries of X / unit would be below the normal
        range for the largest A, and compiled JAX code takes such numbers for 0.
        """
        before, after = self.halves
        return self.product(X / expanded(before, 2)) / expanded(after, 2)

    @property
    def scale(self) -> Array:
        """What results for A / unit are multiplied by, (...): the unit, or 0 where A is zero."""
        return unit_or_zero(self.trace, self.unit)

    @property
    def real(self) -> str:
        """Name of the real dtype that is worked in."""
        return real_name(self.dtype)


def scaled_operand(**fields: Any) -> HermitianOperand:
    """Return an operand with the units that follow from its trace.

    Besides the roundoff of products, entries below the normal range have lost something: averages
    that decay are stuck there, up to 128 times the least number for a decay of 0.99, and JAX takes
    such entries for 0.
    """
    trace, size = fields["trace"], fields["size"]
    xp, unit = namespace(trace), trace_unit(trace)
    before = power_of_two(xp.sqrt(unit))
    least, _ = normal_range(real_name(fields["dtype"]))
    lost = size * (least if is_jax_namespace(xp) else _STUCK * least)
    positive = detached(xp.where(trace > 0, trace, unit))
    roundoff = fields["product_eps"] + xp.full_like(positive, lost) / positive
    return HermitianOperand(**fields, unit=unit, halves=(before, unit / before), roundoff=roundoff)


def trace_unit(trace: Array) -> Array:
    """Return the power of two next to |trace|, or 1 where that is 0 or not finite, (...).

    It is a normal number, and so is its reciprocal, however small the trace is; dividing by it does
    not round, and it is a constant for derivatives.
    """
    return power_of_two(filled(namespace(trace).abs(trace), trace == 0, 1.0))


def unit_or_zero(trace: Array, unit: Array) -> Array:
    """Return the unit, or 0 where the trace is not positive: A is zero there. NaN stays."""
    return namespace(trace).where(trace > 0, unit, clipped(trace))


def operand_like(A: Any, columns: Any) -> Array:
    """Return an array of the library and on the device of A, which is checked for its kind.

    A is an array itself, or an object with @, .shape and .dtype. `columns` are those that an object
    is multiplied with first: they say which library it takes.
    """
    if is_array(A) or not all(hasattr(A, key) for key in ("__matmul__", "shape", "dtype")):
        require_array(A, "A", ndim=2, blocks=False)
        return A
    if columns is None or not is_array(columns):
        msg = (
            f"`A` is a {type(A).__name__}, not an array, so that its library is not known; pass "
            f"`basis`, or a test matrix as `rng`."
        )
        raise TypeError(msg)
    return columns


def hermitian_operand(
    A: Any, trace_of_A: Any, columns: Any, precision: str, product_eps: float | None
) -> HermitianOperand:
    """Check A, an array or an object with @, .shape and .dtype, and return it as an operand.

    `columns` as for `operand_like`.
    """
    require_choice(precision, "precision", PRODUCT_PRECISIONS)
    like = operand_like(A, columns)
    if not is_array(A):
        return _object_operand(A, trace_of_A, like, precision, product_eps)
    dtype = result_name(dtype_name(A.dtype))
    _require_square(A)
    batch = tuple(A.shape[:-2])
    if trace_of_A is None:
        traced = astype(trace(A), real_name(dtype))
    else:
        traced = _require_trace(trace_of_A, A, dtype, batch)
    return scaled_operand(
        like=A,
        batch=batch,
        size=A.shape[-1],
        dtype=dtype,
        product_eps=_product_eps(dtype, precision, product_eps),
        came_in=dtype_name(A.dtype),
        trace=traced,
        product=_product_in(lambda X: matmul_stored(A, X), precision),
    )


def _object_operand(
    A: Any, trace_of_A: Any, columns: Array, precision: str, product_eps: float | None
) -> HermitianOperand:
    if trace_of_A is None:
        msg = f"`A` is a {type(A).__name__}, whose diagonal cannot be read; pass `trace`."
        raise TypeError(msg)
    if not isinstance(A.shape, (tuple, list)) or not all(
        isinstance(size, numbers.Integral) for size in A.shape
    ):
        msg = f"`A` has the shape {shown(A.shape)}; it must be a tuple of integers."
        raise TypeError(msg)
    _require_square(A)
    try:
        dtype, batch = result_name(dtype_name(A.dtype)), tuple(A.shape[:-2])
    except (KeyError, TypeError):
        msg = f"`A` has dtype {shown(A.dtype)}; it must be a real or complex floating-point dtype."
        raise TypeError(msg) from None
    return scaled_operand(
        like=columns,
        batch=batch,
        size=A.shape[-1],
        dtype=dtype,
        product_eps=_product_eps(dtype, precision, product_eps),
        came_in=dtype_name(A.dtype),
        trace=_require_trace(trace_of_A, columns, dtype, batch),
        product=_product_in(lambda X: A @ X, precision),
    )


def _require_square(A: Any) -> None:
    if len(A.shape) < 2 or A.shape[-1] != A.shape[-2]:
        msg = f"`A` has shape {tuple(A.shape)}; it must be square, (..., d, d)."
        raise ValueError(msg)


def _require_trace(value: Any, like: Array, dtype: str, batch: tuple[int, ...]) -> Array:
    xp, real = namespace(like), real_name(dtype)
    value = known_or_array(value, like)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = as_float(value)
        if not 0 <= number < math.inf:
            msg = (
                f"`trace` is {shown(value)}; that of a positive semi-definite matrix is finite and "
                f">= 0."
            )
            raise ValueError(msg)
        corner = xp.real(like[..., 0, 0]) if is_complex(like) else like[..., 0, 0]
        return xp.broadcast_to(astype(xp.zeros_like(corner), real) + number, batch)
    return astype(real_values(value, "trace", like, "A", real, batch), real)


def _product_eps(dtype: str, precision: str, product_eps: float | None) -> float:
    if product_eps is not None:
        if not isinstance(product_eps, numbers.Real) or not 0 < product_eps < 1:
            msg = f"`product_eps` is {shown(product_eps)}; it must be a unit roundoff, in (0, 1)."
            raise ValueError(msg)
        return float(product_eps)
    if precision == "tf32" and real_name(dtype) == "float32":
        return unit_roundoff("tf32")
    return unit_roundoff(dtype)


def _product_in(product: Callable[[Array], Array], precision: str) -> Callable[[Array], Array]:
    if precision == "native":
        return product

    def in_tf32(X: Array) -> Array:
        with library_settings(X, tf32=True):
            return product(X)

    return in_tf32


# ---------------------------------------------------------------------------------- values


def require_positive(
    checks: ValueChecks, A: HermitianOperand, Y: Array, core: Array, size: Array, positive: Array
) -> Callable[[], Array]:
    """Require that A is finite, Hermitian and positive semi-definite, as far as it was seen.

    Seen are Y = A Omega / unit and core = Omega^H Y for orthonormal Omega, and size = |Y|_F;
    `positive` says whether the factorisation of the core, which is to be positive up to rounding,
    went through. Returned is the test, (...), for where nothing can raise.
    """
    xp = namespace(Y)

    def not_finite() -> Exception:
        if concrete(all_finite(Y, A.trace)):  # far beyond the trace: squares of it are not
            return _negative(A, core)
        return not_finite_with_trace(len(A.batch), Y, A.trace)

    checks.require(lambda: all_finite(size + A.trace), not_finite)

    def hermitian() -> Array:
        # zero and shifted
        largest = xp.maximum(size, xp.linalg.matrix_norm(core))
        return xp.linalg.matrix_norm(core - adjoint(core)) <= 4 * A.size**0.5 * A.roundoff * largest

    def semidefinite() -> Array:
        # entries of a matrix without a positive trace are not scaled, and their squares may vanish
        zero = xp.all(xp.reshape(Y, (*A.batch, -1)) == 0, axis=-1)
        return positive & ((A.trace > 0) | zero)

    checks.require(hermitian, lambda: _not_hermitian(A, core))
    checks.require(semidefinite, lambda: _negative(A, core))
    return lambda: hermitian() & semidefinite()


def not_finite_with_trace(batch: int, *values: Array) -> Exception:
    """Return the error of an A that is not finite, which these values show."""
    place = place_in_batch(batch, *values)
    return ValueError(f"`A` or its trace contains NaN or Inf{place}; pass finite values.")


def _not_hermitian(A: HermitianOperand, core: Array) -> Exception:
    xp = namespace(core)
    size, deviation = (
        largest_number(A.unit * xp.linalg.matrix_norm(x)) for x in (core, core - adjoint(core))
    )
    return not_hermitian("A", deviation, size, product="W^H {} W", probe="the test matrix W")


def _negative(A: HermitianOperand, core: Array) -> Exception:
    xp = namespace(core)
    values, _ = eigh((core + adjoint(core)) / 2)
    extremes = -xp.min(values, axis=-1), xp.max(values, axis=-1)
    least, largest = (largest_number(A.unit * value) for value in extremes)
    return ValueError(
        f"`A` is not positive semi-definite: W^H A W has the eigenvalue {-least:.2e} beside "
        f"{largest:.2e} for the test matrix W, more than roundings of {A.came_in} explain. Pass A "
        f"plus a multiple of the identity; if products with A are less exact than its dtype, say "
        f"so by `product_eps`; a `basis` must have orthonormal columns."
    )

"""Probabilities of samples, and which samples count.

With p = weights / sum(weights), a sample with p_i = 0 changes nothing, whatever its data are. The
step is a smooth function of p, but scores have its root q as a factor, whose slope is infinite
there. Where derivatives may be asked for, q_i is the root of p_i + 2^-120 instead, which is nothing
beside any rounding. All that a sample gives to a step has the factor q_i^2, and all that it gives
to a derivative by q_i the factor q_i, to which rounding errors are relative: dd / dq_i / (2 q_i) is
the derivative of the smooth function. Samples that are not finite have none, nor those so far out
that 2^-120 would be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks
from ngdla._backend.column_loops import pass_over_columns
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.tracing import detached, differentiable, nan_unless, number_if_free
from ngdla.damped.right_hand_side import sample_vector
from ngdla.score_matrices.score_matrix import ScoreMatrix

__all__ = ["Weighting", "require_flat", "weighting"]

_ROOT = 2.0**-60  # q where p = 0, if it may be differentiated
_FARTHEST = 2.0**32  # data of such a sample over that of others: 2^-120 times its square is 2^-56


class Weighting(NamedTuple):
    """Probabilities, and the samples that count."""

    p: Array  # (..., n, 1)
    q: Array  # its root
    kept: Array | None  # flags, (..., n, 1), None if all are set
    smooth: bool  # derivatives may be asked for, so that kept ones may have p = 0

    def roots(self, dtype: str) -> Array:
        """Return q in the real dtype of the same precision."""
        return astype(self.q, real_name(dtype))

    def rows(self, span: slice) -> Weighting:
        """Return that of some samples, whose p do not sum to 1."""
        return self.mapped(lambda x: x[..., span, :])

    def mapped(self, part: Callable[[Array], Array]) -> Weighting:
        """Return that of the samples that are a part of all."""
        kept = None if self.kept is None else part(self.kept)
        return self._replace(p=part(self.p), q=part(self.q), kept=kept)

    def beside(self, *data: Array) -> Weighting:
        """Return the same with fewer samples: those of p = 0 with data that cannot be used."""
        if self.kept is None or not self.smooth:
            return self
        return self._replace(kept=self.kept & _usable(self.p, data))


def weighting(
    weights: Any, scores: ScoreMatrix, checks: ValueChecks, dtype: str, *data: Array
) -> Weighting | None:
    """Return the checked weights of samples with these data, or None for equal weights.

    Under tracing, where they cannot raise, illegal weights give NaN.
    """
    if weights is None:
        return None
    require_flat(scores, weights, "weights")
    column, vector = sample_vector(scores, weights, "weights")
    if not vector or is_complex(column):
        msg = f"`weights` must be real, one for each row of `{scores.name}`."
        raise ValueError(msg)
    xp = namespace(column)
    column = astype(column, result_name(dtype_name(column.dtype)))
    every = xp.all(xp.isfinite(column) & (column >= 0), axis=-2, keepdims=True)
    legal = every & xp.any(column > 0, axis=-2, keepdims=True)
    checks.require(
        lambda: legal,
        lambda: ValueError("`weights` must be finite and not negative, and not all zero."),
    )
    if differentiable(column):
        return _smooth(column, legal, dtype, data)
    p = _probabilities(column, legal, dtype)
    least = number_if_free(xp.min(p))
    return Weighting(p, xp.sqrt(p), None if least is not None and least > 0 else p != 0, False)


def require_flat(scores: ScoreMatrix, x: Any, name: str) -> None:
    """Raise if one number for each row shows that rows of log-derivatives have several axes."""
    if scores.batch and tuple(getattr(x, "shape", ())) == scores.batch[:1]:
        n, *sizes = shape = (*scores.batch, scores.given_rows, scores.columns)
        msg = (
            f"`{scores.name}` has shape {shape} but `{name}` has shape ({n},); reshape "
            f"`{scores.name}` to ({n}, {math.prod(sizes)}), one row for each sample."
        )
        raise ValueError(msg)


def _probabilities(column: Array, legal: Array, dtype: str) -> Array:
    """Return p, or NaN where weights are not legal.

    Weights are first brought near 1 by a power of 2, as compiled code multiplies by reciprocals,
    which may underflow. What is divided by is a constant, on which p does not depend, and NaN is
    one instead of 0 / 0, as gradients of what is not chosen must be finite.
    """
    xp = namespace(column)
    largest = detached(xp.max(column, axis=-2, keepdims=True))
    far = 2.0**64 if dtype_name(column.dtype) == "float32" else 2.0**512
    one = xp.ones_like(largest)
    scale = xp.where(largest > far / 16, one / far, xp.where(largest < 16 / far, one * far, one))
    largest = largest * scale * nan_unless(legal, largest)
    p = astype(column * scale / largest, dtype)
    return p / xp.sum(p, axis=-2, keepdims=True)


def _smooth(column: Array, legal: Array, dtype: str, data: tuple[Array, ...]) -> Weighting:
    """Return weights whose derivatives are those of the smooth function of p."""
    xp = namespace(column)
    kept = _usable(_probabilities(detached(column), legal, dtype), data)
    p = _probabilities(xp.where(kept, column, xp.zeros_like(column)), legal, dtype)
    zero = xp.zeros_like(p)
    q = xp.sqrt(p + xp.where(p == 0, zero + _ROOT**2, zero))
    return Weighting(p, xp.where(kept, q, zero), kept, True)


def _usable(p: Array, data: tuple[Array, ...]) -> Array:
    """Tell which samples have p > 0, or data that are finite and not far larger than others."""
    return reduce(and_, (_near(p, detached(x)) for x in data)) | (p != 0)


def _near(p: Array, x: AnyArray) -> Array:
    xp = namespace(x)

    def of_columns(x: Array) -> tuple[Array, None]:
        return xp.max(xp.abs(x), axis=-1, keepdims=True), None

    dtype = result_name(dtype_name(x.dtype))
    copied = is_complex(x)  # XLA stores |x|
    size, _ = pass_over_columns(x, of_columns, dtype=dtype, copied=copied, largest=True)
    size = astype(size, real_name(dtype_name(size.dtype)))
    zero = xp.zeros_like(size)
    largest = xp.max(xp.where(p != 0, size, zero), axis=-2, keepdims=True)
    limit = xp.where(largest > 0, largest, xp.full_like(largest, xp.inf))
    return xp.isfinite(size) & (size / _FARTHEST <= limit)

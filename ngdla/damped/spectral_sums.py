"""Sums over the eigenvalues of the small damped matrix: log-determinant, effective dimension."""

from __future__ import annotations

from typing import Any

from ngdla._backend.dtypes import is_complex
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import trace
from ngdla._backend.shapes import expanded

from .inverses import GramMatrix, Inverse, Spectrum, Undamped

__all__ = ["effective_dimension", "log_determinant"]


def log_determinant(inverse: Inverse, undamped: Undamped, damping: Array, lift: Any) -> Array:
    """Return log det(K + damping), (...), for K without its `lift` along p null vectors.

    `lift` is a pair (lift, p), or None.
    """
    xp = namespace(damping)
    if isinstance(undamped, Spectrum):
        value = xp.sum(xp.log(undamped.values + expanded(damping, 1)), axis=-1)
    else:
        diagonal = xp.linalg.diagonal(inverse[0])
        diagonal = xp.real(diagonal) if is_complex(diagonal) else diagonal
        value = 2 * xp.sum(xp.log(diagonal), axis=-1)
    if lift is not None:
        height, count = lift
        value = value - count * xp.log((height + damping) / damping)
    return value


def effective_dimension(inverse: Inverse, undamped: Undamped, damping: Array, lift: Any) -> Array:
    """Return tr K (K + damping)^-1, (...), for K without its lift, without cancellation."""
    if isinstance(undamped, GramMatrix):
        value = trace(inverse(undamped.K))
    else:
        values = undamped.values
        value = namespace(values).sum(values / (values + expanded(damping, 1)), axis=-1)
    if lift is not None:
        height, count = lift
        value = value - count * height / (height + damping)
    return value

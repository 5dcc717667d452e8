"""Null vectors N of centred scores, S^H N = 0: lifted, left out, and tested.

They make the Gram matrix of n < m exactly singular. It is factored with N N^H times tr G / n added
(lifted), which changes no solution as residuals have no part along N, and sums over its
eigenvalues leave the lifted ones out.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from ngdla._backend.dtypes import astype, dtype_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, rmatvec, trace
from ngdla._backend.shapes import expanded
from ngdla.score_matrices.score_matrix import ScoreMatrix

__all__ = [
    "are_null",
    "leak_of",
    "lift",
    "lift_height",
    "lifted_dimension",
    "lifted_log_determinant",
    "null_error",
    "without_null",
]


def without_null(r: Array, null: Array | None) -> Array:
    """Return r - N N^H r."""
    return r if null is None else r - null @ rmatvec(null, r)


def lift_height(squared_norm: Array, scores: ScoreMatrix) -> Array:
    """Return tr G / n, (...): the mean eigenvalue, to which those of null vectors are lifted."""
    return squared_norm / scores.rows


def lift(K: Array, null: Array, height: Array) -> Array:
    """Return K + height N N^H."""
    N = astype(null, dtype_name(K.dtype))
    return K + expanded(height, 2) * namespace(K).matmul(N, adjoint(N))


def lifted_log_determinant(null: Array, height: Array, damping: Any) -> Array:
    """Return what lifting adds to log det(G + damping), (...)."""
    return null.shape[-1] * namespace(height).log((height + damping) / damping)


def lifted_dimension(null: Array, height: Array, damping: Any) -> Array:
    """Return what lifting adds to tr G (G + damping)^-1, (...)."""
    return null.shape[-1] * height / (height + damping)


# ------------------------------------------------------------------------------- are they?


def leak_of(null: Array, scores: ScoreMatrix, G: Array | None) -> Array:
    """Return |S^H N|_F by a pass over S, or from G = S S^H, which knows its square to u |S|^2."""
    xp = namespace(null)
    if G is not None:
        N = astype(null, dtype_name(G.dtype))
        squares = rmatvec(N, xp.matmul(G, N))
    else:
        squares = reduce(add, (rmatvec(piece, piece) for piece in scores.rmatvec(null)))
        squares = scores.across_columns.merged(squares, add)
    squares = trace(squares)
    return xp.sqrt(xp.where(squares > 0, squares, xp.zeros_like(squares)))


# |S^H N| over sqrt(n) u |S|: centring leaves more of it where the mean is larger than the rest.
_LARGEST_LEAK = 1e4


def are_null(null: Array, leak: Array, squared_norm: Array, dtype: str) -> Array:
    """Tell whether N^H N = 1, and |S^H N| is at the level of roundings in `dtype`, (...)."""
    xp, n = namespace(leak), null.shape[-2]
    u = max(unit_roundoff(dtype), unit_roundoff(dtype_name(null.dtype)))
    identity = rmatvec(null, null)
    skew = xp.abs(identity - xp.tril(xp.triu(xp.ones_like(xp.abs(identity)))))
    orthonormal = xp.all(skew <= 8 * n * u, axis=(-2, -1))
    size = xp.sqrt(squared_norm)
    # a NaN in S is reported as what it is: it must not fail here
    return orthonormal & ~(leak > _LARGEST_LEAK * n**0.5 * u * size)


def null_error() -> Exception:
    """Return the error of vectors that are not null vectors of S."""
    return ValueError(
        "`null` must have orthonormal columns N with S^H N = 0, such as sqrt(p) for scores "
        "centred with probabilities p; centre the scores, or leave `null` out."
    )

"""How much of a vector of parameters a damped fit reproduces.

With W = S D^-1 S^H + damping and A = S^H S + damping D, both sides of n = m give

    (S phi)^H W^-1 (S phi) = phi^H D x,    x = D^-1 S^H W^-1 S phi = A^-1 S^H S phi,

where x is the damped fit of S x = S phi.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.dtypes import astype, is_complex, real_name
from ngdla._backend.namespace import Array, namespace
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .problem import DampedProblem
from .right_hand_side import Layout, LeastSquares, Solve, parameter_vector

__all__ = ["Projection", "overlap_of"]


class Projection(NamedTuple):
    """The right-hand side f = S phi."""

    given: Solve  # phi

    @classmethod
    def checked(cls, scores: ScoreMatrix, phi: Any) -> Projection:
        """Check the caller's phi."""
        return cls(Solve(*parameter_vector(scores, phi, "phi")))

    def named(self) -> tuple[tuple[str, Vector], ...]:
        """Return phi with its name."""
        return (("phi", self.given.v),)

    def layout(self, scores: ScoreMatrix) -> Layout:
        """Return how to work and how to hand back the fit."""
        return self.given.layout(scores)

    def to_columns(self, scores: ScoreMatrix, layout: Layout) -> LeastSquares:
        """Return f, (..., n, k), in the layout of the work."""
        phi = scores.unscaled(tuple(map(layout.to_columns, self.given.v)))
        return LeastSquares(scores.matvec(phi), None, self.given.vector)


def overlap_of(projection: Projection, problem: DampedProblem, fit: Any) -> Array:
    """Return phi^H D x / |phi|^2, (...) or (..., k), for the fit x; 0 for phi = 0.

    It lies between 0 and |phi|_D^2 / |phi|^2.
    """
    layout = projection.layout(problem.scores)
    x, _ = parameter_vector(problem.scores, fit, "x")
    phi = tuple(astype(piece, layout.dtype) for piece in projection.given.v)
    length = layout.column_norms(phi)
    xp = namespace(length)
    unit = xp.expand_dims(xp.where(length > 0, length, xp.ones_like(length)), axis=-2)
    phi, x = (tuple(piece / unit for piece in y) for y in (phi, x))
    weights = problem.metric or (1.0,) * len(phi)
    merged = layout.ranks.merged
    value = merged(reduce(add, map(_inner, phi, x, weights)), add)
    most = merged(reduce(add, map(_inner, phi, phi, weights)), add)
    value = xp.minimum(xp.maximum(value, xp.zeros_like(value)), most)
    return astype(layout.without_k(value), real_name(layout.dtype))


def _inner(y: Array, x: Array, weights: Any) -> Array:
    """Return Re y^H D x, (..., k)."""
    xp = namespace(x)
    if is_complex(y):
        products = xp.real(y) * xp.real(x) + xp.imag(y) * xp.imag(x)
    else:
        products = y * x
    return xp.sum(weights * products, axis=-2)

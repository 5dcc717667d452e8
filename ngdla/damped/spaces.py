"""The two spaces in which a damped problem is refined, by one loop: residual, solve, move.

With n < m, SPRING and minSR work in the space of samples, where x = start + S^H y with
W y = f - S start. With n >= m the work is done in the space of parameters, with
A x = S^H f + damping x0.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.namespace import Array
from ngdla._backend.shapes import expanded, joined
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .methods import FirstPass
from .null_vectors import without_null
from .precision import Plan
from .right_hand_side import RightHandSide, column_norms

__all__ = ["Iterate", "ParameterSpace", "SampleSpace", "Space", "System"]


class System(NamedTuple):
    """A damped problem with its right-hand side, in the dtype of the work and as D^1/2 x."""

    scores: ScoreMatrix
    damping: Any  # Python float or array (...)
    squared_norm: Array  # tr S S^H, (...)
    null: Array | None  # (..., n, p): orthonormal, S^H N = 0
    leak: Array | None  # |S^H N|_F as measured, (...)
    rhs: RightHandSide
    accuracy: float  # unit roundoff of the result
    u: float  # unit roundoff of the work
    plan: Plan  # which says how many conjugate gradients to take where nothing can be read


class Iterate(NamedTuple):
    """Where the iteration stands: in the sample space x = start + S^H sum w."""

    x: Vector | None
    corrections: tuple[Array, ...] = ()  # the w of all sweeps
    Sx: Array | None = None  # S x, where it came with x
    S_start: Array | None = None  # S times what the iteration started from
    gradient: Vector | None = None  # S^H (f - S x), where it came with something else


class SampleSpace(NamedTuple):
    """x = start + S^H y with W y = f - S start, for n < m."""

    system: System

    def begin(self, first: FirstPass) -> Iterate:
        """Return the iterate before anything is solved."""
        return Iterate(self.system.rhs.start(self.system.damping), Sx=first.S_start)

    def residual(self, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return r = f - S x - damping y for y = the sum of the corrections.

        The part along null vectors is left out: as S^H N = 0 it does not reach x, while W^-1 would
        blow it up.
        """
        r, iterate = self.whole_residual(iterate)
        null = self.system.null
        return (r if null is None else without_null(r, null)), iterate

    def whole_residual(self, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return r with its part along null vectors."""
        system, Sx = self.system, iterate.Sx
        if Sx is None and iterate.x is not None:
            Sx = system.scores.matvec(iterate.x)
        r = system.rhs.misfit(Sx)
        x, corrections, _, S_start, _ = iterate
        if not corrections:
            return r, Iterate(x, corrections, Sx, Sx)
        r = r - expanded(system.damping, 2) * reduce(add, corrections)
        return r, Iterate(x, corrections, Sx, S_start)

    def advance(self, iterate: Iterate, w: Array, *, product: bool) -> Iterate:
        """Return x + S^H w, and if `product` S times it."""
        x, Sx = self.system.scores.samples.add_rmatvec(iterate.x, w, product=product)
        return Iterate(x, (*iterate.corrections, w), Sx, iterate.S_start)

    def product(self, p: Array) -> Array:
        """Return W p = S S^H p + damping p."""
        _, SSp = self.system.scores.samples.add_rmatvec(None, p, product=True)
        assert SSp is not None
        return SSp + expanded(self.system.damping, 2) * p

    def error(self, size: Array) -> Array:
        """Return what |x| errs by at most for a residual of this size, |S^H W^-1| |r|."""
        _, damping = _sizes(self.system)
        return size / (2 * damping**0.5)

    def target(self, iterate: Iterate) -> Array:
        """Return the |r| that moves x by a rounding."""
        system = self.system
        t, damping = _sizes(system)
        assert iterate.x is not None
        length = column_norms(iterate.x)
        return 2 * damping**0.5 * system.accuracy * length + system.u * t * length


class ParameterSpace(NamedTuple):
    """A x = S^H f + damping x0, for n >= m."""

    system: System

    def begin(self, first: FirstPass) -> Iterate:
        """Return the iterate before anything is solved."""
        return Iterate(self.system.rhs.x0, Sx=first.S_start, gradient=first.gradient)

    def residual(self, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return r = S^H (f - S x) + damping (x0 - x), where v stands for damping x0."""
        pieces, iterate = self.gradient(iterate)
        return joined(list(pieces), axis=-2), iterate

    def gradient(self, iterate: Iterate) -> tuple[Vector, Iterate]:
        """Return r in pieces."""
        system, x, g = self.system, iterate.x, iterate.gradient
        if g is None:
            g, Sx = system.rhs.data_gradient(system.scores, x)
            iterate = iterate._replace(gradient=g, Sx=Sx)
        if iterate.S_start is None and x is system.rhs.x0:
            iterate = iterate._replace(S_start=iterate.Sx)
        return system.rhs.gradient(g, x, expanded(system.damping, 2)), iterate

    def advance(self, iterate: Iterate, w: Array, *, product: bool) -> Iterate:
        """Return x + w."""
        x = self.system.scores.split(w)
        if iterate.x is not None:
            x = tuple(a + b for a, b in zip(iterate.x, x))
        return iterate._replace(x=x, Sx=None, gradient=None)

    def product(self, p: Array) -> Array:
        """Return A p = S^H S p + damping p."""
        negative, _ = self.system.scores.parameters.gradient(None, self.system.scores.split(p))
        return expanded(self.system.damping, 2) * p - joined(list(negative), axis=-2)

    def error(self, size: Array) -> Array:
        """Return what |x| errs by at most for a residual of this size, |A^-1| |r|."""
        return size / _sizes(self.system)[1]

    def target(self, iterate: Iterate) -> Array:
        """Return the |r| that moves x by a rounding."""
        system = self.system
        t, damping = _sizes(system)
        assert iterate.x is not None
        assert iterate.Sx is not None
        rounding = system.u * t * column_norms((iterate.Sx,))
        return damping * system.accuracy * column_norms(iterate.x) + rounding


Space = SampleSpace | ParameterSpace


def _sizes(system: System) -> tuple[Array, Any]:
    """Return |S|_F and the damping, each (..., 1) or a number."""
    return expanded(system.squared_norm, 1) ** 0.5, expanded(system.damping, 1)

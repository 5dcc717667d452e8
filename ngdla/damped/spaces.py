"""The two spaces in which a damped problem is refined, by one loop: residual, solve, move.

With n < m, SPRING and minSR work in the space of samples, where x = start + S^H y with
W y = f - S start. With n >= m the work is done in the space of parameters, with
A x = S^H f + damping x0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from operator import add, sub
from typing import Any, NamedTuple

from ngdla._backend.dtypes import has_double, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.shapes import expanded, joined
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .inverses import Inverse, SpectralInverse
from .methods import FirstPass
from .null_vectors import without_null
from .precision import LIFT, NATIVE, Plan
from .right_hand_side import Layout, LeastSquares, RightHandSide
from .roundings import rounding

__all__ = ["Iterate", "ParameterSpace", "SampleSpace", "Space", "System"]


class System(NamedTuple):
    """A damped problem with its right-hand side, in the dtype of the work and as D^1/2 x."""

    scores: ScoreMatrix
    damping: Any  # Python float or array (...)
    squared_norm: Array  # tr S S^H, (...)
    null: Array | None  # (..., n, p): orthonormal, S^H N = 0
    leak: Array | None  # |S^H N|_F as measured, (...)
    rhs: RightHandSide  # over `unit`
    start: Vector | None  # from which the iteration starts, None for 0
    unit: Array | None  # (..., 1, k); None for 1
    careful: bool  # whether numbers may be of any size
    accuracy: float  # unit roundoff of the result
    u: float  # unit roundoff of the work
    plan: Plan  # which says how many conjugate gradients to take where nothing can be read
    layout: Layout
    judged: bool  # whether sizes of corrections are wanted
    smallest: Callable[[], Any]  # about the smallest eigenvalue, no more than that, (..., 1)
    inverse_norm: Callable[[Array], Array]  # 1 / damping, (...), less where a flag is not set

    @property
    def bounds(self) -> bool:
        """Tell whether errors are to be bounded on the way."""
        return self.judged and self.careful

    def size(self, x: Array | Vector) -> Array:
        """Return |x| of each right-hand side, (..., k), or |x|^2 where that is quicker and safe.

        It is safe where what is far from 1 is looked at again, in units of its own.
        """
        return self.layout.lengths(x) if self.careful else self.layout.squares(x)

    def sizes(self, x: Vector, y: Vector | None) -> tuple[Array, Array]:
        """Return |x| and |x - y|, or their squares, as `size` does; y may be None for 0."""
        if y is None:
            size = self.size(x)
            return size, size
        if self.careful:
            return self.layout.lengths(x), self.layout.lengths(tuple(map(sub, x, y)))
        return self.layout.squares_and_distances(x, y)


class Iterate(NamedTuple):
    """Where the iteration stands: in the sample space x = start + S^H sum w."""

    x: Vector | None
    corrections: tuple[Array, ...] = ()  # the w of all sweeps
    Sx: Array | None = None  # S x, where it came with x
    S_start: Array | None = None  # S times what the iteration started from
    gradient: Vector | None = None  # S^H (f - S x), where it came with something else
    moves: tuple[Array, ...] = ()  # sizes of corrections, (..., k): of sweeps, or of all if bounded
    bound: Array | None = None  # |x - solution| at most, (..., k), before the last correction
    left: Array | None = None  # |x - solution|, (..., k), where a residual tells
    length: Array | None = None  # the size of x, (..., k), where it came with a move


class _Space(ABC):
    """What both spaces have in common."""

    def __init__(self, system: System) -> None:
        self.system = system

    def rounding(self, length: int) -> Array:
        """Return the error of a product with S over |S|_F |x|, (..., 1), where it is to be counted.

        It is not with dampings far above the roundings of a Gram matrix.
        """
        (t, damping), u = _sizes(self.system), self.system.u
        counted = namespace(t).ones_like(t) * rounding(u, length, t)
        return namespace(t).where(damping >= NATIVE * u * t * t, 0 * t, counted)

    def moved(self, before: Iterate, after: Iterate) -> Iterate:
        """Return `after` with how far it is from `before`."""
        x, corrections, Sx, S_start, gradient, moves, bound, left, _ = after
        assert x is not None
        length, move = self.system.sizes(x, before.x)
        return Iterate(x, corrections, Sx, S_start, gradient, (*moves, move), bound, left, length)

    def bounded(self, iterate: Iterate, size: Array) -> Iterate:
        """Return the iterate with what its error is at most for a residual of this size."""
        smallest = expanded(self.system.damping, 1)
        error = self.error(size, iterate, smallest)
        return iterate._replace(bound=self.system.layout.merged(error, namespace(error).hypot))

    def with_error(self, iterate: Iterate, size: Array, seen: Iterate | None = None) -> Iterate:
        """Return the iterate with what its error is at most for a residual of this size.

        That is the expected one where the last that was seen is of another iterate, before a step
        that must be short.
        """
        if not self.system.judged:
            return iterate
        at = iterate if seen is None else seen
        error = self.error(size, at, self.system.smallest())
        if seen is not None:
            assert iterate.x is not None
            assert seen.x is not None
            move = self.system.layout.column_norms(tuple(map(sub, iterate.x, seen.x)))
            error = namespace(error).maximum(error, move)
        return self._with_left(iterate, error)

    def with_rest(self, iterate: Iterate, energy: Array, size: Array) -> Iterate:
        """Return the iterate with its error for a rest r of a residual.

        The energy is r^H P^-1 r, (..., k), where P is about the matrix. It tells too little where
        r is along eigenvectors that P does not know; where double precision could do no better,
        the worst is assumed of a rest of this size.
        """
        if not self.system.judged:
            return iterate
        if has_double(self.system.squared_norm):
            return self._with_left(iterate, self.energy_error(energy))
        smallest = expanded(self.system.damping, 1)
        return self._with_left(iterate, self.error(size, iterate, smallest))

    def _with_left(self, iterate: Iterate, error: Array) -> Iterate:
        hypot = namespace(error).hypot
        return iterate._replace(left=self.system.layout.merged(error, hypot))

    @abstractmethod
    def energy_error(self, energy: Array) -> Array:
        """Return what x errs by, about, for r^H P^-1 r."""

    @abstractmethod
    def error(self, size: Array, iterate: Iterate, smallest: Any) -> Array:
        """Return what x errs by at most for a residual of this size and its roundings."""


class SampleSpace(_Space):
    """x = start + S^H y with W y = f - S start, for n < m."""

    def begin(self, first: FirstPass) -> Iterate:
        """Return the iterate before anything is solved."""
        return Iterate(self.system.start, Sx=first.S_start)

    def correct(self, inverse: Inverse, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return w = W^-1 r."""
        r, iterate = self.residual(iterate)
        if self.system.bounds and iterate.corrections:
            iterate = self.bounded(iterate, self.system.layout.column_norms(r))
        ours = iterate.Sx is not None  # no f of the caller
        return (getattr(inverse, "of_used_up", inverse) if ours else inverse)(r), iterate

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
        x, corrections, _, S_start, _, moves, bound, left, _ = iterate
        if not corrections:
            return system.rhs.misfit(Sx), Iterate(x, corrections, Sx, Sx)
        assert Sx is not None
        r = system.rhs.residual(Sx, expanded(system.damping, 2), reduce(add, corrections))
        return r, Iterate(x, corrections, Sx, S_start, None, moves, bound, left)

    def advance(self, iterate: Iterate, w: Array, *, product: bool) -> Iterate:
        """Return x + S^H w, and if `product` S times it."""
        x, Sx = self.system.scores.samples.add_rmatvec(iterate.x, w, product=product)
        _, corrections, _, S_start, _, moves, bound, left, _ = iterate
        return Iterate(x, (*corrections, w), Sx, S_start, None, moves, bound, left)

    def product(self, p: Array) -> Array:
        """Return W p = S S^H p + damping p."""
        _, SSp = self.system.scores.samples.add_rmatvec(None, p, product=True)
        assert SSp is not None
        return SSp + expanded(self.system.damping, 2) * p

    def error(self, size: Array, iterate: Iterate, smallest: Any) -> Array:
        """Return what x errs by at most for a residual of this size, |S^H W^-1| (|r| + roundings).

        `smallest` is no more than the smallest eigenvalue of W.
        """
        t, damping = _sizes(self.system)
        assert iterate.x is not None
        rounding_r = self.rounding(self.system.scores.columns) * t
        size = size + rounding_r * self.system.layout.column_norms(iterate.x)
        a, b = size / (2 * damping**0.5), size / smallest**0.5
        return namespace(size).minimum(a, b)

    def energy_error(self, energy: Array) -> Array:
        """Return |S^H P^-1 r| for r^H P^-1 r, where P is about W."""
        return namespace(energy).sqrt(energy)

    def target(self, iterate: Iterate) -> Array:
        """Return the |r| that moves x by a rounding."""
        system = self.system
        t, damping = _sizes(system)
        assert iterate.x is not None
        length = system.layout.column_norms(iterate.x)
        return 2 * damping**0.5 * system.accuracy * length + system.u * t * length


class ParameterSpace(_Space):
    """A x = S^H f + damping x0, for n >= m."""

    def begin(self, first: FirstPass) -> Iterate:
        """Return the iterate before anything is solved."""
        return Iterate(self.system.start, Sx=first.S_start, gradient=first.gradient)

    def correct(self, inverse: Inverse, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return w = A^-1 r, for least squares without forming r where the inverse can.

        S^H (f - S x) errs by a rounding of |S| |f - S x|, which A^-1 divides by the damping.
        """
        known = isinstance(self.system.rhs, LeastSquares)
        if known and isinstance(inverse, SpectralInverse) and inverse.back is not None:
            misfit, iterate = self.misfit(iterate)
            return inverse.fit(misfit, self._moved(iterate), self.system.damping), iterate
        r, iterate = self.residual(iterate)
        if self.system.bounds and iterate.Sx is not None:
            iterate = self.bounded(iterate, self.system.layout.column_norms(r))
        return inverse(r), iterate

    def _moved(self, iterate: Iterate) -> Array | None:
        """Return x - x0, (..., m, k), None for 0."""
        x, x0 = iterate.x, self.system.rhs.x0
        if x is None or x is x0:
            return None
        return joined(list(x if x0 is None else map(sub, x, x0)), axis=-2)

    def misfit(self, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return f - S x."""
        if iterate.Sx is None and iterate.x is not None:
            iterate = self._with_product(iterate, self.system.scores.matvec(iterate.x))
        return self.system.rhs.misfit(iterate.Sx), iterate

    def _with_product(self, iterate: Iterate, Sx: Array | None) -> Iterate:
        started = iterate.S_start is None and iterate.x is self.system.rhs.x0
        return iterate._replace(Sx=Sx, S_start=Sx if started else iterate.S_start)

    def residual(self, iterate: Iterate) -> tuple[Array, Iterate]:
        """Return r = S^H (f - S x) + damping (x0 - x), where v stands for damping x0."""
        pieces, iterate = self.gradient(iterate)
        return joined(list(pieces), axis=-2), iterate

    def gradient(self, iterate: Iterate) -> tuple[Vector, Iterate]:
        """Return r in pieces."""
        system, x, g = self.system, iterate.x, iterate.gradient
        Sx = iterate.Sx
        if g is None and Sx is not None and x is not None:
            g = system.scores.rmatvec(system.rhs.misfit(Sx))
        elif g is None:
            g, Sx = system.rhs.data_gradient(system.scores, x)
        iterate = self._with_product(iterate._replace(gradient=g), Sx)
        return system.rhs.gradient(g, x, expanded(system.damping, 2)), iterate

    def advance(self, iterate: Iterate, w: Array, *, product: bool) -> Iterate:
        """Return x + w."""
        x = self.system.scores.split(w)
        if iterate.x is not None:
            x = tuple(a + b for a, b in zip(iterate.x, x))
        return iterate._replace(x=x, Sx=None, gradient=None, length=None)

    def product(self, p: Array) -> Array:
        """Return A p = S^H S p + damping p."""
        negative, _ = self.system.scores.parameters.gradient(None, self.system.scores.split(p))
        return expanded(self.system.damping, 2) * p - joined(list(negative), axis=-2)

    def error(self, size: Array, iterate: Iterate, smallest: Any) -> Array:
        """Return what x errs by at most for a residual of this size, |A^-1| (|r| + roundings).

        `smallest` is no more than the smallest eigenvalue of A; an error of S x reaches x by
        |A^-1 S^H| <= smallest^-1/2.
        """
        t, _ = _sizes(self.system)
        assert iterate.x is not None
        misfit = self.system.rhs.misfit(iterate.Sx)
        length = max(self.system.scores.rows, self.system.scores.columns)
        by_length = self.rounding(length) * t
        norms = self.system.layout.column_norms
        of_product = by_length * norms(iterate.x) / smallest**0.5
        return (size + by_length * norms(misfit)) / smallest + of_product

    def energy_error(self, energy: Array) -> Array:
        """Return |P^-1 r| at most for r^H P^-1 r, where P is about A and not less than damping."""
        (t, least), plan = _sizes(self.system), self.system.plan
        xp = namespace(t)
        if plan.lifted:
            lift = LIFT * unit_roundoff(plan.factor) * t * t
            least = xp.where(lift > least, lift, least)
        return xp.sqrt(energy / least)

    def target(self, iterate: Iterate) -> Array:
        """Return the |r| that moves x by a rounding."""
        system = self.system
        t, damping = _sizes(system)
        assert iterate.x is not None
        assert iterate.Sx is not None
        norms = system.layout.column_norms
        rounding = system.u * t * norms((iterate.Sx,))
        return damping * system.accuracy * norms(iterate.x) + rounding


Space = SampleSpace | ParameterSpace


def _sizes(system: System) -> tuple[Array, Any]:
    """Return |S|_F and the damping, each (..., 1) or a number."""
    return expanded(system.squared_norm, 1) ** 0.5, expanded(system.damping, 1)

"""Solves with an approximate inverse of the small damped matrix, and their refinement.

With n < m the work is done in the sample space, with W = S S^H + damping (n x n). Both problems,

    lstsq:  min |S x - f|^2 + damping |x - x0|^2       solve:  (S^H S + damping) x = v,

are  x = x0 + S^H y  with  W y = f - S x0,  where a solve has f = 0 and x0 = v / damping. A sweep is

    r = f - S x - damping y,    w = W^-1 r,    x <- x + S^H w,    y <- y + w,

one pass over S. Because the residual is formed with the current x, whose S x is small where S x0
is large, a sweep also repairs the cancellation in (v - S^H W^-1 S v) / damping. With n >= m the
work is done in the parameter space, with A = S^H S + damping (m x m), and a sweep is x <- x +
A^-1 r for the gradient r = S^H (f - S x) + damping (x0 - x), again one pass.

Where the inverse at hand is that of a matrix formed in lower precision, or of one with a larger
damping, sweeps contract slowly or not at all: w then comes from conjugate gradients on W or A,
preconditioned by that inverse.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ngdla._backend.namespace import Array, namespace
from ngdla._backend.ranks import Alone
from ngdla._backend.tracing import choose, chooses, number

from .conjugate_gradients import conjugate_gradients, energy
from .inverses import Inverse
from .right_hand_side import LeastSquares, column_norms
from .spaces import Iterate, Space

__all__ = ["sweep", "sweep_until_converged"]

_WORTHWHILE_SWEEPS = 4  # sweeps; where more would be needed, conjugate gradients are the faster way
_MOST_SWEEPS = 8
_MOST_STEPS = 100
_SLOW = 0.5  # contraction, from which plain sweeps are not worth it


def sweep(
    space: Space,
    inverse: Inverse,
    iterate: Iterate,
    sweeps: int,
    *,
    last_product: bool,
    accelerate: Array | bool = False,
) -> Iterate:
    """Return the iterate after one solve and `sweeps` sweeps.

    `accelerate`, also a 0-d flag on the device, lets the first sweep use conjugate gradients.
    """
    system = space.system
    for i in range(1 + sweeps):
        before = iterate
        if accelerate is not False and i:
            w, iterate = _accelerated(space, inverse, iterate, accelerate if i == 1 else False)
        else:
            w, iterate = space.correct(inverse, iterate)
        iterate = space.advance(iterate, w, product=last_product or i < sweeps)
        if system.judged and (i or not sweeps or system.bounds):
            iterate = space.moved(before, iterate)
    return iterate


def _accelerated(
    space: Space, inverse: Inverse, iterate: Iterate, flag: Array | bool
) -> tuple[Array, Iterate]:
    """Return W^-1 r or A^-1 r by a fixed number of steps, if `flag` is set.

    The iterate tells what is left of its error: as the last residual shows it.
    """
    system, plan = space.system, space.system.plan
    r, iterate = space.residual(iterate)
    xp = namespace(r)

    def steps() -> tuple[Array, Array, Array]:
        return conjugate_gradients(
            space.product,
            inverse,
            r,
            steps=plan.steps if chooses(system.squared_norm) else plan.blind_steps,
            target=xp.expand_dims(space.target(iterate), axis=-2),
            early=False,
        )

    def once() -> tuple[Array, Array, Array]:
        w = inverse(r)
        return w, energy(r, w), namespace(r).linalg.vector_norm(r, axis=-2, keepdims=True)

    if isinstance(flag, bool):
        w, *left = steps() if flag else once()
    else:
        w, *left = choose(flag, steps, once)
    left = [xp.squeeze(x, axis=-2) for x in left]
    return w, space.with_rest(iterate, *left)


def sweep_until_converged(
    space: Space, inverse: Inverse, iterate: Iterate, sweeps: int, *, last_product: bool
) -> Iterate:
    """Return the iterate after as many sweeps as it needs, at least one where `sweeps` > 0.

    Where the contraction that is seen asks for more than a few, w comes from conjugate gradients.
    So it does in the first sweep where values cannot be read; `sweeps` is then their number. What
    is left of the error is estimated from the last residual, which every way out comes by: it is
    formed, or where that would be one more pass, that before the last sweep tells.
    """
    r, iterate = space.residual(iterate)
    # a solve starts from v / damping, whose S x is far larger than any later residual
    size = column_norms((r,)) if isinstance(space.system.rhs, LeastSquares) else None
    pace = _Pace(size, space.system.scores.ranks)
    before, careful = iterate, space.system.bounds
    iterate = space.advance(before, inverse(r), product=True)
    if careful:
        iterate = space.moved(before, iterate)
    while not pace.next_is_last:
        r, iterate = space.residual(iterate)
        size = column_norms((r,))
        pace = pace.at(size, space.target(iterate))
        if pace.distance is None:
            return _continued(space, inverse, iterate, sweeps, last_product=last_product)
        if pace.distance <= 1:
            return space.with_error(iterate, size)
        if pace.slow:
            target = namespace(r).expand_dims(space.target(iterate), axis=-2)
            w, _, _ = conjugate_gradients(
                space.product,
                inverse,
                r,
                steps=_MOST_STEPS,
                target=target,
                ranks=space.system.scores.ranks,
            )
        else:
            w = inverse(r)
        product = last_product or careful or not pace.next_is_last
        before, iterate = iterate, space.advance(iterate, w, product=product)
    if iterate.Sx is not None:
        r, iterate = space.residual(iterate)
        return space.with_error(iterate, column_norms((r,)))
    return space.with_error(iterate, pace.expected, seen=before)


class _Pace(NamedTuple):
    """How far |r| is from its target, and how much of it a sweep leaves."""

    size: Array | None  # |r| of each column before the last sweep
    ranks: Alone  # which go at the same pace
    distance: float | None = math.inf  # the largest |r| / target; None where it cannot be read
    contraction: float = 0.0
    sweeps: int = 0
    slow: bool = False
    tried: int = 0  # sweeps by conjugate gradients

    def at(self, size: Array, target: Array) -> _Pace:
        """Return the pace at the next residual."""
        distance, contraction = number(_largest(size, target)), 0.0
        if self.size is not None:
            contraction = number(_largest(size, self.size, size > target)) or 0.0
        if distance is not None:
            distance, contraction = map(self.ranks.agreed, (distance, contraction))
        slow = self.slow or (self.sweeps > 0 and contraction > _SLOW)
        slow = slow or (distance is not None and distance * contraction**_WORTHWHILE_SWEEPS > 1)
        tried = self.tried + int(slow)
        return _Pace(size, self.ranks, distance, contraction, self.sweeps + 1, slow, tried)

    @property
    def expected(self) -> Array:
        """Return |r| of each column after the sweep that follows."""
        assert self.size is not None
        return self.size if self.slow else self.size * self.contraction

    @property
    def gives_up(self) -> bool:
        """Tell whether the sweep that follows is the last one for want of progress."""
        if not self.slow:
            return False
        return self.sweeps >= _MOST_SWEEPS or (self.tried > 2 and self.contraction > _SLOW)

    @property
    def next_is_last(self) -> bool:
        """Tell whether the sweep that follows this residual is the last one."""
        if self.sweeps == 0:
            return False
        if self.distance is None or math.isnan(self.distance):  # no number tells more
            return True
        if self.slow:
            return self.gives_up
        # the first solve contracts more than sweeps do
        return self.sweeps > 1 and self.distance * self.contraction <= 0.1


def _continued(
    space: Space, inverse: Inverse, iterate: Iterate, sweeps: int, *, last_product: bool
) -> Iterate:
    """Return the iterate after conjugate gradients with a fixed number of steps, and sweeps."""
    for i in range(sweeps):
        w, iterate = _accelerated(space, inverse, iterate, i == 0)
        iterate = space.advance(iterate, w, product=last_product or i < sweeps - 1)
    return iterate


def _largest(size: Array, other: Array, counted: Array | None = None) -> Array:
    """Return the largest size / other of the columns that are counted and not 0."""
    xp = namespace(size)
    counted = size > 0 if counted is None else counted
    zero, one = xp.zeros_like(size), xp.ones_like(size)
    return xp.max(xp.where(counted, size, zero) / xp.where(counted, other, one))

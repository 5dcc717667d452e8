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
from functools import partial
from typing import NamedTuple

from ngdla._backend.namespace import Array, namespace
from ngdla._backend.tracing import choose, chooses, number

from .conjugate_gradients import conjugate_gradients
from .inverses import Inverse
from .precision import warn_of_precision
from .right_hand_side import LeastSquares, column_norms
from .spaces import Iterate, Space

__all__ = ["sweep", "sweep_until_converged"]

_WORTHWHILE_SWEEPS = 4  # sweeps; where more would be needed, conjugate gradients are the faster way
_MOST_SWEEPS = 8
_MOST_STEPS = 100
_SLOW = 0.5  # contraction, from which plain sweeps are not worth it
_NOTICEABLE_ERROR = 0.01  # error over length, from which a caller must know


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
    for i in range(1 + sweeps):
        r, iterate = space.residual(iterate)
        if i == 1 and accelerate is not False:
            w = _accelerated(space, inverse, r, iterate, accelerate)
        else:
            w = inverse(r)
        iterate = space.advance(iterate, w, product=last_product or i < sweeps)
    return iterate


def _accelerated(
    space: Space, inverse: Inverse, r: Array, iterate: Iterate, flag: Array | bool = True
) -> Array:
    """Return W^-1 r or A^-1 r by a fixed number of steps, if `flag` is set."""
    system, plan = space.system, space.system.plan
    steps = partial(
        conjugate_gradients,
        space.product,
        inverse,
        steps=plan.steps if chooses(system.squared_norm) else plan.blind_steps,
        target=_as_row(space.target(iterate)),
        early=False,
    )
    return steps(r) if flag is True else choose(flag, lambda: steps(r), lambda: inverse(r))


def _as_row(norms: Array) -> Array:
    return namespace(norms).expand_dims(norms, axis=-2)


def sweep_until_converged(
    space: Space, inverse: Inverse, iterate: Iterate, sweeps: int, *, last_product: bool
) -> Iterate:
    """Return the iterate after as many sweeps as it needs, at least one where `sweeps` > 0.

    Where the contraction that is seen asks for more than a few, w comes from conjugate gradients.
    So it does in the first sweep where values cannot be read; `sweeps` is then their number.
    """
    if sweeps == 0:
        return sweep(space, inverse, iterate, 0, last_product=last_product)
    r, iterate = space.residual(iterate)
    # a solve starts from v / damping, whose S x is far larger than any later residual
    pace = _Pace(column_norms((r,)) if isinstance(space.system.rhs, LeastSquares) else None)
    iterate = space.advance(iterate, inverse(r), product=True)
    while not pace.next_is_last:
        r, iterate = space.residual(iterate)
        pace = pace.at(column_norms((r,)), space.target(iterate))
        if pace.distance is None:
            return _continued(space, inverse, iterate, sweeps, last_product=last_product)
        if pace.distance <= 1:
            break
        if pace.slow:
            target = _as_row(space.target(iterate))
            w = conjugate_gradients(space.product, inverse, r, steps=_MOST_STEPS, target=target)
        else:
            w = inverse(r)
        iterate = space.advance(iterate, w, product=last_product or not pace.next_is_last)
    if pace.gives_up:
        _warn_of_error(space, iterate, pace)
    return iterate


def _warn_of_error(space: Space, iterate: Iterate, pace: _Pace) -> None:
    """Warn where what is left of the residual may be felt in the step."""
    assert iterate.x is not None
    assert pace.size is not None
    error = number(_largest(space.error(pace.size), column_norms(iterate.x)))
    if error is not None and not error <= _NOTICEABLE_ERROR:
        name = space.system.scores.name
        warn_of_precision(
            f"refinement with `{name}` ended before it had converged: the solution may err by "
            f"{error:.0e} of its length. Look at SolveInfo.converged; raise `damping`, or choose "
            f"another `method` or a higher `precision`."
        )


class _Pace(NamedTuple):
    """How far |r| is from its target, and how much of it a sweep leaves."""

    size: Array | None  # |r| of each column before the last sweep
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
        slow = self.slow or (self.sweeps > 0 and contraction > _SLOW)
        slow = slow or (distance is not None and distance * contraction**_WORTHWHILE_SWEEPS > 1)
        return _Pace(size, distance, contraction, self.sweeps + 1, slow, self.tried + int(slow))

    @property
    def gives_up(self) -> bool:
        """Tell whether the sweep that follows is the last one for want of progress."""
        if self.distance is None or not self.distance < math.inf or not self.slow:
            return False
        return self.sweeps >= _MOST_SWEEPS or (self.tried > 2 and self.contraction > _SLOW)

    @property
    def next_is_last(self) -> bool:
        """Tell whether the sweep that follows this residual is the last one."""
        if self.distance is None or not self.distance < math.inf:
            return self.sweeps > 0
        if self.slow:
            return self.gives_up
        # the first solve contracts more than sweeps do
        return self.sweeps > 1 and self.distance * self.contraction <= 0.1


def _continued(
    space: Space, inverse: Inverse, iterate: Iterate, sweeps: int, *, last_product: bool
) -> Iterate:
    """Return the iterate after conjugate gradients with a fixed number of steps, and sweeps."""
    for i in range(sweeps):
        r, iterate = space.residual(iterate)
        w = inverse(r) if i else _accelerated(space, inverse, r, iterate)
        iterate = space.advance(iterate, w, product=last_product or i < sweeps - 1)
    return iterate


def _largest(size: Array, other: Array, counted: Array | None = None) -> Array:
    """Return the largest size / other of the columns that are counted and not 0."""
    xp = namespace(size)
    counted = size > 0 if counted is None else counted
    return xp.max(xp.where(counted, size / other, xp.zeros_like(size)))

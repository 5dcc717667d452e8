"""Preconditioned conjugate gradients, for all columns of a right-hand side at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ngdla._backend.dtypes import is_complex
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import largest_entry
from ngdla._backend.ranks import ALONE, Alone
from ngdla._backend.tracing import repeated

__all__ = ["conjugate_gradients", "energy"]

Function = Callable[[Array], Array]


def conjugate_gradients(
    product: Function,
    preconditioner: Function,
    r: Array,
    *,
    steps: int,
    target: Array,
    early: bool = True,
    ranks: Alone = ALONE,
) -> tuple[Array, Array, Array]:
    """Return w with |r - A w| <= target, (..., 1, k), or after `steps` steps, from w = 0.

    And the energy and the norm of what is left of r, (..., 1, k).

    `product` and `preconditioner` apply A and an approximate inverse, both Hermitian and positive
    definite, to (..., n, k). A column that has reached its target stays as it is; `early` lets the
    host look whether all have, and `ranks` stop together. In the norm of the matrix that the
    preconditioner inverts, w grows from step to step (Steihaug), so that too few steps give a w
    that is too short, never one that is too long.
    """
    scale = largest_entry(r, -2)  # so that squares do not underflow
    goal = target / scale

    def unfinished(state: _State) -> Array:
        return ranks.agreed(namespace(r).any(_norms(state.r) > goal))

    def step(state: _State) -> _State:
        w, r, p, rho = state
        xp, q = namespace(r), product(p)
        alpha = _ratio(_inner(p, r), _inner(p, q))
        alpha = xp.where(_norms(r) > goal, alpha, xp.zeros_like(alpha))
        change = -alpha * q
        w, r = w + alpha * p, r + change
        z = preconditioner(r)
        # Polak and Ribiere's form, as the preconditioner errs by roundings of its own precision
        p = z + _ratio(_inner(change, z), rho) * p
        return _State(w, r, p, energy(r, z))

    r = r / scale
    z = preconditioner(r)
    start = _State(namespace(r).zeros_like(r), r, z, energy(r, z))
    end = repeated(step, unfinished, start, steps, early=early)
    return end.w * scale, end.rho * scale * scale, _norms(end.r) * scale


def energy(r: Array, z: Array) -> Array:
    """Return r^H P^-1 r of each column, (..., 1, k), for z = P^-1 r; 0 where that is a rounding."""
    xp, rho = namespace(r), _inner(r, z)
    return xp.where(rho > 0, rho, xp.zeros_like(rho))


class _State(NamedTuple):
    w: Array
    r: Array
    p: Array
    rho: Array  # r^H M^-1 r


def _inner(x: Array, y: Array) -> Array:
    """Return Re x^H y of each column, (..., 1, k)."""
    xp = namespace(x)
    terms = xp.real(xp.conj(x) * y) if is_complex(x) else x * y
    return xp.sum(terms, axis=-2, keepdims=True)


def _ratio(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is not positive: there the residual is 0 to rounding."""
    xp = namespace(a)
    legal = b > 0
    return xp.where(legal, a, xp.zeros_like(a)) / xp.where(legal, b, xp.ones_like(b))


def _norms(r: Array) -> Array:
    return namespace(r).linalg.vector_norm(r, axis=-2, keepdims=True)

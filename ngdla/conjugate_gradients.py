"""Preconditioned conjugate gradients, for all columns of a right-hand side at once."""

from __future__ import annotations

from collections.abc import Callable

from ._backend.namespace import Array, is_complex, namespace
from ._backend.tracing import concrete

__all__ = ["conjugate_gradients"]

Function = Callable[[Array], Array]


def conjugate_gradients(
    product: Function, preconditioner: Function, r: Array, *, steps: int, target: Array | None
) -> Array:
    """Return w with |r - A w| <= target, or after `steps` steps, from w = 0.

    `product` and `preconditioner` apply A and an approximate inverse, both Hermitian and positive
    definite, to (..., n, k). Where values cannot be read, or `target`, (..., 1, k), is None, all
    steps are made; those after convergence change nothing. |w| grows from step to step, so that
    too few steps give a w that is too short, never one that is too long.
    """
    w = None
    p = z = preconditioner(r)
    rho = _inner(r, z)
    for step in range(steps):
        q = product(p)
        alpha = _ratio(rho, _inner(p, q))
        w = alpha * p if w is None else w + alpha * p
        change, r = -alpha * q, r - alpha * q
        if step == steps - 1 or (target is not None and _reached(r, target)):
            break
        z = preconditioner(r)
        previous, rho = rho, _inner(r, z)
        # Polak and Ribiere's form, as the preconditioner errs by roundings of its own precision
        p = z + _ratio(_inner(change, z), previous) * p
    assert w is not None
    return w


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


def _reached(r: Array, target: Array) -> bool:
    xp = namespace(r)
    norms = xp.linalg.vector_norm(r, axis=-2, keepdims=True)
    return concrete(xp.all(norms <= target)) is True

"""Diagonal shifts that follow how well the first-order model of a step predicts the energy.

As in the method of Levenberg and Marquardt, rho = (fall of the energy) / (fall that was predicted)
tells whether a step was too long for its model: then the next shift is larger.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

__all__ = ["LARGEST", "SMALLEST", "next_shift", "require_gradient_descent", "require_start"]

SMALLEST, LARGEST = 1e-9, 1e-1
FACTOR = 1.5
POOR, GOOD = 0.25, 0.75


def next_shift(shift: Any, predicted: Any, actual: Any) -> tuple[Any, Any]:
    """Return the diagonal shift of the next step, and rho of this one.

    The shift is multiplied by 1.5 where rho < 0.25, or no fall was predicted, or either is NaN, and
    divided by 1.5 where rho > 0.75, inside of [1e-9, 1e-1].
    """
    falls = predicted > 0
    rho = jnp.where(falls, actual / jnp.where(falls, predicted, 1.0), jnp.nan)
    factor = jnp.where(rho >= POOR, jnp.where(rho > GOOD, 1 / FACTOR, 1.0), FACTOR)
    return jnp.clip(shift * factor, SMALLEST, LARGEST), rho


def require_start(diag_shift: Any) -> None:
    """Raise unless an automatic shift can start from this one."""
    if callable(diag_shift):
        msg = (
            "`diag_shift` is a schedule, but with `automatic` it is where the shift starts from; "
            "pass a number, or leave `automatic` out."
        )
        raise TypeError(msg)
    if not SMALLEST <= diag_shift <= LARGEST:
        msg = (
            f"`diag_shift` is {diag_shift}; an automatic one starts, and stays, inside of "
            f"[{SMALLEST}, {LARGEST}]."
        )
        raise ValueError(msg)


def require_gradient_descent(optimizer: Any, parameters: Any) -> None:
    """Raise unless updates are -eta d for the last step d alone, for which falls are predicted."""
    flat, tree = ravel_pytree(parameters)
    rng, state = np.random.default_rng(0), optimizer.init(parameters)
    rounding = max(jnp.finfo(x.dtype).eps for x in jax.tree.leaves(parameters))
    wide = np.complex128 if jnp.iscomplexobj(flat) else np.float64
    for _ in range(3):
        d = rng.standard_normal(flat.shape).astype(flat.dtype)
        update, state = optimizer.update(tree(jnp.asarray(d)), state, parameters)
        update, d = (np.asarray(x, dtype=wide) for x in (ravel_pytree(update)[0], d))
        rest = update - np.vdot(d, update) / np.vdot(d, d) * d
        if not np.linalg.norm(rest) <= max(1e-5, 2 * rounding) * np.linalg.norm(update):
            msg = (
                "`optimizer` does not step along d, so that `automatic` cannot tell what a step "
                "promises; use optax.sgd without momentum (`momentum` of VMC_SPRING is another "
                "one), or leave `automatic` out."
            )
            raise ValueError(msg)

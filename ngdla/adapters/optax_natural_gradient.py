"""Damped natural gradients for optax, of scores: no layers, no factors, all parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from ngdla._backend.states import state_class
from ngdla.damped.methods import MethodName
from ngdla.damped.precision import Precision
from ngdla.damped.solve import damped_lstsq

from .optax_layers import at_step, named_leaves, require_positive

__all__ = ["NaturalGradientState", "damped_natural_gradient"]


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class NaturalGradientState:
    """State of `damped_natural_gradient`: the leaves of the last direction, and the step."""

    previous: tuple[Any, ...]
    step: Any


def damped_natural_gradient(
    damping: Any,
    *,
    momentum: Any = 0.0,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Return natural gradients of scores as a transformation of optax: SR, minSR, SPRING, ENGD.

    The direction is argmin_x |S x - f|^2 + damping |x - momentum x_last|^2 by
    `ngdla.damped_lstsq`. The updates that come in are a template only: they give the tree and the
    dtypes, and their values are not used. Chain it as
    ``optax.chain(damped_natural_gradient(...), optax.scale_by_learning_rate(0.05))``.

    Parameters
    ----------
    damping : float, array or schedule
        Positive, in units of squared singular values of S.
    momentum : float or array
        mu of SPRING: the part of the last direction that this one is drawn to.
    method, precision, refine
        As for `ngdla.damped_lstsq`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its update takes ``scores=``, S as a tree like the parameters with leaves (n, *shape), and
        ``residuals=``, f (n,). For least squares 1/(2n) |r|^2 they are the derivatives of r by the
        parameters and r, both divided by sqrt(n), or not, for n times the damping.

    Raises
    ------
    TypeError, ValueError
        Options that are none. From update: scores or residuals that are missing or do not fit.

    Warns
    -----
    PrecisionWarning
        As `ngdla.damped_lstsq`.

    Notes
    -----
    In compiled code steps whose estimated error exceeds half of their length are NaN, as
    `ngdla.damped_lstsq` says. State: with momentum, one number for each parameter.

    References
    ----------
    G. Goldshlager, N. Abrahamsen, L. Lin, arXiv:2401.10190 (SPRING).

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from ngdla.adapters.optax import damped_natural_gradient
    >>> params = {"w": jnp.zeros(3)}
    >>> optimizer = damped_natural_gradient(1e-2, momentum=0.9)
    >>> state = optimizer.init(params)
    >>> S, f = {"w": jnp.eye(2, 3)}, jnp.ones(2)
    >>> direction, state = optimizer.update(params, state, scores=S, residuals=f)
    >>> [round(float(x), 2) for x in direction["w"]]
    [0.99, 0.99, 0.0]
    """
    require_positive(damping, "damping")
    remembers = hasattr(momentum, "dtype") or momentum != 0

    def init(params: Any) -> NaturalGradientState:
        leaves = _parameters(params)[0] if remembers else {}
        previous = [jnp.zeros(x.shape, _direction_dtype(x)) for x in leaves.values()]
        return NaturalGradientState(tuple(previous), jnp.zeros((), "int32"))

    def update(
        updates: Any,
        state: NaturalGradientState,
        params: Any = None,
        *,
        scores: Any = None,
        residuals: Any = None,
        **_: Any,
    ) -> tuple[Any, NaturalGradientState]:
        leaves, with_leaves = _parameters(updates)
        S = _scores(scores, residuals, leaves)
        x0 = {name: momentum * x for name, x in zip(leaves, state.previous)} if remembers else None
        direction = damped_lstsq(
            S,
            residuals,
            at_step(damping, state.step),
            x0=x0,
            method=method,
            precision=precision,
            refine=refine,
        )
        kept = leaves if remembers else ()
        previous = [direction[name].astype(_direction_dtype(leaves[name])) for name in kept]
        state = NaturalGradientState(tuple(previous), optax.safe_increment(state.step))
        return with_leaves(direction), state

    return optax.GradientTransformationExtraArgs(init, update)


def _parameters(tree: Any) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """Return the leaves that are not masked, by name, and what puts others in their places."""
    leaves, form = named_leaves(tree)
    free = {name: x for name, x in leaves.items() if not isinstance(x, optax.MaskedNode)}

    def with_leaves(others: dict[str, Any]) -> Any:
        changed = {name: x.astype(free[name].dtype) for name, x in others.items()}
        return form.unflatten((leaves | changed).values())

    return free, with_leaves


def _direction_dtype(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _scores(scores: Any, residuals: Any, leaves: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of all parameters, checked, by name."""
    for value, name in ((scores, "scores"), (residuals, "residuals")):
        if value is None:
            msg = (
                f"`{name}` is missing: pass update(updates, state, params, scores=S, residuals=f), "
                f"for example jax.jacobian(residuals)(params) and residuals(params)."
            )
            raise TypeError(msg)
    found, _ = named_leaves(scores)
    S = {name: found[name] for name in leaves if name in found}
    for name, x in leaves.items():
        shape = (*residuals.shape, *x.shape)
        if name not in S or tuple(S[name].shape) != shape:
            came = f"shape {tuple(S[name].shape)}" if name in S else "nothing"
            msg = (
                f"`scores` has {came} for {name!r}; it must be a tree like the parameters, here "
                f"with {shape}, a row for each entry of `residuals`."
            )
            raise ValueError(msg)
    return S

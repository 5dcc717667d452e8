"""Layers among the parameters of JAX programs, and transformations of the updates of each.

A layer is a kernel and perhaps a bias in one mapping, as flax and others keep them. Trees are taken
apart into named leaves, so that rows, which know layers only, need no leaf for other parameters.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ngdla._backend.messages import shown

__all__ = [
    "Layer",
    "at_step",
    "layerwise",
    "limited",
    "named_leaves",
    "naming",
    "require_excluded",
    "require_positive",
    "state_dtype",
    "when",
]

Leaves = Mapping[str, Any]
Pair = tuple[Any, Any]


class Layer(NamedTuple):
    """A kernel (*in, *out) and perhaps a bias (*out), by the names of their leaves."""

    name: str
    kernel: str
    bias: str | None
    d_in: int  # with the column of the bias
    d_out: int
    dtype: str

    def weight(self, leaves: Leaves) -> Any:
        """Return V, (d_out, d_in): kernels transposed, the bias as their last column."""
        V = leaves[self.kernel].reshape(-1, self.d_out).T
        if self.bias is None:
            return V
        return jnp.concatenate([V, leaves[self.bias].reshape(-1, 1)], axis=1)

    def parts(self, V: Any, like: Leaves) -> dict[str, Any]:
        """Return V as a kernel and a bias like those of other leaves."""
        matrices = {self.kernel: V.T}
        if self.bias is not None:
            matrices = {self.kernel: V[:, :-1].T, self.bias: V[:, -1]}
        return {
            name: X.reshape(like[name].shape).astype(like[name].dtype)
            for name, X in matrices.items()
        }


Init = Callable[[tuple[Layer, ...]], Any]
Step = Callable[[Any, list[Any], list[Pair]], tuple[list[Any], Any]]


def layerwise(
    init: Init, step: Step, *, exclude: Sequence[str], positions: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that replaces the updates of layers and passes on all others.

    Parameters
    ----------
    init : callable
        Returns a state, whose field `layers` names the layers, from these.
    step : callable
        Returns steps (d_out, d_in) and the next state from a state, the updates (d_out, d_in) of
        all layers and their pairs of rows (N, d_in) and (N, d_out).
    exclude : sequence of str
        Names of layers, or of what holds layers, that are no layers here.
    positions : bool
        Whether rows may be (M, T, d).
    """

    def init_state(params: Any) -> Any:
        leaves, _ = named_leaves(params)
        _require_known(exclude, leaves)
        layers = _layers(leaves, exclude)
        if not (layers or exclude or any(map(_is_masked, leaves.values()))):
            msg = (
                f"`params` has no layer, a mapping with a 'kernel' of two or more axes, as "
                f"in flax. Its leaves are {_listed(list(leaves))}."
            )
            raise ValueError(msg)
        return init(layers)

    def update(
        updates: Any, state: Any, params: Any = None, *, rows: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        leaves, form = named_leaves(updates)
        layers = _layers(leaves, exclude)
        _require_same(layers, state.layers)
        pairs = _pairs(rows, layers, leaves, exclude, positions)
        steps, state = step(state, [layer.weight(leaves) for layer in layers], pairs)
        changed = dict(leaves)
        for layer, V in zip(layers, steps):
            changed |= layer.parts(V, leaves)
        return form.unflatten(changed.values()), state

    return optax.GradientTransformationExtraArgs(init_state, update)


# ------------------------------------------------------------------- what transformations share


def when(due: Any, make: Callable[[], Any], kept: Any) -> Any:
    """Return what is made where it is due, what was kept elsewhere."""
    if due is True:
        return make()
    if isinstance(due, jax.core.Tracer):
        return jax.lax.cond(due, make, lambda: kept)
    return make() if due else kept


def at_step(value: Any, step: Any) -> Any:
    """Return the value of a schedule at a step; numbers as they are."""
    return value(step) if callable(value) else value


def limited(steps: list[Any], updates: list[Any], kl: Any, learning_rate: Any) -> list[Any]:
    """Return all steps times min(1, sqrt(kl / (learning_rate^2 sum <step, update>)))."""
    if kl is None:
        return steps
    model = sum(jnp.vdot(X, V) for X, V in zip(steps, updates)) * learning_rate**2
    shrinks = model > kl
    factor = jnp.where(shrinks, jnp.sqrt(kl / jnp.where(shrinks, model, 1)), 1)
    return [X * factor.astype(X.dtype) for X in steps]


def state_dtype(layer: Layer) -> Any:
    """Return the dtype of averages and weights of a layer: its own, or float32."""
    return jnp.promote_types(layer.dtype, jnp.float32)


@contextlib.contextmanager
def naming(layer: str) -> Iterator[None]:
    """Name the layer in errors of its values."""
    try:
        yield
    except ValueError as error:
        msg = f"Layer {layer!r}: {error}"
        raise ValueError(msg) from error


def require_positive(value: Any, name: str) -> None:
    """Raise for numbers that are not positive; arrays and schedules are seen by each step."""
    if callable(value) or hasattr(value, "dtype"):
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        msg = f"`{name}` is {shown(value)}; it must be a number, or a schedule of the step."
        raise TypeError(msg)
    if not 0 < float(value) < math.inf:
        msg = f"`{name}` is {shown(value)}; it must be positive and finite."
        raise ValueError(msg)


def require_excluded(exclude: Any) -> tuple[str, ...]:
    """Return the names of layers that are left out."""
    if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude):
        msg = f'`exclude` is {shown(exclude)}; it must be a list of names, such as ["Dense_1"].'
        raise TypeError(msg)
    return tuple(exclude)


# ------------------------------------------------------------------------------------ trees


def named_leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    """Return the leaves of a tree by names such as "encoder/Dense_0/kernel", and its form.

    What `optax.masked` has masked is a leaf.
    """
    found, form = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_masked)
    return {_name(path): x for path, x in found}, form


def _name(path: Any) -> str:
    """Return a path as a text, without the attribute by which flax.nnx holds an array."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _is_pair(x: Any) -> bool:
    return isinstance(x, (tuple, list)) and len(x) == 2 and all(hasattr(y, "ndim") for y in x)


def _inside(name: str, folders: Sequence[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def _layers(leaves: Leaves, exclude: Sequence[str]) -> tuple[Layer, ...]:
    """Return all layers that are neither excluded nor masked."""
    found = []
    for name, kernel in leaves.items():
        parent, _, last = name.rpartition("/")
        if last != "kernel" or _is_masked(kernel) or len(kernel.shape) < 2:
            continue
        if not _inside(parent, exclude):
            found.append(_layer(parent, name, leaves))
    return tuple(found)


def _layer(parent: str, name: str, leaves: Leaves) -> Layer:
    """Return the layer of a kernel. The axes of its bias are those of its outputs."""
    kernel, beside = leaves[name], name.removesuffix("kernel") + "bias"
    bias: Any = leaves.get(beside)
    has_bias = bias is not None and not _is_masked(bias)
    outputs = max(1, len(bias.shape)) if has_bias else 1
    if has_bias and bias.shape != kernel.shape[1:][-outputs:]:  # an axis is left for the inputs
        msg = (
            f"Layer {parent!r} has a kernel of shape {tuple(kernel.shape)} and a bias of shape "
            f"{tuple(bias.shape)}; the bias must have the last axes of the kernel. Leave it out: "
            f"exclude=[{parent!r}]."
        )
        raise ValueError(msg)
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        msg = (
            f"Layer {parent!r} has a kernel of dtype {kernel.dtype}; it must be real floating. "
            f"Leave it out: exclude=[{parent!r}]."
        )
        raise TypeError(msg)
    return Layer(
        name=parent,
        kernel=name,
        bias=beside if has_bias else None,
        d_in=math.prod(kernel.shape[:-outputs]) + has_bias,
        d_out=math.prod(kernel.shape[-outputs:]),
        dtype=str(kernel.dtype),
    )


def _require_known(exclude: Sequence[str], leaves: Leaves) -> None:
    for name in exclude:
        if not any(_inside(leaf, [name]) for leaf in leaves):
            msg = (
                f"`exclude` names {name!r}, which is not among the parameters. Layers are "
                f"{_listed([layer.name for layer in _layers(leaves, ())])}."
            )
            raise ValueError(msg)


def _require_same(layers: Sequence[Layer], names: Sequence[str]) -> None:
    """Raise unless updates have the layers that the state was made for."""
    found = tuple(layer.name for layer in layers)
    if found != tuple(names):
        msg = (
            f"`updates` has the layers {_listed(found)}, but the state was made for "
            f"{_listed(names)}; call init with the parameters that are updated."
        )
        raise ValueError(msg)


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(map(repr, names[:6])) or "none"
    return f"{few} and {len(names) - 6} more" if len(names) > 6 else few


# ------------------------------------------------------------------------------------- rows


def _pairs(
    rows: Any, layers: Sequence[Layer], leaves: Leaves, exclude: Sequence[str], positions: bool
) -> list[Pair]:
    """Return the pair of rows of each layer, checked, in the dtype of its state."""
    if rows is None:
        msg = (
            "`rows` is missing: pass update(updates, state, params, rows=rows), a tree with a pair "
            "(a, g) of ngdla.layer_rows in the place of each layer."
        )
        raise TypeError(msg)
    found, _ = jax.tree_util.tree_flatten_with_path(rows, is_leaf=_is_pair)
    given = {_name(path): pair for path, pair in found}
    for layer in layers:
        if layer.name not in given:
            msg = (
                f"`rows` has no pair (a, g) for the layer {layer.name!r}. Collect its rows, or "
                f"leave it out: exclude=[{layer.name!r}]."
            )
            raise ValueError(msg)
    ours = {layer.name for layer in layers}
    left_out = [
        *exclude,
        *(name.removesuffix("/kernel") for name in leaves if _is_masked(leaves[name])),
    ]
    for name in given.keys() - ours:
        if not _inside(name, left_out):
            msg = (
                f"`rows` has {name!r}, which is no layer: rows are pairs (a, g) of arrays in the "
                f"place of a mapping with a kernel of two or more axes. Layers are "
                f"{_listed(sorted(ours))}."
            )
            raise ValueError(msg)
    return [_checked(given[layer.name], layer, positions) for layer in layers]


def _checked(pair: Any, layer: Layer, positions: bool) -> Pair:
    """Return a pair of rows, or raise for what cannot be of this layer."""
    if not _is_pair(pair):
        msg = (
            f"`rows` has {shown(pair)} for the layer {layer.name!r}; it must be a pair (a, g) of "
            f"arrays, as ngdla.layer_rows returns."
        )
        raise TypeError(msg)
    a, g = (jnp.asarray(x, dtype=state_dtype(layer)) for x in pair)
    if a.ndim not in ((2, 3) if positions else (2,)) or a.shape[:-1] != g.shape[:-1] or not a.size:
        axes = "(M, d) or (M, T, d)" if positions else "(N, d)"
        sharing = "none" if positions else 'expand" or "reduce'
        msg = (
            f"`rows` of the layer {layer.name!r} have shapes {a.shape} and {g.shape}; both must be "
            f'{axes} of the same samples, as of ngdla.layer_rows with sharing="{sharing}".'
        )
        raise ValueError(msg)
    if (a.shape[-1], g.shape[-1]) != (layer.d_in, layer.d_out):
        column = " and the column of ones of layer_rows(bias=True)" if layer.bias else ""
        msg = (
            f"`rows` of the layer {layer.name!r} have widths {a.shape[-1]} and {g.shape[-1]}; they "
            f"must be {layer.d_in}, of the inputs{column}, and {layer.d_out}, of the outputs."
        )
        raise ValueError(msg)
    return a, g

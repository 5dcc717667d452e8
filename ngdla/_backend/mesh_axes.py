"""Meshes of JAX with explicit axes: public functions compute on automatic ones.

Where axes of a mesh are explicit, as those of `jax.make_mesh` are, the type of an array says how it
is sharded, and JAX asks of each product over a sharded axis how the result is to be. A public
function takes such arrays to automatic axes of the same mesh, where XLA answers, and its results
back: what has the axis of parameters is sharded as the columns of S, the rest is replicated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .array import AnyArray
from .pytrees import array_fields

__all__ = ["on_automatic_axes"]

Function = TypeVar("Function", bound=Callable[..., Any])
Shape = tuple[int, ...]
Spec = tuple[Any, ...]  # for each axis of an array: axes of the mesh, one or a tuple, or None


def on_automatic_axes(*, exchange: bool = False) -> Callable[[Function], Function]:
    """Let a public function, whose first argument is S or holds it, see no explicit axes.

    With `exchange`, S is sharded over its longer side while the function works, by one exchange
    where it came sharded over the other: Gram matrices would send all of it to each device.
    """

    def decorated(function: Function) -> Function:
        first = function.__code__.co_varnames[0]

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            S = args[0] if args else options.get(first)
            if type(S) is np.ndarray or not _is_of_jax(S):
                return function(*args, **options)
            return _called(function, _scores_in(S), args, options, exchange=exchange)

        return called  # type: ignore[return-value]

    return decorated


def _is_of_jax(x: Any) -> bool:
    """Tell by the first array in it whether an argument is of JAX."""
    x = _scores_in(x)
    if isinstance(x, dict):
        x = tuple(x.values())
    if isinstance(x, (list, tuple)):
        return bool(x) and _is_of_jax(x[0])
    return type(x).__module__.startswith("jax")


def _scores_in(x: Any) -> Any:
    """Return the scores that a factor holds, in its first field; all else as it is."""
    fields = array_fields(x)
    return x if fields is None else _scores_in(getattr(x, fields[0]))


def _called(
    function: Callable[..., Any], S: Any, args: Any, options: Any, *, exchange: bool
) -> Any:
    """Return function(*args, **options) for arrays of JAX."""
    import jax

    leaves, tree = jax.tree.flatten((args, options))
    explicit = [x for x in leaves if _is_explicit(x)]
    if not explicit:
        return function(*args, **options)
    mesh = _sharding(explicit[0]).mesh
    kinds = dict.fromkeys(mesh.explicit_axes, jax.sharding.AxisType.Auto)
    automatic, layout = mesh.update_axis_types(kinds), _layout(S, explicit, mesh)
    with jax.sharding.use_abstract_mesh(automatic):
        moved = [_moved(x, automatic, layout, exchange=exchange) for x in leaves]
        args, options = jax.tree.unflatten(tree, moved)
        result = function(*args, **options)
    given = {id(x): y for x, y in zip(moved, leaves)}

    def given_back(x: Any) -> Any:
        if id(x) in given or getattr(_sharding(x), "mesh", None) != automatic:
            return given.get(id(x), x)
        return _on(mesh, x, _spec_of_result(tuple(x.shape), layout))

    with jax.sharding.use_abstract_mesh(mesh):
        return jax.tree.map(given_back, result)


def _sharding(x: Any) -> Any:
    """Return the sharding in the type of an array of JAX, None where there is none."""
    return getattr(getattr(x, "aval", None), "sharding", None)


def _is_explicit(x: Any) -> bool:
    return bool(getattr(getattr(_sharding(x), "mesh", None), "explicit_axes", ()))


def _on(mesh: Any, x: AnyArray, spec: Spec) -> AnyArray:
    """Return an array whose type says that it is sharded so."""
    from jax.sharding import NamedSharding, PartitionSpec, reshard

    return reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))


def _sharded(x: AnyArray, spec: Spec, layout: _Layout) -> AnyArray:
    """Return an array on automatic axes, which XLA is told to shard so over those of the layout."""
    from jax.lax import with_sharding_constraint
    from jax.sharding import NamedSharding, PartitionSpec

    free = PartitionSpec.UNCONSTRAINED if layout.mesh.auto_axes else None
    whole = [axis or free for axis in (*spec, *[None] * (x.ndim - len(spec)))]
    return with_sharding_constraint(x, NamedSharding(_sharding(x).mesh, PartitionSpec(*whole)))


# ------------------------------------------------------------------------------ the layout


class _Layout(NamedTuple):
    """How S and the other arguments are sharded."""

    mesh: Any
    scores: list[AnyArray]  # (*batch, n, *shape)
    batch: Shape
    rows: list[tuple[Shape, Spec]]  # of parameters in a row of S
    arguments: dict[Shape, Spec]

    @property
    def wide(self) -> bool:
        """Tell whether S has more columns than rows."""
        at = len(self.batch)
        return self.samples < sum(math.prod(x.shape[at + 1 :]) for x in self.scores)

    @property
    def samples(self) -> int:
        """The number of rows of S; 0 where there is none."""
        return self.scores[0].shape[len(self.batch)] if self.scores else 0

    def lead(self, shape: Shape) -> Spec:
        """Return how the batch axes of an array are sharded."""
        at = len(self.batch)
        return _spec(self.scores[0])[:at] if at and shape[:at] == self.batch else ()


def _layout(S: Any, explicit: Sequence[AnyArray], mesh: Any) -> _Layout:
    import jax

    block = S[0] if isinstance(S, (list, tuple)) else S
    batch = tuple(getattr(block, "shape", ())[:-2])  # a tree has none
    at = len(batch)
    scores = [x for x in jax.tree.leaves(S) if getattr(x, "ndim", 0) > at + 1]
    rows = [row for x in scores for row in _rows(x, at, mesh)]
    return _Layout(mesh, scores, batch, rows, {tuple(x.shape): _spec(x) for x in explicit})


def _spec(x: AnyArray) -> Spec:
    spec = tuple(_sharding(x).spec) if _is_explicit(x) else ()
    return spec + (None,) * (x.ndim - len(spec))


def _rows(S: AnyArray, batch: int, mesh: Any) -> Iterator[tuple[Shape, Spec]]:
    """Yield the shapes in which a row of S, or a vector beside it, may come, and how sharded."""
    shape, spec = tuple(S.shape)[batch + 1 :], _spec(S)[batch + 1 :]
    yield shape, spec
    if len(shape) > 1:
        if shape[0] == 2:  # real and imaginary parts of complex parameters
            yield shape[1:], spec[1:]
        size, axes = math.prod(shape), _names(*spec)
        yield (size,), (axes if _divides(mesh, axes, size) else None,)


def _names(*spec: Any) -> tuple[str, ...]:
    """Return the axes of a mesh over which some axes of an array are sharded."""
    return sum((axis if isinstance(axis, tuple) else (axis,) for axis in spec if axis), ())


def _divides(mesh: Any, axes: tuple[str, ...], size: int) -> bool:
    """Tell whether so many entries can be sharded over axes of a mesh."""
    return size % math.prod(mesh.shape[name] for name in axes) == 0


# --------------------------------------------------------------------- there and back again


def _moved(x: Any, automatic: Any, layout: _Layout, *, exchange: bool) -> Any:
    """Return an argument on automatic axes, with samples and parameters sharded as those of S.

    XLA would shard S as the first vector that meets it.
    """
    if not _is_explicit(x):
        return x
    moved = _on(automatic, x, ())
    if not layout.scores:
        return moved
    lead = layout.lead(tuple(x.shape))
    inner = tuple(x.shape)[len(lead) :]
    if any(x is block for block in layout.scores):
        return _moved_scores(moved, _spec(x), layout, exchange=exchange)
    if inner[:1] == (layout.samples,) and _of_parameters(inner, layout) is None:
        rows, _ = _sides(layout, _spec(layout.scores[0]), exchange=exchange)
        return _sharded(moved, (*lead, rows), layout)
    return moved


def _moved_scores(x: AnyArray, spec: Spec, layout: _Layout, *, exchange: bool) -> AnyArray:
    """Return scores sharded by rows and by flattened columns, as XLA is told here."""
    at = len(layout.batch)
    if any(spec[at + 2 :]):  # XLA gathers what it cannot flatten
        x = _sharded(x, (*spec[: at + 1], _names(*spec[at + 1 :])), layout)
    flat = x.reshape(*x.shape[: at + 1], -1)
    sides = _sides(layout, spec, exchange=exchange)
    return _sharded(flat, (*spec[:at], *sides), layout).reshape(x.shape)


def _sides(layout: _Layout, spec: Spec, *, exchange: bool) -> tuple[tuple[str, ...], ...]:
    """Return over which axes of the mesh rows and columns of a block of S are to be sharded."""
    at = len(layout.batch)
    rows, columns = _names(spec[at]), _names(*spec[at + 1 :])
    if not exchange:
        return rows, columns
    return ((), columns + rows) if layout.wide else (rows + columns, ())


def _spec_of_result(shape: Shape, layout: _Layout) -> Spec:
    """Return how a result is sharded: where shapes agree as S, its rows, or an argument."""
    lead = layout.lead(shape)
    inner = shape[len(lead) :]
    if len(inner) > 1 and shape in layout.arguments:
        return layout.arguments[shape]
    for row, spec in layout.rows:
        if inner[1:] == row and inner[0] in (layout.samples, 2 * layout.samples):
            samples = _names(_spec(layout.scores[0])[len(lead)])
            return (*lead, samples if _divides(layout.mesh, samples, inner[0]) else None, *spec)
    of_parameters = _of_parameters(inner, layout)
    if of_parameters is not None:
        return (*lead, *of_parameters)
    return layout.arguments.get(shape, lead)


def _of_parameters(inner: Shape, layout: _Layout) -> Spec | None:
    """Return how parameters, or vectors of them side by side, are sharded; None for all else."""
    return next((spec for row, spec in layout.rows if inner[: len(row)] == row), None)

"""Sharded arrays of JAX: public functions compute on automatic axes of a mesh.

On explicit axes, as those of `jax.make_mesh` are, the type of an array says how it is sharded, and
JAX asks of each product over a sharded axis how the result is to be. A public function takes such
arrays to automatic axes of the same mesh, where XLA answers, and its results back. Shapes tell how
results are sharded: what begins with the axes of the parameters as the columns of S are, the rest
is replicated. Where numbers of samples and parameters agree, the answer is one of both: that
changes where numbers lie, never what they are.

XLA forms the Gram matrix of S sharded over its longer side from parts that stay where they are, and
sends all of S to each device otherwise. There one exchange comes first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from .array import AnyArray
from .pytrees import array_fields
from .tracing import is_traced

__all__ = ["mesh_of", "on_automatic_axes"]

Function = TypeVar("Function", bound=Callable[..., Any])
Shape = tuple[int, ...]
Names = tuple[str, ...]  # of axes of a mesh
Side = Literal["columns", "longer"]  # of S: "longer" has more entries
_DEEPEST = 100  # levels of a tree in which arrays of JAX are looked for
Spec = tuple[Any, ...]  # for each axis of an array: those of the mesh, a name or some, or None


def on_automatic_axes(*, exchange: Side | None = None) -> Callable[[Function], Function]:
    """Let a public function, whose first argument is S or holds it, see no explicit axes.

    With `exchange` S is sharded over that side while the function works. On automatic axes types do
    not say how it came: it is moved if the mesh has one axis, where that is one exchange or none.
    """

    def decorated(function: Function) -> Function:
        first = function.__code__.co_varnames[0]

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            S = args[0] if args else options.get(first)
            if type(S) is np.ndarray or not _is_of_jax(S):
                return function(*args, **options)
            return _called(function, _scores_in(S), exchange, args, options)

        wrapper: Any = called
        name = function.__qualname__  # by which messages name a call
        wrapper.__code__ = wrapper.__code__.replace(co_qualname=name)
        return wrapper

    return decorated


def _is_of_jax(x: Any) -> bool:
    """Tell by the first array in it whether an argument is of JAX."""
    for _ in range(_DEEPEST):
        x = _scores_in(x)
        if isinstance(x, dict):
            x = tuple(x.values())
        if not isinstance(x, (list, tuple)) or not x:
            break
        x = x[0]
    return type(x).__module__.startswith("jax")


def _is_iterator(x: Any) -> bool:
    """Tell that an argument is what JAX warns of, and what the function is to refuse."""
    return isinstance(x, Iterator)


def _scores_in(x: Any) -> Any:
    """Return the scores that a factor holds, in its first field; all else as it is."""
    fields = array_fields(x)
    return x if fields is None else _scores_in(getattr(x, fields[0]))


def _called(
    function: Callable[..., Any], S: Any, exchange: Side | None, args: Any, options: Any
) -> Any:
    """Return function(*args, **options) for arrays of JAX."""
    import jax

    leaves, tree = jax.tree.flatten((args, options), is_leaf=_is_iterator)
    layout, explicit = _layout(S), [x for x in leaves if _is_explicit(x)]
    if not explicit:
        if exchange is not None:
            leaves = [_exchanged(x, layout, exchange) for x in leaves]
            args, options = jax.tree.unflatten(tree, leaves)
        return function(*args, **options)
    mesh = _mesh_with_devices(explicit)
    automatic = _with_automatic_axes(mesh)
    with _held(automatic):
        moved = [_moved(x, automatic, layout, exchange) for x in leaves]
        args, options = jax.tree.unflatten(tree, moved)
        result = function(*args, **options)
    given = {id(x): y for x, y in zip(moved, leaves)}
    shapes = list(_shapes(layout, explicit))

    def given_back(x: Any) -> Any:
        if id(x) in given or mesh_of(x) != automatic.abstract_mesh:
            return given.get(id(x), x)
        return _on(mesh, x, _spec_of_result(tuple(x.shape), shapes))

    with _held(mesh):
        return jax.tree.map(given_back, result)


# ---------------------------------------------------------------------------------- meshes


def _sharding(x: Any) -> Any:
    """Return the sharding in the type of an array of JAX, None where there is none."""
    import jax

    if not isinstance(x, jax.Array) or not hasattr(jax, "typeof"):  # as before version 0.6
        return None
    return jax.typeof(x).sharding


def mesh_of(x: Any) -> Any:
    """Return the mesh in the type of an array of JAX, None where there is none."""
    return getattr(_sharding(x), "mesh", None)


def _is_explicit(x: Any) -> bool:
    return bool(getattr(mesh_of(x), "explicit_axes", ()))


def _spec(x: AnyArray) -> Spec:
    """Return how the type of an array says that it is sharded."""
    spec = tuple(_sharding(x).spec) if _is_explicit(x) else ()
    return spec + (None,) * (x.ndim - len(spec))


def _mesh_with_devices(arrays: Sequence[AnyArray]) -> Any:
    """Return the mesh of arrays, with its devices where none is traced."""
    first = arrays[0]
    return mesh_of(first) if any(map(is_traced, arrays)) else first.sharding.mesh


def _with_automatic_axes(mesh: Any) -> Any:
    """Return a mesh with automatic axes in place of the explicit ones."""
    from jax.sharding import AbstractMesh, AxisType, Mesh

    if isinstance(mesh, AbstractMesh):
        return mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    kinds = [AxisType.Auto if kind == AxisType.Explicit else kind for kind in mesh.axis_types]
    return Mesh(mesh.devices, mesh.axis_names, axis_types=tuple(kinds))


def _held(mesh: Any) -> AbstractContextManager[Any]:
    """Return a context in which arrays are made on a mesh."""
    import jax

    if isinstance(mesh, jax.sharding.Mesh):
        try:
            return jax.set_mesh(mesh)
        except ValueError:  # something is traced all the same
            pass
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _on(mesh: Any, x: AnyArray, spec: Spec) -> AnyArray:
    """Return an array on a mesh, sharded so; on automatic axes types do not say how."""
    from jax import device_put
    from jax.sharding import NamedSharding, PartitionSpec, reshard

    if not is_traced(x):
        return device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    typed = spec if mesh.explicit_axes else ()
    return reshard(x, NamedSharding(mesh, PartitionSpec(*typed)))


def _sharded(x: AnyArray, spec: Spec) -> AnyArray:
    """Return an array on automatic axes, which XLA is told to shard so."""
    from jax.lax import with_sharding_constraint
    from jax.sharding import NamedSharding, PartitionSpec

    return with_sharding_constraint(x, NamedSharding(mesh_of(x), PartitionSpec(*spec)))


# -------------------------------------------------------------------------- there and back


class _Layout(NamedTuple):
    """What S consists of."""

    scores: list[AnyArray]  # (*batch, n, *shape)
    batch: Shape
    samples: int  # 0 where there is no S

    def holds(self, x: Any) -> bool:
        """Tell whether an argument is a part of S."""
        return any(x is block for block in self.scores)

    def sides(self, spec: Spec, exchange: Side | None) -> tuple[Names, Names]:
        """Return over which axes of the mesh rows and columns of a part of S are to be sharded."""
        at = len(self.batch)
        rows, columns = _names(spec[at]), _names(*spec[at + 1 :])
        if exchange is None:
            return rows, columns
        parameters = sum(math.prod(x.shape[at + 1 :]) for x in self.scores)
        wide = exchange == "columns" or self.samples < parameters
        return ((), columns + rows) if wide else (rows + columns, ())


def _layout(S: Any) -> _Layout:
    import jax

    block = S[0] if isinstance(S, (list, tuple)) else S
    batch = tuple(getattr(block, "shape", ())[:-2])  # a tree has none
    scores = [
        x
        for x in jax.tree.leaves(S, is_leaf=_is_iterator)
        if getattr(x, "ndim", 0) > len(batch) + 1
    ]
    return _Layout(scores, batch, int(scores[0].shape[len(batch)]) if scores else 0)


def _names(*spec: Any) -> Names:
    """Return the axes of a mesh over which some axes of an array are sharded."""
    return sum((axis if isinstance(axis, tuple) else (axis,) for axis in spec if axis), ())


def _exchanged(x: Any, layout: _Layout, exchange: Side) -> Any:
    """Return an argument, a part of S sharded by a side of it over a mesh with one axis."""
    mesh = mesh_of(x) if layout.holds(x) and not layout.batch else None
    if mesh is None or mesh.size == 1 or len(mesh.auto_axes) != 1 or len(mesh.axis_names) != 1:
        return x
    if type(x).__name__ == "BatchTracer":  # of jax.vmap, which may have sharded its batch
        return x
    sides = layout.sides((mesh.axis_names, *[None] * (x.ndim - 1)), exchange)
    flat = x.reshape(x.shape[0], -1)
    if any(side and size % mesh.size for side, size in zip(sides, flat.shape)):
        return x
    return _sharded(flat, sides).reshape(x.shape)


def _moved(x: Any, automatic: Any, layout: _Layout, exchange: Side | None) -> Any:
    """Return an argument on automatic axes, S and what has its samples sharded as S is to be.

    XLA would shard S as the first vector that meets it.
    """
    if not _is_explicit(x):
        return x
    moved, spec = _on(automatic, x, _spec(x)), _spec(x)
    if automatic.size == 1 or not layout.scores:
        return moved
    at = len(layout.batch)
    if layout.holds(x):
        if any(spec[at + 2 :]):  # XLA gathers what it cannot flatten
            moved = _sharded(moved, (*spec[: at + 1], _names(*spec[at + 1 :])))
        sides = layout.sides(spec, exchange)
        flat = moved.reshape(*x.shape[: at + 1], -1)
        return _sharded(flat, (*spec[:at], *sides)).reshape(x.shape)
    if x.shape[: at + 1] == (*layout.batch, layout.samples) and not _is_of_parameters(x, layout):
        rows, _ = layout.sides(_spec(layout.scores[0]), exchange)
        return _sharded(moved, (*spec[:at], rows))
    return moved


def _is_of_parameters(x: AnyArray, layout: _Layout) -> bool:
    """Tell whether the shape of an argument is one of parameters."""
    at = len(layout.batch)
    return any(x.shape[at:] == block.shape[at + 1 :] for block in layout.scores)


class _Shape(NamedTuple):
    """How results of a shape, or of one that begins so, are sharded."""

    shape: Shape
    spec: Spec
    begins: bool = False


def _shapes(layout: _Layout, arguments: Sequence[AnyArray]) -> Iterator[_Shape]:
    """Yield shapes of results: S; what begins with parameters; arguments; what is of the batch."""
    at = len(layout.batch)
    lead: Spec = ()
    for x in layout.scores:
        lead = _spec(x)[:at]
        for n in (layout.samples, 2 * layout.samples):
            yield _Shape((*layout.batch, n, *x.shape[at + 1 :]), _spec(x))
    for x in layout.scores:
        shape, spec = tuple(x.shape[at + 1 :]), _spec(x)[at + 1 :]
        yield _Shape((*layout.batch, *shape), (*lead, *spec), begins=True)
        if len(shape) > 1:
            if shape[0] == 2:  # real and imaginary parts of complex parameters
                yield _Shape(shape[1:], spec[1:], begins=True)
            yield _Shape((math.prod(shape),), (_names(*spec),), begins=True)
    yield from (_Shape(tuple(x.shape), _spec(x)) for x in arguments)
    if at:
        yield _Shape(layout.batch, lead, begins=True)


def _spec_of_result(shape: Shape, shapes: Sequence[_Shape]) -> Spec:
    """Return how a result is sharded; replicated where no shape is its own."""
    for known in shapes:
        if shape == known.shape or (known.begins and shape[: len(known.shape)] == known.shape):
            return known.spec
    return ()

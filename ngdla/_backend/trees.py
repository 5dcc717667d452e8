"""Trees of arrays, taken apart and put together by the library of the arrays.

JAX and torch each have tree utilities of their own, which know more containers than Python has, and
an order of their own for dicts. Other arrays are found in dicts, by sorted keys, lists and tuples.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from .late_imports import when_imported
from .namespace import is_array, is_jax_namespace, is_torch_namespace, namespace
from .pickles import part

__all__ = ["Tree", "holds_arrays", "tree_leaves"]

_DEEPEST = 64  # containers in containers


class _Utilities(ABC):
    """How a library takes trees apart."""

    @abstractmethod
    def flatten(self, x: Any) -> tuple[list[Any], Any]:
        """Return the leaves of a tree, and all else that it is."""

    @abstractmethod
    def unflatten(self, spec: Any, leaves: Sequence[Any]) -> Any:
        """Return the tree with other leaves."""

    @abstractmethod
    def paths(self, x: Any) -> list[str]:
        """Return how each leaf is written, such as "['layer'][0]"."""

    def matched(self, spec: Any, x: Any) -> list[Any]:
        """Return the leaves of another tree of this form, raise ValueError for one of another."""
        leaves, own = self.flatten(x)
        if own != spec:
            raise ValueError
        return leaves


@part
@dataclasses.dataclass(frozen=True)
class Tree:
    """A tree without its leaves. A value: trees of equal form are equal."""

    library: str
    spec: Any
    paths: tuple[str, ...] = dataclasses.field(compare=False)  # of leaves, as ['layer'][0]

    def with_leaves(self, leaves: Sequence[Any]) -> Any:
        """Return the tree with these leaves."""
        return _UTILITIES[self.library].unflatten(self.spec, leaves)

    def leaves_of(self, x: Any) -> list[Any] | None:
        """Return the leaves of another tree, None unless it has the same form."""
        if _too_deep(x):
            return None
        try:
            return _UTILITIES[self.library].matched(self.spec, x)
        except (TypeError, ValueError):  # also where keys of a dict cannot be sorted
            return None


def holds_arrays(x: Any) -> bool:
    """Tell whether the first leaf of a tree is an array, without a look at the others."""
    waiting = [(x, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, dict):
            children = list(node.values())
        elif isinstance(node, (list, tuple)):
            children = list(node)
        elif node is not None:
            return hasattr(node, "dtype") or _is_container(node)
        else:
            continue
        if depth < _DEEPEST:
            waiting.extend((child, depth + 1) for child in reversed(children))
    return False


def _is_container(x: Any) -> bool:
    """Tell whether a library knows an object of another class as a tree with arrays."""
    if hasattr(x, "__next__"):  # an iterator, of which JAX warns
        return False
    leaves, _ = tree_leaves(x)
    return any(leaf is not x and hasattr(leaf, "dtype") for leaf in leaves)


def tree_leaves(x: Any) -> tuple[list[Any], Tree]:
    """Return the leaves of a tree, and the tree without them; what is no tree is its one leaf.

    Raise RecursionError if containers are nested too deeply, or hold themselves.
    """
    if _too_deep(x):
        raise RecursionError
    for library, utilities in _UTILITIES.items():
        try:
            leaves, spec = utilities.flatten(x)
        except (TypeError, ValueError):
            continue
        if library == _PYTHON or any(_is_of(library, leaf) for leaf in leaves):
            return leaves, Tree(library, spec, tuple(utilities.paths(x)))
    raise AssertionError


def _too_deep(x: Any) -> bool:
    """Tell whether containers are nested deeper than any parameters, or hold themselves.

    Once JAX has run out of its stack with one, nothing else in the process can call deeply.
    """
    waiting = [(x, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _DEEPEST:
            return True
        if isinstance(node, dict):
            node = tuple(node.values())
        if isinstance(node, (list, tuple)):
            waiting.extend((child, depth + 1) for child in node)
    return False


def _is_of(library: str, leaf: Any) -> bool:
    if not is_array(leaf):
        return False
    xp = namespace(leaf)
    return is_jax_namespace(xp) if library == "jax" else is_torch_namespace(xp)


class _JaxTrees(_Utilities):
    def flatten(self, x: Any) -> tuple[list[Any], Any]:
        import jax

        leaves, spec = jax.tree_util.tree_flatten(x)
        return leaves, spec

    def unflatten(self, spec: Any, leaves: Sequence[Any]) -> Any:
        import jax

        return jax.tree_util.tree_unflatten(spec, leaves)

    def paths(self, x: Any) -> list[str]:
        import jax

        return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(x)]


class _TorchTrees(_Utilities):
    def flatten(self, x: Any) -> tuple[list[Any], Any]:
        from torch.utils import _pytree

        leaves, spec = _pytree.tree_flatten(x)
        return leaves, spec

    def unflatten(self, spec: Any, leaves: Sequence[Any]) -> Any:
        from torch.utils import _pytree

        return _pytree.tree_unflatten(leaves, spec)

    def matched(self, spec: Any, x: Any) -> list[Any]:
        leaves: list[Any] = spec.flatten_up_to(x)  # dicts in any order
        return leaves

    def paths(self, x: Any) -> list[str]:
        from torch.utils import _pytree

        pairs, _ = _pytree.tree_flatten_with_path(x)
        return [_pytree.keystr(path) for path, _ in pairs]


@part
@dataclasses.dataclass(frozen=True)
class _Node:
    """A dict, list or tuple without its leaves."""

    kind: type
    keys: tuple[Any, ...]
    children: tuple[_Node | None, ...]  # None for a leaf
    first: tuple[Any, ...] = ()  # what it is made with besides these


class _PythonTrees(_Utilities):
    def flatten(self, x: Any) -> tuple[list[Any], Any]:
        leaves: list[Any] = []
        return leaves, _node(x, leaves)

    def unflatten(self, spec: Any, leaves: Sequence[Any]) -> Any:
        return _built(spec, iter(leaves))

    def paths(self, x: Any) -> list[str]:
        return list(_paths(_node(x, []), ""))


def _node(x: Any, leaves: list[Any]) -> _Node | None:
    """Return what x is without its leaves, which are appended to those."""
    if isinstance(x, dict):
        keys = _sorted(tuple(x))
        values = tuple(x[key] for key in keys)
    elif isinstance(x, (list, tuple)):
        keys, values = tuple(range(len(x))), tuple(x)
    else:
        leaves.append(x)
        return None
    children = tuple(_node(value, leaves) for value in values)
    first = (x.default_factory,) if isinstance(x, defaultdict) else ()
    return _Node(type(x), keys, children, first)


def _sorted(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return keys in order, or as they are where they have none."""
    try:
        return tuple(sorted(keys))
    except TypeError:
        return keys


def _built(node: _Node | None, leaves: Iterator[Any]) -> Any:
    if node is None:
        return next(leaves)
    values = [_built(child, leaves) for child in node.children]
    make: Any = node.kind
    if issubclass(node.kind, dict):
        return make(*node.first, zip(node.keys, values))
    return make(*values) if hasattr(make, "_fields") else make(values)


def _paths(node: _Node | None, path: str) -> Iterator[str]:
    if node is None:
        yield path
        return
    for key, child in zip(node.keys, node.children):
        yield from _paths(child, f"{path}[{key!r}]")


_PYTHON = "python"
_UTILITIES: dict[str, _Utilities] = {_PYTHON: _PythonTrees()}


def _know(library: str, utilities: _Utilities) -> None:
    """Ask the utilities of a library before those of Python."""
    others = dict(_UTILITIES)
    _UTILITIES.clear()
    _UTILITIES.update({library: utilities} | others)


when_imported("jax", partial(_know, "jax", _JaxTrees()))
when_imported("torch", partial(_know, "torch", _TorchTrees()))

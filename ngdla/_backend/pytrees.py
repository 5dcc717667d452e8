"""Classes of ngdla as pytrees of JAX and torch, registered once either is in use."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["register_pending", "register_pytree"]

_PENDING: dict[str, list[tuple[type, tuple[str, ...], tuple[str, ...]]]] = {"jax": [], "torch": []}


def register_pytree(*, static: tuple[str, ...] = ()) -> Callable[[type], type]:
    """Make a dataclass a pytree of JAX and of torch, as soon as either is in use.

    Fields named in `static` are compared by value and never traced; all others are leaves.
    """

    def register(cls: type) -> type:
        leaves = tuple(f.name for f in dataclasses.fields(cls) if f.name not in static)
        for pending in _PENDING.values():
            pending.append((cls, leaves, static))
        return cls

    return register


def register_pending() -> None:
    """Register what has been declared, with each library that is in use."""
    for name, pending in _PENDING.items():
        if pending and name in sys.modules:
            _REGISTER[name](pending)


def _register_with_jax(pending: list[Any]) -> None:
    import jax

    while pending:
        cls, leaves, static = pending.pop()
        jax.tree_util.register_dataclass(cls, data_fields=list(leaves), meta_fields=list(static))


def _register_with_torch(pending: list[Any]) -> None:
    from torch.utils import _pytree

    while pending:
        cls, leaves, static = pending.pop()
        _pytree.register_pytree_node(
            cls,
            partial(_flatten, leaves, static),
            partial(_unflatten, cls, leaves, static),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )


def _flatten(leaves: tuple[str, ...], static: tuple[str, ...], x: Any) -> tuple[list[Any], Any]:
    return [getattr(x, name) for name in leaves], tuple(getattr(x, name) for name in static)


def _unflatten(
    cls: type, leaves: tuple[str, ...], static: tuple[str, ...], values: Any, context: Any
) -> Any:
    return cls(**dict(zip(leaves, values)), **dict(zip(static, context)))


_REGISTER: dict[str, Callable[[list[Any]], None]] = {
    "jax": _register_with_jax,
    "torch": _register_with_torch,
}

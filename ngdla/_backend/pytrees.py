"""Classes of ngdla that JAX and torch know: as pytrees, and as safe to load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from .late_imports import when_imported

__all__ = ["array_fields", "mapped", "register_pytree", "register_safe"]


def register_pytree(*, static: tuple[str, ...] = ()) -> Callable[[type], type]:
    """Make a dataclass a pytree of JAX and of torch, as soon as either is imported.

    Fields named in `static` are compared by value and never traced; all others are leaves.
    """

    def register(cls: type) -> type:
        leaves = tuple(f.name for f in dataclasses.fields(cls) if f.name not in static)
        cls._array_fields = leaves  # type: ignore[attr-defined]
        when_imported("jax", partial(_register_with_jax, cls, leaves, static))
        when_imported("torch", partial(_register_with_torch, cls, leaves, static))
        return cls

    return register


def register_safe(item: Any) -> Any:
    """Let `torch.load(weights_only=True)` make instances of a class, or call a function."""
    when_imported("torch", partial(_register_safe, item))
    return item


def array_fields(x: Any) -> tuple[str, ...] | None:
    """Return the names of the fields of a registered class that hold arrays, None for others."""
    return getattr(type(x), "_array_fields", None)


def mapped(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """Return x with a function of its arrays, and of those of others like it, in their place."""
    if isinstance(x, tuple):
        return tuple(mapped(function, *parts) for parts in zip(x, *others))
    names = array_fields(x)
    if names is None:
        return function(x, *others)
    fields = {
        name: mapped(function, *(getattr(one, name) for one in (x, *others))) for name in names
    }
    return dataclasses.replace(x, **fields)


def _register_with_jax(cls: type, leaves: tuple[str, ...], static: tuple[str, ...]) -> None:
    import jax

    jax.tree_util.register_dataclass(cls, data_fields=list(leaves), meta_fields=list(static))


def _register_with_torch(cls: type, leaves: tuple[str, ...], static: tuple[str, ...]) -> None:
    from torch.utils import _pytree

    _pytree.register_pytree_node(
        cls,
        partial(_flatten, leaves, static),
        partial(_unflatten, cls, leaves, static),
        flatten_with_keys_fn=partial(_flatten_with_keys, leaves, static),
        serialized_type_name=f"ngdla.{cls.__qualname__}",
    )


def _register_safe(item: Any) -> None:
    import torch

    torch.serialization.add_safe_globals([item])


def _flatten(leaves: tuple[str, ...], static: tuple[str, ...], x: Any) -> tuple[list[Any], Any]:
    return [getattr(x, name) for name in leaves], tuple(getattr(x, name) for name in static)


def _flatten_with_keys(
    leaves: tuple[str, ...], static: tuple[str, ...], x: Any
) -> tuple[list[Any], Any]:
    from torch.utils import _pytree

    values, context = _flatten(leaves, static, x)
    return [(_pytree.GetAttrKey(name), value) for name, value in zip(leaves, values)], context


def _unflatten(
    cls: type, leaves: tuple[str, ...], static: tuple[str, ...], values: Any, context: Any
) -> Any:
    return cls(**dict(zip(leaves, values)), **dict(zip(static, context)))

"""Calls that are written down once and made later: with another commit, library or dtype.

`ngdla.damped_solve(S, v, 0.3)` of the symbols here computes nothing. `evaluate` makes the calls,
one after the other, with a module and arrays in the places of its symbols.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["Absent", "Array", "Expression", "arrays_in", "evaluate", "lifted", "ngdla"]


class Absent(Exception):
    """A public name that a commit does not have."""


class Expression:
    """What an operation gives when it is made; attributes, calls and operators are more of them."""

    def __init__(self, operation: Callable[..., Any] | None, *args: Any, **options: Any) -> None:
        self._operation, self._args, self._options = operation, args, options

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        return Expression(getattr, self, name)

    def __call__(self, *args: Any, **options: Any) -> Expression:
        """Return the call of this as a function."""
        return Expression(operator.call, self, *args, **options)

    def __getitem__(self, key: Any) -> Expression:
        return Expression(operator.getitem, self, key)

    def __neg__(self) -> Expression:
        return Expression(operator.neg, self)

    def __add__(self, other: Any) -> Expression:
        return Expression(operator.add, self, other)

    def __sub__(self, other: Any) -> Expression:
        return Expression(operator.sub, self, other)

    def __mul__(self, other: Any) -> Expression:
        return Expression(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Expression:
        return Expression(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Expression:
        return Expression(operator.truediv, self, other)

    def __gt__(self, other: Any) -> Expression:
        return Expression(operator.gt, self, other)

    def __matmul__(self, other: Any) -> Expression:
        return Expression(operator.matmul, self, other)


class Array(Expression):
    """An array of a kind, shape and seed, in the dtype of a case or one of its own."""

    def __init__(
        self, kind: str, shape: tuple[int, ...], *, seed: int = 0, dtype: str | None = None
    ) -> None:
        super().__init__(None)
        self._key = ArrayKey(kind, shape, seed, dtype)

    def of(self, dtype: str) -> Array:
        """Return the same numbers in another dtype."""
        return Array(self._key.kind, self._key.shape, seed=self._key.seed, dtype=dtype)

    def like(self, kind: str) -> Array:
        """Return an array of another kind and the same shape."""
        return Array(kind, self._key.shape, seed=self._key.seed, dtype=self._key.dtype)


class ArrayKey(NamedTuple):
    """What an array is known by."""

    kind: str
    shape: tuple[int, ...]
    seed: int
    dtype: str | None


ngdla = Expression(None)  # the module of a commit


def lifted(function: Callable[..., Any]) -> Callable[..., Expression]:
    """Return a function of expressions that is called when they have values."""
    return lambda *args, **options: Expression(function, *args, **options)


def evaluate(
    x: Any, module: Any, array: Callable[[ArrayKey], Any], seen: set[str] | None = None
) -> Any:
    """Return the value of an expression; each one in it is computed once.

    `array` makes the arrays. The public names that were used, and the options of functions as
    "name, option", are added to `seen`.
    """
    values: dict[int, Any] = {id(ngdla): module}
    names = set() if seen is None else seen

    def value(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(value, x))
        if isinstance(x, dict):
            return {key: value(item) for key, item in x.items()}
        if not isinstance(x, Expression):
            return x
        if id(x) not in values:
            values[id(x)] = array(x._key) if isinstance(x, Array) else made(x)
        return values[id(x)]

    def made(x: Expression) -> Any:
        args = value(x._args)
        if x._operation is getattr:
            _note(*args, module, names)
        elif x._operation is operator.call:
            names.update(f"{args[0].__name__}, {option}" for option in x._options)
        return x._operation(*args, **value(x._options))  # type: ignore[misc]

    return value(x)


def _note(owner: Any, name: str, module: Any, names: set[str]) -> None:
    """Add a name of the module, or of the class that defines it; raise where it is absent."""
    if isinstance(owner, ModuleType):
        path = owner.__name__.removeprefix(module.__name__)[1:]
    else:
        kind = owner if isinstance(owner, type) else type(owner)
        if kind.__module__.partition(".")[0] != module.__name__:
            return
        path = next((k for k in kind.__mro__ if name in vars(k)), kind).__name__
    label = f"{path}.{name}" if path else name
    if isinstance(owner, (ModuleType, type)) and not hasattr(owner, name):
        raise Absent(label)
    names.add(label)


def arrays_in(x: Any) -> set[ArrayKey]:
    """Return the keys of all arrays in an expression."""
    keys, seen, waiting = set[ArrayKey](), set[int](), [x]
    while waiting:
        x = waiting.pop()
        if isinstance(x, dict):
            waiting += x.values()
        elif isinstance(x, (list, tuple)):
            waiting += x
        elif isinstance(x, Array):
            keys.add(x._key)
        elif isinstance(x, Expression) and id(x) not in seen:
            seen.add(id(x))
            waiting += [*x._args, *x._options.values()]
    return keys

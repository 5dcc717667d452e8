"""States of training loops as named arrays: saved, and restored bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .array import AnyArray
from .creation import constant
from .dtypes import dtype_name, dtype_of
from .messages import shown
from .namespace import Array, is_array, namespace
from .pytrees import array_fields, register_pytree, register_safe
from .transfer import host_values, moved, on_host

__all__ = ["load_state_dict", "state_class", "state_dict"]

State = TypeVar("State")

_LAYOUT = "layout"  # the name of what is no array in a state, as JSON in bytes
_BITS = ":bfloat16"  # the end of a name under which the bits of such numbers are kept


def state_class(
    *,
    static: tuple[str, ...] = (),
    counted: tuple[str, ...] = (),
    grown: tuple[str, ...] = (),
) -> Callable[[type], type]:
    """Make a dataclass a pytree that `state_dict` saves and that torch takes for safe to load.

    Fields named in `static` and `counted` are no arrays. Those in `static` are options, which a
    template must share; those in `counted` are integers, or tuples of them, that change from step
    to step. Fields of arrays named in `grown` are () in a new state, or hold ().
    """

    def register(cls: type) -> type:
        cls._counted, cls._grown = counted, grown  # type: ignore[attr-defined]
        return register_safe(register_pytree(static=(*static, *counted))(cls))

    return register


def state_dict(state: Any) -> dict[str, AnyArray]:
    """Return what a state holds as arrays by name, for `np.savez`, `torch.save` and the like.

    Parameters
    ----------
    state : InverseFreeState, OnlineEigh, LowRankEigh, NystromFactor, WeightSharing, ...
        A state; also statistics, and a StructuredMatrix.

    Returns
    -------
    dict of str to array
        Names of fields, and numbers of leaves: "K.0", "K.1", ..., "step", "report.skipped". The
        arrays are those of the state, not copies. bfloat16, which files of NumPy do not know, is
        there as uint16, under "K.0:bfloat16". Integers that the host counts are 0-d arrays, and
        "layout" is a text in uint8 that tells structures and policies, which are no arrays: of the
        library of the state, or of NumPy where it holds no array yet.

    Raises
    ------
    TypeError
        If it is not a state.

    Notes
    -----
    Cost: no numbers are copied, but the layout is, some hundred bytes, to the device of the state.

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla import load_state_dict, online_eigh_init
    >>> state = online_eigh_init(np.eye(4, 3), 2)
    >>> arrays = state_dict(state)  # for np.savez("state.npz", **arrays)
    >>> sorted(arrays)[:3]
    ['eigenvalues', 'eigenvectors', 'layout']
    >>> blank = online_eigh_init(np.zeros((1, 3)), 2)
    >>> bool(np.all(load_state_dict(blank, arrays).trace == state.trace))
    True
    """
    _require_state(state, "state")
    arrays = dict(_named(state))
    like = next(iter(arrays.values()), on_host())
    saved = {_saved_name(name, x): _bits(x) for name, x in arrays.items()}
    numbers = [(name, value, "int32") for name, value in _numbers(state) if value != ()]
    text = (_LAYOUT, list(json.dumps(_layout(state)).encode()), "uint8")
    asarray = namespace(like).asarray
    return saved | {name: asarray(constant(x, like, kind)) for name, x, kind in [*numbers, text]}


def load_state_dict(
    template: State, arrays: Mapping[str, Any], *, like: Array | None = None
) -> State:
    """Return the state that `state_dict` saved, bit for bit.

    Parameters
    ----------
    template : state
        A state of the same layout, as the function that started the saved one returns:
        `inverse_free_init` with the same options, `online_eigh_init` with any batch,
        `weight_sharing_init`. Its numbers are not used.
    arrays : mapping of str to array
        What `state_dict` returned, or what was read from a file, of any library: an open npz file
        is one.
    like : array, optional
        Gives the library and the device of the restored state; by default, each array goes where
        that of the template is. Arrays that a new state has not yet, such as the weights of
        WeightSharing, then stay where they are.

    Returns
    -------
    state
        Of the class of the template.

    Raises
    ------
    TypeError
        If the template is no state, or `arrays` holds something that is not an array.
    ValueError
        If a name is missing or there is one too many, an array has another shape or dtype than
        that of the template, or the layout is another one. What is wrong is named.

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla import inverse_free_init, state_dict
    >>> state = inverse_free_init(3, 2, like=np.zeros(1))
    >>> template = inverse_free_init(3, 2, like=np.zeros(1), dtype="float32")
    >>> load_state_dict(template, state_dict(state))
    Traceback (most recent call last):
    ...
    ValueError: `arrays` has 'K.0' in float64; for this `template` it must be float32.
    """
    _require_state(template, "template")
    if not isinstance(arrays, Mapping):
        msg = f"`arrays` is a {type(arrays).__name__}; it must be a mapping of names to arrays."
        raise TypeError(msg)
    source = _Source(arrays, like, {_LAYOUT})
    source.require_layout(template)
    restored = _restored(template, "", source)
    if surplus := sorted(set(arrays) - source.used):
        msg = (
            f"`arrays` has {_listed(surplus)}, which this `template` has not; make the template as "
            f"the saved state was made."
        )
        raise ValueError(msg)
    return restored


# ------------------------------------------------------------------------------------- names


def _named(x: Any, name: str = "") -> Iterator[tuple[str, Array]]:
    """Yield the arrays of a state, and what each is called."""
    if isinstance(x, tuple):
        for i, part in enumerate(x):
            yield from _named(part, _joined(name, str(i)))
        return
    fields = array_fields(x)
    if fields is None:
        yield name, x
        return
    for field in fields:
        yield from _named(getattr(x, field), _inner(name, field, fields))


def _numbers(x: Any) -> Iterator[tuple[str, Any]]:
    """Yield the integers that the host counts, which no state has inside of another."""
    for field in x._counted:
        yield field, getattr(x, field)


def _inner(name: str, field: str, fields: tuple[str, ...]) -> str:
    """Return the name of a field: that of what it is a part of where there is no other."""
    return name if len(fields) == 1 else _joined(name, field)


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _saved_name(name: str, x: Array) -> str:
    return name + _BITS if dtype_name(x.dtype) == "bfloat16" else name


def _bits(x: AnyArray) -> AnyArray:
    """Return the bits of numbers in bfloat16 as integers; others as they are."""
    if dtype_name(x.dtype) != "bfloat16":
        return x
    return x.view(dtype_of(namespace(x), "uint16"))


def _layout(x: Any, name: str = "") -> dict[str, str]:
    """Return what a template must share, by name: the class, and options of all parts."""
    if isinstance(x, tuple):
        parts = [_layout(part, _joined(name, str(i))) for i, part in enumerate(x)]
        return {key: value for part in parts for key, value in part.items()}
    fields = array_fields(x)
    if fields is None:
        return {}
    found = {} if name else {"class": type(x).__name__}
    for field in (f.name for f in dataclasses.fields(x)):
        if field in x._grown or field in x._counted:
            continue
        if field in fields:
            found |= _layout(getattr(x, field), _inner(name, field, fields))
        else:
            found[_joined(name, field)] = _option_text(getattr(x, field))
    return found


def _read_layout(x: AnyArray) -> dict[str, str]:
    """Return what was saved of a layout."""
    try:
        return dict(json.loads(host_values(x).tobytes()))
    except (TypeError, ValueError):  # no text, no JSON, or no pairs
        msg = f"`arrays` has {shown(x)} as {_LAYOUT!r}; it must be what state_dict returned."
        raise ValueError(msg) from None


def _option_text(value: Any) -> str:
    """Return a text for an option that is the same in every process."""
    cls: Any = type(value)
    return cls.__qualname__ if cls.__repr__ is object.__repr__ else repr(value)


# ----------------------------------------------------------------------------------- restoring


class _Source(NamedTuple):
    """Where arrays are taken from, and which have been."""

    arrays: Mapping[str, Any]
    like: Array | None
    used: set[str]

    def take(self, name: str) -> Array:
        """Return an array by its name, or raise."""
        if name not in self.arrays:
            others = [other for other in (name + _BITS, name.removesuffix(_BITS)) if other != name]
            others = [other for other in others if other in self.arrays]
            hint = f", but {others[0]!r}, of another dtype" if others else ""
            msg = (
                f"`arrays` has no {name!r}{hint}; make the template as the saved state was made, "
                f"and pass all that state_dict returned."
            )
            raise ValueError(msg)
        self.used.add(name)
        x = self.arrays[name]
        if not is_array(x):
            msg = f"`arrays` has {shown(x)} as {name!r}; it must be an array."
            raise TypeError(msg)
        return x

    def placed(self, name: str, x: AnyArray, like: Array | None) -> AnyArray:
        """Return an array where it is to live, with its bits as numbers of their dtype."""
        like = self.like if self.like is not None else like
        x = x if like is None else moved(x, like)
        return x.view(dtype_of(namespace(x), "bfloat16")) if name.endswith(_BITS) else x

    def require_layout(self, template: Any) -> None:
        """Raise unless the template shares all that is no array."""
        saved, own = _read_layout(self.take(_LAYOUT)), _layout(template)
        for name in [*own, *saved]:
            if (here := own.get(name, "none")) != (there := saved.get(name, "none")):
                msg = (
                    f"`arrays` were saved from a state with {name} = {there}; `template` has "
                    f"{here}. Make the template as that state was made."
                )
                raise ValueError(msg)


def _restored(x: Any, name: str, source: _Source) -> Any:
    """Return what stands in a template in the place of x, from the arrays."""
    if isinstance(x, tuple):
        parts = enumerate(x)
        return tuple(_restored(part, _joined(name, str(i)), source) for i, part in parts)
    fields = array_fields(x)
    if fields is None:
        return _restored_array(x, name, source)
    values: dict[str, Any] = {}
    for field in fields:
        restore = _regrown if field in x._grown else _restored
        values[field] = restore(getattr(x, field), _inner(name, field, fields), source)
    for field in x._counted:
        values[field] = _counted(getattr(x, field), field, source)
    return dataclasses.replace(x, **values)


def _restored_array(x: Array, name: str, source: _Source) -> Array:
    """Return a saved array, which must be like that of the template."""
    saved_name = _saved_name(name, x)
    saved = source.take(saved_name)
    for what, found, expected in (
        ("shape", tuple(saved.shape), tuple(x.shape)),
        ("dtype", dtype_name(saved.dtype), dtype_name(_bits(x).dtype)),
    ):
        if found != expected:
            of = "of shape" if what == "shape" else "in"
            msg = (
                f"`arrays` has {saved_name!r} {of} {found}; for this `template` it must be "
                f"{expected}."
            )
            raise ValueError(msg)
    placed = source.placed(saved_name, saved, x)
    if dtype_name(placed.dtype) != dtype_name(x.dtype):
        msg = (
            f"`like` turns {name!r} from {dtype_name(x.dtype)} into {dtype_name(placed.dtype)}; "
            f"let its library have that dtype, as JAX has by jax_enable_x64."
        )
        raise ValueError(msg)
    return placed


def _regrown(x: Any, name: str, source: _Source) -> Any:
    """Return arrays that a new state has not yet: as many as have been saved."""
    if isinstance(x, tuple) and x:
        parts = enumerate(x)
        return tuple(_regrown(part, _joined(name, str(i)), source) for i, part in parts)
    found = [saved for saved in (name, name + _BITS) if saved in source.arrays]
    return source.placed(found[0], source.take(found[0]), None) if found else ()


def _counted(value: Any, name: str, source: _Source) -> Any:
    """Return integers that the host counts; a tuple that was empty has not been saved."""
    if name not in source.arrays and isinstance(value, tuple):
        return ()
    counted = host_values(source.take(name)).tolist()
    return tuple(counted) if isinstance(counted, list) else counted


def _require_state(x: Any, name: str) -> None:
    if not hasattr(type(x), "_counted"):
        msg = (
            f"`{name}` is a {type(x).__name__}; it must be a state: what inverse_free_init, "
            f"online_eigh_init, weight_sharing_init, randomized_eigh and the like return."
        )
        raise TypeError(msg)


def _listed(names: list[str]) -> str:
    shown_names = ", ".join(map(repr, names[:5]))
    return f"{shown_names} and {len(names) - 5} more" if len(names) > 5 else shown_names

"""States of training loops as named arrays: saved, and restored bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .array import AnyArray
from .checks import require_dense
from .creation import placed
from .dtypes import dtype_name, dtype_of
from .messages import shown
from .namespace import Array, is_array, namespace
from .pytrees import array_fields, register_pytree, register_safe
from .settings import device_of
from .tracing import without_graph
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
        there as uint16, under "K.0:bfloat16". "layout" is a text in uint8 that tells what is no
        array: structures, policies, and what the host counts. It is of the library of the state, or
        of NumPy where that holds no array yet; `torch.load` then wants the state itself.

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
    saved = {_saved_name(name, x): _bits(without_graph(x, x)) for name, x in arrays.items()}
    fields = [name.partition(".")[0] for name in arrays]
    layout = _Layout(
        options=_options(state),
        counted={name: getattr(state, name) for name in state._counted},
        grown={
            name: _kind(x)
            for field, (name, x) in zip(fields, saved.items())
            if field in state._grown
        },
    )
    text = placed(list(json.dumps(layout._asdict()).encode()), like, "uint8")
    with device_of(like):
        return saved | {_LAYOUT: namespace(like).asarray(text)}


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
        that of the template is. Arrays that the template has not yet, such as the weights of a new
        WeightSharing, then stay where they are. Nothing is copied that is there already.

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
    ValueError: `arrays` has 'K.0' of shape (3, 3) in float64; for this `template` it must be ...
    """
    _require_state(template, "template")
    if not isinstance(arrays, Mapping):
        msg = f"`arrays` is a {type(arrays).__name__}; it must be a mapping of names to arrays."
        raise TypeError(msg)
    if like is not None:
        require_dense(like, "like", blocks=False)
    source = _Source(arrays, like, {_LAYOUT})
    layout = _read_layout(source.take(_LAYOUT))
    _require_same(layout.options, _options(template))
    restored = _restored(template, "", source, layout)
    if surplus := sorted(map(str, set(arrays) - source.used)):
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


class _Layout(NamedTuple):
    """What is no array in a state, and arrays that a template need not have."""

    options: dict[str, str]  # which a template must share
    counted: dict[str, Any]  # integers, and tuples of them
    grown: dict[str, str]  # shape and dtype, by name


def _kind(x: Array) -> str:
    return f"of shape {tuple(x.shape)} in {dtype_name(x.dtype)}"


def _options(x: Any, name: str = "") -> dict[str, str]:
    """Return what a template must share, by name: the class, and options of all parts."""
    if isinstance(x, tuple):
        parts = [_options(part, _joined(name, str(i))) for i, part in enumerate(x)]
        return {key: value for part in parts for key, value in part.items()}
    fields = array_fields(x)
    if fields is None:
        return {}
    found = {} if name else {"class": type(x).__name__}
    for field in (f.name for f in dataclasses.fields(x)):
        if field in x._grown or field in x._counted:
            continue
        if field in fields:
            found |= _options(getattr(x, field), _inner(name, field, fields))
        else:
            found[_joined(name, field)] = _option_text(getattr(x, field))
    return found


def _read_layout(x: AnyArray) -> _Layout:
    """Return the layout that was saved."""
    try:
        return _Layout(**json.loads(host_values(x).tobytes()))
    except (TypeError, ValueError):  # no text, no JSON, or another one
        msg = f"`arrays` has {shown(x)} as {_LAYOUT!r}; it must be what state_dict returned."
        raise ValueError(msg) from None


def _option_text(value: Any) -> str:
    """Return a text for an option that is the same in every process."""
    cls = type(value)
    if "__repr__" in vars(cls) or not hasattr(value, "__dict__"):
        return repr(value)
    options = [f"{name}={x!r}" for name, x in vars(value).items() if not _by_address(x)]
    return f"{cls.__qualname__}({', '.join(options)})"


def _by_address(value: Any) -> bool:
    """Tell whether the text of a value holds its address."""
    cls: Any = type(value)
    return callable(value) or cls.__repr__ is object.__repr__


# ----------------------------------------------------------------------------------- restoring


def _placed(name: str, x: AnyArray, like: Array | None) -> AnyArray:
    """Return an array where it is to live, with its bits as numbers of their dtype."""
    placed = x if like is None else moved(x, like)
    if dtype_name(placed.dtype) != dtype_name(x.dtype):
        msg = (
            f"`like` turns {name!r} from {dtype_name(x.dtype)} into {dtype_name(placed.dtype)}; "
            f"let its library have that dtype, as JAX has by jax_enable_x64."
        )
        raise ValueError(msg)
    return placed.view(dtype_of(namespace(placed), "bfloat16")) if name.endswith(_BITS) else placed


class _Source(NamedTuple):
    """Where arrays are taken from, and which have been."""

    arrays: Mapping[str, Any]
    like: Array | None
    used: set[str]

    def take(self, name: str, kind: str = "", like: Array | None = None) -> AnyArray:
        """Return an array by its name, of a shape and dtype, where it is to live, or raise."""
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
        if kind and _kind(x) != kind:
            msg = f"`arrays` has {name!r} {_kind(x)}; for this `template` it must be {kind}."
            raise ValueError(msg)
        like = self.like if self.like is not None else like
        return _placed(name, x, like) if kind else x


def _require_same(saved: dict[str, str], own: dict[str, str]) -> None:
    """Raise unless the template shares all options."""
    for name in [*own, *saved]:
        if (here := own.get(name, "none")) != (there := saved.get(name, "none")):
            msg = (
                f"`arrays` were saved from a state with {name} = {there}; `template` has {here}. "
                f"Make the template as that state was made."
            )
            raise ValueError(msg)


def _restored(x: Any, name: str, source: _Source, layout: _Layout) -> Any:
    """Return what stands in a template in the place of x, from the arrays."""
    if isinstance(x, tuple):
        parts = enumerate(x)
        return tuple(_restored(part, _joined(name, str(i)), source, layout) for i, part in parts)
    fields = array_fields(x)
    if fields is None:
        return source.take(_saved_name(name, x), _kind(_bits(x)), x)
    values: dict[str, Any] = {}
    for field in fields:
        restore = _regrown if field in x._grown else _restored
        values[field] = restore(getattr(x, field), _inner(name, field, fields), source, layout)
    for field in x._counted:
        counted = layout.counted[field]
        values[field] = tuple(counted) if isinstance(counted, list) else counted
    return dataclasses.replace(x, **values)


def _regrown(x: Any, name: str, source: _Source, layout: _Layout) -> Any:
    """Return arrays that a new state has not yet: those that have been saved."""
    if isinstance(x, tuple) and x:
        parts = enumerate(x)
        return tuple(_regrown(part, _joined(name, str(i)), source, layout) for i, part in parts)
    like = None if isinstance(x, tuple) else x
    for saved in (name, name + _BITS):
        if saved in layout.grown:
            return source.take(saved, layout.grown[saved], like)
    return ()


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

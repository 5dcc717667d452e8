"""cupy.ndarray over memory of the host: refuses what CuPy refuses, copies what CuPy copies.

The rules, and where CuPy has them (version 14.2.0):

* no implicit conversion to NumPy: `__array__` raises; arrays of NumPy with axes are refused in
  every operation (cupy/_core/core.pyx, `__array__`; _kernel.pyx, `_preprocess_arg`);
* an array of a device that is not the current one is refused, as without peer access
  (_kernel.pyx, `_check_peer_access`);
* results of elementwise operations and of reductions are C-ordered (_kernel.pyx,
  `_get_out_args_from_optionals`), `empty_like` and `astype` keep an order;
* `bool`, `int`, `float`, `.item()`, `.get()` and indexing by masks wait for the device
  (_routines_indexing.pyx, `_ndarray_argwhere`, `_prepare_mask_indexing_single`);
* a reshaped array is a view where strides allow it, else a copy (_routines_manipulation.pyx).
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import record
from .devices import Device, current_device, reserve
from .host_memory import borrowed
from .pointers import known
from .streams import Memory, copy_to_device, get_current_stream, worked

__all__ = ["made", "moved_to_device", "ndarray", "operand", "owned", "value_of", "view"]


class ndarray:
    """cupy.ndarray."""

    __module__ = "cupy"
    __array_priority__ = 100
    __slots__ = ("__weakref__", "_host", "memory")

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, order: str = "C"):
        if memptr is not None:
            self._host, self.memory = memptr.entries(shape, dtype), memptr.mem
            return
        self._host = np.full(shape, _garbage(dtype), dtype=dtype, order=order or "C")
        self.memory = Memory(current_device(), self._host.nbytes)
        reserve("empty", self.memory, self._host)
        known(self.memory, self._host)

    # ------------------------------------------------------------------------ attributes

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self.memory.device_id))
    data = property(lambda self: _Pointer(self))  # noqa: PLW0108 - defined below
    _c_contiguous = property(lambda self: self._host.flags.c_contiguous)
    _f_contiguous = property(lambda self: self._host.flags.f_contiguous)

    @property
    def T(self) -> ndarray:
        return view(self, self._host.T)

    @property
    def mT(self) -> ndarray:
        return view(self, self._host.mT)

    @property
    def real(self) -> ndarray:
        return view(self, self._host.real)

    @real.setter
    def real(self, value: Any) -> None:
        self.real[...] = value

    @property
    def imag(self) -> ndarray:
        if self.dtype.kind != "c":
            return made("zeros", np.zeros_like(self._host), self)
        return view(self, self._host.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        self.imag[...] = value

    @property
    def base(self) -> Any:
        return self if self._host.base is not None else None

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"array({self._host!r}, device={self.memory.device_id})"

    def __hash__(self) -> int:
        msg = "unhashable type: 'ndarray'"
        raise TypeError(msg)

    # ----------------------------------------------------------------- what the host waits for

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        msg = (
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )
        raise TypeError(msg)

    def get(self, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
        return value_of(self, "get").copy(order=order)

    def item(self) -> Any:
        return value_of(self, "item").item()

    def tolist(self) -> Any:
        return value_of(self, "tolist").tolist()

    def __bool__(self) -> bool:
        return bool(value_of(self, "bool"))

    def __int__(self) -> int:
        return int(value_of(self, "int"))

    def __float__(self) -> float:
        return float(value_of(self, "float"))

    def __complex__(self) -> complex:
        return complex(value_of(self, "complex"))

    def __index__(self) -> int:
        return operator.index(value_of(self, "index").item())

    # -------------------------------------------------------------------------------- views

    def view(self, dtype: Any = None) -> ndarray:
        return view(self, self._host.view() if dtype is None else self._host.view(dtype))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 else shape
        host = self._host.reshape(shape, order=order)
        if self.size == 0 or np.may_share_memory(host, self._host):
            return view(self, host)
        return made("copy", operand(self).reshape(shape, order=order), self)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1, order=order)

    def flatten(self, order: str = "C") -> ndarray:
        return made("copy", operand(self).flatten(order), self)

    def transpose(self, *axes: Any) -> ndarray:
        return view(self, self._host.transpose(*axes))

    def swapaxes(self, first: int, second: int) -> ndarray:
        return view(self, self._host.swapaxes(first, second))

    def squeeze(self, axis: Any = None) -> ndarray:
        return view(self, self._host.squeeze(axis))

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> ndarray:
        return view(self, self._host.diagonal(offset, axis1, axis2), writeable=True)

    def __iter__(self) -> Any:
        if self.ndim == 0:
            msg = "iteration over a 0-d array"
            raise TypeError(msg)
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        plain, arrays = _index(index)
        if not arrays:
            return view(self, self._host[_with_ellipsis(plain)])
        return made("take", np.array(operand(self)[plain]), self, *arrays)

    def __setitem__(self, index: Any, value: Any) -> None:
        plain, arrays = _index(index)
        source = operand(value)
        if self._host[plain].size == 0 and not arrays:
            return
        record.launched("elementwise_copy" if not arrays else "scatter")
        worked([x.memory for x in (value, *arrays) if isinstance(x, ndarray)], [self.memory])
        self._on_current("set")
        self._host[plain] = source

    # ------------------------------------------------------------------------------- copies

    def copy(self, order: str = "C") -> ndarray:
        return made("copy", operand(self).copy(order=order), self)

    def astype(
        self,
        dtype: Any,
        order: str = "K",
        casting: Any = None,
        subok: Any = None,
        copy: bool = True,
    ) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype) and _has_order(self._host, order):
            return self
        with np.errstate(all="ignore"):
            return made("astype", operand(self).astype(dtype, order=order), self)

    def fill(self, value: Any) -> None:
        self[...] = value

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            msg = "Only numpy.ndarray can be set to cupy.ndarray"
            raise TypeError(msg)
        if self.dtype != arr.dtype or self.shape != arr.shape:
            msg = f"Shape or dtype mismatch. Old: {self.shape} {self.dtype}, new: {arr.shape}"
            raise ValueError(msg)
        record.uploaded(arr.nbytes)

        source, target = borrowed(arr), self._host

        def write() -> None:
            target[...] = source

        copy_to_device(arr, self.memory, write, stream or get_current_stream())

    # -------------------------------------------------------------------- operations, by name

    def conj(self) -> ndarray:
        return _function("conj")(self) if self.dtype.kind == "c" else self

    conjugate = conj

    def dot(self, other: Any) -> Any:
        return _function("dot")(self, other)

    def clip(self, min: Any = None, max: Any = None, out: Any = None) -> Any:
        return _function("clip")(self, min, max, out=out)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Any:
        return _function("trace")(self, offset, axis1, axis2, dtype)

    def _on_current(self, what: str) -> None:
        """Refuse an array of another device than the current one."""
        if self.memory.device_id != current_device():
            msg = (
                f"The device where the array resides ({self.memory.device_id}) is different from "
                f"the current device ({current_device()}). Peer access is unavailable between "
                "these devices."
            )
            raise ValueError(msg)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return _function(ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return NotImplemented


class _Pointer:
    """cupy.cuda.MemoryPointer: an address, here of the host."""

    def __init__(self, array: ndarray) -> None:
        self.ptr: int = array._host.ctypes.data
        self.mem, self.device_id = array.memory, array.memory.device_id
        self._host = array._host  # lives as long as what is made over it

    def entries(self, shape: Any, dtype: Any) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        memory = (ctypes.c_byte * (count * np.dtype(dtype).itemsize)).from_address(self.ptr)
        memory.owner = self._host
        return np.frombuffer(memory, dtype).reshape(shape)


def _garbage(dtype: Any) -> Any:
    """Return what new memory holds: nothing that could be taken for a result."""
    kind = np.dtype(dtype).kind
    return np.nan if kind in "fc" else 1 if kind in "bu" else -1 if kind == "i" else 0


def _has_order(host: np.ndarray, order: str) -> bool:
    flags = host.flags
    return order in "KA" or bool(flags.c_contiguous if order == "C" else flags.f_contiguous)


def _index(index: Any) -> tuple[Any, list[ndarray]]:
    """Return an index for NumPy, and the arrays of the device in it; lists are uploaded."""
    parts = index if isinstance(index, tuple) else (index,)
    plain, arrays = [], []
    for part in parts:
        if isinstance(part, (list, np.ndarray)) and not (
            isinstance(part, np.ndarray) and part.ndim == 0
        ):
            part = moved_to_device(np.asarray(part))
        if isinstance(part, ndarray):
            if part.dtype == bool:
                record.read("mask")
                get_current_stream().synchronize()
            part._on_current("index")
            arrays.append(part)
            part = part._host
        plain.append(part)
    return tuple(plain) if isinstance(index, tuple) else plain[0], arrays


def _with_ellipsis(index: Any) -> Any:
    """Let NumPy return a 0-d array, not a scalar, where all axes are indexed."""
    parts = index if isinstance(index, tuple) else (index,)
    return parts if any(part is Ellipsis for part in parts) else (*parts, ...)


def value_of(x: ndarray, how: str) -> np.ndarray:
    """Return the values of an array, for which the host waits."""
    record.read(how)
    worked([x.memory], [])
    get_current_stream().synchronize()
    return x._host


def operand(x: Any) -> Any:
    """Return what NumPy computes with, of an array or a scalar; others are refused as by CuPy."""
    if isinstance(x, ndarray):
        x._on_current("use")
        worked([x.memory], [])
        return x._host
    if isinstance(x, Traced):
        return x.host
    if isinstance(x, np.ndarray) and x.ndim:
        msg = f"Unsupported type {type(x)}"
        raise TypeError(msg)
    if isinstance(x, (bool, int, float, complex, np.generic, np.ndarray)):
        return x
    msg = f"Unsupported type {type(x)}"
    raise TypeError(msg)


class Traced:
    """What a function that `cupy.fuse` traces is handed in the place of an array.

    It has operators, `dtype` and `ndim`, and no shape; conjugates and parts of complex numbers are
    not implemented there (cupy/_core/_fusion_interface.py, `_VariableProxy`).
    """

    __slots__ = ("host",)

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)

    def __bool__(self) -> bool:
        msg = "Cannot convert to Python scalar in cupy.fuse"
        raise TypeError(msg)

    __int__ = __float__ = __complex__ = __bool__


def view(x: ndarray, host: np.ndarray, *, writeable: bool = False) -> ndarray:
    """Return another array over the memory of one."""
    result = ndarray.__new__(ndarray)
    if writeable:  # NumPy's diagonals are not, by default
        host.flags.writeable = True
    result._host, result.memory = host, x.memory
    return result


def owned(host: np.ndarray, name: str) -> ndarray:
    """Return an array of the current device over an array of the host that nobody else has."""
    result = ndarray.__new__(ndarray)
    result._host = host
    result.memory = Memory(current_device(), host.nbytes)
    reserve(name, result.memory, host)
    known(result.memory, host)
    return result


def made(name: str, host: Any, *arguments: Any, launches: int = 1) -> ndarray:
    """Return the new array that an operation made of its arguments, and write the launch down."""
    for x in arguments:
        if isinstance(x, ndarray):
            x._on_current(name)
    result = owned(np.asarray(host), name)
    if result.size:
        for _ in range(launches):
            record.launched(name)
        worked([], [result.memory])
    return result


def moved_to_device(host: np.ndarray) -> ndarray:
    """Return a copy of an array of the host on the current device."""
    record.uploaded(host.nbytes)
    record.launched("upload")
    result = owned(host.copy(order="K"), "upload")
    worked([], [result.memory])
    return result


FUNCTIONS: dict[str, Callable[..., Any]] = {}


def _function(name: str) -> Callable[..., Any]:
    return FUNCTIONS[name]


def _has_own_operator(other: Any) -> bool:
    """Tell as `_should_use_rop` does whether the other operand takes over."""
    if getattr(other, "__array_ufunc__", ndarray) is None:
        return True
    return getattr(other, "__array_priority__", 0) > ndarray.__array_priority__


def _binary(name: str) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    def forward(self: ndarray, other: Any) -> Any:
        return NotImplemented if _has_own_operator(other) else _function(name)(self, other)

    def backward(self: ndarray, other: Any) -> Any:
        return NotImplemented if _has_own_operator(other) else _function(name)(other, self)

    def in_place(self: ndarray, other: Any) -> Any:
        return _function(name)(self, other, out=self)

    return forward, backward, in_place


def _add_operators(names: Iterable[tuple[str, str]]) -> None:
    for symbol, name in names:
        forward, backward, in_place = _binary(name)
        for kind in (ndarray, Traced) if symbol != "matmul" else (ndarray,):
            setattr(kind, f"__{symbol}__", forward)
            setattr(kind, f"__r{symbol}__", backward)
        if symbol != "matmul":
            setattr(ndarray, f"__i{symbol}__", in_place)


_add_operators(
    [
        ("add", "add"),
        ("sub", "subtract"),
        ("mul", "multiply"),
        ("truediv", "true_divide"),
        ("floordiv", "floor_divide"),
        ("mod", "remainder"),
        ("pow", "power"),
        ("and", "bitwise_and"),
        ("or", "bitwise_or"),
        ("xor", "bitwise_xor"),
        ("lshift", "left_shift"),
        ("rshift", "right_shift"),
        ("matmul", "matmul"),
    ]
)
for _symbol, _name in [
    ("lt", "less"),
    ("le", "less_equal"),
    ("gt", "greater"),
    ("ge", "greater_equal"),
    ("eq", "equal"),
    ("ne", "not_equal"),
]:
    for _kind in (ndarray, Traced):
        setattr(_kind, f"__{_symbol}__", _binary(_name)[0])
for _symbol, _name in [("neg", "negative"), ("abs", "absolute"), ("invert", "invert")]:
    for _kind in (ndarray, Traced) if _symbol != "abs" else (ndarray,):
        setattr(_kind, f"__{_symbol}__", lambda self, _name=_name: _function(_name)(self))
for _name in (
    "sum", "prod", "max", "min", "mean", "all", "any", "argmax", "argmin", "var", "std",
    "cumsum", "take", "nonzero", "sort", "argsort", "repeat", "round",
):  # fmt: skip
    setattr(
        ndarray,
        _name,
        lambda self, *args, _name=_name, **kwargs: _function(_name)(self, *args, **kwargs),
    )

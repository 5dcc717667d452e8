"""The functions of the namespace `cupy`: which there are, what they launch, what they copy.

Functions that CuPy writes in terms of others are written so here (`tril`, `stack`, `concatenate`),
for their launches are those of the others. Names that are not here are not in the stand-in, and
the contract test asks whether CuPy itself has those that are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import record
from .arrays import (
    FUNCTIONS,
    Traced,
    made,
    moved_to_device,
    ndarray,
    operand,
    owned,
    value_of,
    view,
)
from .devices import current_device
from .streams import worked

__all__ = ["CONSTANTS", "DTYPES", "FUNCTIONS"]

UFUNCS = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
    "floor_divide",
    "power",
    "float_power",
    "remainder",
    "mod",
    "fmod",
    "divmod",
    "negative",
    "positive",
    "absolute",
    "abs",
    "fabs",
    "rint",
    "sign",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "cbrt",
    "square",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "arctan2",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arccosh",
    "arctanh",
    "hypot",
    "deg2rad",
    "rad2deg",
    "ceil",
    "floor",
    "trunc",
    "isfinite",
    "isinf",
    "isnan",
    "signbit",
    "copysign",
    "nextafter",
    "ldexp",
    "frexp",
    "modf",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_or",
    "logical_not",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "invert",
    "left_shift",
    "right_shift",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "equal",
    "not_equal",
    "conj",
    "conjugate",
    "gcd",
    "lcm",
    "heaviside",
]
REDUCTIONS = [
    "sum",
    "prod",
    "max",
    "min",
    "amax",
    "amin",
    "mean",
    "all",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
]
DTYPES = [
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "intp",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uintp",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "generic",
    "number",
    "integer",
    "inexact",
    "floating",
    "complexfloating",
    "signedinteger",
    "unsignedinteger",
]
PLAIN = [
    "finfo",
    "iinfo",
    "can_cast",
    "result_type",
    "promote_types",
    "dtype",
    "issubdtype",
    "broadcast_shapes",
    "isscalar",
    "ndim",
    "shape",
    "isdtype",
]
CONSTANTS = {"pi": np.pi, "e": np.e, "inf": np.inf, "nan": np.nan, "newaxis": None}
ALIASES = {"abs": "absolute", "amax": "max", "amin": "min", "mod": "remainder"}


def function(call: Callable[..., Any]) -> Callable[..., Any]:
    FUNCTIONS[call.__name__] = call
    return call


# ------------------------------------------------------------------ operations of every entry


def _elementwise(name: str) -> Callable[..., Any]:
    of_numpy = getattr(np, name)

    def call(*args: Any, out: Any = None, dtype: Any = None, **options: Any) -> Any:
        outs = [] if out is None else [out] if isinstance(out, ndarray) else list(out)
        given = [operand(x) for x in args]
        with np.errstate(all="ignore"):
            results = of_numpy(*given, dtype=dtype, **options)
        results = results if isinstance(results, tuple) else (results,)
        if any(isinstance(x, Traced) for x in args):
            traced = tuple(Traced(np.asarray(x)) for x in results)
            return traced if len(traced) > 1 else traced[0]
        if not any(isinstance(x, ndarray) for x in args):
            return tuple(map(_scalar, results)) if len(results) > 1 else _scalar(results[0])
        for result, place in zip(results, outs, strict=False):
            _write(name, place, result)
        if outs:
            return outs[0] if len(results) == 1 else tuple(outs)
        new = [made(name, _c_ordered(x), *args, launches=i == 0) for i, x in enumerate(results)]
        return new[0] if len(new) == 1 else tuple(new)

    call.__name__ = name
    return call


def _scalar(x: Any) -> ndarray:
    return owned(np.array(x), "scalar")


def _c_ordered(x: Any) -> np.ndarray:
    return np.array(x, order="C")


def _write(name: str, place: ndarray, result: Any) -> None:
    """Write a result into an array that is there, of whose dtype it must be."""
    if not np.can_cast(np.asarray(result).dtype, place.dtype, casting="same_kind"):
        msg = f"output (typecode {np.asarray(result).dtype}) could not be coerced"
        raise np.exceptions.AxisError(msg) if False else TypeError(msg)
    place._on_current(name)
    worked([], [place.memory])
    record.launched(name)
    place._host[...] = result


for _name in UFUNCS:
    FUNCTIONS[_name] = _elementwise(_name)


def _reduction(name: str) -> Callable[..., Any]:
    of_numpy = getattr(np, name)

    def call(a: Any, axis: Any = None, *args: Any, out: Any = None, **options: Any) -> Any:
        if not isinstance(a, ndarray):
            msg = "Argument 'a' has incorrect type"
            raise TypeError(msg)
        options = {key: value for key, value in options.items() if value is not None}
        with np.errstate(all="ignore"):
            result = made(name, np.array(of_numpy(operand(a), axis, *args, **options)), a)
        if out is not None:
            out[...] = result
            return out
        return result

    call.__name__ = name
    return call


for _name in REDUCTIONS:
    FUNCTIONS[_name] = _reduction(_name)


@function
def var(
    a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, **o: Any
) -> ndarray:
    return made("var", np.array(np.var(operand(a), axis, ddof=ddof, **o)), a, launches=3)


@function
def std(
    a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, **o: Any
) -> ndarray:
    return made("std", np.array(np.std(operand(a), axis, ddof=ddof, **o)), a, launches=4)


@function
def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    if isinstance(condition, Traced):
        return Traced(np.where(operand(condition), operand(x), operand(y)))
    if not isinstance(condition, ndarray):
        msg = "condition must be a cupy.ndarray"
        raise TypeError(msg)
    for one in (x, y):  # cupy/_sorting/search.py, `_where_ufunc`: its loops
        if isinstance(one, ndarray) and one.dtype.char not in "?bBhHiIlLqQefdFD":
            msg = f"Wrong type ({one.dtype}) of arguments for cupy_where"
            raise TypeError(msg)
    if x is None and y is None:
        return FUNCTIONS["nonzero"](condition)
    condition = condition.astype("?", copy=False)
    result = np.where(operand(condition), operand(x), operand(y))
    return made("where", _c_ordered(result), condition, x, y)


@function
def clip(a: ndarray, a_min: Any = None, a_max: Any = None, out: Any = None) -> ndarray:
    low, high = (None if x is None else operand(x) for x in (a_min, a_max))
    result = np.clip(operand(a), low, high)
    if out is None:
        return made("clip", _c_ordered(result), a, a_min, a_max)
    _write("clip", out, result)
    return out


@function
def nan_to_num(
    x: ndarray, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None
) -> ndarray:
    return made("nan_to_num", np.nan_to_num(operand(x), nan=nan, posinf=posinf, neginf=neginf), x)


@function
def real(x: ndarray) -> ndarray:
    return x.real


@function
def imag(x: ndarray) -> ndarray:
    return x.imag


@function
def angle(x: ndarray) -> ndarray:
    return made("angle", np.angle(operand(x)), x)


@function
def cumsum(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return made("cumsum", np.cumsum(operand(a), axis, dtype), a, launches=2)


@function
def cumprod(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return made("cumprod", np.cumprod(operand(a), axis, dtype), a, launches=2)


@function
def trace(
    a: ndarray, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> ndarray:
    return FUNCTIONS["sum"](a.diagonal(offset, axis1, axis2), -1, dtype=dtype)


# ----------------------------------------------------------------------------- new arrays


def _new(name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> ndarray:
        if any(isinstance(x, ndarray) for x in (*args, *options.values())):
            args = tuple(operator_index(x) for x in args)
        return made(name, getattr(np, name)(*args, **options))

    call.__name__ = name
    return call


def operator_index(x: Any) -> Any:
    return x.__index__() if isinstance(x, ndarray) else x


for _name in ("zeros", "ones", "eye", "identity", "arange", "linspace", "tri"):
    FUNCTIONS[_name] = _new(_name)


@function
def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


@function
def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    value = operand(fill_value)
    if dtype is None and isinstance(fill_value, ndarray):
        dtype = fill_value.dtype
    return made("full", np.full(shape, value, dtype, order=order), fill_value)


def _like(name: str) -> Callable[..., Any]:
    def call(a: ndarray, *args: Any, **options: Any) -> ndarray:
        given = [operand(x) for x in args]
        host = getattr(np, name)(operand(a), *given, **options)
        if name == "empty_like":
            return ndarray(host.shape, host.dtype, order="F" if host.flags.fnc else "C")
        return made(name, host, *args)

    call.__name__ = name
    return call


for _name in ("zeros_like", "ones_like", "full_like", "empty_like"):
    FUNCTIONS[_name] = _like(_name)


@function
def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if isinstance(obj, ndarray):
        obj._on_current("array")
        return obj.astype(obj.dtype if dtype is None else dtype, order, copy=bool(copy))
    if isinstance(obj, (list, tuple)) and _holds_arrays(obj):
        parts = [array(x, dtype) for x in obj]
        return FUNCTIONS["stack"](parts)
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    return moved_to_device(host)


def _holds_arrays(obj: Any) -> bool:
    return any(
        isinstance(x, ndarray) or (isinstance(x, (list, tuple)) and _holds_arrays(x)) for x in obj
    )


@function
def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False, copy: Any = None
) -> ndarray:
    return array(a, dtype, bool(copy), order or "K")


@function
def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, copy=False, order="C")


@function
def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, copy=False, order="F")


@function
def copy(a: ndarray, order: str = "K") -> ndarray:
    return a.copy(order=order)


@function
def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    given = [src] if where is None else [src, where]
    hosts = [operand(x) for x in given]
    dst._on_current("copyto")
    worked([], [dst.memory])
    record.launched("copyto")
    np.copyto(dst._host, hosts[0], casting=casting, where=True if where is None else hosts[1])


@function
def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a, order=order)


# --------------------------------------------------------------------- shapes: views or copies


def _viewing(name: str) -> Callable[..., Any]:
    of_numpy = getattr(np, name)

    def call(a: ndarray, *args: Any, **options: Any) -> Any:
        return view(a, of_numpy(a._host, *args, **options))

    call.__name__ = name
    return call


for _name in (
    "expand_dims",
    "squeeze",
    "swapaxes",
    "moveaxis",
    "rollaxis",
    "transpose",
    "broadcast_to",
    "flip",
    "fliplr",
    "flipud",
):
    FUNCTIONS[_name] = _viewing(_name)


@function
def diagonal(a: ndarray, offset: int = 0, axis1: int = 0, axis2: int = 1) -> ndarray:
    return a.diagonal(offset, axis1, axis2)


@function
def reshape(a: ndarray, newshape: Any = None, order: str = "C", **options: Any) -> ndarray:
    return a.reshape(newshape if newshape is not None else options["shape"], order=order)


@function
def ravel(a: ndarray, order: str = "C") -> ndarray:
    return a.ravel(order)


@function
def broadcast_arrays(*args: ndarray) -> list[ndarray]:
    return [
        view(a, x) for a, x in zip(args, np.broadcast_arrays(*(a._host for a in args)), strict=True)
    ]


@function
def concatenate(
    tup: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    """One kernel for more than 8 small arrays of one dtype, else a copy of each."""
    tup = list(tup)
    if not all(isinstance(x, ndarray) for x in tup):
        msg = "Only cupy arrays can be concatenated"
        raise TypeError(msg)
    if axis is None:
        tup, axis = [x.ravel() for x in tup], 0
    host = np.concatenate([operand(x) for x in tup], axis, dtype=dtype, casting=casting)
    host = np.ascontiguousarray(host)
    alike = len({x.dtype for x in tup}) == 1
    together = len(tup) > 8 and alike and host.nbytes < 2 * 2**20 * len(tup)
    return made("concatenate", host, *tup, launches=2 if together else len(tup))


@function
def stack(tup: Any, axis: int = 0, out: Any = None, **options: Any) -> ndarray:
    return concatenate([FUNCTIONS["expand_dims"](x, axis) for x in tup], axis)


@function
def tril(m: ndarray, k: int = 0) -> ndarray:
    return where(FUNCTIONS["tri"](*m.shape[-2:], k=k, dtype=bool), m, m.dtype.type(0))


@function
def triu(m: ndarray, k: int = 0) -> ndarray:
    return where(FUNCTIONS["tri"](*m.shape[-2:], k=k - 1, dtype=bool), m.dtype.type(0), m)


@function
def roll(a: ndarray, shift: Any, axis: Any = None) -> ndarray:
    return made("roll", np.roll(operand(a), shift, axis), a, launches=2)


@function
def repeat(a: ndarray, repeats: Any, axis: Any = None) -> ndarray:
    return made("repeat", np.repeat(operand(a), repeats, axis), a)


@function
def tile(a: ndarray, reps: Any) -> ndarray:
    return made("tile", np.tile(operand(a), reps), a)


@function
def pad(array: ndarray, pad_width: Any, mode: str = "constant", **options: Any) -> ndarray:
    return made("pad", np.pad(operand(array), pad_width, mode, **options), array, launches=3)


@function
def diag(v: ndarray, k: int = 0) -> ndarray:
    return made("diag", np.diag(operand(v), k), v, launches=2)


@function
def take(a: ndarray, indices: Any, axis: Any = None, out: Any = None, mode: Any = None) -> ndarray:
    if isinstance(indices, (list, np.ndarray)):
        indices = moved_to_device(np.asarray(indices))
    return made("take", np.array(np.take(operand(a), operand(indices), axis)), a, indices)


@function
def take_along_axis(a: ndarray, indices: ndarray, axis: int) -> ndarray:
    return made(
        "take_along_axis", np.take_along_axis(operand(a), operand(indices), axis), a, indices
    )


# ------------------------------------------------------ orders, and what the host waits for


@function
def sort(a: ndarray, axis: Any = -1, kind: Any = None) -> ndarray:
    return made("sort", np.sort(operand(a), -1 if axis is None else axis), a, launches=2)


@function
def argsort(a: ndarray, axis: Any = -1, kind: Any = None) -> ndarray:
    return made("argsort", np.argsort(operand(a), axis, kind="stable"), a, launches=2)


@function
def nonzero(a: ndarray) -> tuple[ndarray, ...]:
    return tuple(made("nonzero", x, a) for x in np.nonzero(value_of(a, "nonzero")))


@function
def unique(ar: ndarray, *args: Any, **options: Any) -> Any:
    found = np.unique(value_of(ar, "unique"), *args, **options)
    return (
        tuple(made("unique", x, ar) for x in found)
        if isinstance(found, tuple)
        else made("unique", found, ar)
    )


@function
def searchsorted(a: ndarray, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
    return made("searchsorted", np.array(np.searchsorted(operand(a), operand(v), side)), a, v)


@function
def isin(
    element: ndarray, test_elements: ndarray, assume_unique: bool = False, invert: bool = False
) -> ndarray:
    return made("isin", np.isin(operand(element), operand(test_elements), invert=invert), element)


@function
def allclose(a: Any, b: Any, **options: Any) -> ndarray:
    return made("allclose", np.array(np.allclose(operand(a), operand(b), **options)), a, b)


@function
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> ndarray:
    return made(
        "array_equal",
        np.array(np.array_equal(operand(a1), operand(a2), equal_nan=equal_nan)),
        a1,
        a2,
    )


@function
def meshgrid(*xi: ndarray, indexing: str = "xy", **options: Any) -> list[ndarray]:
    return [made("meshgrid", x, *xi) for x in np.meshgrid(*map(operand, xi), indexing=indexing)]


for _name in PLAIN:
    if hasattr(np, _name):
        FUNCTIONS[_name] = getattr(np, _name)


@function
def result_type(*args: Any) -> Any:
    return np.result_type(*(x._host if isinstance(x, ndarray) else x for x in args))


@function
def ndim(a: Any) -> int:
    return a.ndim if isinstance(a, ndarray) else np.ndim(a)


@function
def shape(a: Any) -> Any:
    return a.shape if isinstance(a, ndarray) else np.shape(a)


@function
def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules["cupy"]


def device_number() -> int:
    return current_device()


@function
def round(a: ndarray, decimals: int = 0, out: Any = None) -> ndarray:
    return made("round", np.round(operand(a), decimals), a)

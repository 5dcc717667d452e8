"""Kernels that CuPy compiles from source: sums without an array of the terms."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from .array import AnyArray

__all__ = [
    "add_multiple_cupy",
    "add_to_multiple_cupy",
    "centred_cupy",
    "doubled_triangle_cupy",
    "finite_cupy",
    "inner_cupy",
    "largest_cupy",
    "moved_cupy",
    "norm_cupy",
    "power_of_two_cupy",
    "squares_and_distances_cupy",
]

Axis = int | tuple[int, ...] | None


def inner_cupy(X: AnyArray, Y: AnyArray, axis: Axis) -> AnyArray:
    """Return the sums of Re conj(x) y along some axes."""
    return _kernel("inner", X.dtype.char)(X, Y, axis=axis)


def squares_and_distances_cupy(X: AnyArray, Y: AnyArray, axis: Axis) -> tuple[AnyArray, AnyArray]:
    """Return the sums of |x|^2 and of |x - y|^2 along some axes, which are added as one number."""
    both = _kernel("squares_and_distances", X.dtype.char)(X, Y, axis=axis)
    return both.real, both.imag


def norm_cupy(X: AnyArray, axis: Axis, *, keepdims: bool = False) -> AnyArray:
    """Return 2-norms along some axes, right wherever they are normal numbers.

    Squares of single precision are summed in double, which they fit; others are scaled before.
    """
    char = X.dtype.char
    if char in "fF":
        return _kernel("norm", char)(X, axis=axis, keepdims=keepdims)
    unit = _kernel("unit", char)(X, axis=axis, keepdims=True)
    norm = _kernel("scaled_norm", char)(X, unit, axis=axis, keepdims=keepdims)
    return norm * (unit if keepdims else unit.reshape(norm.shape))


def largest_cupy(X: AnyArray, axis: Axis, *, keepdims: bool = False) -> AnyArray:
    """Return max |x| along some axes, NaN where an entry is; 0 of nothing."""
    return _kernel("largest", X.dtype.char)(X, axis=axis, keepdims=keepdims)


def finite_cupy(X: AnyArray, axis: Axis) -> AnyArray:
    """Tell along some axes whether no entry is NaN or Inf."""
    return _kernel("finite", X.dtype.char)(X, axis=axis)


def power_of_two_cupy(x: AnyArray, least: float, largest: float) -> AnyArray:
    """Return the power of two below positive numbers between two others; 1 for Inf and NaN."""
    return _power_of_two()(x, least, largest)


@cache
def _power_of_two() -> Any:
    import cupy

    return cupy.ElementwiseKernel(
        "T x, T least, T largest",
        "T y",
        "y = isfinite(x) ? ldexp(T(1), ilogb(min(max(x, least), largest))) : T(1)",
        "ngdla_power_of_two",
    )


def centred_cupy(
    O: AnyArray, mean: AnyArray, scale: Any, kept: Any, out: tuple[AnyArray, ...]
) -> None:
    """Write scale (O - mean) into one array, or its real and imaginary parts into two.

    Rows that are not `kept` are 0, whatever they hold. What the expression reads, it reads once.
    """
    _centring(O.dtype.char, len(out) > 1)(O, mean, scale, kept, *out)


@cache
def _centring(char: str, in_parts: bool) -> Any:
    import cupy

    names, is_complex = (_SINGLE if char in "fF" else _DOUBLE), char in "FD"
    entry, outputs, last = ("C", "R re, R im", "re = d.real(); im = d.imag()")
    if not in_parts:
        entry, outputs, last = ("C" if is_complex else "R"), "{} s", "s = d"
        outputs = outputs.format(entry)
    inputs = f"{entry} o, {entry} mean, R scale, bool kept"
    source = f"{entry} d = kept ? (o - mean) * scale : {entry}(0); {last}"
    return cupy.ElementwiseKernel(
        _typed(inputs, names.in_numpy),
        _typed(outputs, names.in_numpy),
        _typed(source, names.in_c),
        f"ngdla_centred_{char}{len(outputs.split(','))}",
    )


def add_multiple_cupy(total: AnyArray, factor: Any, x: AnyArray) -> AnyArray:
    """Return total + factor x, written into `total`."""
    kernel = _sum_of_two("add_multiple", "T(factor) * T(x) + total", _type_of(factor, total))
    return kernel(total, factor, x, total)


def add_to_multiple_cupy(total: AnyArray, factor: Any, x: AnyArray) -> AnyArray:
    """Return factor total + x, written into `total`."""
    kernel = _sum_of_two("add_to_multiple", "T(factor) * total + T(x)", _type_of(factor, total))
    return kernel(total, factor, x, total)


def moved_cupy(memory: AnyArray, places: AnyArray, weight: Any, out: AnyArray) -> AnyArray:
    """Write weight times the entries of an array (n,) at some places, 0 for places below 0."""
    return _moved(_type_of(weight, memory))(memory, places, weight, out)


def _type_of(factor: Any, like: AnyArray) -> str:
    """Return the type of a kernel's parameter: a letter for arrays, which numbers cannot fill."""
    return "F" if hasattr(factor, "dtype") else str(like.real.dtype)


def doubled_triangle_cupy(A: AnyArray, *, upper: bool) -> AnyArray:
    """Return one triangle of A, twice beside the diagonal."""
    return _doubled_triangle()(A, A.shape[-1], upper)


@cache
def _doubled_triangle() -> Any:
    import cupy

    source = "y = row == column ? x : (row < column) == upper ? x + x : T(0)"
    return cupy.ElementwiseKernel(
        "T x, int64 n, bool upper",
        "T y",
        f"long long row = i / n % n, column = i % n; {source}",
        "ngdla_doubled_triangle",
    )


@cache
def _moved(weight: str) -> Any:
    import cupy

    inputs = f"raw T memory, int32 place, {weight} weight"
    source = "y = place < 0 ? T(0) : T(weight) * memory[place]"
    return cupy.ElementwiseKernel(inputs, "T y", source, "ngdla_moved")


@cache
def _sum_of_two(name: str, formula: str, factor: str) -> Any:
    import cupy

    inputs = f"T total, {factor} factor, X x"
    return cupy.ElementwiseKernel(inputs, "T y", f"y = {formula}", f"ngdla_{name}")


class _Reduction(NamedTuple):
    """The source of a kernel, where R and C stand for the real and the complex type.

    Of kernels of one array CuPy (14.2) replaces the names of parameters wherever their letters
    stand, in longer words too.
    """

    inputs: str
    output: str
    real: str
    complex: str
    sum: str = "a + b"
    result: str = "total = a"
    identity: str = "0"
    accumulator: str = "R"


_LARGER = "a > b || isnan(a) ? a : b"
_REDUCTIONS = {
    "inner": _Reduction(
        "T x, T y", "R total", "x * y", "x.real() * y.real() + x.imag() * y.imag()"
    ),
    "squares_and_distances": _Reduction(
        "T x, T y",
        "C total",
        "C(x * x, (x - y) * (x - y))",
        "C(norm(x), norm(x - y))",
        accumulator="C",
    ),
    "norm": _Reduction(
        "T x",
        "R total",
        "(double)x * (double)x",
        "(double)x.real() * (double)x.real() + (double)x.imag() * (double)x.imag()",
        result="total = sqrt(a)",
        accumulator="double",
    ),
    "largest": _Reduction("T x", "R total", "abs(x)", "abs(x)", sum=_LARGER),
    "unit": _Reduction(  # the power of two below the largest entry; 1 for 0, Inf and NaN
        "T x",
        "R total",
        "abs(x)",
        "abs(x)",
        sum=_LARGER,
        result="total = a > 0 && isfinite(a) ? ldexp(R(1), ilogb(a)) : R(1)",
    ),
    "scaled_norm": _Reduction(
        "T x, R unit",
        "R total",
        "(x / unit) * (x / unit)",
        "norm(x / unit)",
        result="total = sqrt(a)",
    ),
    "finite": _Reduction(
        "T x",
        "bool total",
        "isfinite(x)",
        "isfinite(x)",
        "a && b",
        identity="true",
        accumulator="bool",
    ),
}


@cache
def _kernel(name: str, char: str) -> Any:
    import cupy

    source, is_complex = _REDUCTIONS[name], char in "FD"
    names = _SINGLE if char in "fF" else _DOUBLE
    return cupy.ReductionKernel(
        *(_typed(text, names.in_numpy) for text in (source.inputs, source.output)),
        _typed(source.complex if is_complex else source.real, names.in_c),
        source.sum,
        _typed(source.result, names.in_c),
        source.identity,
        f"ngdla_{name}_{char}",
        reduce_type=_typed(source.accumulator, names.in_c),
    )


class _Names(NamedTuple):
    """What R and C stand for."""

    in_numpy: tuple[str, str]
    in_c: tuple[str, str]


_SINGLE = _Names(("float32", "complex64"), ("float", "complex<float>"))
_DOUBLE = _Names(("float64", "complex128"), ("double", "complex<double>"))


def _typed(source: str, types: tuple[str, str]) -> str:
    """Return source with the types that R and C stand for."""
    return re.sub(r"\b[RC]\b", lambda letter: types["RC".index(letter[0])], source)

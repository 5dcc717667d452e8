"""Random test matrices from a seed, drawn by NumPy on the host so that all libraries agree."""

from __future__ import annotations

import numbers
from operator import index
from typing import Any

import numpy as np

from .array import AnyArray
from .creation import placed
from .dtypes import real_name
from .kept_arrays import KeptArrays, place_of
from .messages import shown
from .namespace import (
    Array,
    is_cupy_namespace,
    is_dask_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)
from .tracing import free_to_read

__all__ = [
    "gaussian",
    "generator",
    "orthonormal_columns",
    "require_generator",
    "to_be_orthonormal",
]


def generator(rng: int | np.random.Generator) -> np.random.Generator:
    """Return a Generator, from which several test matrices can be drawn."""
    return np.random.default_rng(rng)


def gaussian(
    rng: int | np.random.Generator, shape: tuple[int, ...], like: Array, dtype: str
) -> Array:
    """Return independent standard normal numbers, E |g|^2 = 1, where `like` lives."""
    return _drawn("gaussian", rng, shape, like, dtype)


def require_generator(rng: Any) -> None:
    """Raise unless `rng` is a seed or a NumPy Generator."""
    if isinstance(rng, np.random.Generator):
        return
    if isinstance(rng, bool) or not isinstance(rng, numbers.Integral):
        msg = f"`rng` is {shown(rng)}; it must be an integer, a numpy.random.Generator or an array."
        raise TypeError(msg)
    if rng < 0:
        msg = f"`rng` is {shown(rng)}; a seed must not be negative."
        raise ValueError(msg)


def orthonormal_columns(seed: int, shape: tuple[int, ...], like: Array, dtype: str) -> Array:
    """Return the Q of a Gaussian matrix (..., n, r), of the library and on the device of `like`.

    It is the one with a positive diagonal of R, found by a QR on the host.
    """
    return _drawn("orthonormal", seed, shape, like, dtype)


def to_be_orthonormal(seed: int, shape: tuple[int, ...], like: Array, dtype: str) -> Array:
    """Return the Gaussian matrix whose Q `orthonormal_columns` returns."""
    return _drawn("to be orthonormal", seed, shape, like, dtype)


def _drawn(
    kind: str,
    rng: int | np.random.Generator,
    shape: tuple[int, ...],
    like: AnyArray,
    dtype: str,
) -> Array:
    xp = namespace(like)
    if is_torch_namespace(xp) and torch_compiling():
        _allow_in_graph()
        return _drawn_in_graph(kind, rng, shape, dtype, like.device)

    def draw() -> AnyArray:
        x = _DRAW[kind](np.random.default_rng(rng), shape, dtype)
        return xp.asarray(x) if is_dask_namespace(xp) else placed(x, like, dtype)

    if isinstance(rng, np.random.Generator) or (place := place_of(like)) is None:
        return draw()
    kept = _KEPT_ON_HOST if free_to_read(like) else _KEPT_ON_DEVICES
    x = kept.get((place, kind, index(rng), shape, dtype), draw)
    # Operators of the caller's get it, and may write into it, which CuPy does not tell.
    return x.copy() if is_cupy_namespace(xp) else x


# In all, 256 columns of 1e5 in float32 where that is little: drawing them takes a second.
_KEPT_ON_HOST, _KEPT_ON_DEVICES = KeptArrays(16 * 2**20), KeptArrays(128 * 2**20)


def _drawn_in_graph(kind: str, seed: Any, shape: tuple[Any, ...], dtype: str, where: Any) -> Array:
    """Return what is drawn, called while a graph is compiled: to it that is a constant.

    The compiler sees torch.tensor make it, not torch.asarray. Numbers that it keeps as symbols are
    fixed. The backend "eager", which compiles nothing, draws in each call.
    """
    import torch

    rng, sizes = np.random.default_rng(index(seed)), tuple(map(index, shape))
    return torch.tensor(_DRAW[kind](rng, sizes, dtype), device=where)


def _allow_in_graph() -> None:
    """Let torch.compile, which cannot trace NumPy's generators, call the function, not trace it."""
    import torch

    torch.compiler.allow_in_graph(_drawn_in_graph)


# What torch.compiler.assume_constant_result sets: torch.compile calls the function while it
# traces. Results of such functions cannot be what is drawn: of one name, a graph takes one tensor.
_allow_in_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    real = np.dtype(real_name(dtype)).type
    if dtype == real_name(dtype):
        return rng.standard_normal(shape, dtype=real)
    pairs = rng.standard_normal((*shape, 2), dtype=real) * real(np.sqrt(0.5))
    return pairs.view(dtype)[..., 0]


def _to_be_orthonormal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    gaussian = rng.standard_normal(shape)
    if dtype != real_name(dtype):
        gaussian = gaussian + 1j * rng.standard_normal(shape)
    return gaussian.astype(dtype)


def _orthonormal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    Q, R = np.linalg.qr(_to_be_orthonormal(rng, shape, _DOUBLE[dtype == real_name(dtype)]))
    signs = np.sign(np.diagonal(R, axis1=-2, axis2=-1).real)
    return (Q * signs[..., None, :]).astype(dtype)


_DOUBLE = {True: "float64", False: "complex128"}
_DRAW = {
    "gaussian": _gaussian,
    "orthonormal": _orthonormal,
    "to be orthonormal": _to_be_orthonormal,
}

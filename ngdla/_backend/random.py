"""Random test matrices from a seed, drawn by NumPy on the host so that all libraries agree."""

from __future__ import annotations

import numbers
import threading
from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np

from .array import AnyArray
from .creation import constant
from .dtypes import real_name
from .messages import shown
from .namespace import (
    Array,
    is_dask_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)

__all__ = ["gaussian", "generator", "orthonormal_columns", "require_generator"]


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
    """Return the Q of a Gaussian matrix (..., n, r), of the library and on the device of `like`."""
    return _drawn("orthonormal", seed, shape, like, dtype)


def _drawn(
    kind: str,
    rng: int | np.random.Generator,
    shape: tuple[int, ...],
    like: AnyArray,
    dtype: str,
) -> Array:
    xp = namespace(like)
    if is_torch_namespace(xp):
        return _drawn_for_torch(kind, rng, shape, dtype, like.device)
    x = _DRAW[kind](np.random.default_rng(rng), shape, dtype)
    return xp.asarray(x) if is_dask_namespace(xp) else constant(x, like, dtype)


def _drawn_for_torch(kind: str, rng: Any, shape: tuple[int, ...], dtype: str, where: Any) -> Array:
    if torch_compiling():
        _allow_in_graph()
        return _drawn_in_graph(kind, rng, shape, dtype, where)
    import torch

    def draw() -> AnyArray:
        return torch.asarray(_DRAW[kind](np.random.default_rng(rng), shape, dtype), device=where)

    if isinstance(rng, np.random.Generator):
        return draw()
    return _TENSORS.get((kind, index(rng), shape, dtype, where), draw)


class _Tensors:
    """The last tensors that seeds have given, of a few megabytes: drawing takes the host a while.

    They are constants. One that was written into all the same is drawn anew. None is kept of code
    that is transformed, or of inference mode, which later code could not use.
    """

    def __init__(self, most: int) -> None:
        self._most = most  # bytes
        self._kept: dict[tuple[Any, ...], AnyArray] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], draw: Callable[[], AnyArray]) -> AnyArray:
        """Return the tensor of this key."""
        import torch

        plain = not torch._C._len_torch_dispatch_stack()
        if not plain or torch._C._functorch.peek_interpreter_stack() is not None:
            return draw()
        with self._lock:
            x = self._kept.pop(key, None)
            if x is not None and not x._version:
                self._kept[key] = x  # the last one to go
                return x
        x = draw()
        if x.nbytes <= self._most and not x.is_inference():
            with self._lock:
                self._kept[key] = x
                self._make_room()
        return x

    def _make_room(self) -> None:
        size = sum(x.nbytes for x in self._kept.values())
        while size > self._most:
            size -= self._kept.pop(next(iter(self._kept))).nbytes


_TENSORS = _Tensors(16 * 2**20)


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


def _orthonormal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    gaussian = rng.standard_normal(shape)
    if dtype != real_name(dtype):
        gaussian = gaussian + 1j * rng.standard_normal(shape)
    return np.linalg.qr(gaussian).Q.astype(dtype)


_DRAW = {"gaussian": _gaussian, "orthonormal": _orthonormal}

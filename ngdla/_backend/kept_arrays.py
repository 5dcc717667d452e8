"""Constants that are kept where they were put, as making and sending them takes the host a while.

What is kept lies on one device, and in CuPy belongs to one stream, whose work alone finds it there
and may still read it when it is let go of. Nothing is kept of code that is traced, transformed or
captured, or of torch's inference mode, which later code could not use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .array import AnyArray
from .namespace import (
    is_cupy_namespace,
    is_jax_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)
from .tracing import is_traced

__all__ = ["KeptArrays", "give_up_kept", "place_of"]

_PER_THREAD = 2  # the number of the stream of which each thread has its own

Place = tuple[Any, ...]

_EVERY: list[KeptArrays] = []


class KeptArrays:
    """The arrays that were asked for last, up to some number of bytes.

    They are constants. A tensor of torch that was written into all the same is made anew, as is an
    array of JAX that was donated; those of CuPy do not show it.
    """

    def __init__(self, most: int) -> None:
        self._most = most  # bytes
        self._kept: dict[Any, AnyArray] = {}
        self._lock = threading.Lock()
        _EVERY.append(self)

    def get(self, key: Any, make: Callable[[], AnyArray]) -> AnyArray:
        """Return the array of a key, which says all about it and its place."""
        with self._lock:
            x = self._kept.pop(key, None)
            if x is not None and _is_intact(x):
                self._kept[key] = x  # the last one to go
                return x
        x = make()
        if x.nbytes <= self._most and _lasts(x):
            with self._lock:
                self._kept[key] = x
                self._make_room()
        return x

    def give_up(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._kept.clear()

    def _make_room(self) -> None:
        size = sum(x.nbytes for x in self._kept.values())
        while size > self._most:
            size -= self._kept.pop(next(iter(self._kept))).nbytes


def give_up_kept() -> None:
    """Let go of everything that is kept, where memory is short."""
    for kept in _EVERY:
        kept.give_up()


def place_of(like: AnyArray) -> Place | None:
    """Return where arrays like this one are kept; None where none are."""
    xp = namespace(like)
    if is_cupy_namespace(xp):
        return _stream_of_cupy(like)
    if is_torch_namespace(xp):
        return None if torch_compiling() or _transforms_torch() else ("torch", like.device)
    if not is_jax_namespace(xp) or is_traced(like):
        return None
    import jax

    default = jax.config.jax_default_device
    return "jax", like.committed, frozenset(like.devices()), default


def _stream_of_cupy(like: AnyArray) -> Place:
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    thread = threading.get_ident() if stream == _PER_THREAD else None
    return "cupy", like.device.id, stream, thread


def _transforms_torch() -> bool:
    import torch

    if torch._C._len_torch_dispatch_stack():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def _is_intact(x: AnyArray) -> bool:
    xp = namespace(x)
    if is_torch_namespace(xp):
        return not x._version
    return not (is_jax_namespace(xp) and x.is_deleted())


def _lasts(x: AnyArray) -> bool:
    """Tell whether an array that was just made is there for later calls."""
    xp = namespace(x)
    if is_torch_namespace(xp):
        return not x.is_inference()
    if is_cupy_namespace(xp):
        import cupy

        return not cupy.cuda.get_current_stream().is_capturing()
    return not is_traced(x)

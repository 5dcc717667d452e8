"""Sending the blocks of a matrix to the device that works with them, while it works."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from .array import AnyArray
from .device_streams import current_stream, device_of, has_streams, recorded
from .host_copies import copy_block
from .namespace import is_cupy_namespace, namespace
from .transfer import host_tensor, sent

__all__ = ["BlockSender", "Sent", "block_sender"]


class Sent(NamedTuple):
    """A block on its device."""

    block: AnyArray
    copied: Any = None  # an event
    home: Any = None  # the stream that its memory was allocated on

    def arrive(self) -> None:
        """Let what this thread asks for from now on come after the copy."""
        if self.copied is not None:
            with device_of(self.block):
                current_stream(self.block).wait_event(self.copied)

    def let_go(self) -> None:
        """Let what the memory is used for again come after what this thread asked for."""
        if self.copied is not None:
            with device_of(self.block):
                here = current_stream(self.block)
                if here != self.home:
                    self.home.wait_event(recorded(here))


class BlockSender(Protocol):
    """Sends NumPy blocks, one after another, in passes over a matrix."""

    def send(self, block: AnyArray, *, keep: bool) -> Sent:
        """Return a block on the device.

        Work with it that is not asked for before the block after the next is sent may find another
        one in its place, unless it is to `keep`. The block on the host may be overwritten once
        `let_go` was called.
        """

    def let_go(self) -> None:
        """Wait until nothing reads the block of the caller that was sent last."""

    def end_pass(self) -> None:
        """Wait until nothing reads memory of the host, and let go of that of the device."""


def block_sender(like: AnyArray) -> BlockSender:
    """Return what sends blocks to the library and device of `like`."""
    if not has_streams(like):
        return _PlainSender(like)
    return _StreamSender(_Cupy(like) if is_cupy_namespace(namespace(like)) else _Torch(like))


class _PlainSender:
    """For libraries whose arrays are of the host, or that order their copies themselves."""

    def __init__(self, like: AnyArray) -> None:
        self._like = like

    def send(self, block: AnyArray, *, keep: bool) -> Sent:
        return Sent(sent(block, self._like))

    def let_go(self) -> None:
        """Nothing is read later than it is sent."""

    def end_pass(self) -> None:
        """Nothing is held."""


class _Place(NamedTuple):
    """Memory of the device, and the event after which it may be written."""

    memory: AnyArray  # flat
    free: Any

    def fits(self, block: AnyArray) -> bool:
        return bool(self.memory.shape[0] >= block.size)


class _StreamSender:
    """Copy into pinned memory, and from there on a stream that does not wait for the work.

    Two buffers of pinned memory take turns; one is written when its last copy has ended, and both
    live as long as the sender. A place on the device is chosen when the block before is sent, so
    that the copy into it waits for work up to the block before that, and not for the newest: new
    memory, as it may be that of work that was asked for before, or, where blocks are not kept, the
    place of the block before, whose work has been asked for by then.

    No pinned memory may be given back to its pool while a copy still reads it: CuPy's gives it out
    again at once. Hence `end_pass`, which waits for the copies, not for the work with the blocks.
    """

    def __init__(self, library: _Library) -> None:
        self._library = library
        with library.device:
            self._copying = library.new_stream()
        self._buffers: list[np.ndarray | None] = [None, None]
        self._copied: list[Any] = [None, None]  # events of the last copies from them
        self._turn = 0
        self._own: Any = None  # event of a copy from the block of the caller
        self._next: _Place | None = None
        self._last: AnyArray | None = None  # memory of the block before, if that is not kept

    def send(self, block: AnyArray, *, keep: bool) -> Sent:
        library = self._library
        with library.device:
            computing = library.computing()
            asked = recorded(computing)
            own = block.flags.c_contiguous and library.is_pinned(block)
            source = np.asarray(block) if own else self._pinned(block)
            place = self._next
            if place is None or not place.fits(block):
                place = self._new_place(block, computing)
            there = place.memory[: block.size].reshape(block.shape)
            self._copying.wait_event(place.free)
            library.copy(source, there, self._copying)
            copied = recorded(self._copying)
            computing.wait_event(copied)
            self._note(copied, own=own)
            self._next, self._last = self._places(block, place, asked, computing, keep=keep)
        return Sent(there, copied, computing)

    def let_go(self) -> None:
        if self._own is not None:
            self._own.synchronize()
            self._own = None

    def end_pass(self) -> None:
        self.let_go()
        for copied in self._copied:
            if copied is not None:
                copied.synchronize()
        self._copied = [None, None]
        self._next = self._last = None  # another pass may be asked for on another stream

    def _pinned(self, block: AnyArray) -> np.ndarray:
        """Return pinned memory with the values of a block."""
        self._turn = turn = 1 - self._turn
        if self._copied[turn] is not None:
            self._copied[turn].synchronize()
        buffer = self._buffers[turn]
        if buffer is None or buffer.size < block.size or buffer.dtype != block.dtype:
            buffer = self._buffers[turn] = self._library.pinned(block)
        source = buffer[: block.size].reshape(block.shape)
        copy_block(source, block)
        return source

    def _note(self, copied: Any, *, own: bool) -> None:
        if own:
            self._own = copied
        else:
            self._copied[self._turn] = copied

    def _new_place(self, block: AnyArray, computing: Any) -> _Place:
        memory = self._library.empty(block)
        return _Place(memory, recorded(computing))

    def _places(
        self, block: AnyArray, place: _Place, asked: Any, computing: Any, *, keep: bool
    ) -> tuple[_Place | None, AnyArray | None]:
        """Return the place of the next block, and the memory of this one if it is used again."""
        if keep:
            return self._new_place(block, computing), None
        before = None if self._last is None else _Place(self._last, asked)
        return before, place.memory


class _Library(Protocol):
    """What sending takes of CuPy or torch."""

    device: AbstractContextManager[Any]

    def new_stream(self) -> Any: ...
    def computing(self) -> Any: ...
    def empty(self, block: AnyArray) -> AnyArray: ...
    def pinned(self, block: AnyArray) -> np.ndarray: ...
    def is_pinned(self, block: AnyArray) -> bool: ...
    def copy(self, source: np.ndarray, there: AnyArray, stream: Any) -> None: ...


class _Cupy:
    def __init__(self, like: AnyArray) -> None:
        self.like, self.device = like, device_of(like)

    def new_stream(self) -> Any:
        import cupy

        return cupy.cuda.Stream(non_blocking=True)

    def computing(self) -> Any:
        return current_stream(self.like)

    def empty(self, block: AnyArray) -> AnyArray:
        import cupy

        return cupy.empty(block.size, block.dtype)

    def pinned(self, block: AnyArray) -> np.ndarray:
        import cupyx

        return cupyx.empty_pinned(block.size, block.dtype)

    def is_pinned(self, block: AnyArray) -> bool:
        import cupy

        first = block.ctypes.data
        known = cupy.cuda.pinned_memory.is_memory_pinned
        return bool(block.nbytes and known(first) and known(first + block.nbytes - 1))

    def copy(self, source: np.ndarray, there: AnyArray, stream: Any) -> None:
        there.set(source, stream=stream)


class _Torch:
    def __init__(self, like: AnyArray) -> None:
        self.like, self.device = like, device_of(like)

    def new_stream(self) -> Any:
        import torch

        return torch.cuda.Stream(self.like.device)

    def computing(self) -> Any:
        return current_stream(self.like)

    def empty(self, block: AnyArray) -> AnyArray:
        import torch

        dtype = host_tensor(np.empty(0, block.dtype)).dtype
        return torch.empty(block.size, dtype=dtype, device=self.like.device)

    def pinned(self, block: AnyArray) -> np.ndarray:
        import torch

        dtype = host_tensor(np.empty(0, block.dtype)).dtype
        return torch.empty(block.size, dtype=dtype, pin_memory=True).numpy()

    def is_pinned(self, block: AnyArray) -> bool:
        return bool(block.nbytes and block.flags.writeable and host_tensor(block).is_pinned())

    def copy(self, source: np.ndarray, there: AnyArray, stream: Any) -> None:
        import torch

        with torch.cuda.stream(stream):
            there.copy_(host_tensor(source), non_blocking=True)

"""Streams of CuPy and torch: which work of a GPU comes after which, in a few common words.

Both libraries ask for work on a current stream, one for each thread and device. Their streams have
`wait_event`, and their events `synchronize`.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from .array import AnyArray
from .namespace import is_array, is_cupy_namespace, is_torch_namespace, namespace

__all__ = ["Made", "current_stream", "device_of", "has_streams", "made", "recorded"]


def has_streams(x: AnyArray) -> bool:
    """Tell whether work with an array is asked for on streams that this library can order."""
    xp = namespace(x)
    return is_cupy_namespace(xp) or (is_torch_namespace(xp) and x.device.type == "cuda")


def device_of(x: AnyArray) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the device of an array is the current one."""
    if is_cupy_namespace(namespace(x)):
        return x.device
    import torch

    return torch.cuda.device(x.device)


def current_stream(x: AnyArray) -> Any:
    """Return the stream on which this thread asks for work on the device of an array."""
    if is_cupy_namespace(namespace(x)):
        import cupy

        with x.device:
            return cupy.cuda.get_current_stream()
    import torch

    return torch.cuda.current_stream(x.device)


def recorded(stream: Any) -> Any:
    """Return an event of all work that a stream was asked for so far; on its device."""
    return stream.record_event() if hasattr(stream, "record_event") else stream.record()


class Made(NamedTuple):
    """A block, and where the work that makes it was asked for."""

    block: Any
    stream: Any = None
    done: Any = None  # an event

    def arrive(self) -> None:
        """Let what this thread asks for from now on come after the block is made."""
        if self.done is not None:
            with device_of(self.block):
                here = current_stream(self.block)
                if here != self.stream:
                    here.wait_event(self.done)

    def let_go(self) -> None:
        """Let what its maker asks for from now on, or its memory is used for, come after our work.

        Memory goes back to the stream that it was allocated on.
        """
        if self.done is not None:
            with device_of(self.block):
                here = current_stream(self.block)
                if here != self.stream:
                    self.stream.wait_event(recorded(here))


def made(block: Any) -> Made:
    """Return a block with an event, recorded on the current stream of the thread that made it."""
    if not is_array(block) or not has_streams(block):
        return Made(block)
    with device_of(block):
        stream = current_stream(block)
        return Made(block, stream, recorded(stream))

"""Blocks that stay on a device from one pass of a call to the next, while they fit."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from ngdla._backend.block_sender import BlockSender, Sent, block_sender
from ngdla._backend.device_memory import memory_to_spare
from ngdla._backend.namespace import Array

__all__ = ["KeptBlocks"]


class KeptBlocks:
    """What a call holds of a matrix between its passes: blocks on the device, and their senders.

    A matrix is the same in all passes of a call. For the next call it may be another one, with the
    same blocks written anew, so that this lives as long as the call, or as the factor that it made.
    The blocks take what is to spare on the device when the first one comes, and are given up when
    memory runs out later.
    """

    def __init__(self, like: Array, *, work: int = 0, room: int | None = None) -> None:
        self._like, self._work = like, work  # bytes that the call takes besides
        self._room = room  # bytes that are left for blocks; None while it is not known
        self._senders: list[BlockSender] = []  # that no pass uses
        self._blocks: dict[int, Sent] = {}
        self.whole = False  # all blocks are there
        self.largest = 0  # bytes of a block that was sent

    @contextmanager
    def one_pass(self) -> Iterator[BlockSender]:
        """Lend a sender, which has finished afterwards. Passes may go on side by side."""
        try:
            sender = self._senders.pop()
        except IndexError:
            sender = block_sender(self._like)
        try:
            yield sender
        finally:
            sender.end_pass()
        self._senders.append(sender)  # with its pinned memory, for the next pass

    def __len__(self) -> int:
        return len(self._blocks)

    def block(self, i: int) -> Sent | None:
        """Return a block that was kept."""
        return self._blocks.get(i)

    def blocks(self) -> Generator[Sent, None, None]:
        """Yield all blocks that were kept, in their order."""
        blocks = self._blocks  # another pass may give them up
        for i in range(len(blocks)):
            yield blocks[i]

    def fits(self, nbytes: int) -> bool:
        """Tell whether a block of that many bytes is to be kept, and count it."""
        self.largest = max(self.largest, nbytes)
        if self._room is None:
            # the next block has its place before it is known whether it comes
            self._room = memory_to_spare(self._like, self._work) - nbytes
        if self._room < nbytes:
            return False
        self._room -= nbytes
        return True

    def keep(self, i: int, sent: Sent) -> None:
        """Keep a block."""
        self._blocks[i] = sent

    def give_up(self) -> bool:
        """Let go of all blocks, and keep none from now on; tell whether there were any."""
        there = bool(self._blocks)
        self._blocks, self._room, self.whole = {}, 0, False
        return there

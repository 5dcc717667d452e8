"""Which collectives a calculation asks for, and how many numbers each sends."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ngdla._backend.communicator import Communicator
from ngdla._backend.dtypes import dtype_name
from ngdla._backend.namespace import Array

__all__ = ["Collective", "RecordingCommunicator"]


class Collective(NamedTuple):
    """One collective, as this rank took part in it.

    Attributes
    ----------
    kind : str
        The method of the communicator: "all_reduce_sum", "all_gather" or "all_to_all".
    words : int
        The numbers in the array that this rank handed in; complex ones count once.
    dtype : str
        Their dtype.
    """

    kind: str
    words: int
    dtype: str


class RecordingCommunicator:
    """A communicator that writes down each collective, before it passes it on to another one.

    Inside `jax.jit` or `jax.shard_map` a collective is written down when it is traced: calls of
    what is compiled already add nothing.

    Parameters
    ----------
    communicator : Communicator
        The one that does the work.

    Attributes
    ----------
    collectives : list of Collective
        What this rank took part in, in order; it may be cleared.

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla.distributed import RecordingCommunicator, SerialCommunicator
    >>> comm = RecordingCommunicator(SerialCommunicator())
    >>> _ = comm.all_reduce_sum(np.ones((3, 3)))
    >>> comm.collectives
    [Collective(kind='all_reduce_sum', words=9, dtype='float64')]
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self.collectives: list[Collective] = []

    @property
    def rank(self) -> Any:
        """The number of this rank."""
        return self._communicator.rank

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self._communicator.size

    @property
    def timeout(self) -> float | None:
        """Seconds after which a collective raises TimeoutError."""
        return self._communicator.timeout

    def words(self, kind: str | None = None) -> int:
        """Return how many numbers this rank handed in so far.

        Parameters
        ----------
        kind : {"all_reduce_sum", "all_gather", "all_to_all"}, optional
            Of which collectives; of all by default.

        Returns
        -------
        int
        """
        return sum(done.words for done in self.collectives if kind in (None, done.kind))

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of x over ranks.

        Parameters
        ----------
        x : array
            May be written to.

        Returns
        -------
        array
            In the shape and dtype of x.
        """
        self._record("all_reduce_sum", x)
        return self._communicator.all_reduce_sum(x)

    def all_gather(self, x: Array) -> Array:
        """Return the x of all ranks, in their order.

        Parameters
        ----------
        x : array

        Returns
        -------
        array, (size, ...)
            Part j is the x of rank j.
        """
        self._record("all_gather", x)
        return self._communicator.all_gather(x)

    def all_to_all(self, x: Array) -> Array:
        """Return, as part j, the part of the x of rank j that is for this rank.

        Parameters
        ----------
        x : array, (size, ...)

        Returns
        -------
        array, (size, ...)
        """
        self._record("all_to_all", x)
        return self._communicator.all_to_all(x)

    def _record(self, kind: str, x: Array) -> None:
        self.collectives.append(Collective(kind, math.prod(x.shape), dtype_name(x.dtype)))

    def __repr__(self) -> str:
        return f"RecordingCommunicator({self._communicator!r})"

"""One rank, which holds everything."""

from __future__ import annotations

from ngdla._backend.namespace import Array

from .refusals import need_array, need_part_for_each

__all__ = ["SerialCommunicator"]


class SerialCommunicator:
    """One rank: nothing is sent, and arrays of any library come back as they are.

    A program that is written for ranks runs on one process with it.

    Attributes
    ----------
    rank : int
        0.
    size : int
        1.
    timeout : None
        Nothing is waited for.

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla.distributed import SerialCommunicator
    >>> comm = SerialCommunicator()
    >>> comm.all_gather(np.asarray([1.0, 2.0]))
    array([[1., 2.]])
    """

    rank = 0
    size = 1
    timeout: float | None = None

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum over the only rank.

        Parameters
        ----------
        x : array

        Returns
        -------
        array
            x itself.
        """
        need_array(x, repr(self))
        return x

    def all_gather(self, x: Array) -> Array:
        """Return x of the only rank.

        Parameters
        ----------
        x : array

        Returns
        -------
        array, (1, ...)
        """
        need_array(x, repr(self))
        return x[None, ...]

    def all_to_all(self, x: Array) -> Array:
        """Return the part of x for the only rank, which is all of it.

        Parameters
        ----------
        x : array, (1, ...)

        Returns
        -------
        array, (1, ...)
            x itself.
        """
        need_array(x, repr(self))
        need_part_for_each(x, self.size)
        return x

    def __repr__(self) -> str:
        return "SerialCommunicator()"

    def __eq__(self, other: object) -> bool:
        return type(other) is SerialCommunicator

    def __hash__(self) -> int:
        return hash(SerialCommunicator)

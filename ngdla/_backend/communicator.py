"""What is asked of the ranks of a distributed calculation: four names and three collectives.

A rank is a process, or a device inside `jax.shard_map`. `ngdla.distributed` has communicators for
MPI, `torch.distributed` and JAX; any object with these names serves. Every rank calls the same
collectives in the same order, with arrays of equal shapes and dtypes.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from .namespace import Array

__all__ = ["Communicator"]


@runtime_checkable
class Communicator(Protocol):
    """Collectives over ranks, for arrays of one library, and for NumPy arrays on the host."""

    @property
    def rank(self) -> Any:
        """The number of this rank, from 0 to size - 1; traced inside `jax.shard_map`."""

    @property
    def size(self) -> int:
        """The number of ranks."""

    @property
    def timeout(self) -> float | None:
        """Seconds after which a collective raises TimeoutError; None for those of the engine."""

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of x over ranks, the same on each; x may be written to."""

    def all_gather(self, x: Array) -> Array:
        """Return the x of all ranks, (size, *x.shape), in the order of ranks."""

    def all_to_all(self, x: Array) -> Array:
        """Return (size, ...), whose part j is part `rank` of the x (size, ...) of rank j."""

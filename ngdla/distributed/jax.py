"""Ranks of jax.shard_map."""

from __future__ import annotations

import dataclasses
from inspect import signature
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.namespace import (
    Array,
    is_jax_namespace,
    is_numpy_namespace,
    namespace,
)

from .refusals import foreign, need_array, need_part_for_each

__all__ = ["JaxAxis"]

_TAKES = "JAX and NumPy arrays"


@dataclasses.dataclass(frozen=True)
class JaxAxis:
    """The devices along an axis of a mesh, inside `jax.shard_map` or `jax.vmap`.

    It can be made anywhere, is hashable, and equal to others of the same name. Meshes may have
    automatic or explicit axes.

    Parameters
    ----------
    name : str or tuple of str
        The axis of the mesh, or the axes, whose devices count as the ranks. Of `jax.vmap` it is
        the `axis_name`.

    Attributes
    ----------
    rank : jax.Array
        The number of this rank, traced.
    size : int
        The number of ranks.
    timeout : None
        That of XLA.

    Raises
    ------
    RuntimeError
        A collective is asked for outside of `jax.shard_map`.

    Notes
    -----
    With ``check_vma=True`` sums and gathered arrays have the type of what is equal on all ranks.
    Before version 0.9 of JAX that is so of sums only.

    Examples
    --------
    >>> import jax, jax.numpy as jnp  # doctest: +SKIP
    >>> from ngdla.distributed import JaxAxis
    >>> comm = JaxAxis("shards")
    >>> jax.vmap(comm.all_reduce_sum, axis_name="shards")(jnp.arange(3))  # doctest: +SKIP
    Array([3, 3, 3], dtype=int32)
    """

    name: str | tuple[str, ...]

    @property
    def rank(self) -> Any:
        """The number of this rank, traced."""
        import jax

        self.size  # noqa: B018  says it better where the axis is not bound
        return jax.lax.axis_index(self.name)

    @property
    def size(self) -> int:
        """The number of ranks."""
        import jax

        try:
            return int(jax.lax.psum(1, self.name))
        except NameError as error:
            msg = (
                f"There is no axis {self.name!r} here: JaxAxis({self.name!r}) works inside "
                "jax.shard_map, over a mesh with that axis. Eager JAX arrays on several processes "
                "are sent by MPICommunicator; sharded arrays under jax.jit need no communicator."
            )
            raise RuntimeError(msg) from error

    @property
    def _types_vary(self) -> bool:
        """Whether types say what differs between ranks: in `jax.shard_map` with check_vma=True."""
        import jax

        kind = jax.typeof(self.rank)
        kind = getattr(kind, "manual_axis_type", kind)  # of JAX 0.10
        return bool(getattr(kind, "varying", ()) or getattr(kind, "vma", ()))

    @property
    def timeout(self) -> float | None:
        """None: a collective waits for as long as XLA does."""
        return None

    def all_reduce_sum(self, x: Array) -> Array:
        """Return the sum of x over ranks.

        Parameters
        ----------
        x : jax.Array or numpy.ndarray

        Returns
        -------
        jax.Array
        """
        import jax

        return jax.lax.psum(self._array(x), self.name)

    def all_gather(self, x: Array) -> Array:
        """Return the x of all ranks, in their order.

        Parameters
        ----------
        x : jax.Array or numpy.ndarray

        Returns
        -------
        jax.Array, (size, ...)
            Part j is the x of rank j.
        """
        import jax

        y = self._array(x)
        # without these types the transpose has to be a sum: each rank has a part of derivatives
        if "to" in signature(jax.lax.all_gather).parameters and self._types_vary:
            return jax.lax.all_gather(y, self.name, to="invarying")
        return jax.lax.all_gather(y, self.name)

    def all_to_all(self, x: Array) -> Array:
        """Return, as part j, the part of the x of rank j that is for this rank.

        Parameters
        ----------
        x : jax.Array or numpy.ndarray, (size, ...)
            Part i is for rank i.

        Returns
        -------
        jax.Array, (size, ...)
        """
        import jax

        y = self._array(x)
        need_part_for_each(y, self.size)
        return jax.lax.all_to_all(y, self.name, split_axis=0, concat_axis=0)

    def _array(self, x: AnyArray) -> AnyArray:
        """Return x as a JAX array, where the axis is bound."""
        import jax

        need_array(x, repr(self))
        xp = namespace(x)
        if not (is_jax_namespace(xp) or is_numpy_namespace(xp)):
            raise foreign(x, repr(self), _TAKES)
        self.size  # noqa: B018  refuses what is outside of shard_map
        return jax.numpy.asarray(x)

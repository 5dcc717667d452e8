"""What communicators refuse, and how they say that other ranks do not answer."""

from __future__ import annotations

from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array, library

__all__ = ["foreign", "left_alone", "need_array", "need_part_for_each", "need_timeout", "too_late"]

_REMEDIES = {
    "numpy": "MPICommunicator or TorchCommunicator",
    "cupy": "MPICommunicator",
    "torch": "TorchCommunicator",
    "jax": "JaxAxis inside jax.shard_map, or MPICommunicator for eager arrays of one device",
}


def need_array(x: Array, communicator: str) -> None:
    """Refuse what is no array."""
    if not is_array(x):
        msg = f"{communicator} takes arrays, and got {shown(x)}. Pass an array."
        raise TypeError(msg)


def need_part_for_each(x: Array, size: int) -> None:
    """Refuse an array for all_to_all whose leading axis is not that of the ranks."""
    if not x.shape or x.shape[0] != size:
        msg = (
            f"all_to_all takes one part for each of the {size} ranks along the first axis of x, "
            f"and x has shape {tuple(x.shape)}. Pass x of shape ({size}, ...)."
        )
        raise ValueError(msg)


def need_timeout(timeout: float | None) -> None:
    """Refuse a time limit that is not a number of seconds above zero."""
    if timeout is not None and not timeout > 0:
        msg = f"`timeout` is {shown(timeout)}. Pass seconds above 0, or None for no time limit."
        raise ValueError(msg)


def foreign(x: Array, communicator: str, takes: str) -> TypeError:
    """Return the error for an array of a library whose arrays a communicator does not send."""
    name = library(x)
    remedy = _REMEDIES.get(name)
    use = f"Use {remedy} for {name} arrays" if remedy else "Convert it to one of these"
    return TypeError(f"{communicator} takes {takes}, and got a {name} array. {use}.")


def too_late(kind: str, seconds: float | None) -> TimeoutError:
    """Return the error for a collective that other ranks did not join in time."""
    limit = "the time limit of the engine" if seconds is None else f"{seconds:g} seconds"
    return TimeoutError(
        f"{kind} did not end within {limit}: another rank died, or left the calculation. "
        "Look for its error first."
    )


def left_alone(kind: str) -> ConnectionError:
    """Return the error for a collective that lost the connection to another rank."""
    return ConnectionError(
        f"{kind} lost the connection to another rank: it died, or left the calculation. "
        "Look for its error first."
    )

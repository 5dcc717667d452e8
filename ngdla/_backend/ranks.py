"""What ranks that share one problem do together: sums, and agreement about everything else.

Each rank holds a part of the scores, and all take the same way through a call. Before every sum
they exchange a packet of a few words on the host, a handshake: that each is well, at the same place
of the call, with the same sizes, dtype, damping, options and data. What differs is one error on all
of them. A rank whose own part raised takes part in the next handshake to say so, and raises its own
error; the others raise one of the same kind, "rank 3 failed: ...". So nobody waits for a rank that
has left.

Decisions that depend on values are those of rank 0, as what follows from equal sums may round
differently. Inside `jax.shard_map` nothing can be read, and there are no handshakes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import reduce
from operator import index
from types import TracebackType
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np

from .array import AnyArray
from .communicator import Communicator
from .dtypes import dtype_name
from .handshake import (
    PAYLOAD,
    Packets,
    checksum,
    disagreement,
    packet,
    word_of,
    word_of_dtype,
    word_of_library,
)
from .namespace import Array, LinAlgError, library, namespace
from .out_of_memory import NamedMemoryError, is_out_of_memory
from .tracing import differentiable
from .transfer import host_values

__all__ = ["ALONE", "Alone", "ElsewhereError", "Ranks", "TracedRanks", "elsewhere", "telling"]

Combine = Callable[[Array, Array], Array]
Value = TypeVar("Value", bool, float, Any)

_TEXT = 1000  # bytes of an error that ranks tell each other
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, LinAlgError, TimeoutError, OSError)
}
_KINDS["MemoryError"] = NamedMemoryError  # after which nobody tries again


class ElsewhereError(ValueError):
    """An error whose cause is likely to lie on another rank, which knows more of it."""


def elsewhere(message: str, ranks: Alone) -> Exception:
    """Return an error whose cause may lie on another of the ranks, if there are any."""
    return ValueError(message) if ranks is ALONE else ElsewhereError(message)


class Alone:
    """One rank, which has all to itself."""

    def enter(self, *options: Any) -> None:
        """Begin a call with options that are the same on all ranks."""

    def leave(self, error: BaseException | None) -> None:
        """End a call; tell the others where it failed, and learn from them where they did."""

    def tell(self, error: BaseException) -> None:
        """Tell the others that this rank is about to leave with an error, if they do not know."""

    def note(self, *, damping: Any = None, options: Any = None) -> None:
        """Take note of what must be the same on all ranks."""

    def note_data(self, name: str, x: Array, *, solved: bool = False) -> None:
        """Take note of an array that must be the same on all ranks, perhaps made of solutions."""

    def agreed(self, value: Value) -> Value:
        """Return the value of rank 0."""
        return value

    def codes(self, code: int) -> int:
        """Return the largest code of all ranks."""
        return code

    def fail(self, error: Exception | None) -> NoReturn:
        """Raise an error that all ranks are about to raise, one for what another knows."""
        assert error is not None
        raise error

    def merged(self, x: Array, combine: Combine) -> Array:
        """Return numbers of which each rank has those of its own part, in common."""
        return x


ALONE = Alone()


class telling:
    """Let all ranks know of an error before a call is opened."""

    def __init__(self, ranks: Alone) -> None:
        self._ranks = ranks

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._ranks.tell(error)


@dataclasses.dataclass(frozen=True)
class TracedRanks(Alone):
    """Devices that run one traced function, each on its part."""

    communicator: Communicator
    has_uneven_parts: ClassVar[bool] = False  # all devices run the same code

    def begin(
        self, like: Array, *, size: int, share: int, declared: int | None, dtype: str
    ) -> list[int]:
        """Return the shares of all ranks: as much as this one has."""
        shares = self.shares(share)
        if declared is not None and declared != sum(shares):
            msg = (
                f"`columns` or `rows` of the shards is {declared}, but {len(shares)} devices with "
                f"{share} each have {sum(shares)}; pass this number, or none."
            )
            raise ValueError(msg)
        return shares

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.communicator.size

    @property
    def rank(self) -> Any:
        """Number of this rank, traced."""
        return self.communicator.rank

    def shares(self, share: int) -> list[int]:
        """Return how many rows or columns each rank has: as many as this one."""
        return [share] * self.size

    def own(self, shares: Sequence[int]) -> int:
        """Return what this rank has of the shares of all."""
        return shares[0]

    def total(self, x: Array) -> Array:
        """Return the sum over ranks."""
        return self.communicator.all_reduce_sum(x)

    def gathered(self, x: Array) -> Array:
        """Return the arrays of all ranks, (ranks, ...)."""
        return self.communicator.all_gather(x)

    def exchanged(self, x: Array) -> Array:
        """Return the parts that all ranks have for this one, (ranks, ...)."""
        return self.communicator.all_to_all(x)

    def merged(self, x: Array, combine: Combine) -> Array:
        """Return numbers of which each rank has those of its own part, in common."""
        parts = self.gathered(x)
        return reduce(combine, [parts[i, ...] for i in range(self.size)])


class Ranks(TracedRanks):
    """Processes, each with a part of the scores."""

    def __init__(self, communicator: Communicator, name: str, common: str) -> None:
        object.__setattr__(self, "communicator", communicator)
        state = _State(name, common)
        object.__setattr__(self, "_state", state)

    _state: _State
    has_uneven_parts = True

    @property
    def size(self) -> int:
        """Number of ranks."""
        return index(self.communicator.size)

    @property
    def rank(self) -> int:
        """Number of this rank, in Python: communicators may count in integers of NumPy."""
        return index(self.communicator.rank)

    # ------------------------------------------------------------------------- agreement

    def begin(
        self, like: Array, *, size: int, share: int, declared: int | None, dtype: str
    ) -> list[int]:
        """Return the shares of all ranks, which have sizes, dtype and library in common."""
        fields = self._state.lasting
        fields.update(size=size, share=share, declared=declared or 0, dtype=word_of_dtype(dtype))
        fields.update(library=word_of_library(library(like)), axis=word_of(self._state.common))
        return [int(share) for share in self._handshake()["share"]]

    def shares(self, share: int) -> list[int]:
        """Return how many rows or columns each rank has."""
        return [int(own) for own in self._handshake((share,)).payload[:, 0]]

    def own(self, shares: Sequence[int]) -> int:
        """Return what this rank has of the shares of all."""
        return shares[self.rank]

    def enter(self, *options: Any) -> None:
        """Begin a call with options that are the same on all ranks."""
        self._state.agreed, self._state.broken = None, None
        self.note(options=options)

    def leave(self, error: BaseException | None) -> None:
        """End a call; tell the others where it failed, and learn from them where they did."""
        state = self._state
        try:
            if error is None:
                self._handshake()
            else:
                self.tell(error)
        finally:
            state.noted, state.arguments = {}, []

    def tell(self, error: BaseException) -> None:
        """Tell the others that this rank is about to leave with an error, if they do not know."""
        state = self._state
        if not isinstance(error, Exception) or state.broken is not None or error is state.agreed:
            return
        state.place += 1
        self._packets(packet({}, ()))
        self._told(error)
        state.agreed = error

    def note(self, *, damping: Any = None, options: Any = None) -> None:
        """Take note of what must be the same on all ranks."""
        noted = self._state.noted
        if damping is not None:
            values = np.asarray(damping if isinstance(damping, float) else host_values(damping))
            many = values.ndim > 0
            noted["damping"] = checksum(values, "damping", "float64")[0] if many else float(values)
        if options is not None:
            noted["options"] = word_of((noted.get("options"), options))

    def note_data(self, name: str, x: Array, *, solved: bool = False) -> None:
        """Take note of an array that must be the same on all ranks, perhaps made of solutions."""
        noted = self._state.noted
        self._state.arguments.append(name)
        word, tolerance = checksum(host_values(x), name, dtype_name(x.dtype), solved=solved)
        noted["data"] = noted.get("data", 0.0) + word
        noted["tolerance"] = noted.get("tolerance", 0.0) + tolerance
        self.note(options=tuple(x.shape))

    def agreed(self, value: Value) -> Value:
        """Return the value of rank 0."""
        number = float(self._handshake((float(value),)).payload[0, 0])
        if isinstance(value, (bool, float)):
            return type(value)(number)
        return namespace(value).full_like(value, number)

    def codes(self, code: int) -> int:
        """Return the largest code of all ranks."""
        return int(self._handshake((code,)).payload[:, 0].max())

    def fail(self, error: Exception | None) -> NoReturn:
        """Raise an error that all ranks are about to raise, one for what another knows."""
        known = None if isinstance(error, ElsewhereError) else error
        others = self._of_others(self._told(known))
        if known is None and others is None:
            known = ValueError(str(error))
        raise self._agreed_on(known or others)

    # ------------------------------------------------------------------------ collectives

    def total(self, x: AnyArray) -> Array:
        """Return the sum over ranks."""
        return self._sent(self.communicator.all_reduce_sum, x)

    def gathered(self, x: AnyArray) -> Array:
        """Return the arrays of all ranks, (ranks, ...)."""
        return self._sent(self.communicator.all_gather, x)

    def exchanged(self, x: AnyArray) -> Array:
        """Return the parts that all ranks have for this one, (ranks, ...)."""
        return self._sent(self.communicator.all_to_all, x)

    def _sent(self, collective: Callable[[Any], Any], x: AnyArray) -> Array:
        """Return what a collective does, for which all are ready."""
        if differentiable(x):
            msg = (
                "derivatives do not pass from one process to another: hand over tensors by "
                "detach(), or call in torch.no_grad(). Inside jax.shard_map they do."
            )
            raise ValueError(msg)
        self._handshake(sent=word_of((tuple(map(int, x.shape)), dtype_name(x.dtype))))
        return self._engine(collective, x)

    def merged(self, x: Array, combine: Combine) -> Array:
        """Return numbers of which each rank has those of its own part, in common."""
        if not isinstance(x, np.ndarray) or x.size > PAYLOAD or np.iscomplexobj(x):
            return super().merged(x, combine)
        parts = self._handshake(x.reshape(-1)).payload[:, : x.size].astype(x.dtype)
        return reduce(combine, list(parts)).reshape(x.shape)

    # -------------------------------------------------------------------------- handshakes

    def _handshake(
        self, payload: Sequence[float] | np.ndarray = (), *, sent: float = 0.0
    ) -> Packets:
        state = self._state
        state.place += 1
        place = {"well": 1.0, "place": state.place, "sent": sent}
        packets = self._packets(packet({**state.lasting, **state.noted, **place}, payload))
        if not packets["well"].all():
            raise self._agreed_on(self._of_others(self._told(None)))
        differs = disagreement(packets, state.name, state.common, state.arguments)
        if differs is not None:
            raise self._agreed_on(ValueError(differs))
        return packets

    def _packets(self, own: np.ndarray) -> Packets:
        return Packets(np.asarray(self._engine(self.communicator.all_gather, own)))

    def _told(self, error: Exception | None) -> list[tuple[str, str]]:
        """Return kinds and messages of the errors of all ranks, empty where there is none."""
        text = b"" if error is None else f"{_kind(error)}\0{error}".encode()[:_TEXT]
        own = np.frombuffer(text.ljust(_TEXT, b"\0"), np.uint8).copy()
        told = []
        for row in np.asarray(self._engine(self.communicator.all_gather, own)):
            kind, _, message = row.tobytes().rstrip(b"\0").decode(errors="ignore").partition("\0")
            told.append((kind, message))
        return told

    def _of_others(self, told: list[tuple[str, str]]) -> Exception | None:
        """Return an error of the kind of the first that others had."""
        for rank, (kind, message) in enumerate(told):
            if kind:
                return _KINDS.get(kind, RuntimeError)(f"rank {rank} failed: {message}")
        return None

    def _agreed_on(self, error: Exception | None) -> Exception:
        assert error is not None
        self._state.agreed = error
        return error

    def _engine(self, collective: Callable[[Any], Any], x: Any) -> Any:
        """Return what a collective does; where that fails, there is nobody to talk to."""
        if self._state.broken is not None:
            raise self._state.broken
        try:
            return collective(x)
        except Exception as error:
            self._state.broken = error
            raise


@dataclasses.dataclass
class _State:
    """Where a rank stands."""

    name: str  # of the scores, for messages
    common: str  # of which axis all have equally many
    place: int = 0
    lasting: dict[str, float] = dataclasses.field(default_factory=dict)
    noted: dict[str, float] = dataclasses.field(default_factory=dict)  # of one call
    arguments: list[str] = dataclasses.field(default_factory=list)  # whose data were noted
    agreed: BaseException | None = None  # that all ranks know of
    broken: Exception | None = None  # why the engine failed


def _kind(error: Exception) -> str:
    """Return the name of the kind that others are to raise."""
    if is_out_of_memory(error):
        return "MemoryError"
    for kind in type(error).__mro__:
        if kind.__name__ in _KINDS:
            return kind.__name__
    return "RuntimeError"

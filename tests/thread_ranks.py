"""Ranks that are threads of one process: sharded calculations without an engine.

A collective fails at once, and not after its time limit, if another rank has left. All ranks have
to ask for the same one, in arrays of equal shape and dtype.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

TIMEOUT = 20.0  # seconds that a rank waits for another one


class ThreadCommunicator:
    """The communicator of one thread, for arrays of any library that is eager."""

    def __init__(self, rank: int, meetings: Meetings) -> None:
        self.rank = rank
        self.size = meetings.size
        self.timeout: float | None = meetings.timeout
        self._meetings = meetings

    def all_reduce_sum(self, x: Any) -> Any:
        first, *others = self._meet("all_reduce_sum", x)
        return array_namespace(x).asarray(sum(others, start=first))

    def all_gather(self, x: Any) -> Any:
        return array_namespace(x).stack(self._meet("all_gather", x))

    def all_to_all(self, x: Any) -> Any:
        assert x.shape[0] == self.size, f"{x.shape} is not a part for each of {self.size} ranks"
        return array_namespace(x).stack([y[self.rank, ...] for y in self._meet("all_to_all", x)])

    def _meet(self, kind: str, x: Any) -> list[Any]:
        xp = array_namespace(x)
        if isinstance(x, np.ndarray):
            sent = np.array(x)
        else:
            sent = xp.asarray(x, copy=True)
        described = f"{kind} of {xp.__name__} {tuple(x.shape)} {x.dtype}"
        return self._meetings.meet(self.rank, described, sent)


class Meetings:
    """What the ranks have handed in, one table for each collective."""

    def __init__(self, size: int, timeout: float) -> None:
        self.size = size
        self.timeout = timeout
        self._changed = threading.Condition()
        self._tables: list[dict[int, tuple[str, Any]]] = []
        self._taken: list[int] = []  # by how many ranks, for each table
        self._done = [0] * size
        self._left: set[int] = set()

    def meet(self, rank: int, described: str, sent: Any) -> list[Any]:
        with self._changed:
            number = self._done[rank]
            self._done[rank] += 1
            if number == len(self._tables):
                self._tables.append({})
                self._taken.append(0)
            table = self._tables[number]
            table[rank] = described, sent
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(table) == self.size or self._left - table.keys(), self.timeout
            )
            self._complain(rank, described, table)
            found = [table[other][1] for other in range(self.size)]
            self._taken[number] += 1
            if self._taken[number] == self.size:  # nobody asks again
                table.clear()
        return found

    def _complain(self, rank: int, described: str, table: dict[int, tuple[str, Any]]) -> None:
        missing = sorted(set(range(self.size)) - table.keys())
        if missing and self._left & set(missing):
            msg = f"rank {rank} waits in {described}, and ranks {missing} have left or never come"
            raise ConnectionError(msg)
        if missing:
            msg = f"rank {rank} waited {self.timeout} s in {described} for ranks {missing}"
            raise TimeoutError(msg)
        asked = {other: description for other, (description, _) in sorted(table.items())}
        assert len(set(asked.values())) == 1, f"ranks ask for different collectives: {asked}"

    def leave(self, rank: int) -> None:
        with self._changed:
            self._left.add(rank)
            self._changed.notify_all()


def outcomes(
    size: int, function: Callable[[ThreadCommunicator], Any], timeout: float = TIMEOUT
) -> list[Any]:
    """Return what function(comm) returned, or raised, in each of `size` threads."""
    meetings = Meetings(size, timeout)
    results: list[Any] = [TimeoutError("the rank did not end")] * size

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadCommunicator(rank, meetings))
        except BaseException as error:  # noqa: BLE001  it is the caller's
            results[rank] = error
        finally:
            meetings.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * timeout)
    return results


def run_ranks(
    size: int, function: Callable[[ThreadCommunicator], Any], timeout: float = TIMEOUT
) -> list[Any]:
    """Return the results of function(comm) in `size` threads, or raise what one of them raised.

    Errors of ranks that were left alone come last. `outcomes` returns all errors.
    """
    results = outcomes(size, function, timeout)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, (ConnectionError, TimeoutError)))
    return results

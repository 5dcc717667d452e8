"""One thread for short calls of SciPy's BLAS, whose threads and those of NumPy's hinder each other.

The wheels of NumPy and SciPy bring one OpenBLAS each. Its threads wait busily for some 30 ms after
they have worked, on cores that the other one's threads then lack: potrf of n = 1024 took 100 ms
after a product by NumPy instead of 7. NumPy's pool does all the products here, so that of SciPy is
held to one thread for calls that are too short to outlast such a wait. The number of threads is
that of the whole process: calls of SciPy in other Python threads have one thread meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import scipy

from .array import AnyArray
from .dtypes import is_complex

__all__ = ["OneThread", "short_call"]

# Multiplications that take one thread some 100 ms. Calls beyond that keep their threads.
_SHORT = 3e9


class OneThread:
    """Hold a pool to one thread while any Python thread is inside of this context.

    The last one to leave gives back the number of threads that the first one found, unless it has
    been set to another number meanwhile. A thread is inside once, not several times: if a Ctrl-C
    strikes between two lines here, its next call puts things right.

    Parameters
    ----------
    read, write : callable
        Give and set the number of threads.
    """

    def __init__(self, read: Callable[[], int], write: Callable[[int], object]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._inside: set[int] = set()  # Python threads
        self._found = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = self._read()
            self._inside.add(threading.get_ident())
            if self._found > 1:
                self._write(1)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            me = {threading.get_ident()}
            if self._inside <= me and self._found > 1 and self._read() == 1:
                self._write(self._found)
            self._inside -= me

    def after_fork(self) -> None:
        """Forget the threads that were inside when the process was forked: they are not here."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = set()
            self.__exit__()


class _AsItIs:
    """All threads: the call is long, or SciPy's BLAS is not one of its own."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None


_AS_IT_IS = _AsItIs()


def short_call(like: AnyArray, multiplications: float) -> OneThread | _AsItIs:
    """Return a context for a call of SciPy's BLAS or LAPACK, of so many products of its numbers."""
    least = _SHORT / 4 if multiplications >= _SHORT / 4 and is_complex(like) else _SHORT
    return _pool() if multiplications < least else _AS_IT_IS


@cache
def _pool() -> OneThread | _AsItIs:
    """Return the pool of the OpenBLAS that lies in SciPy's own folders, if there is one.

    Elsewhere NumPy and SciPy share one library, whose number of threads is the user's.
    """
    from threadpoolctl import threadpool_info

    own = str(Path(scipy.__file__).resolve().parent)  # also the beginning of "scipy.libs"
    for library in threadpool_info():
        if library["internal_api"] == "openblas" and library["filepath"].startswith(own):
            calls = _thread_calls(ctypes.CDLL(library["filepath"]))
            if calls is not None:
                pool = OneThread(*calls)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=pool.after_fork)
                return pool
    return _AS_IT_IS


def _thread_calls(
    library: ctypes.CDLL,
) -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """Return the functions that give and set the number of threads, 0.4 microseconds each.

    Those of threadpoolctl 3.8 set nothing in any Python thread but the first that uses them.
    """
    for name in ("scipy_openblas_{}_num_threads", "scipy_openblas_{}_num_threads64_"):
        if hasattr(library, name.format("set")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None

"""What every public function opens, and what is read when it is left.

Settings of the library of its arguments are held for the call. Values (NaN, Inf, signs) are tested
by flags on the device, gathered by `ValueChecks` and read at most once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial, reduce
from operator import and_, itemgetter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np

from .dtypes import dtype_name, normal_range, real_part
from .fused import all_of, finite_along, in_one_kernel
from .messages import shown
from .namespace import Array, namespace
from .out_of_memory import NamedMemoryError, is_out_of_memory, let_go, of_call
from .ranks import ALONE, Alone
from .settings import library_settings
from .tracing import concrete, is_traced, lies_on_gpu, nan_unless, waiting

__all__ = [
    "Check",
    "ValueChecks",
    "all_finite",
    "computing",
    "matrix_of_batch",
    "opened",
    "place_in_batch",
    "warn_caller",
]

# True: values are read, and errors raised. "nan": nothing is read, and what is refused is NaN.
# False: nothing is tested or refused, and flags of a GPU are read where that halves the work.
Check = bool | Literal["nan"]
Kind = Literal["matrix", "vector"]


class computing:
    """Hold the settings of the library of `like`.

    If memory is short for the call, the error says what it asked for, and what to do. What the call
    held is let go of, but what its public function holds itself, with the error.
    """

    _waiting: waiting | None = None

    def __init__(self, like: Array, *, tf32: bool = False) -> None:
        self._settings = library_settings(like, tf32=tf32)

    def __enter__(self) -> Any:
        self._settings.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del trace  # which holds all that the call held
        if error is None:  # matrices open this within a call, a dozen times an update
            self._settings.__exit__(None, None, None)
        else:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if self._waiting is not None:
            self._waiting.__exit__()
        if error is None:
            self._settings.__exit__(None, None, None)
            return
        self._settings.__exit__(type(error), error, error.__traceback__)
        if is_out_of_memory(error):
            let_go(error)
            if not isinstance(error, NamedMemoryError):
                raise of_call(error, _called().f_code.co_qualname) from error


class opened(computing):
    """Hold the settings of the library of `like`, and gather value checks, read on leaving.

    An exception of the body is never replaced by one of the checks. With `tf32`, products may drop
    to TF32 where the device has it. `nan` says that `check` may be "nan". A call that `waits`
    or checks nothing reads flags of a GPU where the other way is twice the work. `ranks` that share
    the arguments raise together.
    """

    def __init__(
        self,
        like: Array,
        check: Check = True,
        *,
        tf32: bool = False,
        nan: bool = False,
        waits: bool = False,
        ranks: Alone | None = None,  # ALONE as a default is refused by torch.compile
    ) -> None:
        if check is not True and check is not False:
            _require_check(check, nan, ranks)
        self._settings = library_settings(like, tf32=tf32)
        if not isinstance(like, np.ndarray) and lies_on_gpu(like):
            self._waiting = waiting(allowed=check is False or (check is True and waits))
        self._checks = ValueChecks(enabled=check is True, refuses=check is not False, ranks=ranks)
        self._checks.readable = check is True and not is_traced(like)

    def __enter__(self) -> ValueChecks:
        self._settings.__enter__()
        if self._waiting is not None:
            self._waiting.__enter__()
        if self._checks.ranks is not ALONE:
            self._checks.ranks.enter(self._checks.enabled, self._checks.refuses)
        return self._checks

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del trace
        if error is not None:
            self._checks.forget()
            self._checks.ranks.leave(error)
        else:
            try:
                self._checks.end()
            except BaseException as failure:
                self._leave(failure)
                raise
        self._leave(error)


def _all_set(*flags: Array) -> Array:
    return in_one_kernel(_conjunction, *flags) if len(flags) > 2 else reduce(and_, flags)


def _conjunction(xp: Any, *flags: Any) -> Any:
    return reduce(and_, flags)


def _require_check(check: Any, nan: bool, ranks: Alone | None) -> None:
    """Raise unless `check` is one of the flags that a function knows besides True and False."""
    if nan and isinstance(check, str) and check == "nan":
        return
    msg = f"`check` is {shown(check)}; it must be True{', False or ' if nan else ' or False'}"
    error = TypeError(f"{msg}'nan'." if nan else f"{msg}.")
    if ranks is not None:
        ranks.tell(error)
    raise error


_Test = tuple[Array, Callable[[], Exception | Warning] | None]


class ValueChecks:
    """Value tests of one public call, gathered on the device and read at most once.

    `require` takes the test as a function, so that nothing is computed when checks are off, and
    the error as a function, so that its message (which may read values) is made only on failure.
    Where results that are refused are to be NaN if the host cannot tell, `refuses` is set. What
    fails on one of the `ranks` fails on all of them.
    """

    def __init__(self, *, enabled: bool, refuses: bool = True, ranks: Alone | None = None) -> None:
        self.enabled = enabled
        self.refuses = refuses
        self.ranks = ALONE if ranks is None else ranks
        self.readable = enabled  # and values can be read
        self._tests: list[_Test] = []

    def require(
        self, test: Callable[[], Array], error: Callable[[], Exception | Warning] | None
    ) -> None:
        """Add a test, which returns a boolean array, and the error or warning of its failure.

        A test without an error is a question, whose answer `read` returns.
        """
        if self.enabled:
            flag = test()
            if getattr(flag, "ndim", 0):
                flag = all_of(flag)
            self._tests.append((flag, error))

    def forget(self) -> None:
        """Drop all tests, and what they hold."""
        self._tests = []

    def ask(self, question: Callable[[], Array]) -> None:
        """Add a question, the answer to which `read` returns."""
        self.require(question, None)

    def or_nan(self, test: Callable[[], Array], x: Array) -> Array:
        """Return x with NaN where a test for leading axes, (...), fails and cannot raise."""
        if not self.refuses or (self.enabled and not is_traced(x)):
            return x
        ok = test()
        ok = namespace(x).reshape(ok, ok.shape + (1,) * (x.ndim - ok.ndim))
        return x * nan_unless(ok, real_part(x))

    def finite(self, name: str, *arrays: Array, batch: int = 0, kind: Kind = "matrix") -> None:
        """Require that an argument holds no NaN and no Inf.

        The error names the first bad matrix or vector of the batch, as `place_in_batch` does.
        """

        def error() -> Exception:
            place = place_in_batch(batch, *arrays, kind=kind)
            return ValueError(f"`{name}` contains NaN or Inf{place}; pass finite values.")

        self.require(lambda: all_finite(*arrays), error)

    def positive(self, name: str, *arrays: Array) -> None:
        """Require that an argument is positive, finite and not subnormal."""
        for x in arrays:
            self.require(partial(_positive, x), partial(_not_positive, name, x))

    def read(self) -> bool:
        """Read the flags, fused into one, and raise the error of the first test that failed.

        Returned is False where a question was answered by no before that; what is read is then
        forgotten. Warnings are issued, if no error is raised.
        """
        tests, self._tests = self._tests, []
        if not tests:
            return True
        fine = concrete(_all_set(*map(itemgetter(0), tests))) is not False
        if fine and self.ranks is ALONE:
            return True
        code, failure, warned = (_FINE, None, []) if fine else _verdict(tests)
        code = self.ranks.codes(code)
        if code == _FAILED:
            self.ranks.fail(failure)
        for warning in warned if code == _FINE else ():
            warn_caller(str(warning), type(warning))
        return code == _FINE

    def end(self) -> None:
        """Read what has not been read, and end the call on all ranks."""
        try:
            self.read()
        except BaseException as error:
            self.ranks.leave(error)
            raise
        if self.ranks is not ALONE:
            self.ranks.leave(None)


_FINE, _NO, _FAILED = range(3)


def _verdict(tests: list[_Test]) -> tuple[int, Exception | None, list[Warning]]:
    """Return whether a question was answered by no or a test failed, the error, and warnings."""
    issued = []
    for error in [error for flag, error in tests if concrete(flag) is False]:
        if error is None:
            return _NO, None, []
        failure = error()
        if not isinstance(failure, Warning):
            return _FAILED, failure, []
        issued.append(failure)
    return _FINE, None, issued


def all_finite(*arrays: Array) -> Array:
    """Return a 0-d flag: no NaN and no Inf in any of the arrays."""
    finite = finite_along(arrays[0], None)
    for x in arrays[1:]:
        finite = finite & finite_along(x, None)
    return finite


def place_in_batch(batch: int, *arrays: Array, kind: Kind = "matrix") -> str:
    """Return " in matrix (1, 0) of the batch" of the first one that is not finite, for a message.

    `batch` is the number of leading axes that all arrays share; "" if there is none, or nothing
    is wrong. Entries of one matrix each, such as its norm, are enough: one index is read.
    """
    shape = tuple(arrays[0].shape[:batch])
    if not shape:
        return ""
    flags = [_finite_entries(x, batch) for x in arrays]
    xp, finite = namespace(arrays[0]), reduce(and_, flags)
    if concrete(xp.all(finite)):
        return ""
    first = int(xp.argmin(xp.reshape(xp.astype(finite, xp.int32), (-1,))))
    return matrix_of_batch(first, shape, kind=kind)


def matrix_of_batch(first: int, shape: tuple[int, ...], *, kind: Kind = "matrix") -> str:
    """Return " in matrix (1, 0) of the batch" for one of a batch, "" without a batch."""
    if not shape:
        return ""
    index = tuple(map(int, np.unravel_index(first, shape)))
    return f" in {kind} {index if len(shape) > 1 else index[0]} of the batch"


def _finite_entries(x: Array, batch: int) -> Array:
    """Return flags, (...): no NaN and no Inf in what lies behind the leading axes."""
    axes = tuple(range(batch, x.ndim))
    return finite_along(x, axes) if axes else namespace(x).isfinite(x)


def _positive(x: Array) -> Array:
    least, _ = normal_range(dtype_name(x.dtype))
    return (x >= least) & namespace(x).isfinite(x)


def _not_positive(name: str, x: Array) -> Exception:
    dtype = dtype_name(x.dtype)
    least, largest = normal_range(dtype)
    msg = (
        f"`{name}` holds values that are not positive and finite, or below the smallest normal "
        f"number of {dtype}; each must be from {least:.1e} to {largest:.1e}."
    )
    return ValueError(msg)


_PACKAGE = str(Path(__file__).parent.parent / "_")[:-1]  # with its separator


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn, naming the line of the caller's code from which this library was called."""
    level, frame = 2, sys._getframe()
    called = _called()
    while frame is not called and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _called() -> FrameType:
    """Return the frame of the function of this library that the caller's code called."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame

"""Scores that arrive in blocks: what streams of columns and of rows have in common.

A stream stores nothing of S. A method of `ScoreMatrix` is one pass, in which each block is a
`ColumnBlocks` of its own, and what it contributes is summed in double precision.
"""

from __future__ import annotations

import copy
import functools
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from types import FunctionType
from typing import Any, Protocol, Self, TypeVar

from ngdla._backend.calls import all_finite
from ngdla._backend.checks import require_count, require_flag
from ngdla._backend.dtypes import (
    astype,
    double_name,
    dtype_name,
    has_double,
    real_name,
    result_name,
)
from ngdla._backend.namespace import Array
from ngdla._backend.out_of_memory import is_out_of_memory, naming_memory
from ngdla._backend.raw_file import raw_file

from .block_reader import (
    SMALLER_BLOCKS,
    block_reader,
    matrix_shape,
    require_positive,
    stored_dtype,
)
from .column_blocks import ColumnBlocks
from .parameter_forms import ONE_ARRAY
from .score_matrix import ScoreMatrix, Vector

__all__ = ["Centring", "ScoreStream", "add_in_double", "one_pass", "round_to", "vector_rows"]

Method = TypeVar("Method", bound=Callable[..., Any])


class Centring(Protocol):
    """What makes scores of log-derivatives that arrive in blocks."""

    @property
    def stack(self) -> bool:
        """Whether real parts are on top of the imaginary ones, with twice as many rows."""

    @property
    def null(self) -> Array:
        """The null vectors of the scores, (n or 2n, p)."""

    @property
    def mean(self) -> Array | None:
        """The mean row, (1, m), where it is known before the rows are read."""

    def centre_columns(self, O: Array) -> Array:
        """Return the scores of a block of columns."""

    def shift(self, O: Array, span: slice) -> Array:
        """Return an estimate of the mean row, (1, m), from the first rows."""

    def centre_rows(self, O: Array, span: slice, shift: Array) -> Array:
        """Return the weighted rows of a block less the shift."""

    def counting(self, O: Array, span: slice) -> Array:
        """Return the rows `span`, with 0 in those that change nothing."""


class ScoreStream(ScoreMatrix):
    """The scores diag(q) (O - mean) diag(scales), of which O arrives in blocks; or O diag(scales).

    Immutable: what has other scales or another centring is a copy.
    """

    form = ONE_ARRAY
    _axis: int  # along which one block follows another

    def __init__(
        self,
        blocks: Any,
        shape: tuple[int, int],
        *,
        dtype: Any,
        like: Array | None = None,
        prefetch: bool = False,
        progress: bool = False,
    ) -> None:
        self._reader = block_reader(
            blocks, shape, self._axis, dtype, like, prefetch=prefetch, progress=progress
        )
        self.shape = self._reader.shape
        self._require_proportions()
        self.name = "S"
        self.scales: Vector | None = None
        self._centring: Centring | None = None

    def __init_subclass__(cls) -> None:
        """Give each kind its own copy of `__init__`, which Python names in errors of keywords."""
        shared = ScoreStream.__init__
        own = FunctionType(shared.__code__, shared.__globals__)
        own.__kwdefaults__ = shared.__kwdefaults__
        own.__annotations__ = shared.__annotations__
        own.__qualname__ = f"{cls.__name__}.__init__"
        cls.__init__ = own  # type: ignore[method-assign]

    def _require_proportions(self) -> None:
        """Raise unless n and m are in a proportion that is worked with; any is, by default."""

    @classmethod
    def from_file(
        cls,
        path: Any,
        shape: tuple[int, int],
        dtype: Any,
        chunk: int | None = None,
        *,
        offset: int = 0,
        like: Array | None = None,
        prefetch: bool = True,
        progress: bool = False,
    ) -> Self:
        """Return a stream of the matrix in a file, as ``ndarray.tofile`` and ``np.memmap`` write.

        Parameters
        ----------
        path : str or path
            Of a file that holds the matrix in C order and nothing else.
        shape : tuple of int
            (n, m), the numbers of samples and parameters.
        dtype : str or dtype
            Of the numbers in the file, in native byte order.
        chunk : int, optional
            Columns (`ColumnStream`) or rows (`RowStream`) of a block; by default 128 MB of them.
        offset : int
            Bytes before the matrix.
        prefetch : bool
            Let the operating system read the next block while one is used.
        like, progress
            As for the class itself.

        Returns
        -------
        ColumnStream or RowStream

        Raises
        ------
        OSError
            If there is no such file.
        TypeError, ValueError
            If the file does not have the size of such a matrix; as the class itself.

        Notes
        -----
        Blocks are views of the page cache, of which two at a time belong to the memory of this
        process, and all to that which the operating system takes back when it is wanted. A file
        must not be written to, and above all not become shorter, while it is in use.
        """
        if chunk is not None:
            require_positive(chunk, "chunk")
        require_count(offset, "offset")
        require_flag(prefetch, "prefetch")
        name = stored_dtype(dtype)
        blocks = raw_file(
            path, matrix_shape(shape), name, chunk, offset, axis=cls._axis, ahead=prefetch
        )
        return cls(blocks, shape, dtype=name, like=like, progress=progress)

    @property
    def like(self) -> Array:
        """An array of the library and on the device that do the work."""
        return self._reader.like

    @property
    def rows(self) -> int:
        """Number of samples, twice that where real and imaginary parts are stacked."""
        return self.shape[0] * (2 if self._stacked else 1)

    @property
    def columns(self) -> int:
        """Number m of parameters."""
        return self.shape[1]

    @property
    def dtype(self) -> str:
        """Name of the dtype of the scores, float32 at least."""
        name = result_name(self._reader.dtype)
        return real_name(name) if self._stacked else name

    @property
    def _bytes(self) -> int:
        """Bytes of the device that a pass takes: two blocks, and three matrices of the work."""
        side = self.rows if self.wide else self.columns
        itemsize = 16 if self.dtype.startswith("complex") else 8  # sums are in double precision
        return 2 * self._reader.largest + 3 * side * side * itemsize

    @property
    def given_dtypes(self) -> set[str]:
        """Name of the dtype of the blocks, or of the scores that are made of them."""
        return {self._reader.dtype if self._centring is None else self.dtype}

    @property
    def _stacked(self) -> bool:
        return self._centring is not None and self._centring.stack

    def with_scales(self, scales: Vector) -> Self:
        """Return the same S with other scales."""
        return self._with(scales=scales)

    def centred(self, centring: Centring) -> Self:
        """Return the scores of these log-derivatives."""
        return self._with(_centring=centring)

    def for_call(self) -> Self:
        """Return the same S for one call, which may keep its blocks on the device."""
        within = self._reader.kept is not None  # of a call that made this one
        return self if within else self._with(_reader=self._reader.for_call())

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def _arrivals(self) -> Generator[tuple[slice, Array], None, None]:
        """Return the blocks of one pass with their places, to be closed."""
        return self._reader.blocks(self.name)

    def _widen(self, block: Array) -> Array:
        """Return a block in a dtype that log-derivatives can be centred in."""
        return astype(block, result_name(self._reader.dtype))

    def _block(self, S: Array, scales: Vector | None) -> ColumnBlocks:
        return ColumnBlocks((S,), scales, ONE_ARRAY, self.name)

    def nan_error(self) -> Exception | None:
        """Return the error of the first block that holds NaN or Inf, from one pass more."""
        with closing(self._arrivals()) as blocks:
            for i, (span, block) in enumerate(blocks):
                if self._centring is not None:
                    rows = span if self._axis == 0 else slice(None)
                    block = self._centring.counting(block, rows)
                if not bool(all_finite(block)):
                    return ValueError(
                        f"block {i} of the stream `{self.name}` ({('rows', 'columns')[self._axis]} "
                        f"{span.start} to {span.stop - 1}) contains NaN or Inf. Drop or mask the "
                        f"samples they belong to."
                    )
        return None


def one_pass(method: Method) -> Method:
    """Let a method, which is one pass over a stream, begin again if memory was short.

    Blocks that were kept on the device are then given up first. If there are none, or memory is
    short without them, the error says what the pass takes.
    """

    @functools.wraps(method)
    def passing(self: ScoreStream, *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                kept = self._reader.give_up_blocks()
                if not (kept and is_out_of_memory(error)):
                    with naming_memory(f"a pass over `{self.name}`", self._bytes, SMALLER_BLOCKS):
                        raise
                traceback.clear_frames(error.__traceback__)  # and all that they hold

    return passing  # type: ignore[return-value]


def add_in_double(total: Array | None, term: Array | None) -> Array | None:
    """Return total + term in double precision where there is one; `total` is consumed."""
    if term is None:
        return None
    if total is None:
        name = dtype_name(term.dtype)
        return astype(term, double_name(name)) if has_double(term) else term
    total += term
    return total


def round_to(total: Array | None, dtype: str) -> Any:
    """Return a sum in the dtype that is asked for."""
    return None if total is None else astype(total, dtype)


def vector_rows(x: Vector | None, span: slice) -> Vector | None:
    """Return a part of a vector with the m axis."""
    return None if x is None else (x[0][span, :],)

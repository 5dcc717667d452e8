"""One pass over a matrix that arrives in blocks of rows or columns, each of them checked."""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from queue import SimpleQueue
from typing import Any

from ngdla._backend.block_sender import BlockSender, Sent
from ngdla._backend.checks import require_array, require_flag, require_like
from ngdla._backend.chunks import is_chunked
from ngdla._backend.device_streams import Made, made
from ngdla._backend.dtypes import dtype_name, has_double, real_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array, library
from ngdla._backend.out_of_memory import NamedMemoryError, is_out_of_memory, naming_memory
from ngdla._backend.pickles import part
from ngdla._backend.transfer import is_host_array, on_host

from .kept_blocks import KeptBlocks

__all__ = [
    "SMALLER_BLOCKS",
    "BlockReader",
    "block_reader",
    "fetch_ahead",
    "matrix_shape",
    "require_positive",
    "stored_dtype",
]

Source = Callable[[], Iterator[Array]] | Sequence[Any]

SMALLER_BLOCKS = "Pass smaller blocks, or free memory for them."

_AXES = ("rows", "columns")
_MATRICES = 8  # as large as the Gram matrix, that factorising takes, in complex double precision
_EXHAUSTED: Any = object()
_PATIENCE = 0.5  # seconds that a thread has to end in


@part
@dataclasses.dataclass(frozen=True, eq=False)
class BlockReader:
    """Where the blocks of a matrix come from, and what they must be; each pass reads them again."""

    source: Source
    shape: tuple[int, int]
    axis: int  # along which one block follows another
    dtype: str  # of the blocks
    like: Array  # of the library and on the device that work with them
    prefetch: bool
    progress: bool
    kept: KeptBlocks | None = None  # by a call, from pass to pass

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles hold, which is nothing of a call."""
        return {**vars(self), "kept": None}

    def for_call(self) -> BlockReader:
        """Return a reader for the passes of one call, in which the matrix does not change."""
        work = _MATRICES * 16 * self.shape[1 - self.axis] ** 2
        return dataclasses.replace(self, kept=KeptBlocks(self.like, work=work))

    def blocks(self, name: str) -> Generator[tuple[slice, Array], None, None]:
        """Yield the place of each block along the axis, and the block on its device.

        To be closed, so that its thread ends: ``with closing(reader.blocks(name)) as blocks``.
        """
        kept = KeptBlocks(self.like, room=0) if self.kept is None else self.kept
        i, start = -1, 0
        with (
            kept.one_pass() as sender,
            closing(self._arriving(kept, name)) as arriving,
            _progress_bar(
                name, self.shape[self.axis], _AXES[self.axis], shown=self.progress
            ) as step,
        ):
            for i, block in enumerate(arriving):
                stop = start + self._length(block.block, f"block {i} of {name}", start)
                there = self._there(block, i, kept, sender, name)
                try:
                    yield slice(start, stop), there.block
                finally:
                    there.let_go()
                sender.let_go()
                step(stop - start)
                start = stop
        if start < self.shape[self.axis]:
            raise ValueError(self._too_few(name, start))
        kept.whole = len(kept) == i + 1

    def give_up_blocks(self) -> bool:
        """Let go of the blocks that are kept from pass to pass; tell whether there were any."""
        return self.kept is not None and self.kept.give_up()

    @property
    def largest(self) -> int:
        """Bytes of the largest block that was sent in this call."""
        return 0 if self.kept is None else self.kept.largest

    def _arriving(self, kept: KeptBlocks, name: str) -> Generator[Made | Sent, None, None]:
        """Return the blocks as their maker yields them, or as they were kept."""
        if kept.whole:
            return kept.blocks()
        # in a thread, the streams of GPUs that its work is asked for on are not ours
        fetched = _fetch(self.source, name, made if self.prefetch else Made)
        return fetch_ahead(fetched) if self.prefetch else fetched

    def _there(
        self, block: Made | Sent, i: int, kept: KeptBlocks, sender: BlockSender, name: str
    ) -> Made | Sent:
        """Return a block where the work is done, and after which that may begin."""
        array = block.block
        if is_host_array(array):
            before = kept.block(i)
            if before is None or before.block.shape != array.shape:
                keep = kept.fits(array.nbytes)
                with naming_memory(f"block {i} of `{name}`", array.nbytes, SMALLER_BLOCKS):
                    block = sender.send(array, keep=keep)
                if keep:
                    kept.keep(i, block)
                return block
            block = before
        block.arrive()
        return block

    def _length(self, block: Any, name: str, start: int) -> int:
        """Check a block and return its length along the axis."""
        require_array(block, name)
        if not is_host_array(block):
            require_like(block, name, self.like, "like")
        if dtype_name(block.dtype) != self.dtype:
            msg = (
                f"`{name}` has dtype {dtype_name(block.dtype)}, but the stream was declared with "
                f"dtype {self.dtype}. Convert the block, or declare its dtype."
            )
            raise TypeError(msg)
        across, along = 1 - self.axis, self.axis
        if block.ndim != 2 or block.shape[across] != self.shape[across]:
            expected = list(map(str, self.shape))
            expected[along] = "any"
            msg = (
                f"`{name}` has shape {tuple(block.shape)}; blocks of a stream of shape "
                f"{self.shape} have shape ({', '.join(expected)})."
            )
            raise ValueError(msg)
        if start + block.shape[along] > self.shape[along]:
            msg = (
                f"`{name}` has {block.shape[along]} {_AXES[along]} after {start}, but the stream "
                f"of shape {self.shape} has only {self.shape[along]} in all."
            )
            raise ValueError(msg)
        return int(block.shape[along])

    def _too_few(self, name: str, count: int) -> str:
        msg = (
            f"the stream `{name}` ended with {count} of {self.shape[self.axis]} "
            f"{_AXES[self.axis]}, as its shape {self.shape} says."
        )
        if count == 0 and callable(self.source):
            msg += " `blocks` must return a fresh iterator each time it is called."
        return msg


def _fetch(source: Source, name: str, mark: Callable[[Any], Made]) -> Generator[Made, None, None]:
    """Yield the blocks as they come, marked; an error on the way names the block."""
    count = 0
    try:
        if callable(source):
            items = source()
        else:
            items = (item() if callable(item) else item for item in source)
        for block in items:
            yield mark(block)
            count += 1
    except Exception as error:
        msg = f"block {count} of the stream `{name}` could not be had: {error!r}"
        if is_out_of_memory(error):
            raise NamedMemoryError(f"{msg}. {SMALLER_BLOCKS}") from error
        raise RuntimeError(msg) from error


def fetch_ahead(blocks: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield the same blocks, each of which was fetched by a thread while the last one was used.

    Never more than one ahead, so that two buffers suffice. The thread ends with this iterator, and
    `blocks` are closed. A thread that is still waiting for a block half a second later is left to
    itself, so that nothing, such as a KeyboardInterrupt, waits for it; nor does the interpreter.
    """
    wanted: SimpleQueue[Future[Any] | None] = SimpleQueue()
    thread = threading.Thread(
        target=_fetch_wanted, args=(blocks, wanted), name="ngdla-prefetch", daemon=True
    )
    thread.start()
    ahead: Future[Any]
    try:
        wanted.put(ahead := Future())
        while (block := ahead.result()) is not _EXHAUSTED:
            wanted.put(ahead := Future())
            yield block
    finally:
        wanted.put(None)
        thread.join(_PATIENCE)
        if isinstance(blocks, Generator) and not thread.is_alive():
            blocks.close()  # else it is closed when the thread lets go of it


def _fetch_wanted(blocks: Iterator[Any], wanted: SimpleQueue[Future[Any] | None]) -> None:
    """Fetch a block, or the error on its way, for each future, up to None."""
    while (ahead := wanted.get()) is not None:
        try:
            ahead.set_result(next(blocks, _EXHAUSTED))
        except BaseException as error:  # noqa: BLE001  raised where the block is used
            ahead.set_exception(error)
        del ahead  # which holds the block


@contextlib.contextmanager
def _progress_bar(
    name: str, total: int, unit: str, *, shown: bool
) -> Iterator[Callable[[int], Any]]:
    """Give a function that moves a progress bar on."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"pass over {name}", unit=f" {unit}", unit_scale=True) as bar:
        yield bar.update


# -------------------------------------------------------------------------------- checks


def block_reader(
    source: Any, shape: Any, axis: int, dtype: Any, like: Any, *, prefetch: Any, progress: Any
) -> BlockReader:
    """Check what a stream is made of."""
    name = stored_dtype(dtype)
    _require_source(source)
    like = on_host() if like is None else like
    if not is_array(like) or is_chunked(like):
        msg = (
            f"`like` is {type(like).__module__}.{type(like).__qualname__}; it must be an array of "
            f"NumPy, CuPy, PyTorch or JAX, whose library and device do the work."
        )
        raise TypeError(msg)
    if real_name(name) == "float64" and not has_double(like):
        msg = f"`dtype` is {name}, which {library(like)} does not have here; see `like`."
        raise ValueError(msg)
    require_flag(prefetch, "prefetch")
    require_flag(progress, "progress")
    if progress:
        _require_tqdm()
    return BlockReader(source, matrix_shape(shape), axis, name, like, prefetch, progress)


def _require_source(source: Any) -> None:
    if isinstance(source, (list, tuple)) and source:
        return
    if callable(source) and not is_array(source):
        return
    kind = type(source).__name__
    remedy = "a callable that returns a fresh iterator of blocks, or a list of blocks"
    if isinstance(source, Iterator):
        msg = f"`blocks` is a {kind}, which is exhausted after one pass; pass {remedy}."
    elif is_array(source):
        msg = f"`blocks` is one array, which needs no stream; pass {remedy}."
    else:
        found = "empty" if isinstance(source, (list, tuple)) else f"a {kind}"
        msg = f"`blocks` is {found}; pass {remedy}."
    raise TypeError(msg)


def matrix_shape(shape: Any) -> tuple[int, int]:
    """Check the shape (n, m) of a stream."""
    if not isinstance(shape, (list, tuple)) or len(shape) != 2:
        msg = (
            f"`shape` is {shown(shape)}; it must be (n, m), the numbers of samples and parameters."
        )
        raise ValueError(msg)
    for length in shape:
        require_positive(length, "shape")
    return int(shape[0]), int(shape[1])


def require_positive(value: Any, name: str) -> None:
    """Raise unless `value` is a positive integer."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or value < 1:
        msg = f"`{name}` holds {shown(value)}; it takes positive integers."
        raise ValueError(msg)


def stored_dtype(dtype: Any) -> str:
    """Return the name of a dtype, given by its name, its type or as a dtype of any library."""
    try:
        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
        name = name or dtype_name(dtype)
        name = {"float": "float64", "complex": "complex128"}.get(name, name)
        real_name(name)
    except (KeyError, TypeError, ValueError):  # the latter of what has no hash, or no string
        msg = (
            f"`dtype` is {shown(dtype)}; it must be one of float16, bfloat16, float32, float64, "
            f"complex64, complex128."
        )
        raise TypeError(msg) from None
    return str(name)


def _require_tqdm() -> None:
    try:
        import tqdm  # noqa: F401
    except ImportError:
        msg = "`progress` needs tqdm, which is not installed: pip install 'ngdla[progress]'."
        raise ImportError(msg) from None

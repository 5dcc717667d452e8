"""One pass over the columns of S in chunks, of which only one exists at a time.

Code that JAX compiles reserves memory for all chunks of a loop that is unrolled: there the pass is
a loop of the device. It takes the columns as shards of S have them, the same part of each shard at
a time: a slice across the shards would gather S. Each shard has a sum of its own until the end, or
devices would send theirs in each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

from .array import AnyArray
from .dtypes import dtype_name, result_name
from .namespace import is_jax_namespace, namespace
from .shapes import joined, spans
from .tracing import is_traced

__all__ = ["Step", "loop_over_columns", "makes_loops", "pass_over_columns", "shard_runs"]

_ENTRIES = 2**21  # of a chunk in a loop of the device, which then stays in the caches of a CPU

# What is done with some columns of S, (..., n, c), and these rows, (..., c, k), of vectors, which
# may be None: a term of a sum, and rows of a result, each None if there is none. There may be one
# leading axis more.
Step = Callable[..., tuple[Any, Any]]


def pass_over_columns(
    S: AnyArray,
    step: Step,
    *vectors: AnyArray | None,
    dtype: str,
    copied: bool,
    largest: bool = False,
) -> tuple[Any, Any]:
    """Return the sum of the terms of a step, and its rows, for all columns of S.

    Of terms that are not negative it may be the `largest` instead. Where a step copies its columns
    into `dtype`, it is given those of at most 64 MB.
    """
    chunks = list(_chunks(S, dtype, copied=copied))
    if len(chunks) == 1:
        return step(S, *vectors)
    if _compiled(S):
        columns = max(1, _ENTRIES // math.prod(S.shape[:-1]))
        return loop_over_columns(S, step, *vectors, columns=columns, largest=largest)
    merge = namespace(S).maximum if largest else add
    terms, rows = zip(*(step(S[..., span], *_rows(vectors, span)) for span in chunks))
    return (
        None if terms[0] is None else reduce(merge, terms),
        None if rows[0] is None else joined(list(rows), axis=-2),
    )


def makes_loops(S: AnyArray) -> bool:
    """Tell whether a pass that copies S is a loop of compiled code."""
    dtype = result_name(dtype_name(S.dtype))
    return _compiled(S) and len(list(_chunks(S, dtype, copied=True))) > 1


def _compiled(S: AnyArray) -> bool:
    return bool(is_jax_namespace(namespace(S))) and is_traced(S)


def _chunks(S: AnyArray, dtype: str, *, copied: bool) -> Iterator[slice | None]:
    return spans(S.shape[-1], S.shape[-2], S.shape[:-2], dtype, copied=copied)


def _rows(vectors: tuple[AnyArray | None, ...], span: slice | None) -> list[AnyArray | None]:
    return [None if x is None else x[..., span, :] for x in vectors]


def loop_over_columns(
    S: AnyArray, step: Step, *vectors: AnyArray | None, columns: int, largest: bool = False
) -> tuple[Any, Any]:
    """Return the same by a loop of compiled JAX code, for at most `columns` of them at a time."""
    import jax
    import jax.numpy as jnp

    m = S.shape[-1]
    shards = math.gcd(m, jax.device_count())  # or fewer: each then holds some of these
    length = m // shards
    width = _width(length, max(1, columns // shards))
    sliced = [_slices(S, -1, shards), *(_slices(x, -2, shards) for x in vectors)]
    merge = jnp.maximum if largest else jnp.add

    def at(start: AnyArray | int, width: int) -> tuple[Any, Any]:
        """Return the term and the rows of some columns, which derivatives do not keep."""
        return jax.checkpoint(lambda start: step(*(x(start, width) for x in sliced)))(start)

    def merged(state: tuple[Any, Any], start: AnyArray | int, width: int) -> tuple[Any, Any]:
        (term, some), (total, rows) = at(start, width), state
        if some is not None:
            some = _shards_beside(some, shards)
            rows = jax.lax.dynamic_update_slice_in_dim(rows, some, start, axis=-2)
        return None if term is None else merge(total, term), rows

    def body(i: AnyArray, state: tuple[Any, Any]) -> tuple[Any, Any]:
        start = i * width  # without a sign, for which JAX would look at each slice
        return merged(state, start.astype("uint32" if length < 2**32 else "uint64"), width)

    steps, rest = divmod(length, width)
    if steps == 1 and not rest:
        return step(S, *vectors)
    term, some = jax.eval_shape(lambda: at(0, width))
    state = None if term is None else jnp.zeros(term.shape, term.dtype), None
    if some is not None:
        shape = (*some.shape[shards > 1 : -2], shards, length, some.shape[-1])
        state = state[0], jnp.zeros(shape, some.dtype)
    state = jax.lax.fori_loop(0, steps, body, state)
    total, rows = merged(state, steps * width, rest) if rest else state
    if shards > 1 and total is not None:
        total = total.max(axis=0) if largest else total.sum(axis=0)
    return total, None if rows is None else rows.reshape(*rows.shape[:-3], m, rows.shape[-1])


def _shards_beside(rows: AnyArray, shards: int) -> AnyArray:
    """Return rows (shards, ..., c, k), or (..., c, k) of one, as (..., shards, c, k)."""
    import jax.numpy as jnp

    return jnp.moveaxis(rows, 0, -3) if shards > 1 else jnp.expand_dims(rows, -3)


def shard_runs(x: AnyArray) -> AnyArray:
    """Return a vector of JAX, (..., m, k), as (..., m / r, r, k), where no shard is cut.

    r is the divisor next to sqrt(m) that there is, and may be 1.
    """
    import jax

    m = x.shape[-2]
    length = m // math.gcd(m, jax.device_count())
    run = next(r for r in range(math.isqrt(length), 0, -1) if length % r == 0)
    return _split(x, -2, m // run)


def _width(length: int, most: int) -> int:
    """Return the number of columns a step: if possible a divisor, so that none is left."""
    most = min(most, length)
    divisors = (width for width in range(most, most // 2, -1) if length % width == 0)
    return next(divisors, most)


def _split(x: AnyArray, axis: int, shards: int) -> AnyArray:
    """Return x with an axis, counted from the end, as two: shards, and what each holds."""
    shape = list(x.shape)
    shape[axis:] = [shards, shape[axis] // shards, *shape[axis:][1:]]
    return x.reshape(shape)


def _slices(
    x: AnyArray | None, axis: int, shards: int
) -> Callable[[AnyArray | int, int], AnyArray | None]:
    """Return a function that gives the same part of each shard of an axis, shards first."""
    import jax
    import jax.numpy as jnp

    if x is None:
        return lambda start, width: None

    def part(start: AnyArray | int, width: int) -> AnyArray:
        split = _split(x, axis, shards)  # in the loop: XLA would copy what a loop is handed so
        some = jax.lax.dynamic_slice_in_dim(split, start, width, axis=axis)
        return jnp.moveaxis(some, axis - 1, 0) if shards > 1 else some.squeeze(axis - 1)

    return part

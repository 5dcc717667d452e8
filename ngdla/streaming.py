"""Score matrices given as column blocks: Gram matrices and products, one block after the other.

A score matrix S of shape (..., n, m) arrives as one array or as a sequence of column blocks
[(n, m_1), (n, m_2), ...]. Inside the library it is always a `ColumnBlocks`, and a vector with the
m axis is always a tuple with one piece, (..., m_k, k), for each block.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

from ._backend.checks import ValueChecks, all_finite, require_array, require_like
from ._backend.chunks import in_column_chunks, is_chunked
from ._backend.namespace import (
    Array,
    astype,
    computing,
    dtype_name,
    is_complex,
    namespace,
    real_name,
    register_pytree,
    result_name,
)
from ._backend.products import gram as dense_gram
from ._backend.products import rmatvec, trace

__all__ = ["ColumnBlocks", "Vector", "column_blocks", "gram"]

Vector = tuple[Array, ...]

_CHUNK_BYTES = 64 * 2**20


def gram(S: Any, *, accumulate: str | None = None) -> Array:
    """Return the Gram matrix S S^H of the rows of S, the neural tangent kernel of scores.

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k); real or complex
        Rows are samples. A list or tuple holds column blocks of one matrix. Dask arrays may be
        chunked along the last axis only; their Gram matrix is lazy and one block.
    accumulate : {"float32", "float64", "complex64", "complex128"}, optional
        Dtype of the sum and of the result; by default that of `S`. Columns are converted in
        chunks of at most 64 MB.

    Returns
    -------
    array, shape (..., n, n)
        Hermitian to rounding, of the library and on the device of `S`.

    Raises
    ------
    TypeError
        If `S` is a dict, sparse, of mixed libraries, or not of a floating-point dtype.
    ValueError
        If `S` is empty, has fewer than two axes, or its blocks do not fit together; if it holds
        NaN or Inf (read off the trace; not under `jax.jit` and the like).

    Notes
    -----
    Half of a matrix product, n^2 m flops (4 n^2 m for complex S), by syrk and herk in NumPy, by
    blocks of the lower triangle elsewhere; one pass over S; n^2 numbers of extra memory for each
    of up to three temporaries, and no copy of S. In Dask, terms of the sum over chunks wait for
    each other in pairs: about log2(chunks) of them, and one for each worker. Products of float32
    never drop to TF32.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> gram(S)
    array([[5., 2.],
           [2., 2.]])
    >>> gram([S[:, :2], S[:, 2:]])
    array([[5., 2.],
           [2., 2.]])
    """
    scores = column_blocks(S)
    dtype = scores.dtype
    if accumulate is not None:
        dtype = _accumulation_dtype(accumulate, dtype)
    checks = ValueChecks(enabled=True)
    with computing(namespace(scores.blocks[0])):
        G = scores.gram(dtype)
        checks.require(lambda: all_finite(trace(G)), lambda: scores.not_finite(dtype))
        checks.raise_on_failure()
    if dtype_name(G.dtype) != dtype:
        msg = f"`accumulate` is {dtype!r}, which is off; set jax_enable_x64 to have it."
        raise ValueError(msg)
    return G


def _accumulation_dtype(accumulate: Any, dtype: str) -> str:
    try:
        name = result_name(accumulate)
    except (KeyError, TypeError):
        name = ""
    if not name or (dtype.startswith("complex") and not name.startswith("complex")):
        kind = "complex64 or complex128" if dtype.startswith("complex") else "float32 or float64"
        msg = f"`accumulate` is {accumulate!r}; for `S` of dtype {dtype} it must be {kind}."
        raise ValueError(msg)
    return name


def column_blocks(S: Any, *, name: str = "S") -> ColumnBlocks:
    """Check `S` and return it as `ColumnBlocks`."""
    if not isinstance(S, (list, tuple)):
        require_array(S, name, ndim=2)
        return ColumnBlocks((in_column_chunks(S, name),), None, None, name)
    if not S:
        msg = f"`{name}` is an empty {type(S).__name__}; it needs at least one column block."
        raise ValueError(msg)
    for i, block in enumerate(S):
        require_array(block, f"{name}[{i}]", ndim=2)
        require_like(block, f"{name}[{i}]", S[0], f"{name}[0]")
        if block.ndim > 2 or block.shape[0] != S[0].shape[0]:
            msg = (
                f"`{name}[{i}]` has shape {tuple(block.shape)} but `{name}[0]` has shape "
                f"{tuple(S[0].shape)}; column blocks are 2-D with equal numbers of rows."
            )
            raise ValueError(msg)
        if is_complex(block) != is_complex(S[0]):
            msg = (
                f"`{name}[{i}]` has dtype {dtype_name(block.dtype)} but `{name}[0]` has "
                f"{dtype_name(S[0].dtype)}; all column blocks are real or all are complex."
            )
            raise TypeError(msg)
    blocks = tuple(in_column_chunks(block, f"{name}[{i}]") for i, block in enumerate(S))
    return ColumnBlocks(blocks, None, "list" if isinstance(S, list) else "tuple", name)


@register_pytree(static=("sequence", "name"))
@dataclasses.dataclass(frozen=True, eq=False)
class ColumnBlocks:
    """The scaled score matrix S diag(scales), of which only the blocks of S are stored.

    With `scales` = 1 / sqrt(metric), a solve in the metric D is a solve with D = 1.
    """

    blocks: tuple[Array, ...]  # (..., n, m_k)
    scales: Vector | None  # (..., m_k, 1), real
    sequence: str | None  # "list" or "tuple" where the caller's S is a sequence
    name: str  # of the caller's argument, for messages

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the batch axes."""
        return tuple(self.blocks[0].shape[:-2])

    @property
    def rows(self) -> int:
        """Number n of samples."""
        return int(self.blocks[0].shape[-2])

    @property
    def columns(self) -> int:
        """Number m of parameters."""
        return sum(int(block.shape[-1]) for block in self.blocks)

    @property
    def dtype(self) -> str:
        """Name of the dtype that all blocks promote to."""
        return result_name(*(dtype_name(block.dtype) for block in self.blocks))

    def matvec(self, x: Vector) -> Array:
        """Return S x, (..., n, k), in the dtype of x."""
        xp, dtype = namespace(x[0]), dtype_name(x[0].dtype)
        products = (
            xp.matmul(_part(block, span, -1, dtype), _part(piece, span, -2, dtype))
            for block, piece in zip(self.blocks, self.scaled(x))
            for span in _column_spans(block, dtype)
        )
        return reduce(add, products)

    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (..., m_k, k) a block, in the dtype of y."""
        xp, dtype = namespace(y), dtype_name(y.dtype)
        pieces = []
        for block in self.blocks:
            spans = _column_spans(block, dtype)
            parts = [rmatvec(_part(block, span, -1, dtype), y) for span in spans]
            pieces.append(parts[0] if len(parts) == 1 else xp.concat(parts, axis=-2))
        return self.scaled(tuple(pieces))

    def scaled(self, x: Vector) -> Vector:
        """Return diag(scales) x."""
        if self.scales is None:
            return x
        real = real_name(dtype_name(x[0].dtype))
        return tuple(piece * astype(scale, real) for piece, scale in zip(x, self.scales))

    def unscaled(self, x: Vector) -> Vector:
        """Return diag(scales)^-1 x."""
        if self.scales is None:
            return x
        real = real_name(dtype_name(x[0].dtype))
        return tuple(piece / astype(scale, real) for piece, scale in zip(x, self.scales))

    def gram(self, dtype: str) -> Array:
        """Return S S^H, (..., n, n)."""
        if self.scales is None:
            scales: tuple[Array | None, ...] = (None,) * len(self.blocks)
        else:
            xp = namespace(self.blocks[0])
            scales = tuple(xp.matrix_transpose(scale) for scale in self.scales)
        grams = (
            dense_gram(_scaled_part(block, scale, span, dtype))
            for block, scale in zip(self.blocks, scales)
            for span in _column_spans(block, dtype, copied=scale is not None)
        )
        return reduce(add, grams)

    def parameter_gram(self, dtype: str) -> Array:
        """Return S^H S, (..., m, m), for n >= m."""
        xp = namespace(self.blocks[0])
        transposes = (
            xp.matrix_transpose(
                _joined([_part(block, span, -2, dtype) for block in self.blocks], axis=-1)
            )
            for span in self._row_spans(dtype)
        )
        K = reduce(add, (dense_gram(S) for S in transposes))  # S^T conj(S), conjugate of S^H S
        if dtype.startswith("complex"):
            K = xp.conj(K)
        if self.scales is None:
            return K
        column = astype(_joined(list(self.scales), axis=-2), real_name(dtype))
        return K * column * xp.matrix_transpose(column)

    def dense(self, dtype: str) -> Array:
        """Return S diag(scales) as one array, for the factorisations that need one."""
        xp = namespace(self.blocks[0])
        blocks = [astype(block, dtype) for block in self.blocks]
        if self.scales is not None:
            rows = [xp.matrix_transpose(astype(s, real_name(dtype))) for s in self.scales]
            blocks = [block * row for block, row in zip(blocks, rows)]
        return _joined(blocks, axis=-1)

    def not_finite(self, dtype: str) -> Exception:
        """Return the error of scores whose squared row norms are not finite."""
        if not all(bool(all_finite(block)) for block in self.blocks):
            msg = f"`{self.name}` contains NaN or Inf. Drop or mask the samples they belong to."
            return ValueError(msg)
        return ValueError(
            f"the squared row norms of `{self.name}` exceed the range of {real_name(dtype)}. "
            f"Scale `{self.name}` (and `damping` by the square), or pass it as float64."
        )

    def _row_spans(self, dtype: str) -> Iterator[slice | None]:
        block = self.blocks[0]
        copied = len(self.blocks) > 1 or dtype_name(block.dtype) != dtype
        copied = copied and not is_chunked(block)
        return _spans(self.rows, self.columns, self.batch, dtype, copied=copied)


def _column_spans(block: Array, dtype: str, *, copied: bool = False) -> Iterator[slice | None]:
    n, m = block.shape[-2:]
    copied = (copied or dtype_name(block.dtype) != dtype) and not is_chunked(block)
    return _spans(m, n, block.shape[:-2], dtype, copied=copied)


def _spans(
    length: int, width: int, batch: Any, dtype: str, *, copied: bool
) -> Iterator[slice | None]:
    """Yield slices of at most 64 MB where they will be copied, else None for the whole axis."""
    itemsize = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}[dtype]
    step = max(1, _CHUNK_BYTES // (itemsize * width * math.prod(batch)))
    if not copied or length <= step:
        yield None
        return
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _part(x: Array, span: slice | None, axis: int, dtype: str) -> Array:
    """Return the entries `span` of an axis in `dtype`; `x` itself where nothing changes."""
    if span is not None:
        x = x[..., span] if axis == -1 else x[..., span, :]
    return astype(x, dtype)


def _scaled_part(block: Array, scale: Array | None, span: slice | None, dtype: str) -> Array:
    part = _part(block, span, -1, dtype)
    return part if scale is None else part * _part(scale, span, -1, real_name(dtype))


def _joined(arrays: list[Array], *, axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else namespace(arrays[0]).concat(arrays, axis=axis)

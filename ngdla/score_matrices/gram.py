"""The Gram matrix of scores as a public function."""

from __future__ import annotations

from typing import Any, Literal

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import all_finite, opened
from ngdla._backend.dtypes import dtype_name
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.messages import shown
from ngdla._backend.out_of_memory import Matrix, with_room
from ngdla._backend.products import trace

from .column_blocks import score_matrix

__all__ = ["ACCUMULATIONS", "Accumulation", "gram"]

Accumulation = Literal["float32", "float64", "complex64", "complex128"]
ACCUMULATIONS = ("float32", "float64", "complex64", "complex128")


@on_automatic_axes(exchange="columns")
def gram(S: Any, *, accumulate: Accumulation | None = None) -> AnyArray:
    """Return the Gram matrix S S^H of the rows of S, the neural tangent kernel of scores.

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree; real or complex
        Rows are samples. A list or tuple holds column blocks of one matrix, a tree arrays
        ``(n, *shape)``. Dask arrays may be
        chunked along the last axis only; their Gram matrix is lazy and one block. Also a
        `ColumnStream`, `ColumnShards` or `RowShards`, or a `ScoreOperator` that has a Gram matrix.
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
        If `S` is sparse, of mixed libraries, or not of a floating-point dtype.
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
    scores = score_matrix(S)
    dtype = scores.dtype
    with opened(scores.like, ranks=scores.ranks) as checks:
        if accumulate is not None:
            dtype = _accumulation_dtype(accumulate, dtype)
        scores.ranks.note(options=dtype)
        G, _ = with_room(
            lambda: scores.samples.gram(dtype), lambda: _of_rows(scores.batch, scores.rows, dtype)
        )
        checks.require(lambda: all_finite(trace(G)), lambda: scores.not_finite(dtype))
    if dtype_name(G.dtype) != dtype:
        msg = f"`accumulate` is {dtype!r}, which JAX has only in jax.enable_x64()."
        raise ValueError(msg)
    return G


def _of_rows(batch: tuple[int, ...], n: int, dtype: str) -> Matrix:
    remedy = "Pass fewer rows at a time or a lower precision, or free memory."
    return Matrix("the Gram matrix of `S`", (*batch, n, n), dtype, remedy)


def _accumulation_dtype(accumulate: Any, dtype: str) -> str:
    complex_scores = dtype.startswith("complex")
    names = ACCUMULATIONS[2:] if complex_scores else ACCUMULATIONS
    if not isinstance(accumulate, str) or accumulate not in names:
        kind = "complex64 or complex128" if complex_scores else "float32 or float64"
        msg = f"`accumulate` is {shown(accumulate)}; for `S` of dtype {dtype} it must be {kind}."
        raise ValueError(msg)
    return accumulate

"""Scores that arrive in blocks of columns: layers, files, or whatever is generated again and again.

S may have any shape. The work is done in the sample space, with the n x n matrix S S^H + damping,
to which each block of columns adds its own Gram matrix.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from ngdla._backend.dtypes import dtype_name, stored_name
from ngdla._backend.namespace import Array
from ngdla._backend.shapes import joined

from .column_blocks import ColumnBlocks
from .score_matrix import SampleScores, Vector
from .score_stream import ScoreStream, add_in_double, one_pass, round_to, vector_rows

__all__ = ["ColumnStream"]


class ColumnStream(ScoreStream, SampleScores):
    """Scores S (n, m) that arrive in blocks of columns and are never in memory as a whole.

    Takes the place of the array `S` of `damped_lstsq`, `damped_solve`, `damped_factor` and `gram`,
    and of `log_derivatives` of `stochastic_reconfiguration`. Vectors with m entries are single
    arrays.

    Parameters
    ----------
    blocks : callable, or list or tuple of arrays and callables
        A callable returns a fresh iterator of blocks (n, m_k), of any widths, in the same order
        each time: every pass over S calls it once, unless blocks stay on a GPU (see Notes). In a
        list, each entry is a block or a callable that returns one, such as the scores of a layer.
    shape : tuple of int
        (n, m), the numbers of samples and parameters, in any proportion.
    dtype : str or dtype
        Of the blocks. float16 and bfloat16 are stored as they are and computed with in float32.
    like : array, optional
        Blocks that are NumPy arrays are sent to its library and device, which do the work; others
        must be there already. By default NumPy. Values are not read.
    prefetch : bool
        Fetch each block in a thread while the previous one is used. `blocks` then runs in that
        thread, without the caller's thread-local settings (``torch.no_grad``, ``numpy.errstate``,
        the current device, the current stream). It must keep each block unchanged until the block
        after the next is requested. A KeyboardInterrupt does not wait for a block that is on its
        way. CuPy and torch blocks are ready, and their memory is free again, for the stream that is
        current in that thread at the ``yield``, by default the null stream: a block that another
        stream makes must be finished by then (``stream.synchronize()``). NumPy blocks need nothing.
    progress : bool
        Show a progress bar for each pass, by tqdm.

    Attributes
    ----------
    shape : tuple of int
        (n, m)

    Raises
    ------
    TypeError
        If `blocks` is an array, an iterator or anything else that gives no second pass; if `dtype`
        or `like` are none. While solving: blocks of another dtype or library.
    ValueError
        If `shape` is not two positive integers, or the device has no double precision. While
        solving: blocks that do not add up to `shape`; NaN or Inf, naming the first bad block.
    RuntimeError
        While solving, if `blocks` raises; names the block.
    MemoryError
        If memory runs out while blocks are made, sent or used; says what asked for it.
    ImportError
        If `progress` is wanted without tqdm.

    Notes
    -----
    Passes over S: one for the Gram matrix (with S x0 or S v), one for the solve and one for each
    sweep of refinement: `damped_lstsq` and `damped_solve` make 2 + refine. A certificate
    (``full_output=True``) is free for `damped_lstsq` and one pass for `damped_solve`; to test a
    `null` of the caller's takes one more, and precision="auto" makes more where it has to climb.
    Memory: n^2 numbers for each of up to three temporaries, two blocks, and O(m) for vectors. The
    Gram matrices of blocks are formed in the dtype of the factor and summed in double precision, so
    that the number of blocks does not matter. `method` "svd" and "qr" need S in memory. With JAX
    not under `jax.jit`.

    On a GPU, with CuPy or torch, NumPy blocks stay on the device from the first pass to the end of
    the call, or of the factor that it makes, as long as they leave a quarter of the memory free.
    If all of them fit, later passes copy nothing. If memory runs out they are given up, and the
    pass begins again. Blocks in page-locked memory (`cupyx.empty_pinned`) are sent as they are,
    others through two page-locked buffers.

    Examples
    --------
    >>> import ngdla
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, f = rng.standard_normal((20, 300)), rng.standard_normal(20)
    >>> def layers():
    ...     yield S[:, :100]
    ...     yield S[:, 100:]
    >>> x = ngdla.damped_lstsq(ngdla.ColumnStream(layers, S.shape, dtype="float64"), f, 1e-3)
    >>> np.allclose(x, ngdla.damped_lstsq(S, f, 1e-3))
    True
    """

    _axis = 1

    @property
    def wide(self) -> bool:
        """The work is always done in the sample space."""
        return True

    def _blocks(self) -> Generator[tuple[slice, ColumnBlocks], None, None]:
        """Yield the columns of S in one pass, and their places."""
        with closing(self._arrivals()) as blocks:
            for span, S in blocks:
                if self._centring is not None:
                    S = self._centring.centre_columns(self._widen(S))
                yield span, self._block(S, vector_rows(self.scales, span))

    @one_pass
    def column_squares(self) -> Vector:
        """Return |S e_j|^2, (m, 1), in the real dtype of S, in one pass."""
        with closing(self._blocks()) as blocks:
            return (joined([S.column_squares()[0] for _, S in blocks], axis=-2),)

    @one_pass
    def matvec(self, x: Vector) -> Array:
        """Return S x, (n, k), in the dtype of x."""
        total = None
        with closing(self._blocks()) as blocks:
            for span, S in blocks:
                total = add_in_double(total, S.matvec((x[0][span, :],)))
        return round_to(total, dtype_name(x[0].dtype))

    @one_pass
    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w, where x may be None for 0, and if `product` S times it."""
        parts, total = [], None
        with closing(self._blocks()) as blocks:
            for span, S in blocks:
                (part,), term = S.add_rmatvec(vector_rows(x, span), w, product=product)
                parts.append(part)
                total = add_in_double(total, term)
        return (joined(parts, axis=-2),), round_to(total, dtype_name(w.dtype))

    @one_pass
    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (n, n), and S x."""
        K = total = None
        with closing(self._blocks()) as blocks:
            for span, S in blocks:
                G, term = S.gram(dtype, vector_rows(x, span))
                K, total = add_in_double(K, G), add_in_double(total, term)
        K = round_to(K, stored_name(dtype))
        return K, None if x is None else round_to(total, dtype_name(x[0].dtype))

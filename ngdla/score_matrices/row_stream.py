"""Scores that arrive in blocks of rows: samples, of which there are more than parameters.

The work is done in the parameter space, with the m x m matrix S^H S + damping, to which each block
of rows adds its own. The mean of log-derivatives is known when the last block has been seen, so
that centring comes after the contraction: rows T = diag(q) (O - shift), with the mean of the first
block as a shift, and the null vectors N of S give

    S = (1 - N N^H) T,    E = T^H N,    S^H S = T^H T - E E^H,    S x = T x - N E^H x,
    S^H (g - S x) = T^H (g - T x) - E (N^H g - E^H x).

What is subtracted is as small as shift - mean, which is why a shift is taken at all: without one, a
mean rho times as large as the rest would cost rho^2 in accuracy. Where the mean is known already,
it is the shift, and T is S.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from ngdla._backend.dtypes import astype, dtype_name, real_name, result_name, stored_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, rmatvec
from ngdla._backend.shapes import joined

from .column_blocks import ColumnBlocks
from .score_matrix import ParameterScores, Vector
from .score_stream import ScoreStream, add_in_double, one_pass, round_to

__all__ = ["RowStream"]


class RowStream(ScoreStream, ParameterScores):
    """Scores S (n, m), n >= m, that arrive in blocks of rows and are never in memory as a whole.

    Takes the place of the array `S` of `damped_lstsq`, `damped_solve` and `damped_factor`, and of
    `log_derivatives` of `stochastic_reconfiguration`. For n < m use a `ColumnStream`.

    Parameters
    ----------
    blocks : callable, or list or tuple of arrays and callables
        A callable returns a fresh iterator of blocks (n_k, m), of any heights, in the same order
        each time: every pass over S calls it once, unless blocks stay on a GPU. In a list, each
        entry is a block or a callable that returns one.
    shape : tuple of int
        (n, m), the numbers of samples and parameters.
    dtype, like, prefetch, progress
        As for `ColumnStream`, which also says what a GPU keeps of the blocks.

    Attributes
    ----------
    shape : tuple of int
        (n, m)

    Raises
    ------
    TypeError, ValueError, RuntimeError, MemoryError, ImportError
        As `ColumnStream`; ValueError also for n < m.

    Notes
    -----
    Passes over S: one for S^H S and S^H (f - S x0), and one for each sweep of refinement:
    `damped_lstsq` and `damped_solve` make 1 + refine. A certificate (``full_output=True``) takes
    one more, and so does the test of a `null` of the caller's; precision="auto" makes more where it
    has to climb. Memory: m^2 numbers for each of up to three temporaries, two blocks, and
    O(n + m) for vectors. Sums over blocks are in double precision. `method` "svd" and "qr" need S
    in memory. In `stochastic_reconfiguration` the mean of the first block is subtracted from all
    rows, and the rest of the mean after the contraction, in the same pass; the first block should
    hold some dozens of samples. With JAX not under `jax.jit`.

    Examples
    --------
    >>> import ngdla
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, f = rng.standard_normal((300, 20)), rng.standard_normal(300)
    >>> stream = ngdla.RowStream([S[:100], S[100:]], S.shape, dtype="float64")
    >>> np.allclose(ngdla.damped_lstsq(stream, f, 1e-3), ngdla.damped_lstsq(S, f, 1e-3))
    True
    """

    _axis = 0

    def _require_proportions(self) -> None:
        n, m = self.shape
        if n < m:
            msg = (
                f"`shape` is {self.shape}, with fewer samples than parameters; a RowStream forms "
                f"an m x m matrix. Use a ColumnStream, whose blocks are columns."
            )
            raise ValueError(msg)

    @property
    def wide(self) -> bool:
        """The work is always done in the parameter space."""
        return False

    def _blocks(self) -> Generator[tuple[slice, ColumnBlocks], None, None]:
        """Yield the rows of S, or of T where they are centred, in one pass, and their places."""
        shift = None if self._centring is None else self._centring.mean
        with closing(self._arrivals()) as blocks:
            for span, S in blocks:
                if self._centring is not None:
                    S = self._widen(S)
                    shift = self._centring.shift(S, span) if shift is None else shift
                    S = self._centring.centre_rows(S, span, shift)
                yield span, self._block(S, self.scales)

    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (m, m), and S^H (g - S x) and S x, where g or x may be None for 0."""
        K, E, r, Tx = self._contract(dtype, g, x)
        if E is not None:
            K = K - namespace(K).matmul(E, adjoint(E))
        K = astype(K, stored_name(dtype))
        return (K, None, None) if r is None else (K, *self._centre(E, r, Tx, g, x))

    def gradient(self, g: Array | None, x: Vector | None) -> tuple[Vector, Array | None]:
        """Return S^H (g - S x) and S x, where g or x may be None for 0."""
        _, E, r, Tx = self._contract(None, g, x)
        return self._centre(E, r, Tx, g, x)

    @one_pass
    def sum_over_blocks(self, term: Callable[[Array, slice], Array]) -> Array:
        """Return the sum over blocks of what each adds, before it is centred.

        Parameters
        ----------
        term : callable
            From the rows of a block, (n_k, m), float32 at least, and their span to an array.

        Returns
        -------
        array
            In the dtype of S; the sum is in double precision.
        """
        total = None
        with closing(self._arrivals()) as blocks:
            for span, O in blocks:
                total = add_in_double(total, term(self._widen(O), span))
        return astype(total, self.dtype)

    @one_pass
    def column_squares(self) -> Vector:
        """Return |S e_j|^2, (m, 1), in the real dtype of S, in one pass; the sum in double."""
        total = None
        for _, rows in self.row_parts(self.dtype):
            total = add_in_double(total, self._block(rows, None).column_squares()[0])
        return (round_to(total, real_name(self.dtype)),)

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of rows and these rows of S, (r, m), in one pass."""
        if self._centring is not None:
            msg = f"the rows of the RowStream `{self.name}` are not centred one by one; use arrays."
            raise ValueError(msg)
        with closing(self._blocks()) as blocks:
            for span, S in blocks:
                yield span, S.to_dense(dtype)

    def rmatvec(self, y: Array) -> Vector:
        """Return S^H y, one piece (m, k), in the dtype of y."""
        return self.gradient(y, None)[0]

    def matvec(self, x: Vector) -> Array:
        """Return S x, (n, k), in the dtype of x."""
        Sx = self.gradient(None, x)[1]
        assert Sx is not None
        return Sx

    @one_pass
    def _contract(self, dtype: str | None, g: Array | None, x: Vector | None) -> Any:
        """Return T^H T, if in any dtype, T^H N, T^H (g - T x) and T x; sums in double precision."""
        K: Any = None
        E: Any = None
        r: Any = None
        gradient: Array | None
        products: list[Any] = []
        with closing(self._blocks()) as blocks:
            for span, T in blocks:
                here = None if g is None else self._rows(g, span)
                if dtype is None:
                    (gradient,), Tx = T.gradient(here, x)
                else:
                    G, part, Tx = T.parameter_gram(dtype, here, x)
                    K, gradient = add_in_double(K, G), None if part is None else part[0]
                r = add_in_double(r, gradient)
                if self._centring is not None and self._centring.mean is None:
                    N = self._rows(self._centring.null, span)
                    E = add_in_double(E, T.rmatvec(astype(N, _dtype(g, x, dtype)))[0])
                products.append(Tx)
        return K, E, r, None if x is None else self._in_order(products)

    def _centre(
        self, E: Array | None, r: Array, Tx: Array | None, g: Array | None, x: Vector | None
    ) -> tuple[Vector, Array | None]:
        """Return S^H (g - S x) and S x from the sums of a pass."""
        if E is not None and self._centring is not None:
            double = dtype_name(r.dtype)
            N = astype(self._centring.null, double)
            if g is not None:
                r = r - E @ rmatvec(N, astype(g, double))
            if x is not None:
                along = rmatvec(E, astype(x[0], double))
                r, Tx = r + E @ along, Tx - astype(N @ along, dtype_name(x[0].dtype))
        return (astype(r, _dtype(g, x)),), Tx

    def _rows(self, y: Array, span: slice) -> Array:
        """Return the rows of a vector with the n axis that go with a block of T."""
        starts = range(0, self.rows, self.shape[0])
        return joined([y[i + span.start : i + span.stop, :] for i in starts], axis=-2)

    def _in_order(self, products: list[Array]) -> Array:
        """Return what blocks of T gave, in the order of the rows of S."""
        count = self.rows // self.shape[0]
        parts = []
        for i in range(count):
            for product in products:
                height = product.shape[0] // count
                parts.append(product[i * height : (i + 1) * height, :])
        return joined(parts, axis=-2)


def _dtype(g: Array | None, x: Vector | None, *others: str | None) -> str:
    """Return the dtype of the work on vectors, or what it and others promote to."""
    vectors = [dtype_name(y.dtype) for y in (g, None if x is None else x[0]) if y is not None]
    return result_name(*vectors, *filter(None, others))

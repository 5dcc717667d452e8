"""Few singular triplets of any matrix from few products with it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, all_finite, opened
from ngdla._backend.checks import require_array, require_count
from ngdla._backend.creation import unit_columns
from ngdla._backend.dtypes import dtype_name, result_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, largest_entry, matmul_stored, rmatvec
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import svd

from .cholesky_qr import cholesky_qr
from .low_rank_eigh import require_rank
from .nystrom_root import stabilising_shift
from .sketch_columns import (
    require_basis,
    require_finite_columns,
    require_passes,
    require_rng,
    sketch_columns,
)

__all__ = ["SVDResult", "randomized_svd"]


class SVDResult(NamedTuple):
    """U diag(S) Vh, the truncated singular value decomposition.

    Attributes
    ----------
    U : array, shape (..., m, r)
        Left singular vectors, orthonormal columns.
    S : array, shape (..., r), real
        Singular values, descending.
    Vh : array, shape (..., r, n)
        Right singular vectors, orthonormal rows.
    """

    U: AnyArray
    S: AnyArray
    Vh: AnyArray


def randomized_svd(
    A: Array,
    rank: int,
    *,
    passes: int = 4,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    check: bool = True,
) -> SVDResult:
    """Return the largest singular values and vectors of any matrix A from few products with it.

    Parameters
    ----------
    A : array, shape (..., m, n), real or complex
        Any matrix. Of a positive semi-definite one `randomized_eigh` finds more in less time.
    rank : int
        The number of triplets, 1 to min(m, n).
    passes : int, default 4
        Products with A and, in turn, with A^H. Each one more is half a power iteration.
    oversample : int, default 10
        Gaussian columns beside the `rank` ones.
    basis : array, shape (..., n, k), optional
        Orthonormal columns to start from, as those of Vh^H of an earlier, similar matrix. Then two
        passes are enough.
    rng : int, numpy.random.Generator, or array, shape (n, c)
        Seed of the Gaussian columns, which NumPy draws on the host, equal for all libraries; or
        the c = rank + oversample - k standard normal columns themselves.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host.

    Returns
    -------
    SVDResult
        U, S (descending) and Vh.

    Raises
    ------
    TypeError
        If an argument has the wrong kind, dtype or library.
    ValueError
        If `rank` is not from 1 to min(m, n), the shape of `basis` or of the test matrix is another
        one, or `A` contains NaN or Inf.

    Notes
    -----
    Cost: 2 m n (rank + oversample) flops per product, and about 9 (m + n) (rank + oversample)^2
    per pair of passes for orthonormal columns. Memory: some seven arrays of rank + oversample
    columns.
    Precision: singular values to a few u |A|; those of a matrix of lower rank are roundings, and
    their vectors orthonormal still.

    References
    ----------
    N. Halko, P. G. Martinsson, J. A. Tropp, SIAM Review 53, 217 (2011), arXiv:0909.4061,
    algorithms 4.4 and 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.outer([3.0, 4.0, 0.0], [1.0, 0.0]) + 0.5 * np.eye(3, 2)
    >>> U, S, Vh = randomized_svd(A, 1)
    >>> S.round(6)
    array([5.328427])
    """
    require_array(A, "A", ndim=2, blocks=False)
    require_rng(rng)
    require_count(oversample, "oversample")
    require_passes(passes)
    *batch, m, n = A.shape
    require_rank(rank, min(m, n), "the shorter side of `A`")
    dtype = result_name(dtype_name(A.dtype))
    basis = require_basis(basis, A, (*batch, n), dtype)
    with opened(A, check) as checks:
        require_finite_columns(checks, basis, rng)
        width = min(rank + oversample, m, n)
        columns = sketch_columns(basis, rng, width, 0, like=A, shape=(*batch, n), dtype=dtype)
        assert columns.start is not None
        return _decompose(A, columns.start, passes, rank, checks)


def _decompose(A: Array, Q: Array, passes: int, rank: int, checks: ValueChecks) -> SVDResult:
    """Return the triplets of Q Q^H applied to A from the side where the last product is not."""
    Q = _orthonormalise(Q)
    F = _product(A, Q, 0)
    for i in range(1, passes):
        Q = _orthonormalise(F)
        F = _product(A, Q, i)
    checks.require(
        lambda: all_finite(F), lambda: ValueError("`A` contains NaN or Inf; pass finite values.")
    )
    xp = namespace(F)
    P = _orthonormalise(F)
    W, s, Zh = svd(rmatvec(P, F))
    near, far = (
        xp.matmul(P, W[..., :rank]),
        xp.matmul(Q, adjoint(Zh)[..., :rank]),
    )
    U, V = (near, far) if passes % 2 else (far, near)
    return SVDResult(U, s[..., :rank], adjoint(V))


def _product(A: Array, Q: Array, i: int) -> Array:
    """Return A Q in even passes, A^H Q in odd ones."""
    xp = namespace(Q)
    if not i % 2:
        return matmul_stored(A, Q)
    if dtype_name(A.dtype) == dtype_name(Q.dtype):
        return rmatvec(A, Q)
    return matmul_stored(xp.matrix_transpose(A), Q)  # half precision is real


def _orthonormalise(F: Array) -> Array:
    """Return an orthonormal basis of the range of F, of as many columns also where F has less."""
    F = F / largest_entry(F, (-2, -1))  # whose squares do not underflow
    shift = expanded(stabilising_shift(F, unit_roundoff(dtype_name(F.dtype))), 2)
    return cholesky_qr(F + shift * unit_columns(F))[0]

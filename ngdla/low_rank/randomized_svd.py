"""Few singular triplets of any matrix from few products with it."""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal, NamedTuple, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened
from ngdla._backend.checks import require_array, require_count, require_flag
from ngdla._backend.creation import unit_columns
from ngdla._backend.dtypes import dtype_name, result_name, unit_roundoff
from ngdla._backend.fused import plus_multiple
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import squared_norm
from ngdla._backend.powers import power_of_two
from ngdla._backend.products import adjoint, conjugated, matmul_stored, rmatvec
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.spectral import svd
from ngdla._backend.tracing import detached

from .cholesky_qr import orthonormal, orthonormal_beside, well_conditioned
from .derivatives import trusted
from .low_rank_eigh import require_rank
from .nystrom_root import SHIFT, positive_shift
from .sketch_columns import (
    SketchColumns,
    gaussian_columns,
    is_test_matrix,
    require_basis,
    require_finite_columns,
    require_passes,
    require_rng,
    sketch_columns,
)

__all__ = ["SVDResult", "randomized_svd"]

_PROBE_STREAM = 2**32  # added to a seed: probes are columns that no basis started from


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


@overload
def randomized_svd(
    A: Array,
    rank: int,
    *,
    passes: int | None = None,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    check: Check = True,
    full_output: Literal[True],
) -> tuple[SVDResult, AnyArray]: ...
@overload
def randomized_svd(
    A: Array,
    rank: int,
    *,
    passes: int | None = None,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    check: Check = True,
    full_output: Literal[False] = False,
) -> SVDResult: ...
@overload
def randomized_svd(
    A: Array,
    rank: int,
    *,
    passes: int | None = None,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    check: Check = True,
    full_output: bool = False,
) -> Any: ...
def randomized_svd(
    A: Array,
    rank: int,
    *,
    passes: int | None = None,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    check: Check = True,
    full_output: bool = False,
) -> Any:
    """Return the largest singular values and vectors of any matrix A from few products with it.

    Parameters
    ----------
    A : array, shape (..., m, n), real or complex
        Any matrix. Of a positive semi-definite one `randomized_eigh` finds more in less time.
    rank : int
        The number of triplets, 1 to min(m, n).
    passes : int, optional
        Products with A and, in turn, with A^H. By default 10 where `rank` is less than a tenth of
        the shorter side, else 8; 2 with a `basis`. Each one more is half a power iteration.
    oversample : int, default 10
        Gaussian columns beside the `rank` ones; with `full_output` as many fresh ones again, which
        show the error.
    basis : array, shape (..., n, k), optional
        Orthonormal columns to start from, as those of Vh^H of an earlier, similar matrix. Then two
        passes are enough.
    rng : int, numpy.random.Generator, or array, shape (n, c)
        Seed of the Gaussian columns, which NumPy draws on the host, equal for all libraries; or
        the c = rank + oversample - k standard normal columns themselves, with `full_output`
        c = rank + 2 oversample - k. There rank + oversample counts up to the shorter side of `A`.
    check : {True, "nan", False}
        Refuse NaN and Inf: reads one flag on the host, of a GPU up to 25, which leave out work.
        "nan", and True where values cannot be read: what is refused is NaN. False: nothing is
        tested, and a GPU is read as for True.
    full_output : bool, default False
        Return an estimate of the error as well.

    Returns
    -------
    SVDResult, or tuple (SVDResult, error)
        U, S (descending) and Vh; with `full_output` also an estimate of |A - U diag(S) Vh|_F,
        shape (...): the root mean square over the fresh columns, which no basis has seen. NaN
        with oversample=0.

    Raises
    ------
    TypeError
        If an argument has the wrong kind, dtype or library.
    ValueError
        If `rank` is not from 1 to min(m, n), the shape of `basis` or of the test matrix is another
        one, or `A` contains NaN or Inf.

    Notes
    -----
    Method: a block Krylov space of every other one of the last products, of two blocks, of a third
    as many as `passes`, or of more as long as they take at most a quarter of the shorter side.
    Cost: 2 m n (rank + oversample) flops per product, and about 40 (m + n) (rank + oversample)^2
    for orthonormal columns of two blocks. Memory: some ten arrays of rank + oversample columns.
    `full_output` widens one product by `oversample` columns.
    Precision: this is no truncated SVD to rounding unless singular values fall fast. Over the
    least possible one, |A - U diag(S) Vh|_F of 2000 x 1000 matrices was, by default, larger by less
    than 0.002 % for s_k = 1/k and 0.9^k; by 0.02 % (rank 20) and 0.4 % (rank 100) for 1/k with
    noise; by 0.04 % and 0.5 % for singular values that fall evenly from 2 to 1. Near
    rounding it is more in float32. Singular values are at most those of A, to a few u |A|. Of 400
    matrices of many kinds, every estimated error was within a factor of two of the true one; of a
    rest of rank one the ten columns of the default see less than half once in a hundred times, as
    chi-squared numbers do. Of a matrix of lower rank, the last singular values are roundings, and
    their vectors orthonormal still.

    References
    ----------
    N. Halko, P. G. Martinsson, J. A. Tropp, SIAM Review 53, 217 (2011), arXiv:0909.4061,
    algorithms 4.4 and 5.1.
    C. Musco, C. Musco, NIPS 2015, arXiv:1504.05477, algorithm 2 (block Krylov).

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
    require_flag(full_output, "full_output")
    *batch, m, n = A.shape
    require_rank(rank, min(m, n), "the shorter side of `A`")
    passes = _default_passes(rank, min(m, n), basis) if passes is None else passes
    require_passes(passes)
    dtype = result_name(dtype_name(A.dtype))
    basis = require_basis(basis, A, (*batch, n), dtype)
    with opened(A, check, nan=True, waits=True) as checks:
        require_finite_columns(checks, basis, rng)
        width = min(rank + oversample, m, n)
        probes = int(oversample) if full_output else 0
        columns = _columns(basis, rng, width, probes, like=A, dtype=dtype)
        Q, F, AG = _products(A, columns, passes, checks)
        result = _triplets(Q, F, passes, rank)
        return (result, _probed_error(result, columns.fresh, AG)) if full_output else result


# ------------------------------------------------------------------------------------- helpers


def _default_passes(rank: int, shorter: int, basis: Array | None) -> int:
    """Return how many products are made: more of few columns, where each costs less."""
    if basis is not None:
        return 2
    return 10 if 10 * rank < shorter else 8


def _columns(
    basis: Array | None, rng: Any, width: int, probes: int, *, like: Array, dtype: str
) -> SketchColumns:
    """Return the columns to start from, the same ones with probes and without, and the probes."""
    drawn: dict[str, Any] = {
        "like": like,
        "shape": (*like.shape[:-2], like.shape[-1]),
        "dtype": dtype,
    }
    if is_test_matrix(rng):
        return sketch_columns(basis, rng, width, probes, **drawn)
    columns = sketch_columns(basis, rng, width, 0, **drawn)
    if not probes:
        return columns
    other = int(rng) + _PROBE_STREAM if isinstance(rng, numbers.Integral) else rng
    return columns._replace(fresh=gaussian_columns(other, probes, **drawn))


def _products(
    A: Array, columns: SketchColumns, passes: int, checks: ValueChecks
) -> tuple[Array, Array, Array | None]:
    """Return Q, its product with A or A^H, and that of A with the fresh columns.

    Q spans a block Krylov space: what every other one of the last products was made with. Earlier
    blocks, which add least, are left out where the space would be large, and need no orthonormal
    columns.
    """
    Y = columns.start
    assert Y is not None
    xp, width, shorter = namespace(Y), Y.shape[-1], min(A.shape[-2:])
    blocks = min(max(2, passes // 3, shorter // (4 * width)), -(-shorter // width))
    if width >= shorter:  # all is found at once
        passes = min(passes, 2 + passes % 2)
    Q: Any = None
    kept: list[Array] = []
    AG = None
    for i in range(passes):
        left = passes - 1 - i  # products to come
        keep = left % 2 == 0 and left // 2 < blocks
        if keep:
            X = _orthonormalise(Y if Q is None else Y[..., : shorter - Q.shape[-1]], Q)
        else:
            X = _scaled(Y)  # that is enough for the longer side until blocks are kept
            X = well_conditioned(X) if i and (kept or X.shape[-2] == shorter) else X
        if columns.fresh is not None and not i % 2 and left < 2:
            Y = _product(A, xp.concat([X, columns.fresh], axis=-1), i)
            Y, AG = Y[..., : X.shape[-1]], Y[..., X.shape[-1] :]
        else:
            Y = _product(A, X, i)
        if keep:
            Q = X if Q is None else xp.concat([Q, X], axis=-1)
            kept.append(Y)
    checks.finite("A", Y, batch=Y.ndim - 2)
    return Q, joined(kept, axis=-1), AG


def _triplets(Q: Array, F: Array, passes: int, rank: int) -> SVDResult:
    """Return the triplets of A Q Q^H, of which F is A Q, or of Q Q^H A, of which it is A^H Q."""
    xp = namespace(F)
    P = _orthonormalise(F)
    W, s, Zh = svd(rmatvec(P, F))
    near, far = (
        xp.matmul(P, W[..., :rank]),
        xp.matmul(Q, adjoint(Zh)[..., :rank]),
    )
    near, far, s = trusted(s, rank, F, near, far, s)
    U, V = (near, far) if passes % 2 else (far, near)
    return SVDResult(U, s[..., :rank], conjugated(adjoint(V)))


def _probed_error(result: SVDResult, G: Array | None, AG: Array | None) -> Array:
    """Return the root mean square of |(A - U S Vh) g| over fresh columns; NaN without any."""
    if G is None or AG is None:
        return result.S[..., 0] * namespace(result.S).nan
    xp = namespace(G)
    US = result.U * xp.expand_dims(result.S, axis=-2)
    rest = AG - xp.matmul(US, xp.matmul(result.Vh, G))
    unit = _unit(rest)
    size = xp.linalg.matrix_norm(rest / unit) / math.sqrt(G.shape[-1])
    return size * unit[..., 0, 0]


def _product(A: Array, Q: Array, i: int) -> Array:
    """Return A Q in even passes, A^H Q in odd ones."""
    xp = namespace(Q)
    if not i % 2:
        return matmul_stored(A, Q)
    if dtype_name(A.dtype) == dtype_name(Q.dtype):
        return rmatvec(A, Q)
    return matmul_stored(xp.matrix_transpose(A), Q)  # half precision is real


def _orthonormalise(F: Array, beside: Array | None = None) -> Array:
    """Return an orthonormal basis of the range of F, of as many columns also where F has less.

    It is orthogonal to the columns of `beside`.
    """
    xp, F, columns = namespace(F), _scaled(F), F.shape[-1]
    size = xp.sqrt(squared_norm(F))
    shift = expanded(positive_shift(SHIFT * unit_roundoff(dtype_name(F.dtype)) * size), 2)
    head = F[..., :columns, :]
    head = plus_multiple(head, shift, unit_columns(head))
    F = xp.concat([head, F[..., columns:, :]], axis=-2)
    return orthonormal(F) if beside is None else orthonormal_beside(beside, F)


def _scaled(F: Array) -> Array:
    """Return F over its largest entry: its squares do not underflow."""
    return F / _unit(F)


def _unit(F: Array) -> Array:
    """Return the power of two next to the largest entry, (..., 1, 1)."""
    xp = namespace(F)
    return power_of_two(xp.max(xp.abs(detached(F)), axis=(-2, -1), keepdims=True))

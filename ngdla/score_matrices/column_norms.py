"""Squared norms of the columns of scores, which weigh parameters in a diagonal damping."""

from __future__ import annotations

from typing import Any

from ngdla._backend.calls import all_finite, opened
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.namespace import namespace

from .column_blocks import score_matrix
from .score_matrix import Scores

__all__ = ["column_norms"]


@on_automatic_axes()
def column_norms(S: Scores) -> Any:
    """Return the squared norms |S e_j|^2 of the columns of S, the diagonal of S^H S.

    They make a damping of parameters by how much each matters: with
    ``metric = a / damping + r / damping * column_norms(S)`` a solve has S^H S + a + r diag(S^H S).

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree; real or complex
        Rows are samples. A list or tuple holds column blocks of one matrix, a tree arrays
        ``(n, *shape)``. Also streams and shards of them.

    Returns
    -------
    array, shape (..., m), or list or tuple of arrays, shapes (m_k,), or tree
        Like a solution x of these scores: as `metric` is to be. Real, in the precision of `S`;
        float32 for half precision.

    Raises
    ------
    TypeError
        If `S` is sparse, of mixed libraries, or not of a floating-point dtype.
    ValueError
        If `S` is empty, has fewer than two axes, or its blocks do not fit together; if it is a
        `ScoreOperator`, which has no columns; if it holds NaN or Inf, or squares overflow (not
        seen under `jax.jit` and the like, where they are NaN or Inf in the result).

    Notes
    -----
    Cost: 2 n m flops (4 n m for complex S) and one pass over S. Memory: m numbers, and squares of
    64 MB of S at a time; no copy of S. Precision: relative errors of sqrt(n) u, as long sums are
    made in runs; those of a `RowStream` are summed over blocks in double precision.

    References
    ----------
    D. W. Marquardt, SIAM J. Appl. Math. 11, 431 (1963) (damping by the diagonal of S^H S).

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> column_norms(S)
    array([1., 5., 1.])
    >>> column_norms([S[:, :2], S[:, 2:]])
    [array([1., 5.]), array([1.])]
    """
    scores = score_matrix(S)
    with opened(scores.like, ranks=scores.ranks) as checks:
        pieces = scores.column_squares()
        checks.require(lambda: all_finite(*pieces), lambda: scores.not_finite(scores.dtype))
        xp = namespace(pieces[0])
        return scores.form.put_together([xp.squeeze(piece, axis=-1) for piece in pieces])

"""Log-derivatives in all the ways in which callers have them, and the scores that each becomes."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.calls import ValueChecks, opened
from ngdla._backend.dtypes import real_name
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.namespace import Array
from ngdla.score_matrices.column_blocks import ColumnBlocks, column_blocks
from ngdla.score_matrices.score_matrix import ScoreMatrix
from ngdla.score_matrices.score_operator import ScoreOperator
from ngdla.score_matrices.score_stream import ScoreStream
from ngdla.score_matrices.shards import ColumnShards, RowShards
from ngdla.score_matrices.shared_columns import SharedColumns
from ngdla.score_matrices.shared_rows import SharedRows

from .centred_columns import centred_columns
from .centred_operator import centred_operator
from .centred_scores import Centring, Mode, centred_scores, mode_of
from .packed_pairs import packed_blocks
from .shared_samples import centred_by_rows, centred_shares
from .weighting import Weighting, weighting

__all__ = ["LogDerivatives", "log_derivatives_of", "scores", "scores_of"]

LogDerivatives = ColumnBlocks | ScoreStream | ScoreOperator | SharedColumns | SharedRows


@on_automatic_axes()
def scores(log_derivatives: Any, *, weights: Array | None = None, mode: Mode | None = None) -> Any:
    """Return the centred, weighted score matrix S of SR: q_i (O_i - sum_j p_j O_j).

    Parameters
    ----------
    log_derivatives : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree
        Derivatives of log psi (or log p), one row per sample; a sequence holds column blocks, and
        a tree, such as a dict, arrays ``(n, *shape)``. Or `ColumnShards` or `RowShards` of these.
    weights : array, shape (..., n), optional
        Not negative, not all zero, of any scale; by default equal. A sample of weight 0 changes
        nothing, whatever its data are, NaN and Inf too; its row of S is 0.
    mode : {"real", "complex", "holomorphic"}, optional
        "real" (default for real `log_derivatives`). "complex": real parameters of a complex
        amplitude; S = [Re; Im], 2n rows. "holomorphic": complex parameters, S complex.

    Returns
    -------
    array or sequence or tree, shape (..., n, m), or (..., 2n, m) in mode "complex"
        A new array, the one copy of the log-derivatives that this library makes. Of shards: the
        shards of S, with means over all ranks.

    Raises
    ------
    TypeError
        If an argument is not a floating-point array, or libraries are mixed; of a stream, which
        `stochastic_reconfiguration` takes itself.
    ValueError
        If shapes do not fit, `mode` is missing for complex `log_derivatives`, weights are negative,
        all zero or not finite.

    Notes
    -----
    Two passes over `log_derivatives`; memory m numbers beside the result, and copies of rows in
    chunks of 64 MB where weights may be 0. Half precision is first converted to float32, which the
    result has then. Where derivatives by `weights` may be asked for (torch tensors that require
    them, JAX arrays that are traced), rows of weight 0 are 2^-60 (O_i - mean) instead of 0, so that
    what is computed from S and f by smooth functions of S^H S and S^H f has derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> O = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> scores(O, weights=np.array([1.0, 3.0])).round(3)
    array([[-0.75 , -1.5  ],
           [ 0.433,  0.866]])
    """
    given = log_derivatives
    if isinstance(given, ColumnShards):
        return _scores_by_columns(given, weights, mode)
    if isinstance(given, RowShards):
        return _scores_by_rows(given, weights, mode)
    if isinstance(given, ScoreMatrix):
        raise _never_in_memory(given)
    blocks = column_blocks(given, name="log_derivatives")
    chosen = mode_of(mode, blocks)
    with opened(blocks.blocks[0]) as checks:
        dtype = real_name(blocks.dtype)
        samples = weighting(weights, blocks, checks, dtype, *blocks.blocks)
        S = centred_scores(blocks, samples, chosen, checks)
        return blocks.form.matrix(S)


def _never_in_memory(given: ScoreMatrix) -> TypeError:
    msg = (
        f"`log_derivatives` is a {type(given).__name__}, whose scores would be an array in memory. "
        f"Pass it to stochastic_reconfiguration, which centres it on the way."
    )
    return TypeError(msg)


def _scores_by_columns(given: ColumnShards, weights: Any, mode: Any) -> ColumnShards:
    """Return the scores of this rank's parameters."""
    shared = given.for_call("log_derivatives")
    with opened(shared.like, ranks=shared.ranks) as checks:
        if not isinstance(shared.local, ColumnBlocks):
            raise _never_in_memory(shared.local)
        chosen = mode_of(mode, shared)
        shared.ranks.note(options=chosen)
        samples = weighting(weights, shared, checks, real_name(shared.dtype))
        S = centred_scores(shared.local, samples, chosen, checks)
        return ColumnShards(shared.local.form.matrix(S), given.communicator, columns=given.columns)


def _scores_by_rows(given: RowShards, weights: Any, mode: Any) -> RowShards:
    """Return the scores of this rank's samples, less the mean of all."""
    shared = given.by_rows("log_derivatives")
    with opened(shared.like, ranks=shared.ranks) as checks:
        chosen = mode_of(mode, shared)
        shared.ranks.note(options=chosen)
        if not isinstance(shared.local, ColumnBlocks):
            raise _never_in_memory(shared.local)
        samples = weighting(weights, shared, checks, real_name(shared.dtype))
        S = centred_by_rows(shared, samples, None, checks, stack=chosen == "complex")
        matrix = S.local.form.matrix(S.local.blocks)
        return RowShards(matrix, given.communicator)


def log_derivatives_of(given: Any, pack: Any) -> LogDerivatives:
    """Check what a caller gives, pairs by real and imaginary parts of parameters if `pack`."""
    name = "log_derivatives"
    read = packed_blocks if pack is True else column_blocks
    if isinstance(given, ColumnShards):
        return given.for_call(name, read)
    if isinstance(given, RowShards):
        return given.by_rows(name, read)
    if pack is not True and isinstance(given, (ScoreStream, ScoreOperator)):
        return given.for_call().named(name)
    if pack is not True and isinstance(given, ScoreMatrix):
        msg = f"`{name}` is a {type(given).__name__}, which cannot be centred."
        raise TypeError(msg)
    return read(given, name=name)


def scores_of(
    given: Any,
    samples: Weighting | None,
    null: Array,
    mode: str,
    checks: ValueChecks,
    *,
    gathered: bool,
) -> ScoreMatrix:
    """Return the scores, for which vectors with the m axis are whole if `gathered`."""
    stack = mode == "complex"
    if isinstance(given, SharedColumns):
        local = scores_of(given.local, samples, null, mode, checks, gathered=gathered)
        return dataclasses.replace(given, local=local)
    if isinstance(given, SharedRows):
        return centred_shares(given, samples, null, checks, stack=stack, gathered=gathered)
    if isinstance(given, ScoreOperator):
        return centred_operator(given, null, samples, mode)
    if isinstance(given, ScoreStream):
        return given.centred(Centring(samples, null, stack))
    entering = centred_columns(given, samples, stack=stack)
    if entering is not None:
        return entering
    return dataclasses.replace(given, blocks=centred_scores(given, samples, mode, checks))

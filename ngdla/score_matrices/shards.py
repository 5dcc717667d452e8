"""Scores that lie on several ranks, as callers hand them in: columns or rows on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ngdla._backend.checks import require_count
from ngdla._backend.communicator import Communicator
from ngdla._backend.messages import shown
from ngdla._backend.namespace import is_array
from ngdla._backend.ranks import Ranks, TracedRanks, telling
from ngdla._backend.settings import library_settings
from ngdla._backend.tracing import is_traced
from ngdla._backend.trees import tree_leaves

from .column_blocks import ColumnBlocks, column_blocks
from .column_stream import ColumnStream
from .row_stream import RowStream
from .score_matrix import ScoreMatrix, ScoreSource
from .score_stream import ScoreStream
from .shared_columns import SharedColumns
from .shared_rows import SharedRows

__all__ = ["ColumnShards", "RowShards"]

Read = Callable[..., ColumnBlocks]


class ColumnShards(ScoreSource):
    """Scores S (..., n, m) of which each rank has some of the columns (parameters).

    Takes the place of `S` of `damped_solve`, `damped_lstsq`, `damped_factor`, `damping_path`,
    `gram` and `column_norms`, and of `log_derivatives` of `scores` and
    `stochastic_reconfiguration`, which all ranks call together.

    Parameters
    ----------
    S : array, shape (..., n, m_k), or sequence of arrays, or tree, or ColumnStream
        The columns of this rank, any number of them, also none. All ranks have the same n.
    communicator : Communicator
        Of `ngdla.distributed`, or any object with its names.
    columns : int, optional
        The number m of all columns, to be checked against what the ranks have.

    Attributes
    ----------
    local, communicator, columns
        As given.

    Raises
    ------
    TypeError
        If `communicator` is none. In a call: `S` of another kind, arrays of a library that the
        communicator does not carry.
    ValueError
        In a call: numbers of rows, dtypes, dampings, options or right-hand sides that differ
        between ranks, and columns that do not add up to `columns`: the same error on all ranks.

    Notes
    -----
    Vectors with the m axis (v, x0, metric, previous, x) are those of this rank's columns, in the
    form of its `S`. Those with the n axis (f, energies, weights, null) are equal on all ranks; that
    is tested by a sum to about 1000 roundings. Results without the m axis are equal on all ranks.
    Numbers of words that each rank gives to sums: n^2 for the Gram matrix, n for each product S x,
    which are one for each sweep, one for `x0` or `v`, and one for `full_output`. Besides, some
    words before each sum. Memory: n^2 numbers for each of up to three temporaries. The work is
    always done in the sample space, also where n >= m; methods "svd" and "qr" need S in one place.
    Derivatives pass between ranks inside `jax.shard_map` only.
    Where one rank raises, all do: the others an error of the same kind, "rank 3 failed: ...". That
    a process is killed is known to the engine alone; see `timeout` of communicators.

    Examples
    --------
    >>> import ngdla
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, f = rng.standard_normal((20, 300)), rng.standard_normal(20)
    >>> shards = ngdla.ColumnShards(S, ngdla.distributed.SerialCommunicator())
    >>> np.allclose(ngdla.damped_lstsq(shards, f, 1e-3), ngdla.damped_lstsq(S, f, 1e-3))
    True
    """

    def __init__(self, S: Any, communicator: Communicator, *, columns: int | None = None) -> None:
        self.local, self.communicator, self.columns = S, communicator, columns
        _require_communicator(communicator, "ColumnShards")

    def for_call(self, name: str = "S", read: Read = column_blocks) -> SharedColumns:
        """Return the scores for one call, of which all ranks have the same n and dtype.

        `read` makes column blocks of what is in memory.
        """
        ranks = _ranks(self.local, self.communicator, name, "rows")
        with telling(ranks):
            local = _part(self.local, name, ColumnStream, -1, read)
            _require_total(self.columns, "columns")
            shares = ranks.begin(
                local.like,
                size=local.rows,
                share=local.columns,
                declared=self.columns,
                dtype=local.dtype,
            )
        return SharedColumns(local, tuple(shares), None, name, ranks)


class RowShards(ScoreSource):
    """Scores S (..., n, m) of which each rank has some of the rows (samples, walkers).

    Takes the place of arrays as `ColumnShards` does.

    Parameters
    ----------
    S : array, shape (..., n_k, m), or sequence of arrays, or tree, or RowStream
        The rows of this rank, any number of them, also none. All ranks have the same m. A
        `RowStream` has at least m rows on each rank, and `stochastic_reconfiguration` reads it once
        more than that of a single process, for the means of all ranks.
    communicator : Communicator
        Of `ngdla.distributed`, or any object with its names.
    rows : int, optional
        The number n of all rows, to be checked against what the ranks have.

    Attributes
    ----------
    local, communicator, rows
        As given.

    Raises
    ------
    TypeError, ValueError
        As `ColumnShards`; a `RowStream` where rows are to be exchanged.

    Notes
    -----
    Vectors with the n axis (f, energies, weights, null) are those of this rank's rows.
    With n >= m vectors with the m axis are equal on all ranks; m^2 words are summed, m for each
    gradient, and n are gathered for each product S x.
    With n < m rows are exchanged for columns, m / P of them for each of P ranks, or one more on the
    first m mod P: each rank sends and receives n m / P words, in chunks of 64 MB at most, and holds
    both parts. Then it is as with `ColumnShards`, and vectors with the m axis are those of this
    rank's columns, as one array; `stochastic_reconfiguration` returns the whole step on every rank
    unless ``gathered=False``. Inside `jax.shard_map` P has to divide m for a part of the step.

    Examples
    --------
    >>> import ngdla
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> O, E = rng.standard_normal((64, 500)), rng.standard_normal(64)
    >>> shards = ngdla.RowShards(O, ngdla.distributed.SerialCommunicator())
    >>> d = ngdla.stochastic_reconfiguration(shards, E, 1e-3)
    >>> np.allclose(d, ngdla.stochastic_reconfiguration(O, E, 1e-3))
    True
    """

    def __init__(self, S: Any, communicator: Communicator, *, rows: int | None = None) -> None:
        self.local, self.communicator, self.rows = S, communicator, rows
        _require_communicator(communicator, "RowShards")

    def for_call(self, name: str = "S") -> ScoreMatrix:
        """Return the scores for one call: by rows with n >= m, else by columns."""
        shared = self.by_rows(name)
        if shared.rows >= shared.columns:
            return shared
        with telling(shared.ranks), library_settings(shared.like):
            return shared.by_columns()

    def by_rows(self, name: str = "S", read: Read = column_blocks) -> SharedRows:
        """Return the scores for one call, by rows whatever n and m are; `read` as above."""
        ranks = _ranks(self.local, self.communicator, name, "columns")
        with telling(ranks):
            local = _part(self.local, name, RowStream, -2, read)
            _require_total(self.rows, "rows")
            counts = ranks.begin(
                local.like,
                size=local.columns,
                share=local.rows,
                declared=self.rows,
                dtype=local.dtype,
            )
        return SharedRows(local, tuple(counts), name, ranks)


def _require_communicator(communicator: Any, kind: str) -> None:
    if not isinstance(communicator, Communicator):
        msg = (
            f"`communicator` of {kind} is {shown(communicator)}; it must have rank, size, timeout, "
            f"all_reduce_sum, all_gather and all_to_all, as those of ngdla.distributed do."
        )
        raise TypeError(msg)


def _require_total(total: Any, name: str) -> None:
    if total is not None:
        require_count(total, name, least=1)


def _ranks(S: Any, communicator: Communicator, name: str, common: str) -> TracedRanks:
    """Return the ranks of a communicator; `common` is "rows" or "columns", equal on all."""
    like = S.like if isinstance(S, ScoreMatrix) else S
    leaves = [like] if is_array(like) else _leaves(like)
    if any(is_array(leaf) and is_traced(leaf) for leaf in leaves):
        return TracedRanks(communicator)
    return Ranks(communicator, name, common)


def _leaves(S: Any) -> list[Any]:
    try:
        return list(tree_leaves(S)[0])
    except Exception:  # noqa: BLE001  what it is instead is said where it is checked
        return []


def _part(S: Any, name: str, stream: type[ScoreStream], axis: int, read: Read) -> Any:
    """Return the checked part of S on this rank, which may be a stream or nothing."""
    if isinstance(S, stream):
        return S.for_call().named(name)
    if hasattr(S, "placements"):  # of DTensors of torch
        msg = (
            f"the part of `{name}` on this rank is a DTensor; pass communicator.local_part({name})."
        )
        raise TypeError(msg)
    if isinstance(S, ScoreSource):
        msg = (
            f"the part of `{name}` on this rank is a {type(S).__name__}; it must be an array, a "
            f"sequence or tree of arrays, or a {stream.__name__}."
        )
        raise TypeError(msg)
    blocks = read(S, name=name, empty="all")
    for i, block in enumerate(blocks.blocks):
        common = [size for j, size in enumerate(block.shape, -block.ndim) if j != axis]
        if 0 in common:
            msg = (
                f"`{name}{blocks.form.label(i)}` has shape {tuple(block.shape)} on this rank, of "
                f"which only axis {axis} may be empty."
            )
            raise ValueError(msg)
    return blocks

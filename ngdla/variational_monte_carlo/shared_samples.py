"""Centred scores of log-derivatives of which each rank has some samples.

With n >= m the mean of the log-derivatives is a sum over ranks, and the rows stay where they are.
With n < m they are exchanged for columns as they came, and centred as they arrive, so that beside
the log-derivatives there is one centred copy of this rank's columns.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from ngdla._backend.calls import ValueChecks, all_finite
from ngdla._backend.creation import zeros
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array
from ngdla._backend.products import centred_rows, weighted_mean
from ngdla._backend.ranks import ElsewhereError
from ngdla.score_matrices.column_blocks import ColumnBlocks
from ngdla.score_matrices.shared_columns import SharedColumns
from ngdla.score_matrices.shared_rows import SharedRows

from .centred_scores import Centring, mean_of
from .weighting import Weighting

__all__ = ["centred_by_rows", "centred_shares"]


def centred_shares(
    given: SharedRows,
    samples: Weighting | None,
    null: Array,
    checks: ValueChecks,
    *,
    stack: bool,
    gathered: bool,
) -> SharedRows | SharedColumns:
    """Return the scores; `samples` and `null` are those of all ranks.

    Where there are fewer rows than columns they are exchanged, and vectors with the m axis are
    whole on every rank if `gathered`.
    """
    if given.rows * (2 if stack else 1) < given.columns:
        arrival = partial(_centred_columns, Centring(samples, null, stack))
        shared = given.by_columns(arrival, gathered=gathered)
        return dataclasses.replace(shared, given=None)  # vectors with the n axis are whole here
    return centred_by_rows(given, samples, checks, stack=stack)


def centred_by_rows(
    given: SharedRows, samples: Weighting | None, checks: ValueChecks, *, stack: bool
) -> SharedRows:
    """Return the scores of this rank's samples, with means over all ranks."""
    if not isinstance(given.local, ColumnBlocks):
        msg = (
            f"the part of `{given.name}` on this rank is a {type(given.local).__name__}, which is "
            f"centred by its own means, not by those of all ranks; pass arrays, or centred scores "
            f"to damped_lstsq."
        )
        raise ValueError(msg)
    own = None if samples is None else samples.mapped(given.own_samples)
    blocks = tuple(_centred_rows(O, given, own, checks, stack=stack) for O in given.local.blocks)
    local = dataclasses.replace(given.local, blocks=blocks)
    return dataclasses.replace(given, local=local, stack=stack, given=False)


def _centred_columns(centring: Centring, O: Array) -> Array:
    return centring.centre_columns(astype(O, result_name(dtype_name(O.dtype))))


def _centred_rows(
    O: Array, given: SharedRows, own: Weighting | None, checks: ValueChecks, *, stack: bool
) -> Array:
    """Return the rows of this rank of the scores."""
    O, n = astype(O, result_name(dtype_name(O.dtype))), sum(given.counts)
    if not O.shape[-2]:
        part = zeros((*O.shape[:-2], 1, O.shape[-1]), O, dtype_name(O.dtype))
    elif own is None:
        part = mean_of(O, None) * (O.shape[-2] / n)
    else:
        part = weighted_mean(O, own.p, own.kept)
    mean = given.ranks.total(part)

    def error() -> Exception:
        message = f"`{given.name}` contains NaN or Inf, or numbers whose mean overflows."
        return given.nan_error() or ElsewhereError(message)

    checks.require(lambda: all_finite(mean), error)
    if own is None:
        return centred_rows(O, mean, n**-0.5, stack=stack)
    roots = own.roots(dtype_name(O.dtype))
    return centred_rows(O, mean, roots, stack=stack, kept=own.kept)

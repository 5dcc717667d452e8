"""Centred scores of log-derivatives of which each rank has some samples.

With n >= m the mean of the log-derivatives is a sum over ranks, and the rows stay where they are;
of those that arrive in blocks it takes a pass of its own.
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
from ngdla._backend.products import centred_rows
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
    return centred_by_rows(given, samples, null, checks, stack=stack)


def centred_by_rows(
    given: SharedRows,
    samples: Weighting | None,
    null: Array | None,
    checks: ValueChecks,
    *,
    stack: bool,
) -> SharedRows:
    """Return the scores of this rank's samples, with means over all ranks.

    A stream needs `null`, by which it weights its rows.
    """
    n, local = sum(given.counts), given.local
    own = None if samples is None else samples.mapped(given.own_samples)
    result = dataclasses.replace(given, stack=stack, given=False)
    if isinstance(local, ColumnBlocks):

        def centred(O: Array) -> Array:
            O = _widened(O)
            mean = _mean(given, _part_of_mean(O, own, n), checks)
            return _centred_rows(O, mean, own, n, stack=stack)

        blocks = tuple(map(centred, local.blocks))
        return dataclasses.replace(result, local=dataclasses.replace(local, blocks=blocks))

    def term(O: Array, span: slice) -> Array:
        return _part_of_mean(O, None if own is None else own.rows(span).beside(O), n)

    assert null is not None
    mean = _mean(given, local.sum_over_blocks(term), checks)
    centring = Centring(own, result.own_samples(null), stack, mean)
    return dataclasses.replace(result, local=local.centred(centring))


def _centred_columns(centring: Centring, O: Array) -> Array:
    return centring.centre_columns(_widened(O))


def _widened(O: Array) -> Array:
    """Return log-derivatives in a dtype that they can be centred in."""
    return astype(O, result_name(dtype_name(O.dtype)))


def _part_of_mean(O: Array, samples: Weighting | None, n: int) -> Array:
    """Return what rows add to the mean of n samples, or of those with `samples`, (..., 1, m)."""
    if not O.shape[-2]:
        return zeros((*O.shape[:-2], 1, O.shape[-1]), O, dtype_name(O.dtype))
    mean = mean_of(O, samples)
    return mean * (O.shape[-2] / n) if samples is None else mean


def _mean(given: SharedRows, part: Array, checks: ValueChecks) -> Array:
    """Return the mean over the rows of all ranks, to which this one adds a part."""
    mean = given.ranks.total(part)

    def error() -> Exception:
        message = f"`{given.name}` contains NaN or Inf, or numbers whose mean overflows."
        return given.nan_error() or ElsewhereError(message)

    checks.require(lambda: all_finite(mean), error)
    return mean


def _centred_rows(O: Array, mean: Array, own: Weighting | None, n: int, *, stack: bool) -> Array:
    """Return the rows of this rank of the scores."""
    if own is None:
        return centred_rows(O, mean, n**-0.5, stack=stack)
    roots = own.roots(dtype_name(O.dtype))
    return centred_rows(O, mean, roots, stack=stack, kept=own.kept)

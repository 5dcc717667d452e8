"""The rank that a damping asks for: modes far below it need no vector of their own."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

from ngdla._backend.calls import warn_caller
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.random import generator
from ngdla._backend.scalars import EIGENVALUES, as_float, damping_values
from ngdla._backend.tracing import is_traced, number

from .low_rank_eigh import LowRankEigh, Tail, require_rank
from .operand import HermitianOperand
from .sketch_columns import is_test_matrix

__all__ = ["RankRule", "RankWarning", "choose_rank", "rank_rule"]

BUCKET_WIDTH = 32
MODES_PER_DIMENSION = 1.5  # kept modes for each effective one

Attempt = Callable[[int, Array | None, Any], LowRankEigh]


class RankWarning(UserWarning):
    """rank="auto" stopped at `max_rank`, below what the damping asks for."""


class RankRule(NamedTuple):
    """When a rank is enough: 1.5 times the effective dimension, or error <= target damping."""

    damping: float
    target: float | None
    most: int
    size: int
    rng: Any


def rank_rule(
    rank: Any,
    A: HermitianOperand,
    damping: Any,
    target: Any,
    max_rank: Any,
    rng: Any,
) -> RankRule | None:
    """Return the checked rule of rank="auto", None for another rank."""
    if not isinstance(rank, str) or rank != "auto":
        if isinstance(rank, str):
            msg = f"`rank` is {rank!r}; it must be an integer or 'auto'."
            raise ValueError(msg)
        given = {"damping": damping, "target": target, "max_rank": max_rank}
        for name in [name for name, value in given.items() if value is not None]:
            msg = f"`{name}` is used by rank='auto' only; leave it out, or pass rank='auto'."
            raise ValueError(msg)
        return None
    if not isinstance(damping, numbers.Real):
        msg = f"`damping` is {shown(damping)}; rank='auto' needs the damping, a positive number."
        raise TypeError(msg)
    if is_test_matrix(rng):
        msg = "`rng` is a test matrix; with rank='auto' its width is not known: pass a seed."
        raise TypeError(msg)
    if is_traced(A.like):
        raise _unreadable()
    value = damping_values(damping, A.like, "A", A.real, A.batch, EIGENVALUES)
    positive = isinstance(target, numbers.Real) and target is not True and as_float(target) > 0
    if target is not None and not positive:
        msg = f"`target` is {shown(target)}; it must be positive, an error in units of `damping`."
        raise ValueError(msg)
    if max_rank is not None:
        require_rank(max_rank, A.size, "the size of `A`", name="max_rank")
    most = _bucket(A.size // 4, A.size) if max_rank is None else max_rank
    return RankRule(
        float(value), None if target is None else as_float(target), most, A.size, generator(rng)
    )


def choose_rank(attempt: Attempt, rule: RankRule, basis: Array | None, tail: Tail) -> LowRankEigh:
    """Return the first attempt of enough rank, cut down to what is needed; ranks double."""
    known = 0 if basis is None else basis.shape[-1]
    rank = min(_bucket(known, rule.size), rule.most)
    while True:
        result = attempt(rank, basis, rule.rng)
        needed = _rank_by_error(result, rule) if rule.target else _rank_by_dimension(result, rule)
        if needed <= rank or rank == rule.most:
            break
        basis, rank = result.eigenvectors, min(2 * rank, rule.most)
    if needed > rank and rank < rule.size:  # a complete decomposition is no cap
        _warn(rule)
    return result.truncate(min(_bucket(needed, rule.size), rank), tail=tail)


def _bucket(rank: float, size: int) -> int:
    """Return the next multiple of 32, at least one and at most the size of the matrix."""
    buckets = max(1.0, min(rank, size) / BUCKET_WIDTH)
    return min(math.ceil(buckets) * BUCKET_WIDTH, size)


def _rank_by_dimension(result: LowRankEigh, rule: RankRule) -> float:
    """Return 1.5 tr A (A + damping)^-1, the largest of the batch.

    The missing eigenvalues are taken for equal, which makes it too large if anything.
    """
    xp = namespace(result.trace)
    d, damping = result.eigenvalues, rule.damping
    missing = rule.size - d.shape[-1]
    kept = xp.sum(d / (d + damping), axis=-1)
    mean = result.trace_bound / max(missing, 1)
    return MODES_PER_DIMENSION * _read(xp.max(kept + missing * mean / (mean + damping)))


def _rank_by_error(result: LowRankEigh, rule: RankRule) -> float:
    """Return the least rank of this result whose error is in the target, Inf if there is none."""
    xp, target = namespace(result.trace), rule.target
    assert target is not None
    d, bound = result.eigenvalues, target * rule.damping
    squares = xp.flip(xp.cumulative_sum(xp.flip(d * d, axis=-1), axis=-1), axis=-1)
    errors = xp.hypot(xp.expand_dims(result.error, axis=-1), xp.sqrt(squares))
    error = result.error
    short = xp.where(error <= bound, xp.zeros_like(error), xp.full_like(error, math.inf))
    needed = xp.astype(xp.sum(xp.astype(errors > bound, d.dtype), axis=-1), d.dtype)
    return _read(xp.max(needed + short))


def _read(x: Array) -> float:
    value = number(x)
    if value is None:
        raise _unreadable()
    return value


def _unreadable() -> Exception:
    return TypeError(
        "rank='auto' reads eigenvalues, which cannot be read under jit and vmap, nor of lazy "
        "arrays; choose the rank outside, and pass it as a number."
    )


def _warn(rule: RankRule) -> None:
    """Warn without numbers of this matrix, so that Python shows it once for a line of code."""
    wanted = "`damping` asks for more modes"
    if rule.target:
        wanted = "the estimated `error` exceeds target * damping"
    warn_caller(
        f"rank='auto' is capped at {rule.most}: {wanted}. Raise `max_rank`, or use a dense "
        f"eigendecomposition or Cholesky factor.",
        RankWarning,
    )

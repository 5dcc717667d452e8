"""Tangents of factors in matrix-log space: the rules of IKFAC and of INGD."""

from __future__ import annotations

from typing import Any

from ngdla._backend.namespace import Array
from ngdla.structures import StructuredMatrix
from ngdla.structures.sums import plus_identity, plus_multiple

from .state import InverseFreeState

__all__ = ["RULES", "tangents", "with_momentum"]

Pair = tuple[StructuredMatrix, StructuredMatrix]
Weights = tuple[Any, Any]


def tangents(rule: str, H: Pair, grams: Pair, rows: Array, damping: Any) -> Pair:
    """Return the tangents of K and C from sums over rows, by one of the rules."""
    m_K, m_C = map(_tangent, H, grams, RULES[rule](H, grams, rows, damping))
    return m_K, m_C


def _tangent(H: StructuredMatrix, gram: StructuredMatrix, weights: Weights) -> StructuredMatrix:
    """Return (h H + c gram - I) / 2."""
    h, c = weights
    m = plus_multiple(H.scaled(0.5 * h), 0.5 * c, gram)
    return plus_identity(m, -0.5)


def _ikfac(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return the weights of H and of K^H K in the tangent of K, and those for C."""
    return (1 / rows, damping), (1 / rows, damping)


def _ingd(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return those of "ikfac" times the mean eigenvalues of H and C^H C, and their mirror.

    Means in place of traces, so that nothing is as large as a dimension.
    """
    mean_K, mean_C = (M.trace() / (rows * M.dimension) for M in H)
    gram_K, gram_C = (M.trace() / M.dimension for M in grams)
    return (mean_C / rows, damping * gram_C), (mean_K / rows, damping * gram_K)


RULES = {"ingd": _ingd, "ikfac": _ikfac}


def with_momentum(
    m_K: StructuredMatrix, m_C: StructuredMatrix, state: InverseFreeState, momentum: Any
) -> Pair:
    """Return the tangents plus what is left of the last ones. The given ones are used up."""
    if isinstance(momentum, float) and momentum == 0.0:
        return m_K, m_C
    if state.momentum_K is None or state.momentum_C is None:
        msg = "`momentum` is asked of a state without; start with inverse_free_init(momentum=True)."
        raise ValueError(msg)
    return (
        plus_multiple(m_K, momentum, state.momentum_K),
        plus_multiple(m_C, momentum, state.momentum_C),
    )

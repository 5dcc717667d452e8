"""Tangents of factors in matrix-log space: the rules of IKFAC and of INGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ngdla._backend.namespace import Array
from ngdla.structures import StructuredMatrix
from ngdla.structures.sums import plus_identity, plus_multiple

from .state import Part

__all__ = ["RULES", "Rule", "add_momentum", "tangents"]

Rule = Literal["ingd", "ikfac"]
Pair = tuple[StructuredMatrix, StructuredMatrix]  # of K and of C
Weights = tuple[Any, Any]


def tangents(rule: Rule, H: Pair, grams: Pair, rows: Array, damping: Any) -> Pair:
    """Return the tangents m_K, m_C of a batch, without momentum.

    With weights h and c by one of the rules, m_K = (h H_K + c Pi(K^H K) - I) / 2, and the mirror
    image for C. `H` holds sums over rows, `grams` Pi(K^H K) and Pi(C^H C).
    """
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
    """Return the weights of "ikfac" times mean eigenvalues of the other factor's matrices.

    Means instead of traces, so that no number is as large as a dimension.
    """
    # tr(H_K) / d_in and tr(H_C) / d_out, of means over rows
    mean_K, mean_C = (M.trace() / (rows * M.dimension) for M in H)
    # tr(K^H K) / d_in and tr(C^H C) / d_out
    gram_K, gram_C = (M.trace() / M.dimension for M in grams)
    return (mean_C / rows, damping * gram_C), (mean_K / rows, damping * gram_K)


RULES: dict[Rule, Callable[[Pair, Pair, Array, Any], tuple[Weights, Weights]]] = {
    "ingd": _ingd,
    "ikfac": _ikfac,
}


def add_momentum(m: StructuredMatrix, momentum: Any, last: Part) -> StructuredMatrix:
    """Return m + momentum last, for a tangent and the last one. The given `m` is consumed."""
    if isinstance(momentum, float) and momentum == 0.0:
        return m
    if not last:
        msg = "`momentum` is asked of a state without; start with inverse_free_init(momentum=True)."
        raise ValueError(msg)
    return plus_multiple(m, momentum, last)

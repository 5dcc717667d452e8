"""Tangents of factors in matrix-log space: the rules of IKFAC and of INGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ngdla._backend.fused import in_one_kernel
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
    """Return h H + c gram - I / 2, for weights that are halved already."""
    h, c = weights
    return plus_identity(plus_multiple(H.scaled(h), c, gram), -0.5)


def _ikfac(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return half the weights of H and of K^H K in the tangent of K, and those for C."""
    weights = 0.5 / rows, 0.5 * damping
    return weights, weights


def _ingd(H: Pair, grams: Pair, rows: Array, damping: Any) -> tuple[Weights, Weights]:
    """Return the weights of "ikfac" times mean eigenvalues of the other factor's matrices.

    Means instead of traces, so that no number is as large as a dimension.
    """
    # halves of tr(H_K) / d_in and of tr(H_C) / d_out, of means over rows, over rows again
    half_K, half_C = (in_one_kernel(_over_rows, 0.5 / M.dimension, M.trace(), rows) for M in H)
    # halves of tr(K^H K) / d_in and of tr(C^H C) / d_out, times the damping
    gram_K, gram_C = ((0.5 / M.dimension) * damping * M.trace() for M in grams)
    return (half_C, gram_C), (half_K, gram_K)


def _over_rows(xp: Any, half: float, trace: Any, rows: Any) -> Any:
    return half * trace / rows / rows


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

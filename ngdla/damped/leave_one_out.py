"""Residuals of samples left out of the fit, from one fit to all of them.

The residuals of a damped fit are damping C f, and those of a fit without sample i are

    e_i = (C f)_i / C_ii,    C = P W^-1 P,    P = 1 - N N^H,    W = S S^H + damping,

where the null vectors N of centred scores stand for a mean that is fitted along (without P, C_ii
would be dominated by p_i / damping). With n >= m the same is

    e_i = (P f - S x)_i / (1 - |N_i|^2 - S_i A^-1 S_i^H),    A = S^H S + damping,

and where a sample has two rows B, of stacked scores, e_B = C_BB^-1 (C f)_B with 2 x 2 blocks.
All of this is diagonal in a basis X of the small matrix, for any number L of dampings at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ngdla._backend.dtypes import astype, dtype_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import rmatvec
from ngdla._backend.shapes import joined
from ngdla.score_matrices.sample_rows import Rows, sample_rows
from ngdla.score_matrices.score_matrix import ScoreMatrix

from .inverses import ExactInverse
from .null_vectors import without_null

__all__ = ["DiagonalFit", "dampings_first", "left_out", "left_out_residuals"]


class DiagonalFit(NamedTuple):
    """Fits with L dampings, by the inverses X diag(weights) X^H of the small matrix.

    With n < m, P is part of X, and the inverses may carry a factor, such as the damping.
    """

    scores: ScoreMatrix
    f: Array  # (..., n, k): P f
    null: Array | None  # (..., n, p)
    stacked: bool
    X: Array  # (..., d, d) with d = min(n, m)
    weights: Array  # (..., d, L), real
    coefficients: Array  # (..., d, k): X^H f, or X^H S^H f with n >= m

    def steps(self) -> Array:
        """Return weights times coefficients, (..., d, L, k)."""
        xp = namespace(self.X)
        return xp.expand_dims(self.weights, axis=-1) * xp.expand_dims(self.coefficients, axis=-2)


def left_out_residuals(
    scores: ScoreMatrix, inverse: ExactInverse, f: Array, null: Array | None, *, stacked: bool
) -> Array:
    """Return e, (..., n, k), of one fit."""
    f = without_null(f, null)
    X, weights = inverse.diagonalised(null if scores.wide else None)
    right = f if scores.wide else joined(list(scores.rmatvec(f)), axis=-2)
    fit = DiagonalFit(scores, f, null, stacked, X, weights, rmatvec(X, right))
    halves = zip(*(e for _, e in left_out(fit)))
    e = joined([joined(list(chunks), axis=-2) for chunks in halves], axis=-2)
    return namespace(e).squeeze(e, axis=-3)


def left_out(fit: DiagonalFit) -> Iterator[tuple[Rows, Rows]]:
    """Yield residuals P f - S x, (..., L, r, k), of some samples, and those of fits without them.

    Each is one array, or two for the two rows of a sample.
    """
    steps = fit.steps()
    vectors = (fit.f,) if fit.null is None else (fit.f, fit.null)
    width = int(steps.shape[-2] * steps.shape[-1])
    rows = sample_rows(fit.scores, fit.X, vectors, stacked=fit.stacked, width=width)
    for Z, f, *null in rows:
        N = null[0] if null else (None,) * len(Z)
        r = tuple(_residuals(fit, *row, steps) for row in zip(Z, f))
        own = [_elements(fit, (row, row), 1.0) for row in zip(Z, N)]
        if fit.stacked:
            cross = _elements(fit, tuple(zip(Z, N)), 0.0)
            yield r, _solved_in_pairs(r, own, cross)
        else:
            yield r, (r[0] / own[0],)


def _residuals(fit: DiagonalFit, Z: Array, f: Array, steps: Array) -> Array:
    """Return P f - S x of some rows, (..., L, r, k), or with n < m the factor times it."""
    xp = namespace(Z)
    shape = steps.shape[-2:]
    product = xp.matmul(Z, xp.reshape(steps, steps.shape[:-2] + (shape[0] * shape[1],)))
    product = dampings_first(xp.reshape(product, product.shape[:-1] + shape))
    return product if fit.scores.wide else xp.expand_dims(f, axis=-3) - product


def dampings_first(x: Array) -> Array:
    """Return (..., L, r, k) from (..., r, L, k)."""
    first = x.ndim - 3
    return namespace(x).permute_dims(x, (*range(first), first + 1, first, first + 2))


def _elements(fit: DiagonalFit, rows: tuple[tuple[Array, Array | None], ...], one: float) -> Array:
    """Return damping C_ij, (..., L, r, 1), for pairs of rows (Z, N) with i = j (one = 1) or not."""
    (Z, N), (other, other_N) = rows
    xp = namespace(Z)
    products = Z * xp.conj(other)
    elements = xp.matmul(products, astype(fit.weights, dtype_name(products.dtype)))
    if not fit.scores.wide:
        elements = one - elements
        if N is not None:
            elements = elements - xp.sum(N * xp.conj(other_N), axis=-1, keepdims=True)
    return xp.expand_dims(xp.matrix_transpose(elements), axis=-1)


def _solved_in_pairs(r: Rows, own: list[Array], cross: Array) -> Rows:
    """Return the solutions e of [a, b; conj(b), d] e = r, scaled so that nothing overflows."""
    (a, d), b, c = own, cross, namespace(cross).conj(cross)
    return (r[0] - b / d * r[1]) / (a - b / d * c), (r[1] - c / a * r[0]) / (d - c / a * b)

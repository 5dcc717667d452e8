"""Scores of log-derivatives that are known by their products: S = P diag(q) O, P = 1 - q q^H.

What an operator returns is centred, not what it holds: S x = P (q O x), S^H y = O^H (q P y), and
S S^H = P diag(q) O O^H diag(q) P. Where the means of log-derivatives are larger than the rest, that
is a difference of large numbers.
"""

from __future__ import annotations

from ngdla._backend.dtypes import astype, dtype_name, real_name
from ngdla._backend.namespace import Array, namespace
from ngdla.score_matrices.score_operator import ScoreOperator, map_rows

from .weighting import Weighting

__all__ = ["centred_operator"]


def centred_operator(
    O: ScoreOperator, q: Array, samples: Weighting | None, mode: str
) -> ScoreOperator:
    """Return the scores of log-derivatives, for the roots q of probabilities, (n, 1)."""
    if mode == "complex":
        msg = (
            "`mode` is 'complex', which needs real and imaginary parts of the log-derivatives, but "
            "`log_derivatives` is a ScoreOperator; write one whose matvec returns [Re; Im] of O x, "
            "centred and times sqrt(p), and pass it to damped_lstsq."
        )
        raise ValueError(msg)

    def root(y: Array) -> Array:
        column = astype(q, real_name(dtype_name(y.dtype)))
        return column if y.ndim == 2 else column[:, 0]

    def projected(y: Array) -> Array:
        column = root(y)
        return y - column * namespace(y).sum(column * y, axis=0, keepdims=y.ndim == 2)

    def forward(y: Array) -> Array:
        if samples is not None and samples.kept is not None:
            kept = samples.kept if y.ndim == 2 else samples.kept[:, 0]
            y = namespace(y).where(kept, y, namespace(y).zeros_like(y))
        return projected(root(y) * y)

    return map_rows(O, forward, lambda y: root(y) * projected(y))

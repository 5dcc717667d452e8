"""What a damped problem consists of, checked: S, damping and options, and right-hand sides.

All that can be known without reading values is checked here, before anything is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.dtypes import (
    astype,
    double_name,
    dtype_name,
    has_double,
    is_complex,
    real_name,
    result_name,
)
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.scalars import damping_values
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .precision import Plan, planned
from .right_hand_side import Layout, parameter_vector, sample_vector

__all__ = ["RightHandSide", "Setup", "setup"]

METHODS = ("auto", "cholesky", "eigh", "svd", "qr", "cg")


class Setup(NamedTuple):
    """Checked arguments of a damped problem without its right-hand side."""

    scores: ScoreMatrix
    damping: Any
    plan: Plan
    refine: int
    metric: Vector | None
    null: Array | None
    trusted: bool  # null comes from this library


def setup(
    scores: ScoreMatrix,
    damping: Any,
    method: Any,
    precision: Any,
    refine: Any,
    metric: Any,
    null: Any,
    dtype: str,
    *,
    trusted: bool = False,
) -> Setup:
    """Check everything that can be checked without reading values."""
    require_choice(method, "method", METHODS)
    require_count(refine, "refine")
    like = scores.like
    if method == "auto" and not scores.has_gram:
        method = "cg"
    if method in ("svd", "qr") and not scores.dense:
        msg = (
            f"`method` is {method!r}, which factors `{scores.name}` itself; that needs an array in "
            f"memory, not a {type(scores).__name__}. Choose 'cholesky' or 'eigh'."
        )
        raise ValueError(msg)
    plan = planned(method, precision, dtype, like)
    damping = damping_values(damping, like, scores.name, real_name(dtype), scores.batch)
    weights = None if metric is None else _metric(scores, metric, dtype)
    if weights is not None:
        wide = double_name(real_name(dtype)) if has_double(like) else real_name(dtype)
        scales = tuple(astype(weight, wide) ** -0.5 for weight in weights)
        scores = scores.with_scales(scales)
    if null is not None:
        null = _null(scores, null, dtype)
    return Setup(scores, damping, plan, refine, weights, null, trusted)


def _metric(scores: ScoreMatrix, metric: Any, dtype: str) -> Vector:
    """Return the diagonal of D in pieces, (..., m_k, 1)."""
    if scores.sequence is not None and isinstance(metric, (list, tuple)):
        metric = (
            [  # one scalar a block stands for all of its columns
                _filled(d, piece.block, real_name(dtype)) for d, piece in zip(metric, scores.pieces)
            ]
            + list(metric[len(scores.pieces) :])
        )
    pieces, vector = parameter_vector(scores, metric, "metric")
    if not vector or any(is_complex(piece) for piece in pieces):
        msg = f"`metric` must be a real diagonal with one entry a column of `{scores.name}`."
        raise ValueError(msg)
    wide = (real_name(result_name(dtype, dtype_name(piece.dtype))) for piece in pieces)
    return tuple(astype(piece, name) for piece, name in zip(pieces, wide))


def _filled(d: Any, block: Array, real: str) -> Any:
    """Return a row of one number for the columns of a block; arrays as they are."""
    if not isinstance(d, (int, float)) or isinstance(d, bool):
        return d
    xp = namespace(block)
    return xp.full_like(block[0, :], float(d), dtype=getattr(xp, real))


def _null(scores: ScoreMatrix, null: Any, dtype: str) -> Array:
    null, _ = sample_vector(scores, null, "null")
    if is_complex(null) and not dtype.startswith("complex"):
        msg = f"`null` is {dtype_name(null.dtype)} but `{scores.name}` is real; pass a real one."
        raise TypeError(msg)
    return astype(null, dtype)


class RightHandSide(NamedTuple):
    """Checked v, or f with or without x0."""

    v: Vector | None
    f: Array | None
    x0: Vector | None
    vector: bool
    names: tuple[str, str, str] = ("v", "f", "x0")

    @classmethod
    def of_solve(cls, scores: ScoreMatrix, v: Any) -> RightHandSide:
        """Check v."""
        pieces, vector = parameter_vector(scores, v, "v")
        return cls(pieces, None, None, vector)

    @classmethod
    def of_lstsq(cls, scores: ScoreMatrix, f: Any, x0: Any) -> RightHandSide:
        """Check f and x0."""
        columns, vector = sample_vector(scores, f, "f")
        if x0 is None:
            return cls(None, columns, None, vector)
        pieces, same = parameter_vector(scores, x0, "x0")
        if same != vector or pieces[0].shape[-1] != columns.shape[-1]:
            msg = (
                f"`x0` and `f` differ in their numbers of right-hand sides: `f` has shape "
                f"{tuple(f.shape)}, so `x0` must have {'no' if vector else columns.shape[-1]} "
                f"columns."
            )
            raise ValueError(msg)
        return cls(None, columns, pieces, vector)

    def named(self) -> list[tuple[str, tuple[Array, ...]]]:
        """Return the arrays of each argument that is there, with its name."""
        f = None if self.f is None else (self.f,)
        arguments = zip(self.names, (self.v, f, self.x0))
        return [(name, arrays) for name, arrays in arguments if arrays is not None]

    def layout(self, scores: ScoreMatrix) -> Layout:
        """Return how to work and how to hand back the solution."""
        dtypes = (dtype_name(x.dtype) for _, arrays in self.named() for x in arrays)
        name = result_name(scores.dtype, *dtypes)
        paired = name.startswith("complex") and not scores.dtype.startswith("complex")
        return Layout(self.vector, name, paired, scores.sequence)

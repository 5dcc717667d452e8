"""What a damped problem consists of besides its right-hand side: S, damping and options, checked.

All that can be known without reading values is checked here, before anything is computed.
"""

from __future__ import annotations

import dataclasses
from operator import and_
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.dtypes import (
    SPLIT_TF32,
    astype,
    double_name,
    dtype_name,
    has_double,
    is_complex,
    real_name,
    result_name,
)
from ngdla._backend.namespace import Array, library, namespace
from ngdla._backend.pickles import part
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.ranks import ALONE
from ngdla._backend.scalars import damping_values
from ngdla._backend.split_tf32 import multiplies_in_tf32
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .methods import METHODS, Method
from .precision import Plan, first_plan
from .right_hand_side import diagonal, sample_vector

__all__ = ["DampedProblem", "Options", "damped_problem"]


class Options(NamedTuple):
    """How a caller wants a problem solved, not yet checked."""

    method: Any = "auto"
    precision: Any = "auto"
    refine: Any = 1
    metric: Any = None
    null: Any = None
    trusted: bool = False  # null vectors are those of this library's own scores: not tested


@part
@register_pytree(static=("plan", "refine", "trusted"))
@dataclasses.dataclass(frozen=True, eq=False)
class DampedProblem:
    """S^H S + damping D, in the coordinates D^1/2 x."""

    scores: ScoreMatrix  # S D^-1/2
    damping: Any  # Python float or array, (...)
    plan: Plan
    refine: int
    metric: Vector | None  # D
    null: Array | None  # (..., n, p)
    trusted: bool

    def with_plan(self, plan: Plan) -> DampedProblem:
        """Return the problem, to be solved by another plan."""
        return dataclasses.replace(self, plan=plan)

    def require_values(self, checks: ValueChecks) -> None:
        """Add what damping, metric and null vectors must be to the checks."""
        if not isinstance(self.damping, float):
            checks.positive("damping", self.damping_in(self.plan.factor))
        if self.metric is not None:
            checks.positive("metric", *self.metric)
        if self.null is not None:
            checks.finite("null", self.null, batch=self.null.ndim - 2)

    def damping_in(self, dtype: str) -> Any:
        """Return the damping in the real dtype of the same precision, or as a Python number."""
        if isinstance(self.damping, float):
            return self.damping
        return astype(self.damping, real_name(dtype))

    def legal(self) -> Any:
        """Tell whether damping and metric are positive; under `jax.jit` the diagnostics say so."""
        legal: Any = True
        if not isinstance(self.damping, float):
            legal = legal & (self.damping > 0)
        for weights in self.metric or ():
            legal = legal & namespace(weights).all(weights > 0, axis=(-2, -1))
        if self.metric is None:
            return legal
        return self.scores.across_columns.merged(legal, and_)


def damped_problem(
    scores: ScoreMatrix, damping: Any, options: Options, dtype: str
) -> DampedProblem:
    """Check everything that can be checked without reading values, for work in `dtype`."""
    method = _method(options.method, scores)
    require_count(options.refine, "refine")
    like, real = scores.like, real_name(dtype)
    if isinstance(options.precision, str) and options.precision == SPLIT_TF32:
        _require_split_tf32(scores, method)
    plan = first_plan(method, options.precision, dtype, like, scores.gram_dtype)
    damping = damping_values(damping, like, scores.name, real, scores.batch)
    metric, null = options.metric, options.null
    if scores.ranks is not ALONE:
        given = (metric is None, null is None, scores.batch)
        chosen = (method.name, options.precision, options.refine, *given)
        scores.ranks.note(damping=damping, options=chosen)
    if metric is not None:
        metric = _metric(scores, metric, dtype)
        better = double_name(real) if has_double(like) else real
        scores = scores.with_scales(tuple(astype(weight, better) ** -0.5 for weight in metric))
    if null is not None:
        null = _null(scores, null, dtype, trusted=options.trusted)
    return DampedProblem(scores, damping, plan, options.refine, metric, null, options.trusted)


def _method(given: Any, scores: ScoreMatrix) -> Method:
    """Return the method of a name, or the one that is given, if it can serve these scores."""
    if not isinstance(given, Method):
        require_choice(given, "method", METHODS)
        given = METHODS[given]
    method = given if scores.has_gram else given.without_gram()
    if method.needs_dense and not scores.dense:
        others = [f"{name!r}" for name, other in METHODS.items() if _forms_gram(other)]
        kind = f"a {type(scores).__name__}" if scores.ranks is ALONE else "shards"
        msg = (
            f"`method` is {method.name!r}, which factors `{scores.name}` itself; that needs an "
            f"array in memory, not {kind}. Choose {' or '.join(others)}."
        )
        raise ValueError(msg)
    return method


def _forms_gram(method: Method) -> bool:
    return method.exact and not method.needs_dense and method.last_rung() is None


def _require_split_tf32(scores: ScoreMatrix, method: Method) -> None:
    """Raise unless a Gram matrix of float32 numbers is formed on an NVIDIA GPU."""
    says, name = f"`precision` is {SPLIT_TF32!r}", scores.name
    others = scores.given_dtypes - {"float32"}
    if others:
        msg = (
            f"{says}, which splits float32 numbers, but `{name}` is {', '.join(sorted(others))}; "
            f"convert `{name}` to float32, or choose 'native'."
        )
        raise ValueError(msg)
    operator = scores.gram_dtype is not None or not scores.has_gram
    if operator or method.needs_dense or not method.exact:
        msg = (
            f"{says}, in which Gram matrices are formed; here `{name}` has none to be formed. "
            f"Choose `method` 'cholesky' or 'eigh' and give arrays or a stream, or choose 'native'."
        )
        raise ValueError(msg)
    if not multiplies_in_tf32(scores.like):
        msg = (
            f"{says}, which needs an NVIDIA GPU and arrays of CuPy, torch or JAX; `{name}` is of "
            f"{library(scores.like)} and not on such a device. Move it there, or choose 'native'."
        )
        raise ValueError(msg)


def _metric(scores: ScoreMatrix, metric: Any, dtype: str) -> Vector:
    """Return the diagonal of D in pieces, (..., m_k, 1)."""
    pieces, vector = diagonal(scores, metric, "metric", real_name(dtype))
    if not vector:
        msg = f"`metric` must be a diagonal with one entry a column of `{scores.name}`."
        raise ValueError(msg)
    if any(is_complex(piece) for piece in pieces):
        msg = "`metric` is complex; it must be a real diagonal."
        raise TypeError(msg)
    names = (real_name(result_name(dtype, dtype_name(piece.dtype))) for piece in pieces)
    return tuple(astype(piece, name) for piece, name in zip(pieces, names))


def _null(scores: ScoreMatrix, null: Any, dtype: str, *, trusted: bool) -> Array:
    if not trusted or scores.ranks is ALONE:  # ranks have compared what it was made of
        null, _ = sample_vector(scores, null, "null")
    if is_complex(null) and not dtype.startswith("complex"):
        msg = f"`null` is {dtype_name(null.dtype)} but `{scores.name}` is real; pass a real one."
        raise TypeError(msg)
    return astype(null, dtype)

"""Solves for a v that is known to be S^H f, rounded: what lies outside of the row space is noise.

The rounding of v is divided by the damping outside of the row space of S, and by squared singular
values inside, while v itself is small along small singular values. In the eigenbasis
S S^H = U diag(g) U^H of the float64 Gram matrix,

    c_k = u_k^H S v / sqrt(g_k)      is the part of v along the k-th right singular vector,
    noise = u_v |v|                  what rounding to a dtype with unit roundoff u_v did to it,
    phi_k = 1 / (1 + (noise / |c_k|)^6),

and x is the least-squares solution for the f with u_k^H f = phi_k c_k / sqrt(g_k).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

from ngdla._backend.calls import ValueChecks
from ngdla._backend.dtypes import double_name, has_double, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import rmatvec
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

from .factorisation import Factorisation
from .inverses import Spectrum
from .ladder import Outcome, climb
from .methods import Eigenvectors, FirstPass
from .precision import Plan
from .problem import DampedProblem, Options, damped_problem
from .right_hand_side import Layout, LeastSquares, Solve
from .solution import solution

__all__ = ["require_row_space", "row_space_solve", "solve_in_row_space"]


class _Filtered(NamedTuple):
    """The right-hand side f that v stands for."""

    given: Solve
    spectrum: Spectrum
    S_v: Array | None  # S D^-1 v, where a pass gave it
    gram_roundoff: float

    def named(self) -> tuple[tuple[str, Vector], ...]:
        """Return v with its name."""
        return self.given.named()

    def to_columns(self, scores: ScoreMatrix, layout: Layout) -> LeastSquares:
        """Return f, (..., n, k), in the layout of the work."""
        columns = self.given.to_columns(scores, layout)
        values, U = self.spectrum.values, self.spectrum.U
        xp = namespace(values)
        S_v = scores.matvec(columns.v) if self.S_v is None else self.S_v
        t2 = xp.sum(values, axis=-1, keepdims=True)
        known = values > values.shape[-1] * self.gram_roundoff * t2
        root = xp.expand_dims(xp.sqrt(xp.where(known, values, xp.ones_like(values))), axis=-1)
        c = rmatvec(U, S_v) / root
        noise = self.given.unit_roundoff() * xp.expand_dims(layout.column_norms(columns.v), axis=-2)
        size = xp.abs(c)
        some = xp.expand_dims(known, axis=-1) & (size > 0)
        ratio = noise / xp.where(some, size, xp.ones_like(size))
        kept = xp.where(some, 1 / (1 + ratio**6), xp.zeros_like(size))
        return LeastSquares(xp.matmul(U, kept * c / root), None, self.given.vector)


def row_space_solve(
    scores: ScoreMatrix,
    rhs: Solve,
    damping: Any,
    options: Options,
    checks: ValueChecks,
    *,
    full_output: bool,
) -> Any:
    """Return x, or (x, info), for v = S^H f."""
    layout = rhs.layout(scores)
    require_row_space(scores, options.method)
    options = options._replace(method=Eigenvectors())
    problem = damped_problem(scores, damping, options, layout.working)
    return solve_in_row_space(problem, rhs, layout, checks, full_output=full_output)


def solve_in_row_space(
    problem: DampedProblem,
    rhs: Solve,
    layout: Layout,
    checks: ValueChecks,
    *,
    full_output: bool,
) -> Any:
    """Return x, or (x, info), with the eigenvectors of the Gram matrix in double precision."""
    scores = problem.scores
    plan = Plan(Eigenvectors(), double_name(layout.working), double=True)
    problem = dataclasses.replace(problem, plan=plan, refine=0)
    start = None if scores.dense else rhs.to_columns(scores, layout.doubled(single=False)).v
    u = unit_roundoff(scores.gram_dtype or plan.factor)

    def solved(factor: Factorisation, first: FirstPass, _: bool) -> Outcome:
        f = _Filtered(rhs, factor.small.matrix, first.S_start, u)
        use = partial(solution, rhs=f, layout=layout, checks=checks, full_output=full_output)
        return use(factor, FirstPass(), True, judged=False)

    return climb(problem, checks, solved, start=(None, start), keep=True)


def require_row_space(scores: ScoreMatrix, method: Any) -> None:
    """Raise unless there are fewer samples than parameters, a Gram matrix and double precision."""
    if method not in ("auto", Eigenvectors.name):
        msg = (
            f"`method` is {method!r}; with `row_space` it must be 'auto' or {Eigenvectors.name!r}."
        )
        raise ValueError(msg)
    if not scores.wide:
        msg = (
            f"`row_space` is for fewer samples than parameters; `{scores.name}` has {scores.rows} "
            f"rows and {scores.columns} columns. Leave it out."
        )
        raise ValueError(msg)
    if not scores.has_gram:
        msg = f"`row_space` needs the Gram matrix of `{scores.name}`; give `gram` to ScoreOperator."
        raise ValueError(msg)
    if not has_double(scores.like):
        msg = (
            "`row_space` needs double precision, which this device or the settings of JAX do not "
            "have; use jax.enable_x64, or pass f to damped_lstsq."
        )
        raise ValueError(msg)

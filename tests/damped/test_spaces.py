"""Both spaces: their matrices, and residuals that vanish at the solution."""

from __future__ import annotations

import numpy as np
import pytest
from references import H, random_array

from ngdla.damped.methods import METHODS, FirstPass
from ngdla.damped.precision import Plan
from ngdla.damped.right_hand_side import LeastSquares, RightHandSide, Solve
from ngdla.damped.spaces import ParameterSpace, SampleSpace, System
from ngdla.score_matrices.column_blocks import column_blocks

DAMPING, DTYPE = 0.3, "complex128"
PLAN = Plan(METHODS["cholesky"], DTYPE)


def right_hand_side(kind: str, rng: np.random.Generator, n: int, m: int) -> RightHandSide:
    if kind == "solve":
        return Solve((random_array(rng, (m, 2), DTYPE),), False)
    x0 = None if kind == "lstsq" else (random_array(rng, (m, 2), DTYPE),)
    return LeastSquares(random_array(rng, (n, 2), DTYPE), x0, False)


def solution(S: np.ndarray, rhs: RightHandSide) -> np.ndarray:
    A = H(S) @ S + DAMPING * np.eye(S.shape[1])
    if isinstance(rhs, Solve):
        return np.linalg.solve(A, rhs.v[0])
    prior = 0 if rhs.x0 is None else DAMPING * rhs.x0[0]
    return np.linalg.solve(A, H(S) @ rhs.f + prior)


@pytest.mark.parametrize("kind", ["solve", "lstsq", "lstsq from x0"])
@pytest.mark.parametrize("space", [SampleSpace, ParameterSpace])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)], ids=str)
def test_one_exact_solve_ends_at_the_solution(
    kind: str,
    space: type[SampleSpace | ParameterSpace],
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    """Each space serves each shape; only which is the cheaper one depends on it."""
    S = random_array(rng, shape, DTYPE)
    rhs = right_hand_side(kind, rng, *shape)
    t2 = np.asarray(np.linalg.norm(S) ** 2)
    scores = column_blocks(S)
    system = System(
        scores=scores,
        damping=DAMPING,
        squared_norm=t2,
        null=None,
        leak=None,
        rhs=rhs,
        start=rhs.start(DAMPING) if space is SampleSpace else rhs.x0,
        unit=None,
        careful=False,
        accuracy=1e-16,
        u=1e-16,
        plan=PLAN,
        layout=rhs.layout(scores),
        judged=True,
        smallest=lambda: DAMPING,
        inverse_norm=lambda certain: 1 / t2,
    )
    of = space(system)
    small = S @ H(S) if space is SampleSpace else H(S) @ S
    W = small + DAMPING * np.eye(len(small))
    p = random_array(rng, (len(small), 2), DTYPE)
    np.testing.assert_allclose(of.product(p), W @ p, rtol=1e-12)
    r, iterate = of.residual(of.begin(FirstPass()))
    size = np.linalg.norm(r)
    iterate = of.advance(iterate, np.linalg.solve(W, r), product=True)
    assert iterate.x is not None
    np.testing.assert_allclose(iterate.x[0], solution(S, rhs), rtol=1e-11)
    r, iterate = of.residual(iterate)
    assert np.linalg.norm(r) <= 1e-13 * size
    start = rhs.start(DAMPING) if space is SampleSpace else rhs.x0
    if start is not None:
        assert iterate.S_start is not None
        np.testing.assert_allclose(iterate.S_start, S @ start[0], rtol=1e-11)

"""Scores and residuals against their definitions with explicit probabilities."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from backends import Backend
from references import U, sr_data

import ngdla
from ngdla.variational_monte_carlo.centred_scores import MODES, Mode


def test_modes_are_those_of_the_type() -> None:
    assert get_args(Mode) == MODES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_and_residuals(
    backend: Backend, mode: str, weighted: bool, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O, E = sr_data(rng, mode, dtype, 5, 3)
    weights = rng.random(5).astype(real) if weighted else np.ones(5, dtype=real)
    p = weights.astype("float64") / weights.sum(dtype="float64")
    q = np.sqrt(p)
    S, f = q[:, None] * (O - p @ O), q * (E - p @ E)
    if mode == "complex":
        S, f = np.concatenate([S.real, S.imag]), np.concatenate([f.real, f.imag])
    if mode == "real":
        f = f.real
    options: dict[str, Any] = {"weights": backend.asarray(weights)} if weighted else {}
    like = backend.asarray(O)
    kind = dtype if mode == "holomorphic" else real
    bound = 20 * U[dtype]
    result = backend.call(ngdla.scores, like, mode=mode, **options)
    backend.assert_matches(result, S, like=like, dtype=kind, tolerance=bound)
    blocks = backend.call(ngdla.scores, [like[:, :1], like[:, 1:]], mode=mode, **options)
    backend.assert_matches(blocks, [S[:, :1], S[:, 1:]], like=like, dtype=kind, tolerance=bound)
    result = backend.call(ngdla.residuals, backend.asarray(E), mode=mode, **options)
    backend.assert_matches(result, f, like=like, dtype=kind, tolerance=bound)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 3.0, 2.0])])
def test_the_root_of_the_probabilities_is_a_null_vector(
    weights: np.ndarray | None, rng: np.random.Generator
) -> None:
    S = ngdla.scores(rng.standard_normal((4, 9)) + 5.0, weights=weights)
    q = np.sqrt(np.ones(4) / 4 if weights is None else weights / weights.sum())
    assert np.linalg.norm(q @ S) <= 1e-14


@pytest.mark.parametrize("factor", [1e-300, 1e-3, 1e300])
def test_the_scale_of_the_weights_does_not_matter(factor: float, rng: np.random.Generator) -> None:
    O, weights = rng.standard_normal((4, 9)), rng.random(4)
    one, other = ngdla.scores(O, weights=weights), ngdla.scores(O, weights=factor * weights)
    np.testing.assert_allclose(one, other, rtol=1e-13)

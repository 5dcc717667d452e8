"""Which space scores serve: by their types, by what they hand out, and by what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ngdla
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.score_matrices.score_matrix import (
    ParameterScores,
    SampleScores,
    ScoreMatrix,
    StoredScores,
)

S = np.random.default_rng(0).standard_normal((6, 4))
SPACES = {"samples": SampleScores, "parameters": ParameterScores, "stored": StoredScores}


def scores_of(kind: str, S: np.ndarray) -> ScoreMatrix:
    made: dict[str, Any] = {
        "array": lambda: S,
        "blocks": lambda: [S[:, :1], S[:, 1:]],
        "operator": lambda: ngdla.ScoreOperator(
            lambda x: S @ x, lambda y: S.T @ y, S.shape, like=S, batched=True
        ),
        "columns": lambda: ngdla.ColumnStream([S[:, :1], S[:, 1:]], S.shape, dtype="float64"),
        "rows": lambda: ngdla.RowStream([S[:1], S[1:]], S.shape, dtype="float64"),
    }
    return score_matrix(made[kind]())


SERVED = {
    "array": {"samples", "parameters", "stored"},
    "blocks": {"samples", "parameters", "stored"},
    "operator": {"samples", "parameters"},
    "columns": {"samples"},
    "rows": {"parameters"},
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", SERVED)
def test_a_space_is_served_or_refused(kind: str, space: str) -> None:
    scores = scores_of(kind, S)
    assert isinstance(scores, SPACES[space]) == (space in SERVED[kind])
    if space in SERVED[kind]:
        assert getattr(scores, space) is scores
    else:
        with pytest.raises(ValueError, match=f"`S` .*{type(scores).__name__}"):
            getattr(scores, space)


def test_what_is_refused_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match="pass a ColumnStream"):
        _ = scores_of("rows", S).samples
    with pytest.raises(ValueError, match="pass an array, or a RowStream"):
        _ = scores_of("columns", S).parameters
    with pytest.raises(ValueError, match="choose 'cholesky' or 'eigh'"):
        _ = scores_of("operator", S).stored


@pytest.mark.parametrize("kind", SERVED)
def test_wide(kind: str) -> None:
    """Streams have one space, whatever their shape; others the smaller one."""
    forced = {"columns": True, "rows": False}
    assert scores_of(kind, S).wide == forced.get(kind, False)
    assert scores_of(kind, S[:4]).wide == forced.get(kind, False)
    if kind != "rows":
        assert scores_of(kind, S[:3]).wide


@pytest.mark.parametrize("kind", [kind for kind in SERVED if "parameters" in SERVED[kind]])
def test_gradients(kind: str) -> None:
    """S^H (g - S x) and S x, with either of g and x left out."""
    rng = np.random.default_rng(1)
    scores = scores_of(kind, S).parameters
    g, x = rng.standard_normal((6, 2)), rng.standard_normal((4, 2))
    for some, other in ((g, x), (g, None), (None, x)):
        split = None if other is None else scores.split(other)
        gradient, Sx = scores.gradient(some, split)
        product = np.zeros((6, 2)) if other is None else S @ other
        expected = S.T @ ((0 if some is None else some) - product)
        np.testing.assert_allclose(np.concatenate(gradient), expected, atol=1e-13)
        assert (Sx is None) == (other is None)
        if Sx is not None:
            np.testing.assert_allclose(Sx, product, atol=1e-13)


def test_blocks_are_wide_together() -> None:
    """The first block alone has fewer columns than there are rows."""
    assert score_matrix([S[:3, :1], S[:3, 1:]]).wide

"""Null vectors of centred scores: lifted, counted out, and told from others."""

from __future__ import annotations

import numpy as np
import pytest
from references import H, random_array

from ngdla.damped.null_vectors import (
    are_null,
    leak_of,
    lift,
    lift_height,
    lifted_dimension,
    lifted_log_determinant,
    without_null,
)
from ngdla.score_matrices.column_blocks import column_blocks

N = np.full((6, 1), 6**-0.5, dtype="complex128")
DAMPING = 0.3


def centred(rng: np.random.Generator, dtype: str = "complex128") -> np.ndarray:
    S = random_array(rng, (6, 11), dtype)
    return S - S.mean(axis=0)


def test_the_lifted_eigenvalue_is_the_mean_one(rng: np.random.Generator) -> None:
    S = centred(rng)
    G = S @ H(S)
    height = lift_height(np.trace(G).real, column_blocks(S))
    lifted = lift(G, N, height)
    np.testing.assert_allclose(lifted @ N, height * N, atol=1e-14 * height)
    np.testing.assert_allclose(np.linalg.eigvalsh(G)[1:].sum(), height * 6, rtol=1e-13)
    np.testing.assert_allclose(without_null(G, N), G, atol=1e-14 * height)


def test_sums_over_eigenvalues_leave_the_lifted_ones_out(rng: np.random.Generator) -> None:
    S = centred(rng)
    G = S @ H(S)
    height = lift_height(np.trace(G).real, column_blocks(S))
    lifted, plain = (np.linalg.eigvalsh(A) for A in (lift(G, N, height), G))
    plain[0] = 0.0
    for function, term in (
        (lifted_log_determinant, lambda s: np.log(s + DAMPING)),
        (lifted_dimension, lambda s: s / (s + DAMPING)),
    ):
        found = np.sum(term(lifted)) - function(N, height, DAMPING)
        np.testing.assert_allclose(found, np.sum(term(plain)), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_null_vectors_are_told_at_every_scale(scale: float, rng: np.random.Generator) -> None:
    S = centred(rng)
    for matrix, vectors, expected in (
        (S, N, True),
        (S + 1e-6, N, False),
        (S, 2 * N, False),
        (S, np.concatenate([N, N], axis=1), False),
    ):
        scores = column_blocks(scale * matrix)
        G = scores.blocks[0] @ H(scores.blocks[0])
        leak = leak_of(vectors, scores, None)
        found = are_null(vectors, leak, np.asarray(np.trace(G).real), "complex128")
        assert bool(found) is expected


def test_the_gram_matrix_knows_the_leak_too(rng: np.random.Generator) -> None:
    S = random_array(rng, (6, 11), "complex128")
    scores = column_blocks(S)
    by_pass, by_gram = leak_of(N, scores, None), leak_of(N, scores, S @ H(S))
    np.testing.assert_allclose(by_gram, by_pass, rtol=1e-13)
    np.testing.assert_allclose(by_pass, np.linalg.norm(H(S) @ N), rtol=1e-13)

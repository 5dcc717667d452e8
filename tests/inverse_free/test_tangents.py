"""Tangents of a batch against their definitions: dense matrices, projections and derivatives."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from backends import Backend
from dense_updates import NAMES, PATTERNS, basis, member, project, structure
from references import U, narrow, random_array
from spectra import REAL, needs, quick_compilation, relative  # noqa: F401

from ngdla.inverse_free.tangents import RULES, Rule, add_momentum, tangents
from ngdla.structures import StructuredMatrix

IN, OUT, ROWS, DAMPING = 6, 5, 20, 0.3
EPS = U["float64"]
in_every_structure = pytest.mark.parametrize("name", NAMES)
by_every_rule = pytest.mark.parametrize("rule", RULES)


class Problem:
    """Members K and C of a structure, and samples: dense, and as `tangents` takes them."""

    def __init__(self, rng: np.random.Generator, name: str) -> None:
        self.pair = structure(name, IN), structure(name, OUT)
        self.K, self.C = member(rng, name, IN), member(rng, name, OUT)
        self.a, self.g = rng.standard_normal((ROWS, IN)), rng.standard_normal((ROWS, OUT))

    def tangents(self, rule: Rule, damping: float = DAMPING, scale: float = 1.0) -> Any:
        """Return both tangents, for K times a number and C over it."""
        K, C = (s.from_dense(F) for s, F in zip(self.pair, (scale * self.K, self.C / scale)))
        H_pair = K.project_inner(self.a), C.project_inner(self.g)
        grams = K.project_gram(), C.project_gram()
        return tangents(rule, H_pair, grams, np.asarray(float(ROWS)), damping)

    def dense(self) -> tuple[np.ndarray, ...]:
        """Return K^T U K, C^T G C, K^T K and C^T C for means U and G over rows."""
        second = self.a.T @ self.a / ROWS, self.g.T @ self.g / ROWS
        return (
            *(F.T @ S @ F for F, S in zip((self.K, self.C), second)),
            *(F.T @ F for F in (self.K, self.C)),
        )


def off(found: StructuredMatrix, expected: np.ndarray) -> float:
    """Return the error of a tangent, relative to the matrices of which it is the difference."""
    return relative(found.to_dense() + np.eye(len(expected)), expected + np.eye(len(expected)))


@in_every_structure
def test_ikfac_takes_each_factor_by_itself(name: str, rng: np.random.Generator) -> None:
    """m_K = (Pi(K^T U K) + damping Pi(K^T K) - I) / 2, and the mirror image."""
    problem = Problem(rng, name)
    H_K, H_C, K_K, C_C = problem.dense()
    m_K, m_C = problem.tangents("ikfac")
    assert off(m_K, (project(name, H_K + DAMPING * K_K) - np.eye(IN)) / 2) <= 10 * ROWS * EPS
    assert off(m_C, (project(name, H_C + DAMPING * C_C) - np.eye(OUT)) / 2) <= 10 * ROWS * EPS


@in_every_structure
def test_ingd_weighs_each_factor_by_traces_of_the_other(
    name: str, rng: np.random.Generator
) -> None:
    """2 d_out m_K = tr(H_C) Pi(H_K) + damping tr(C^T C) Pi(K^T K) - d_out I, and the mirror."""
    problem = Problem(rng, name)
    H_K, H_C, K_K, C_C = problem.dense()
    N_K = np.trace(H_C) * H_K + DAMPING * np.trace(C_C) * K_K
    N_C = np.trace(H_K) * H_C + DAMPING * np.trace(K_K) * C_C
    m_K, m_C = problem.tangents("ingd")
    assert off(m_K, (project(name, N_K / OUT) - np.eye(IN)) / 2) <= 10 * ROWS * EPS
    assert off(m_C, (project(name, N_C / IN) - np.eye(OUT)) / 2) <= 10 * ROWS * EPS


@by_every_rule
@pytest.mark.thinned
@pytest.mark.parametrize("name", ["dense", "block-diagonal", "hierarchical", "upper-toeplitz"])
def test_layers_are_stacked_on_every_library(
    backend: Backend, dtype: str, name: str, rule: Rule, rng: np.random.Generator
) -> None:
    """At K = C = I, with numbers of rows and dampings of their own."""
    needs(backend, dtype)
    a, g = (random_array(rng, (2, ROWS, d), dtype) for d in (IN, OUT))
    rows, damping = np.array([5.0, 20.0], REAL[dtype]), np.array([0.1, 0.4], REAL[dtype])

    def run(a: Any, g: Any, rows: Any, damping: Any) -> Any:
        pair = structure(name, IN), structure(name, OUT)
        K, C = (s.identity(d, like=a, batch=(2,)) for s, d in zip(pair, (IN, OUT)))
        H_pair = K.project_inner(a), C.project_inner(g)
        grams = K.project_gram(), C.project_gram()
        return [m.to_dense() for m in tangents(rule, H_pair, grams, rows, damping)]

    like = backend.asarray(a)
    found = backend.call(run, like, *(backend.asarray(x) for x in (g, rows, damping)))
    for which, m in enumerate(found):
        expected = []
        for a_i, g_i, n, c in zip(narrow(a), narrow(g), rows, damping):
            one, other = ((x.T @ np.conj(x) / n) for x in ((a_i, g_i), (g_i, a_i))[which])
            mean = 1.0 if rule == "ikfac" else np.trace(other).real / len(other)
            N = mean * one + c * np.eye(len(one))
            expected.append((project(name, N) - np.eye(len(one))) / 2)
        tolerance = 10 * ROWS * U[dtype]
        backend.assert_matches(m, np.array(expected), like=like, dtype=dtype, tolerance=tolerance)


def objective(K: np.ndarray, C: np.ndarray, problem: Problem) -> float:
    """tr(K^T U K) tr(C^T G C) + damping tr(K^T K) tr(C^T C) - 2 d_out log|K| - 2 d_in log|C|."""
    X, Y = problem.a @ K, problem.g @ C
    traces = np.sum(X**2) * np.sum(Y**2) / ROWS**2 + DAMPING * np.sum(K**2) * np.sum(C**2)
    return float(traces - 2 * OUT * np.linalg.slogdet(K)[1] - 2 * IN * np.linalg.slogdet(C)[1])


@in_every_structure
def test_ingd_is_the_gradient_of_its_objective(name: str, rng: np.random.Generator) -> None:
    """Along K (I + t M) it is 4 d_out <sym m_K, sym M>, for each M of a basis of the tangents."""
    problem, t = Problem(rng, name), 1e-5
    m = problem.tangents("ingd")[0].to_dense()
    for M in basis(name, IN):
        ahead, behind = (
            objective(problem.K @ (np.eye(IN) + s * M), problem.C, problem) for s in (t, -t)
        )
        inner = np.sum((m + m.T) / 2 * (M + M.T) / 2)
        assert (ahead - behind) / (2 * t) == pytest.approx(4 * OUT * inner, rel=1e-6, abs=1e-6)


@in_every_structure
def test_only_the_product_of_the_factors_matters_to_ingd(
    name: str, rng: np.random.Generator
) -> None:
    """K times 8 and C over 8 is exact in binary; both tangents stay as they are."""
    problem = Problem(rng, name)
    for one, other in zip(problem.tangents("ingd"), problem.tangents("ingd", scale=8.0)):
        assert relative(other.to_dense(), one.to_dense()) <= 10 * EPS


@by_every_rule
@in_every_structure
def test_eigenvalues_are_never_below_minus_one_half(
    name: str, rule: Rule, rng: np.random.Generator
) -> None:
    """They are those of the symmetric diagonal blocks: I + step m is invertible for any batch."""
    for scale in (1e-3, 1.0, 1e3):
        problem = Problem(rng, name)
        problem.a, problem.g = scale * problem.a, scale * problem.g
        for m in problem.tangents(rule):
            dense = m.to_dense()
            pattern = PATTERNS[name](len(dense))
            values = np.linalg.eigvalsh(dense * (pattern & pattern.T))
            assert values[0] >= -0.5 - 10 * ROWS * EPS * max(1, values[-1])


@in_every_structure
def test_momentum_adds_a_part_of_the_last_tangent(name: str, rng: np.random.Generator) -> None:
    s = structure(name, IN)
    new, last = (project(name, x + x.T) for x in rng.standard_normal((2, IN, IN)))
    found = add_momentum(s.from_dense(new), 0.75, s.from_dense(last)).to_dense()
    np.testing.assert_allclose(found, new + 0.75 * last, rtol=4 * EPS, atol=4 * EPS)


def test_no_momentum_needs_no_last_tangent() -> None:
    m = structure("dense", 2).from_dense(np.eye(2))
    assert add_momentum(m, 0.0, None) is m
    with pytest.raises(ValueError, match=r"`momentum` .*inverse_free_init\(momentum=True\)"):
        add_momentum(m, 0.5, None)


def test_rules_are_those_of_the_type() -> None:
    assert get_args(Rule) == tuple(RULES)


def test_statistics_are_left_as_they_are(rng: np.random.Generator) -> None:
    """Sums in place take arrays of their own: a second call gives the same."""
    K, C = structure("dense", IN).identity(IN, like=np.zeros(1)), structure("dense", OUT)
    H_pair = K.project_inner(rng.standard_normal((ROWS, IN))), C.identity(OUT, like=np.zeros(1))
    grams = K.project_gram(), C.identity(OUT, like=np.zeros(1))
    before = [M.to_dense().copy() for M in (*H_pair, *grams)]
    tangents("ingd", H_pair, grams, np.asarray(1.0), DAMPING)
    for M, dense in zip((*H_pair, *grams), before):
        np.testing.assert_array_equal(M.to_dense(), dense)

"""Averages and statistics over ranks, as docs/guide/engines.md sums them, are those of one rank."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from shards_of import equal, spans, uneven
from thread_ranks import run_ranks

import ngdla

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "engines.md"
RANKS = 3
M, D_IN, D_OUT = 24, 7, 5


def functions():
    """Return the functions that the page defines."""
    names = {}
    for example in doctest.DocTestParser().get_examples(PAGE.read_text(encoding="utf-8")):
        if example.source.startswith(("def ", "import numpy", "import ngdla")):
            exec(example.source, names)
    return names


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((M, D_IN)), rng.standard_normal((M, D_OUT))


def everywhere(function, sizes, *arrays):
    """Return what function(comm, *parts) gives on all ranks, which have rows of their own."""
    parts = spans(sizes(M, RANKS))
    found = run_ranks(RANKS, lambda comm: function(comm, *(x[parts[comm.rank]] for x in arrays)))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    return found[0]


@pytest.mark.parametrize("sizes", [equal, uneven])
def test_average(sizes, rows):
    average, A, X = functions()["average"], np.diag(np.arange(1.0, D_IN + 1)), rows[0]
    found = everywhere(lambda comm, X: average(comm, A, X, 0.75), sizes, X)
    np.testing.assert_allclose(found, 0.75 * A + 0.25 * X.T @ X / M, rtol=1e-13, atol=1e-14)


def test_a_rank_with_nan_keeps_its_part_of_the_average(rows):
    average, A, X = functions()["average"], np.eye(D_IN), rows[0].copy()
    bad = spans(equal(M, RANKS))[1]
    X[bad.start] = np.nan
    good = np.delete(X, np.r_[bad], axis=0)
    found = everywhere(lambda comm, X: average(comm, A, X, 0.75), equal, X)
    expected = 2 / 3 * (0.75 * A + 0.25 * good.T @ good / len(good)) + A / 3
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("sizes", [equal, uneven])
def test_statistics(sizes, rows):
    summed, state = functions()["summed"], ngdla.inverse_free_init(D_IN, D_OUT, like=rows[0])

    def updated(statistics):
        new = ngdla.inverse_free_update(state, statistics, damping=1e-2, step_size=0.1)
        return ngdla.inverse_free_apply(new, np.ones((D_OUT, D_IN)))

    def on_a_rank(comm, a, g):
        return updated(summed(comm, ngdla.inverse_free_statistics(state, a, g)))

    whole = updated(ngdla.inverse_free_statistics(state, *rows))
    np.testing.assert_allclose(everywhere(on_a_rank, sizes, *rows), whole, rtol=1e-12)


def test_weights_of_samples(rows):
    natural_gradient = functions()["natural_gradient"]
    found = everywhere(lambda comm, a, g: natural_gradient(comm, a, g, 1e-2), equal, *rows)
    c = ngdla.sample_weights(ngdla.sample_gram(*rows), 1e-2)
    whole = ngdla.weighted_gradient(*rows, c)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-11 * np.linalg.norm(whole))


def test_samples_of_which_ranks_have_parts_of_the_gradients(rows):
    a, g = rows
    parts = spans(equal(D_OUT, RANKS))

    def on_a_rank(comm):
        return comm.all_reduce_sum(ngdla.sample_gram(a, g[:, parts[comm.rank]]))

    K = ngdla.sample_gram(a, g)
    np.testing.assert_allclose(run_ranks(RANKS, on_a_rank)[0], K, rtol=0, atol=1e-13 * np.max(K))

"""Shards that few programs have: none of the samples, in any form, and odd numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import U, condition, random_array, scores_with_spectrum
from thread_ranks import ThreadCommunicator, run_ranks

import ngdla
from ngdla._backend.trees import tree_leaves

DAMPING = 1e-2
SHAPES = [(8, 31), (31, 8), (9, 9)]
lstsq = ngdla.damped_lstsq


def as_array(S: np.ndarray) -> Any:
    return S


def as_blocks(S: np.ndarray) -> Any:
    return [S[..., :1], S[..., 1:]]


def as_tree(S: np.ndarray) -> Any:
    return {"b": S[..., :1], "w": S[..., 1:, None]}


@pytest.mark.parametrize("form", [as_array, as_blocks, as_tree])
@pytest.mark.parametrize("kind", [ngdla.ColumnShards, ngdla.RowShards])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rank_with_nothing_has_it_in_any_form(
    rng: np.random.Generator, form: Any, kind: Any, pack: bool, shape: tuple[int, int]
) -> None:
    n, m = shape
    if pack and form is as_blocks:
        return  # blocks are 2-D
    dtype = "complex128" if pack else "float64"
    O = random_array(rng, (n, 2, m) if pack else shape, dtype)
    E = random_array(rng, (n,), dtype)
    options = {"mode": "complex" if pack else "real", "pack": pack}
    expected = ngdla.stochastic_reconfiguration(O, E, 1.0, **options)

    def run(comm: ThreadCommunicator) -> Any:
        own = slice(None) if comm.rank == 1 else slice(0, 0)
        by_columns = kind is ngdla.ColumnShards
        shards = kind(form(O[..., own] if by_columns else O[own]), comm)
        d = ngdla.stochastic_reconfiguration(shards, E if by_columns else E[own], 1.0, **options)
        return np.concatenate([np.ravel(part) for part in tree_leaves(d)[0]])

    of_none, of_all, _ = run_ranks(3, run)
    np.testing.assert_allclose(of_all, expected, rtol=0, atol=1e-12 * np.linalg.norm(expected))
    assert len(of_none) == (0 if kind is ngdla.ColumnShards else m)


@pytest.mark.parametrize("kind", [ngdla.ColumnShards, ngdla.RowShards])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_of_torch(rng: np.random.Generator, kind: Any, shape: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    n, m = shape
    S, f = (torch.asarray(random_array(rng, k, "float32")).bfloat16() for k in (shape, (n,)))
    expected = lstsq(S, f, 1.0)

    def run(comm: ThreadCommunicator) -> Any:
        own, part = (slice(0, 4), slice(4, None))[comm.rank], slice(m // 2, None)
        if kind is ngdla.ColumnShards:
            x = lstsq(kind(S[:, part] if comm.rank else S[:, : m // 2], comm), f, 1.0)
            return x, expected[part] if comm.rank else expected[: m // 2]
        x = ngdla.stochastic_reconfiguration(kind(S[own], comm), f[own], 1.0)
        return x, ngdla.stochastic_reconfiguration(S, f, 1.0)

    for x, whole in run_ranks(2, run):
        bound = 100 * U["float32"] * condition(S.float().numpy(), 1.0)
        assert torch.linalg.norm(x - whole) <= bound * torch.linalg.norm(expected)


class CountsInNumPy(ThreadCommunicator):
    """A communicator whose rank and size are integers of NumPy."""

    def __init__(self, comm: ThreadCommunicator) -> None:
        vars(self).update(vars(comm), rank=np.int64(comm.rank), size=np.int64(comm.size))


def test_ranks_counted_in_integers_of_numpy(rng: np.random.Generator) -> None:
    S = scores_with_spectrum(rng, 9, 31, "float64", decades=1)
    f = random_array(rng, (9,), "float64")

    def run(comm: ThreadCommunicator) -> Any:
        own = slice(3 * comm.rank, 3 * comm.rank + 3)
        return lstsq(ngdla.RowShards(S[own], CountsInNumPy(comm)), f[own], DAMPING)

    x, expected = np.concatenate(run_ranks(3, run)), lstsq(S, f, DAMPING)
    bound = 100 * U["float64"] * condition(S, DAMPING)
    assert np.linalg.norm(x - expected) <= bound * np.linalg.norm(expected)

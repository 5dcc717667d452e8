"""Steps of stochastic reconfiguration from walkers, or parameters, that lie on several ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, condition, random_array, sr_data
from shards_of import LAYOUTS, PLACES, put_together, sharded
from thread_ranks import ThreadCommunicator, run_ranks

import ngdla

DAMPING = 1e-2
SHAPES = [(12, 61), (61, 12), (12, 17)]
MODES = ("real", "complex", "holomorphic")
Given = dict[str, np.ndarray]
sr = ngdla.stochastic_reconfiguration

# Options, and the axes of those that are vectors.
OPTIONS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "plain": lambda g: {},
    "weights": lambda g: {"weights": g["weights"]},
    "momentum": lambda g: {"previous": g["previous"], "momentum": 0.9},
    "metric": lambda g: {"metric": g["metric"], "weights": g["weights"]},
    "snr": lambda g: {"snr": 1.0},
    "cutoff": lambda g: {"cutoff": 1e-3},
    "method": lambda g: {"method": "eigh"},
    "tiny damping": lambda g: {"damping": 1e-13},
}
N_AXIS, M_AXIS = ("E", "weights"), ("previous", "metric")


def problem(rng: np.random.Generator, mode: str, n: int, m: int) -> tuple[np.ndarray, Given]:
    O, E = sr_data(rng, mode, "float64" if mode == "real" else "complex128", n, m)
    weights = rng.random(n)
    weights[n // 2] = 0.0
    previous = random_array(rng, (m,), "complex128" if mode == "holomorphic" else "float64")
    given = {"E": E, "weights": weights, "previous": previous, "metric": rng.uniform(0.5, 2.0, m)}
    return O, given


def step(O: Any, given: Given, options: Callable[[Given], dict[str, Any]], **more: Any) -> Any:
    return sr(O, given["E"], **{"damping": DAMPING, **options(given), **more})


def steps_of_ranks(
    O: np.ndarray, given: Given, layout: str, ranks: int, option: str, **more: Any
) -> list[Any]:
    def call(shards: Any, n_axis: Callable[..., Any], m_axis: Callable[..., Any]) -> Any:
        whole = LAYOUTS[layout][0] == "rows" and more.get("gathered", True)
        cut = {name: n_axis(given[name]) for name in N_AXIS}
        cut |= {name: given[name] if whole else m_axis(given[name]) for name in M_AXIS}
        return step(shards, cut, OPTIONS[option], **more)

    return sharded(call, O, layout, ranks, Backend())


@pytest.mark.parametrize(("layout", "ranks"), PLACES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", OPTIONS)
def test_step_of_one_process(
    rng: np.random.Generator,
    option: str,
    mode: str,
    shape: tuple[int, int],
    ranks: int,
    layout: str,
) -> None:
    O, given = problem(rng, mode, *shape)
    expected = step(O, given, OPTIONS[option], mode=mode)
    parts = steps_of_ranks(O, given, layout, ranks, option, mode=mode)
    if LAYOUTS[layout][0] == "columns":
        parts = [np.concatenate(parts)]
    centred = O - np.mean(O, axis=0)
    damping = 1e-13 if option == "tiny damping" else DAMPING
    bound = 1000 * U["float64"] * condition(centred / len(O) ** 0.5, damping)
    for whole in parts:  # rows: the whole step on every rank, the same bits
        np.testing.assert_array_equal(whole, parts[0])
        assert whole.dtype == expected.dtype
        assert np.linalg.norm(whole - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize("layout", ["rows", "uneven rows"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["weights", "momentum", "metric"])
def test_each_rank_keeps_its_part_of_the_step(
    rng: np.random.Generator, option: str, mode: str, layout: str
) -> None:
    O, given = problem(rng, mode, 12, 61)
    expected = step(O, given, OPTIONS[option], mode=mode)
    parts = steps_of_ranks(O, given, layout, 3, option, mode=mode, gathered=False)
    result = put_together(parts, "m", layout, O.shape)
    bound = 1000 * U["float64"] * condition(O - np.mean(O, axis=0), DAMPING)
    assert np.linalg.norm(result - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores(
    rng: np.random.Generator, weighted: bool, shape: tuple[int, int], layout: str
) -> None:
    O, given = problem(rng, "real", *shape)
    option = OPTIONS["weights" if weighted else "plain"]
    expected = ngdla.scores(O, **option(given))

    def call(shards: Any, n_axis: Callable[..., Any], m_axis: Callable[..., Any]) -> Any:
        S = ngdla.scores(shards, **option({"weights": n_axis(given["weights"])}))
        assert type(S) is type(shards)
        return S.local

    parts = sharded(call, O, layout, 3, Backend())
    axis = -1 if LAYOUTS[layout][0] == "columns" else -2
    result = np.concatenate(parts, axis=axis)
    np.testing.assert_allclose(result, expected, atol=100 * U["float64"] * np.max(np.abs(O)))


def test_certificate_and_ratios_are_the_same_on_all_ranks(rng: np.random.Generator) -> None:
    O, given = problem(rng, "complex", 12, 61)
    options = {"mode": "complex", "snr": 1.0, "full_output": True}
    expected = step(O, given, OPTIONS["plain"], **options)[1]
    for layout in ("columns", "rows"):
        for _, info in steps_of_ranks(O, given, layout, 3, "plain", **options):
            np.testing.assert_allclose(info.snr, expected.snr, rtol=1e-10)


def test_trees_of_walkers(rng: np.random.Generator) -> None:
    """Each rank has its walkers' rows of a tree of parameters, and gets the whole tree back."""
    O, given = problem(rng, "real", 12, 61)
    tree = {"b": O[:, :1], "w": O[:, 1:].reshape(12, 4, 15)}
    expected = step(tree, given, OPTIONS["plain"])

    def run(comm: ThreadCommunicator) -> Any:
        own = slice(6 * comm.rank, 6 * comm.rank + 6)
        part = {name: rows[own] for name, rows in tree.items()}
        return sr(ngdla.RowShards(part, comm), given["E"][own], DAMPING)

    for result in run_ranks(2, run):
        for name, x in expected.items():
            assert result[name].shape == x.shape
            np.testing.assert_allclose(result[name], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_streams_of_walkers(rng: np.random.Generator, mode: str, weighted: bool) -> None:
    """The means of all ranks are subtracted from rows that arrive in blocks."""
    O, given = problem(rng, mode, 71, 12)
    O[35] = np.nan if weighted else O[35]  # of weight 0
    options = {"mode": mode, "weights": given["weights"] if weighted else None}
    if weighted:
        given["weights"][:] = np.arange(71.0) + 1
        given["weights"][35] = 0
    expected = sr(O, given["E"], DAMPING, **options)

    def run(comm: ThreadCommunicator) -> Any:
        own = slice(0, 30) if comm.rank == 0 else slice(30, 71)
        rows = O[own]
        stream = ngdla.RowStream([rows[:7], rows[7:]], rows.shape, dtype=O.dtype.name)
        weights = given["weights"][own] if weighted else None
        shards = ngdla.RowShards(stream, comm)
        return sr(shards, given["E"][own], DAMPING, **{**options, "weights": weights})

    first, second = run_ranks(2, run)
    np.testing.assert_array_equal(first, second)
    used = np.delete(O, 35, axis=0)
    bound = 1000 * U["float64"] * condition(used - np.mean(used, axis=0), DAMPING)
    assert np.linalg.norm(first - expected) <= bound * np.linalg.norm(expected)


def test_streams_of_columns(rng: np.random.Generator) -> None:
    """Each rank streams its own parameters, centred as they arrive."""
    O, given = problem(rng, "real", 12, 61)
    expected = sr(O, given["E"], DAMPING)

    def run(comm: ThreadCommunicator) -> Any:
        own = O[:, :20] if comm.rank == 0 else O[:, 20:]
        stream = ngdla.ColumnStream([own[:, :7], own[:, 7:]], own.shape, dtype="float64")
        return sr(ngdla.ColumnShards(stream, comm), given["E"], DAMPING)

    x = np.concatenate(run_ranks(2, run))
    bound = 1000 * U["float64"] * condition(O - np.mean(O, axis=0), DAMPING)
    assert np.linalg.norm(x - expected) <= bound * np.linalg.norm(expected)

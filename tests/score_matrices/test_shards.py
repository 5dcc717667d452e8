"""Scores that lie on several ranks give what they give in one place, whatever the layout."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import U, condition, random_array, scores_with_spectrum
from shards_of import LAYOUTS, PLACES, put_together, sharded
from thread_ranks import ThreadCommunicator, run_ranks

import ngdla
from ngdla._backend import shapes
from ngdla._backend.handshake import WORDS
from ngdla._backend.trees import tree_leaves
from ngdla.distributed import Collective, RecordingCommunicator, SerialCommunicator

DAMPING = 1e-2
SHAPES = [(8, 31), (31, 8), (9, 9)]
EAGER = ("numpy", "strict", "torch", "cupy", "cupy-double")


class Given:
    """What a call takes beside S: whole vectors, cut for a rank by `n_axis` and `m_axis`."""

    def __init__(self, rng: np.random.Generator, S: np.ndarray, dtype: str) -> None:
        n, m = S.shape
        real = S.real.dtype
        self.v, self.f, self.x0, self.y = (random_array(rng, (k,), dtype) for k in (m, n, m, n))
        self.V = random_array(rng, (m, 3), dtype)
        self.metric = rng.uniform(0.5, 2.0, m).astype(real)
        self.null = np.full((n, 1), n**-0.5, dtype)

    def cut(self, n_axis: Callable[..., Any], m_axis: Callable[..., Any]) -> Given:
        """Return the parts of a rank."""
        part = object.__new__(Given)
        part.v, part.x0, part.V, part.metric = map(m_axis, (self.v, self.x0, self.V, self.metric))
        part.f, part.y, part.null = map(n_axis, (self.f, self.y, self.null))
        return part


Call = Callable[[Any, Given], Any]


def factored(use: Callable[[Any, Given], Any], **options: Any) -> Call:
    return lambda S, g: use(ngdla.damped_factor(S, DAMPING, **options), g)


lstsq, solve = ngdla.damped_lstsq, ngdla.damped_solve
# Calls by the axis of their results.
OF_PARAMETERS: dict[str, Call] = {
    "solve": lambda S, g: solve(S, g.v, DAMPING),
    "solve, several": lambda S, g: solve(S, g.V, DAMPING, refine=1),
    "lstsq": lambda S, g: lstsq(S, g.f, DAMPING),
    "lstsq, x0, metric": lambda S, g: lstsq(S, g.f, DAMPING, x0=g.x0, metric=g.metric, refine=2),
    "lstsq, eigh": lambda S, g: lstsq(S, g.f, DAMPING, method="eigh"),
    "lstsq, cg": lambda S, g: lstsq(S, g.f, DAMPING, method="cg"),
    "lstsq, mixed": lambda S, g: lstsq(S, g.f, DAMPING, precision="mixed"),
    "lstsq, unchecked": lambda S, g: lstsq(S, g.f, DAMPING, check=False),
    "lstsq, nan": lambda S, g: lstsq(S, g.f, DAMPING, check="nan"),
    "factor.solve": factored(lambda F, g: F.solve(g.v)),
    "factor.lstsq": factored(lambda F, g: F.lstsq(g.f, x0=g.x0)),
    "factor.with_damping": factored(lambda F, g: F.with_damping(0.3).solve(g.v), method="eigh"),
    "column_norms": lambda S, g: ngdla.column_norms(S),
}
OF_SAMPLES: dict[str, Call] = {
    "factor.leave_one_out": factored(lambda F, g: F.leave_one_out(g.f)),
}
IN_COMMON: dict[str, Call] = {
    "gram": lambda S, g: ngdla.gram(S),
    "factor.logdet": factored(lambda F, g: F.logdet()),
    "factor.effective_dimension": factored(lambda F, g: F.effective_dimension()),
    "factor.overlap": factored(lambda F, g: F.overlap(g.v)),
    "path, residuals": lambda S, g: ngdla.damping_path(S, g.f, [0.1, 1.0]).residual_norm,
    "path, lengths": lambda S, g: ngdla.damping_path(S, g.f, [0.1, 1.0]).solution_norm,
    "path, leave one out": lambda S, g: ngdla.damping_path(S, g.f, [0.1, 1.0]).leave_one_out,
    "path.at_step": lambda S, g: ngdla.damping_path(S, g.f, [0.1]).at_step(0.1),
    "length of the step": lambda S, g: solve(S, g.v, DAMPING, full_output=True)[1].step_norm,
    "effective dimension": lambda S, g: ngdla.damping_path(S, g.f, [0.1]).effective_dimension,
}
CALLS = {
    (name, axis): call
    for axis, calls in (("m", OF_PARAMETERS), ("n", OF_SAMPLES), ("", IN_COMMON))
    for name, call in calls.items()
}


def assert_equal(
    backend: Backend,
    call: Call,
    axis: str,
    S: np.ndarray,
    given: Given,
    layout: str,
    ranks: int,
    damping: float = DAMPING,
) -> None:
    """Assert that ranks and one process have the same result, to rounding."""
    expected = call(S, given)
    parts = sharded(
        lambda shards, n_axis, m_axis: backend.numpy(call(shards, given.cut(n_axis, m_axis))),
        S,
        layout,
        ranks,
        backend,
    )
    result = put_together(parts, axis, layout, S.shape)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    bound = 100 * U[str(S.dtype)] * condition(S, damping) * np.linalg.norm(expected)
    assert np.linalg.norm(result - expected) <= bound


@pytest.fixture(params=EAGER)
def library(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


@pytest.mark.parametrize(("layout", "ranks"), PLACES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "axis"), CALLS, ids=[name for name, _ in CALLS])
def test_results_of_one_process(
    rng: np.random.Generator, name: str, axis: str, shape: tuple[int, int], ranks: int, layout: str
) -> None:
    S = scores_with_spectrum(rng, *shape, "float64", decades=1)
    given = Given(rng, S, "float64")
    assert_equal(Backend(), CALLS[name, axis], axis, S, given, layout, ranks)


@pytest.mark.thinned
@pytest.mark.parametrize("layout", ["uneven columns", "rows"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["solve", "lstsq, x0, metric", "factor.with_damping"])
def test_libraries_and_dtypes(
    library: Backend,
    dtype: str,
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    layout: str,
) -> None:
    if dtype not in library.dtypes:
        pytest.skip("no such dtype here")
    S = scores_with_spectrum(rng, *shape, dtype, decades=1)
    given = Given(rng, S, dtype)
    assert_equal(library, CALLS[name, "m"], "m", S, given, layout, 2)


def test_eager_arrays_of_jax(rng: np.random.Generator) -> None:
    S = scores_with_spectrum(rng, 8, 31, "float32", decades=1)
    given = Given(rng, S, "float32")
    assert_equal(BACKENDS["jax"](), CALLS["solve", "m"], "m", S, given, "columns", 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("damping", [DAMPING, 1e-13])
def test_null_vectors(
    rng: np.random.Generator, damping: float, shape: tuple[int, int], layout: str
) -> None:
    S = scores_with_spectrum(rng, *shape, "float64", decades=1)
    given = Given(rng, S, "float64")
    q = given.null
    S, given.f = S - q @ (q.T @ S), given.f - q[:, 0] * (q[:, 0] @ given.f)
    call = lambda S, g: lstsq(S, g.f, damping, null=g.null)  # noqa: E731
    assert_equal(Backend(), call, "m", S, given, layout, 3, damping)


# ----------------------------------------------------------------------- blocks, trees, streams


def as_blocks(S: np.ndarray) -> Any:
    return [S[:, :1], S[:, 1:]]


def as_tree(S: np.ndarray) -> Any:
    return {"b": S[:, :1], "w": S[:, 1:].reshape(len(S), -1, 1)}


def as_stream(S: np.ndarray) -> Any:
    return ngdla.ColumnStream([S[:, :2], S[:, 2:]], S.shape, dtype="float64")


@pytest.mark.parametrize("form", [as_blocks, as_tree, as_stream])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forms_of_a_rank_s_columns(
    rng: np.random.Generator, form: Callable[[Any], Any], shape: tuple[int, int]
) -> None:
    S = scores_with_spectrum(rng, *shape, "float64", decades=1)
    f = random_array(rng, (len(S),), "float64")
    expected = lstsq(S, f, DAMPING)
    cut = shape[1] // 3 + 1

    def run(comm: ThreadCommunicator) -> Any:
        own = S[:, cut:] if comm.rank else S[:, :cut]
        x = lstsq(ngdla.ColumnShards(form(own), comm), f, DAMPING)
        return np.concatenate([np.ravel(part) for part in tree_leaves(x)[0]])

    x = np.concatenate(run_ranks(2, run))
    bound = 100 * U["float64"] * condition(S, DAMPING)
    assert np.linalg.norm(x - expected) <= bound * np.linalg.norm(expected)


def test_a_stream_of_rows_on_each_rank(rng: np.random.Generator) -> None:
    S = scores_with_spectrum(rng, 31, 8, "float64", decades=1)
    f = random_array(rng, (31,), "float64")
    expected = lstsq(S, f, DAMPING)

    def run(comm: ThreadCommunicator) -> Any:
        own = slice(0, 12) if comm.rank == 0 else slice(12, 31)
        part = S[own]
        rows = ngdla.RowStream([part[:5], part[5:]], part.shape, dtype="float64")
        return lstsq(ngdla.RowShards(rows, comm), f[own], DAMPING)

    first, second = run_ranks(2, run)
    np.testing.assert_array_equal(first, second)
    bound = 100 * U["float64"] * condition(S, DAMPING)
    assert np.linalg.norm(first - expected) <= bound * np.linalg.norm(expected)


def test_stacks_of_problems(rng: np.random.Generator) -> None:
    S = np.stack([scores_with_spectrum(rng, 8, 30, "float64", decades=1) for _ in range(2)])
    f = random_array(rng, (2, 8), "float64")
    dampings = np.asarray([DAMPING, 1.0])
    expected = lstsq(S, f, dampings)

    def columns(comm: ThreadCommunicator) -> Any:
        own = S[..., 10 * comm.rank : 10 * comm.rank + 10]
        return lstsq(ngdla.ColumnShards(own, comm), f, dampings)

    def rows(comm: ThreadCommunicator) -> Any:
        own = slice(4 * comm.rank, 4 * comm.rank + 4)
        return lstsq(ngdla.RowShards(S[:, own], comm), f[:, own], dampings)

    bound = 100 * U["float64"] * condition(S[0], DAMPING) * np.linalg.norm(expected)
    for size, run in ((3, columns), (2, rows)):
        x = np.concatenate(run_ranks(size, run), axis=-1)
        assert np.linalg.norm(x - expected) <= bound


# ------------------------------------------------------------------------- words and memory


def recorded(layout: str, shape: tuple[int, int], call: Callable[..., Any]) -> list[Collective]:
    """Return the collectives of a call on two ranks."""
    n, m = shape
    rng = np.random.default_rng(0)
    S, f, v = rng.standard_normal(shape), rng.standard_normal(n), rng.standard_normal(m)

    def run(comm: ThreadCommunicator) -> list[Collective]:
        recording = RecordingCommunicator(comm)
        rows, columns = slice(None), slice(None)
        if layout == "columns" or n < m:
            columns = slice(0, m // 2) if comm.rank == 0 else slice(m // 2, m)
        if layout == "rows":
            rows = slice(0, n // 2) if comm.rank == 0 else slice(n // 2, n)
            shards: Any = ngdla.RowShards(S[rows], recording)
        else:
            shards = ngdla.ColumnShards(S[:, columns], recording)
        call(shards, f[rows], v[columns])
        return recording.collectives

    first, second = run_ranks(2, run)
    assert first == second
    return first


def summed(layout: str, shape: tuple[int, int], call: Callable[..., Any]) -> list[Collective]:
    """Return the same without handshakes."""
    found = recorded(layout, shape, call)
    return [c for c in found if c.words != WORDS or c.kind != "all_gather"]


def words(collectives: list[Collective], kind: str) -> list[int]:
    return [c.words for c in collectives if c.kind == kind]


@pytest.mark.parametrize("m", [50, 5000])
@pytest.mark.parametrize("refine", [0, 1, 3])
def test_words_of_columns(m: int, refine: int) -> None:
    """No collective grows with m: a Gram matrix, and n words for each product S x."""
    n = 12

    def sums(call: Callable[..., Any]) -> list[int]:
        found = summed("columns", (n, m), call)
        assert {c.kind for c in found} <= {"all_reduce_sum"}
        return words(found, "all_reduce_sum")

    options = {"refine": refine}
    assert sums(lambda S, f, v: lstsq(S, f, 1.0, **options)) == [n * n] + [n] * refine
    assert sums(lambda S, f, v: solve(S, v, 1.0, **options)) == [n * n, n] + [n] * refine
    from_x0 = sums(lambda S, f, v: lstsq(S, f, 1.0, x0=v, **options))
    assert sorted(from_x0) == [n] * (refine + 1) + [n * n]
    assert sums(lambda S, f, v: ngdla.gram(S)) == [n * n]
    certified = sums(lambda S, f, v: lstsq(S, f, 1.0, full_output=True, **options))
    assert certified == [n * n] + [n] * (refine + 1)


@pytest.mark.parametrize("name", ["solve", "lstsq", "lstsq, unchecked"])
def test_collectives_of_columns_do_not_depend_on_m(name: str) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "solve": lambda S, f, v: solve(S, v, 1.0, full_output=True),
        "lstsq": lambda S, f, v: lstsq(S, f, 1.0, full_output=True),
        "lstsq, unchecked": lambda S, f, v: lstsq(S, f, 1.0, check=False),
    }
    few, many = (recorded("columns", (12, m), calls[name]) for m in (50, 5000))
    assert few == many


@pytest.mark.parametrize("size", [50, 500])
def test_words_of_rows(size: int) -> None:
    """Few rows travel once, all of them; with many no collective of numbers of S is left."""
    n = 12
    found = summed("rows", (n, size), lambda S, f, v: lstsq(S, f, 1.0, refine=0))
    assert words(found, "all_to_all") == [n // 2 * size]  # n m / 2 of the rank's own and others'
    assert words(found, "all_reduce_sum") == [n * n]
    found = summed("rows", (size, n), lambda S, f, v: lstsq(S, f, 1.0, refine=0))
    assert words(found, "all_to_all") == []
    assert sorted(words(found, "all_reduce_sum")) == [n, n * n]


def peak(run: Callable[[Any], Any], shards: list[np.ndarray]) -> float:
    """Return the most bytes that two ranks held at once beside their shards."""
    run_ranks(2, lambda comm: run(comm, shards[comm.rank]))  # so that all is imported
    tracemalloc.start()
    try:
        run_ranks(2, lambda comm: run(comm, shards[comm.rank]))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("use", ["lstsq", "solve", "sr"])
def test_memory_of_columns(use: str, rng: np.random.Generator, monkeypatch: Any) -> None:
    n, m = 32, 40_000
    monkeypatch.setattr(shapes, "CHUNK_BYTES", n * m * 8 // 80)
    S, f = rng.standard_normal((n, m)), rng.standard_normal(n)
    shards = [np.ascontiguousarray(S[:, : m // 2]), np.ascontiguousarray(S[:, m // 2 :])]
    run = {
        "lstsq": lambda comm, own: lstsq(ngdla.ColumnShards(own, comm), f, 1.0),
        "solve": lambda comm, own: solve(ngdla.ColumnShards(own, comm), own[0], 1.0),
        "sr": lambda comm, own: ngdla.stochastic_reconfiguration(
            ngdla.ColumnShards(own, comm), f, 1.0
        ),
    }[use]
    more = S.nbytes if use == "sr" else 0  # the centred scores
    assert peak(run, shards) - more <= 0.2 * S.nbytes + 2 * 3 * n * n * 8


@pytest.mark.parametrize("use", ["lstsq", "sr"])
def test_memory_of_exchanged_rows(use: str, rng: np.random.Generator, monkeypatch: Any) -> None:
    n, m = 32, 40_000
    S, f = rng.standard_normal((n, m)), rng.standard_normal(n)
    monkeypatch.setattr(shapes, "CHUNK_BYTES", n * m * 8 // 80)
    shards = [S[: n // 2], S[n // 2 :]]
    part = lambda comm: f[comm.rank * n // 2 :][: n // 2]  # noqa: E731
    run = {
        "lstsq": lambda comm, own: lstsq(ngdla.RowShards(own, comm), part(comm), 1.0),
        "sr": lambda comm, own: ngdla.stochastic_reconfiguration(
            ngdla.RowShards(own, comm), part(comm), 1.0, gathered=False
        ),
    }[use]
    assert peak(run, shards) <= 1.2 * S.nbytes + 2 * 3 * n * n * 8


class Watching(SerialCommunicator):
    """One rank, which sees whether what was exchanged before is still there."""

    def __init__(self) -> None:
        self.exchanged: list[Any] = []

    def all_to_all(self, x: Any) -> Any:
        assert all(reference() is None for reference in self.exchanged)
        y = x.copy()
        self.exchanged += [weakref.ref(x), weakref.ref(y)]
        return y


def test_a_chunk_of_rows_is_let_go_before_the_next_one(rng: Any, monkeypatch: Any) -> None:
    S, f = rng.standard_normal((8, 400)), rng.standard_normal(8)
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 16 * S.nbytes // 10)  # of 16 ranks
    comm = Watching()
    lstsq(ngdla.RowShards(S, comm), f, 1.0)
    assert len(comm.exchanged) == 2 * 10

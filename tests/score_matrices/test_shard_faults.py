"""What is wrong on one rank is an error on all of them, and the next call is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from array_api_strict import asarray as strict
from thread_ranks import ThreadCommunicator, outcomes

import ngdla

RANKS, AT_FAULT = 3, 1
N, M = 12, 40
RNG = np.random.default_rng(7)
S, F, V = RNG.standard_normal((N, M)), RNG.standard_normal(N), RNG.standard_normal(M)
W = np.arange(1.0, N + 1)
lstsq, solve, sr = ngdla.damped_lstsq, ngdla.damped_solve, ngdla.stochastic_reconfiguration


class Rank:
    """One rank; `one(a, b)` is a on the rank at fault, and b on all others."""

    def __init__(self, comm: ThreadCommunicator) -> None:
        self.comm = comm
        self.columns = slice(comm.rank * M // RANKS, (comm.rank + 1) * M // RANKS)
        self.rows = slice(comm.rank * N // RANKS, (comm.rank + 1) * N // RANKS)

    def one(self, this: Any, that: Any) -> Any:
        return this if self.comm.rank == AT_FAULT else that

    def shards(self, S: Any = S, **options: Any) -> ngdla.ColumnShards:
        return ngdla.ColumnShards(S[:, self.columns], self.comm, **options)

    def walkers(self, S: Any = S, **options: Any) -> ngdla.RowShards:
        return ngdla.RowShards(S[self.rows], self.comm, **options)

    @property
    def v(self) -> Any:
        return V[self.columns]

    @property
    def f(self) -> Any:
        return F[self.rows]


def broken_stream(r: Rank) -> Any:
    """Return a stream whose second block cannot be read in the second pass, on one rank."""
    own, passes = S[:, r.columns], []

    def blocks() -> Iterator[Any]:
        passes.append(None)
        yield own[:, :5]
        if r.one(len(passes) > 1, False):
            raise OSError("the disk is gone")
        yield own[:, 5:]

    stream = ngdla.ColumnStream(blocks, own.shape, dtype="float64")
    return lstsq(ngdla.ColumnShards(stream, r.comm), F, 1e-2)


# Calls that are not the same on all ranks, and what all of them say.
Fault = tuple[Callable[[Rank], Any], type[Exception], str]
DIFFERENT: dict[str, Fault] = {
    "rows": (
        lambda r: lstsq(r.shards(S[r.one(1, 0) :]), F[r.one(1, 0) :], 1e-2),
        ValueError,
        "`S` has 12 rows on rank 0 but 11 on rank 1",
    ),
    "columns of rows": (
        lambda r: lstsq(r.walkers(S[:, r.one(1, 0) :]), r.f, 1e-2),
        ValueError,
        "`S` has 40 columns on rank 0 but 39 on rank 1",
    ),
    "dtype": (
        lambda r: lstsq(r.shards(S.astype(r.one("float32", "float64"))), F, 1e-2),
        ValueError,
        "`S` is float64 on rank 0 but float32 on rank 1; convert one of them",
    ),
    "complex": (
        lambda r: lstsq(r.walkers(S.astype(r.one("complex128", "float64"))), r.f, 1e-2),
        ValueError,
        "`S` is float64 on rank 0 but complex128 on rank 1",
    ),
    "library": (
        lambda r: lstsq(
            ngdla.ColumnShards(r.one(strict, np.asarray)(S[:, r.columns]), r.comm),
            r.one(strict, np.asarray)(F),
            1e-2,
        ),
        ValueError,
        "`S` is a numpy array on rank 0 but a array_api_strict one on rank 1",
    ),
    "damping": (
        lambda r: lstsq(r.shards(), F, r.one(0.02, 0.01)),
        ValueError,
        "`damping` is 0.01 on rank 0 but 0.02 on rank 1",
    ),
    "damping of a path": (
        lambda r: ngdla.damping_path(r.shards(), F, [r.one(0.02, 0.01), 1.0]),
        ValueError,
        "`dampings?` ",
    ),
    "damping of a factor": (
        lambda r: ngdla.damped_factor(r.shards(), 0.1).with_damping(r.one(0.3, 0.2)).lstsq(F),
        ValueError,
        "`damping` is 0.2 on rank 0 but 0.3 on rank 1",
    ),
    "refine": (
        lambda r: lstsq(r.shards(), F, 1e-2, refine=r.one(2, 1)),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "precision": (
        lambda r: lstsq(r.walkers(), r.f, 1e-2, precision=r.one("native", "auto")),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "check": (
        lambda r: lstsq(r.shards(), F, 1e-2, check=r.one(False, True)),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "full_output": (
        lambda r: lstsq(r.shards(), F, 1e-2, full_output=r.one(True, False)),
        ValueError,
        "rank 1 ",
    ),
    "several right-hand sides": (
        lambda r: lstsq(r.shards(), r.one(np.stack([F, F], -1), F), 1e-2),
        ValueError,
        "rank 1 ",
    ),
    "dtype of f": (
        lambda r: lstsq(r.walkers(), r.f.astype(r.one("float32", "float64")), 1e-2),
        ValueError,
        "rank 1 .* has vectors of another shape or dtype",
    ),
    "complex energies": (
        lambda r: sr(r.walkers(), r.f * r.one(1j, 1.0), 1e-2),
        ValueError,
        "rank 1 .* has vectors of another shape or dtype",
    ),
    "axes of a batch": (
        lambda r: lstsq(
            ngdla.RowShards(r.one(S[None], S)[..., r.rows, :], r.comm), r.one(r.f[None], r.f), 1e-2
        ),
        ValueError,
        "rank 1 ",
    ),
    "metric or none": (
        lambda r: lstsq(r.shards(), F, 1e-2, metric=r.one(V[r.columns] ** 2 + 1, None)),
        ValueError,
        "rank 1 ",
    ),
    "x0 or none": (
        lambda r: lstsq(r.shards(), F, 1e-2, x0=r.one(r.v, None)),
        ValueError,
        "rank 1 ",
    ),
    "f": (
        lambda r: lstsq(r.shards(), F + r.one(1e-6, 0.0), 1e-2),
        ValueError,
        "`f` differs between rank 0 and rank 1; it must be equal on all ranks",
    ),
    "f, in order": (
        lambda r: lstsq(r.shards(), r.one(F[::-1].copy(), F), 1e-2),
        ValueError,
        "`f` differs between rank 0 and rank 1",
    ),
    "f, NaN": (
        lambda r: lstsq(r.shards(), F * r.one(np.nan, 1.0), 1e-2),
        ValueError,
        "`f` differs between rank 0 and rank 1",
    ),
    "v of many rows": (
        lambda r: solve(ngdla.RowShards(S.T, r.comm), F * r.one(2.0, 1.0), 1e-2),
        ValueError,
        "`v` differs between rank 0 and rank 1; it must be equal on all ranks",
    ),
    "x0 of many rows": (
        lambda r: lstsq(ngdla.RowShards(S.T, r.comm), V, 1e-2, x0=F + r.one(1.0, 0.0)),
        ValueError,
        "`x0` .*differs between rank 0 and rank 1",
    ),
    "metric of many rows": (
        lambda r: lstsq(ngdla.RowShards(S.T, r.comm), V, 1e-2, metric=W + r.one(1.0, 0.0)),
        ValueError,
        "`metric` differs between rank 0 and rank 1",
    ),
    "the whole previous step": (
        lambda r: sr(r.walkers(), r.f, 1e-2, previous=V * r.one(-1.0, 1.0), momentum=0.9),
        ValueError,
        "`previous` differs between rank 0 and rank 1",
    ),
    "stacked": (
        lambda r: ngdla.damped_factor(r.shards(), 0.1).leave_one_out(F, stacked=r.one(True, False)),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "energies": (
        lambda r: sr(r.shards(), F * r.one(2.0, 1.0), 1e-2),
        ValueError,
        "`local_energies` .*differs between rank 0 and rank 1",
    ),
    "weights": (
        lambda r: sr(r.shards(), F, 1e-2, weights=W + r.one(1.0, 0.0)),
        ValueError,
        "`weights` .*differs between rank 0 and rank 1",
    ),
    "momentum": (
        lambda r: sr(r.shards(), F, 1e-2, previous=r.v, momentum=r.one(0.8, 0.9)),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "snr": (
        lambda r: sr(r.walkers(), r.f, 1e-2, snr=r.one(2.0, 1.0)),
        ValueError,
        "rank 1 was called with other options than rank 0",
    ),
    "gathered": (
        lambda r: sr(r.walkers(), r.f, 1e-2, gathered=r.one(False, True)),
        ValueError,
        "rank 1 ",
    ),
    "columns that do not add up": (
        lambda r: lstsq(r.shards(columns=41), F, 1e-2),
        ValueError,
        "the columns of `S` do not add up: 13, 13, 14 are 40 in all, but `columns` is 41",
    ),
    "rows that do not add up": (
        lambda r: lstsq(r.walkers(rows=13), r.f, 1e-2),
        ValueError,
        "the rows of `S` do not add up: 4, 4, 4 are 12 in all, but `rows` is 13",
    ),
    "a method that needs S": (
        lambda r: lstsq(r.shards(), F, 1e-2, method="svd"),
        ValueError,
        "needs an array in memory, not shards. Choose 'cholesky' or 'eigh'",
    ),
    "numbers of columns": (
        lambda r: lstsq(r.shards(columns=r.one(41, 40)), F, 1e-2),
        ValueError,
        "`columns` of `S` differs between rank 0 and rank 1",
    ),
    "overflow": (
        lambda r: lstsq(r.shards(S * 1e200), F, 1e-2),
        ValueError,
        "squared row norms of `S` exceed the range",
    ),
    "indefinite": (
        lambda r: lstsq(r.shards(np.ones((N, M))), F, 1e-25, precision="native"),
        np.linalg.LinAlgError,
        "not positive definite",
    ),
    "functions": (
        lambda r: r.one(solve, lstsq)(r.shards(), r.one(r.v, F), 1e-2),
        ValueError,
        "rank 1 ",
    ),
    "gram or norms": (
        lambda r: r.one(ngdla.column_norms, ngdla.gram)(r.shards()),
        ValueError,
        "rank 1 ",
    ),
}
# What the rank at fault says itself; the others say it after "rank 1 failed: ".
OWN: dict[str, Fault] = {
    "NaN in columns": (
        lambda r: lstsq(r.shards(S * r.one(np.nan, 1.0)), F, 1e-2),
        ValueError,
        "`S` contains NaN or Inf",
    ),
    "NaN in exchanged rows": (
        lambda r: lstsq(r.walkers(S * r.one(np.nan, 1.0)), r.f, 1e-2),
        ValueError,
        "contains NaN or Inf",
    ),
    "NaN in many rows": (
        lambda r: lstsq(ngdla.RowShards(S.T * r.one(np.nan, 1.0), r.comm), V, 1e-2),
        ValueError,
        "contains NaN or Inf",
    ),
    "Inf in log-derivatives": (
        lambda r: sr(r.walkers(S * r.one(np.inf, 1.0)), r.f, 1e-2),
        ValueError,
        "`log_derivatives` contains NaN or Inf",
    ),
    "NaN in v": (
        lambda r: solve(r.shards(), r.v * r.one(np.nan, 1.0), 1e-2),
        ValueError,
        "`v` contains NaN or Inf",
    ),
    "NaN in x0": (
        lambda r: lstsq(r.shards(), F, 1e-2, x0=r.v * r.one(np.nan, 1.0)),
        ValueError,
        "`x0` contains NaN or Inf",
    ),
    "NaN in energies": (
        lambda r: sr(r.walkers(), r.f * r.one(np.nan, 1.0), 1e-2),
        ValueError,
        "`local_energies` contains NaN or Inf",
    ),
    "negative weights": (
        lambda r: sr(r.walkers(), r.f, 1e-2, weights=W[r.rows] * r.one(-1.0, 1.0)),
        ValueError,
        "`weights`",
    ),
    "negative metric": (
        lambda r: lstsq(r.shards(), F, 1e-2, metric=(r.v**2 + 1) * r.one(-1, 1)),
        ValueError,
        "`metric` holds values that are not positive",
    ),
    "method": (
        lambda r: lstsq(r.shards(), F, 1e-2, method=r.one("eig", "auto")),
        ValueError,
        "`method` is 'eig'; it must be one of",
    ),
    "a flag": (
        lambda r: lstsq(r.shards(), F, 1e-2, check=r.one(7, True)),
        TypeError,
        "`check` is 7",
    ),
    "an unknown option": (
        lambda r: sr(r.shards(), F, 1e-2, **r.one({"foo": 1}, {})),
        TypeError,
        "unexpected keyword argument 'foo'",
    ),
    "mode": (
        lambda r: sr(r.shards(), F, 1e-2, mode=r.one("complex", "real")),
        ValueError,
        "`mode` is 'complex' but `log_derivatives` is real",
    ),
    "axes": (
        lambda r: lstsq(ngdla.ColumnShards(r.one(S[0], S[:, r.columns]), r.comm), F, 1e-2),
        ValueError,
        "`S` has shape \\(40,\\); it needs at least 2 axes",
    ),
    "no array": (
        lambda r: lstsq(ngdla.ColumnShards(r.one(None, S[:, r.columns]), r.comm), F, 1e-2),
        TypeError,
        "`S` is a builtins.NoneType",
    ),
    "no columns of integers": (
        lambda r: lstsq(r.shards(r.one(np.ones((N, 0), int), S)), F, 1e-2),
        TypeError,
        "`S` has dtype int64",
    ),
    "no rows for columns": (
        lambda r: lstsq(r.shards(r.one(S[:0], S)), F, 1e-2),
        ValueError,
        "`S` has shape \\(0, 13\\) on this rank, of which only axis -1 may be empty",
    ),
    "integers": (
        lambda r: lstsq(r.shards(r.one(np.ones((N, M), int), S)), F, 1e-2),
        TypeError,
        "`S` has dtype int64",
    ),
    "shape of v": (
        lambda r: solve(r.shards(), r.one(V[:3], r.v), 1e-2),
        ValueError,
        "`v` has shape \\(3,\\)",
    ),
    "shape of f": (
        lambda r: lstsq(r.walkers(), r.one(F, r.f), 1e-2),
        ValueError,
        "`f` has shape \\(12,\\)",
    ),
    "damping": (
        lambda r: lstsq(r.shards(), F, r.one(-1.0, 1.0)),
        ValueError,
        "`damping` is -1",
    ),
    "a stream": (broken_stream, RuntimeError, "the disk is gone"),
    "another kind of stream": (
        lambda r: lstsq(
            ngdla.ColumnShards(
                r.one(ngdla.RowStream([S.T], (M, N), dtype="float64"), S[:, r.columns]), r.comm
            ),
            F,
            1e-2,
        ),
        TypeError,
        "on this rank is a RowStream",
    ),
}


def errors_and_next(fault: Callable[[Rank], Any]) -> list[Any]:
    """Return what each rank raises, after the next call was made and found right."""
    expected = lstsq(S, F, 0.1)

    def run(comm: ThreadCommunicator) -> BaseException:
        rank = Rank(comm)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = fault(rank)
        except Exception as error:  # noqa: BLE001  that is what is asked for
            x = lstsq(rank.shards(), F, 0.1)
            np.testing.assert_allclose(x, expected[rank.columns], rtol=1e-12, atol=1e-14)
            return error
        raise AssertionError(f"nothing is wrong with {result}")

    return outcomes(RANKS, run, timeout=5.0)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_between_ranks(name: str) -> None:
    fault, kind, says = DIFFERENT[name]
    errors = errors_and_next(fault)
    assert [type(error) for error in errors] == [kind] * RANKS, errors
    assert len({str(error) for error in errors}) == 1
    with pytest.raises(kind, match=says):
        raise errors[0]


@pytest.mark.parametrize("name", OWN)
def test_what_one_rank_finds(name: str) -> None:
    fault, kind, says = OWN[name]
    errors = errors_and_next(fault)
    assert [type(error) for error in errors] == [kind] * RANKS, errors
    for error in errors:
        with pytest.raises(kind, match=says):
            raise error


@pytest.mark.parametrize("name", ["NaN in columns", "method", "a stream", "shape of v"])
def test_others_name_the_rank_that_failed(name: str) -> None:
    errors = errors_and_next(OWN[name][0])
    texts = [str(error) for error in errors]
    own = texts[AT_FAULT]
    assert not own.startswith("rank")
    assert texts == [f"rank 1 failed: {own}", own, f"rank 1 failed: {own}"]


def test_equal_solutions_may_differ_by_more() -> None:
    """What ranks computed of solutions differs by condition numbers of roundings."""

    def run(comm: ThreadCommunicator) -> Any:
        r = Rank(comm)
        previous = V * (1 + r.one(1e-11, 0.0))
        return sr(r.walkers(), r.f, 1e-2, previous=previous, momentum=0.9)

    for step in outcomes(RANKS, run):
        np.testing.assert_allclose(step, sr(S, F, 1e-2, previous=V, momentum=0.9), rtol=1e-6)


def test_equal_data_may_differ_by_rounding() -> None:
    def run(comm: ThreadCommunicator) -> Any:
        r = Rank(comm)
        return lstsq(r.shards(), F * (1 + r.one(4e-16, 0.0)), 1e-2)

    x = np.concatenate(outcomes(RANKS, run))
    np.testing.assert_allclose(x, lstsq(S, F, 1e-2), rtol=1e-10)


@pytest.mark.parametrize("kind", [ngdla.ColumnShards, ngdla.RowShards])
@pytest.mark.parametrize("comm", [None, 3, "MPI", object()])
def test_what_is_no_communicator(kind: Any, comm: Any) -> None:
    with pytest.raises(TypeError, match=r"`communicator` of .* must have rank, size, timeout"):
        kind(S, comm)


@pytest.mark.parametrize("total", [0, -1, 2.5, "40"])
def test_a_total_is_a_count(total: Any) -> None:
    for kind, name in ((ngdla.ColumnShards, "columns"), (ngdla.RowShards, "rows")):
        shards = kind(S, ngdla.distributed.SerialCommunicator(), **{name: total})
        with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
            lstsq(shards, F, 1.0)


def test_an_error_of_the_caller_leaves_the_others_to_the_engine() -> None:
    def run(comm: ThreadCommunicator) -> Any:
        r = Rank(comm)
        if r.one(True, False):
            raise KeyError("of the caller")
        return lstsq(r.shards(), F, 1e-2)

    kinds = [type(error) for error in outcomes(RANKS, run, timeout=5.0)]
    assert kinds == [ConnectionError, KeyError, ConnectionError]


def test_a_dtensor_is_told_its_local_part() -> None:
    class DTensor:
        placements = ()

    shards = ngdla.ColumnShards(DTensor(), ngdla.distributed.SerialCommunicator())
    with pytest.raises(TypeError, match=r"is a DTensor; pass communicator.local_part\(S\)"):
        lstsq(shards, F, 1.0)

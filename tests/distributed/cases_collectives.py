"""The collectives of each engine."""

import contextlib
import time

import numpy as np
import pytest

DTYPES = ("bool", "uint8", "int64", "float32", "float64", "complex64", "complex128", "float16")


def made(xp, values, dtype):
    return xp.asarray(np.asarray(values).astype(dtype))


def of_rank(comm, xp, dtype, shape=(2, 3)):
    """Return small numbers that differ between ranks and entries, as all ranks know them."""
    numbers = np.arange(comm.size * 6).reshape(comm.size, 6)[:, : int(np.prod(shape))]
    if np.dtype(dtype).kind == "c":
        numbers = numbers * (1 + 2j)
    if dtype == "bool":
        numbers = numbers % 4 == 1
    everywhere = numbers.reshape(comm.size, *shape)
    return everywhere, made(xp, everywhere[comm.rank], dtype)


def check(x, expected, like):
    assert type(x) is type(like)
    assert x.dtype == like.dtype
    assert tuple(x.shape) == np.shape(expected)
    np.testing.assert_array_equal(np.asarray(x), expected)


def case_sums(comm, xp):
    for dtype in DTYPES:
        everywhere, x = of_rank(comm, xp, dtype)
        expected = everywhere.any(axis=0) if dtype == "bool" else everywhere.sum(axis=0)
        check(comm.all_reduce_sum(x), expected, x)


def case_sums_are_the_same_on_all_ranks(comm, xp):
    """Bit for bit: otherwise ranks could decide differently, and ask for different collectives."""
    for size in (3, 1000, 200_000):
        x = made(xp, np.random.default_rng(comm.rank).standard_normal(size), "float32")
        sums = np.asarray(comm.all_gather(comm.all_reduce_sum(x)))
        assert (sums == sums[0]).all()


def case_gathers(comm, xp):
    for dtype in DTYPES:
        everywhere, x = of_rank(comm, xp, dtype)
        check(comm.all_gather(x), everywhere, x)


def case_exchanges(comm, xp):
    for dtype in DTYPES:
        parts = [[10 * i + j for j in range(comm.size)] for i in range(comm.size)]
        x = made(xp, np.asarray(parts[comm.rank])[:, None] * np.ones(3), dtype)
        expected = [[part[comm.rank]] * 3 for part in parts]
        check(comm.all_to_all(x), np.asarray(expected).astype(dtype), x)


def case_numbers_and_nothing(comm, xp):
    x = made(xp, comm.rank + 1.0, "float64")
    ranks = np.arange(comm.size) + 1.0
    check(comm.all_gather(x), ranks, x)
    check(comm.all_reduce_sum(x), ranks.sum(), x)
    for dtype in ("float32", "complex128"):
        empty = made(xp, np.empty((comm.size, 0)), dtype)
        check(comm.all_reduce_sum(empty), np.empty(empty.shape), empty)
        check(comm.all_gather(empty), np.empty((comm.size, comm.size, 0)), empty)
        check(comm.all_to_all(empty), np.empty(empty.shape), empty)


def case_views(comm, xp):
    """Transposed, strided, read-only and broadcast arrays, which are not written to."""
    base = np.arange(24.0).reshape(4, 6) + 1j
    views = [base.T, base[::2, ::3], base[:, 1]]
    if xp is np:
        frozen = base.copy()
        frozen.flags.writeable = False
        views += [base[::-1], frozen, np.broadcast_to(base[0], (3, 6))]
    for view in views:
        x = view if xp is np else xp.asarray(view)
        expected = comm.size * np.array(view)
        before = base.copy()
        check(comm.all_gather(x), np.stack([np.array(view)] * comm.size), x)
        check(comm.all_reduce_sum(x), expected, x)
        if xp is np:
            np.testing.assert_array_equal(base, before)
        base[...] = before
    conjugate = made(xp, [1 + 2j], "complex64").conj()
    check(comm.all_reduce_sum(conjugate), [comm.size * (1 - 2j)], conjugate)


def case_in_place(comm, xp):
    """Sums of contiguous arrays take no memory of their own."""
    x = made(xp, np.ones((5, 5)), "float64")
    y = comm.all_reduce_sum(x)
    assert np.shares_memory(np.asarray(x), np.asarray(y))


case_in_place.engines = ("mpi", "gloo")


def case_numpy_arrays_on_every_engine(comm, xp):
    x = np.asarray([comm.rank, 1.0])
    check(comm.all_gather(x), [[i, 1.0] for i in range(comm.size)], x)
    check(comm.all_reduce_sum(x), [sum(range(comm.size)), comm.size], x)
    check(comm.all_gather(np.float64(3.0)), [3.0] * comm.size, np.ones(1))


def case_refusals(comm, xp):
    """On every rank before anything is sent, so that the ranks stay together."""
    for wrong in (made(xp, np.ones(comm.size + 1), "float64"), made(xp, 1.0, "float64")):
        with pytest.raises(ValueError, match="one part for each of the"):
            comm.all_to_all(wrong)
    with pytest.raises(TypeError, match="takes arrays"):
        comm.all_reduce_sum([1.0])
    with pytest.raises(ValueError, match="`timeout` is 0"):
        type(comm)(timeout=0)


case_refusals.engines = ("mpi", "gloo")


def case_without_a_time_limit(comm, xp):
    comm.timeout = None
    everywhere, x = of_rank(comm, xp, "float64")
    check(comm.all_gather(x), everywhere, x)
    check(comm.all_reduce_sum(x), everywhere.sum(axis=0), x)


def case_a_late_rank(comm, xp):
    x = made(xp, np.ones(3), "float64")
    comm.all_reduce_sum(x)  # connections are made
    if comm.rank == 0:
        comm.timeout = 0.3
        began = time.perf_counter()
        with pytest.raises(TimeoutError, match=r"all_reduce_sum did not end within 0.3 seconds"):
            comm.all_reduce_sum(x)
        assert time.perf_counter() - began < 5
    else:
        time.sleep(1)
        with contextlib.suppress(ConnectionError, TimeoutError):  # of gloo; MPI comes to an end
            comm.all_reduce_sum(x)


case_a_late_rank.engines = ("mpi", "gloo")


def case_a_rank_that_fails(comm, xp):
    """The others end by their time limit, and the next case finds all ranks."""
    comm.timeout = 0.5
    if comm.rank == 0:
        return
    with pytest.raises((TimeoutError, ConnectionError), match="Look for its error first"):
        comm.all_gather(made(xp, np.ones(3), "float64"))


case_a_rank_that_fails.engines = ("mpi", "gloo")


def case_large_sums_while_polled(comm, xp):
    x = made(xp, np.full(2**20, comm.rank + 1.0), "float64")
    total = comm.all_reduce_sum(x)
    assert float(total[0]) == float(total[-1]) == comm.size * (comm.size + 1) / 2

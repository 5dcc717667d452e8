"""Ranks that are threads of one process."""

import threading

import numpy as np
import pytest
from thread_ranks import outcomes, run_ranks


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy", "array_api_strict"])
def test_collectives(size, library):
    xp = pytest.importorskip(library)

    def ranks(comm):
        x = xp.asarray([float(comm.rank), 1.0])
        parts = xp.asarray([[10.0 * comm.rank + i] for i in range(comm.size)])
        return comm.all_reduce_sum(x), comm.all_gather(x), comm.all_to_all(parts)

    for rank, (total, gathered, exchanged) in enumerate(run_ranks(size, ranks)):
        assert type(total) is type(xp.asarray(0.0))
        np.testing.assert_array_equal(total, [sum(range(size)), size])
        np.testing.assert_array_equal(gathered, [[i, 1] for i in range(size)])
        np.testing.assert_array_equal(exchanged, [[10 * i + rank] for i in range(size)])


def test_what_is_handed_in_may_be_written_to_afterwards():
    def ranks(comm):
        x = np.ones(3)
        sums = []
        for _ in range(50):
            sums.append(comm.all_reduce_sum(x))
            x += 1
        return sums

    for sums in run_ranks(2, ranks):
        np.testing.assert_array_equal(sums, 2 * np.arange(1, 51)[:, None] * np.ones(3))


def test_the_error_of_a_rank_is_raised_and_others_do_not_wait():
    def ranks(comm):
        if comm.rank == 1:
            msg = "one failed"
            raise ValueError(msg)
        comm.all_reduce_sum(np.ones(3))

    with pytest.raises(ValueError, match="one failed"):
        run_ranks(3, ranks)
    errors = outcomes(3, ranks)
    assert [type(error) for error in errors] == [ConnectionError, ValueError, ConnectionError]


def test_a_rank_that_does_less_is_found():
    def ranks(comm):
        for _ in range(2 - comm.rank):
            comm.all_gather(np.ones(3))

    with pytest.raises(ConnectionError, match=r"rank 0 waits in all_gather .* \[1\] have left"):
        run_ranks(2, ranks)


def test_different_collectives_are_found():
    def ranks(comm):
        comm.all_reduce_sum(np.ones(3 + comm.rank))

    errors = outcomes(2, ranks)
    assert all("ranks ask for different collectives" in str(error) for error in errors)


def test_a_rank_that_hangs_is_found():
    stop = threading.Event()

    def ranks(comm):
        comm.all_gather(np.ones(3))
        if comm.rank == 0:
            comm.all_gather(np.ones(3))
        else:
            stop.wait(10)

    with pytest.raises(TimeoutError, match=r"rank 0 waited 0.2 s .* for ranks \[1\]"):
        run_ranks(2, ranks, timeout=0.2)
    stop.set()

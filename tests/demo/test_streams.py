"""Random numbers of walkers: the same for a walker wherever it is and however they are drawn."""

import numpy as np
import pytest

from ngdla.demo.streams import AHEAD, Streams


def test_a_walker_has_its_numbers_on_any_number_of_ranks():
    whole = Streams(3, range(10))
    shares = [Streams(3, range(*ends)) for ends in ((0, 4), (4, 4), (4, 10))]
    for shape in ((5,), (2, 7), (AHEAD,), (2, 6)):
        parts = [streams.random((*shape, n)) for streams, n in zip(shares, (4, 0, 6), strict=True)]
        np.testing.assert_array_equal(whole.random((*shape, 10)), np.concatenate(parts, axis=-1))


@pytest.mark.parametrize("draws", [1, 2, 40, 41])
def test_a_position_is_all_that_is_kept(draws):
    shape = (2, 5, 3)  # numbers that are no multiple of four
    streams = Streams(0, range(3))
    for _ in range(draws):
        streams.random(shape)
    restored = Streams(0, range(3), streams.position)
    for _ in range(30):
        np.testing.assert_array_equal(restored.random(shape), streams.random(shape))


def test_no_two_streams_agree():
    numbers = [Streams(seed, range(50)).random((8, 50)) for seed in (0, 1, 2**70)]
    assert np.unique(numbers).size == 3 * 8 * 50


def test_numbers_are_uniform():
    numbers = Streams(1, range(200)).random((500, 200))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    # five standard deviations of chi square with 99 degrees of freedom
    assert np.sum((counts - 1000) ** 2) / 1000 < 99 + 5 * np.sqrt(2 * 99)
    between = np.corrcoef(numbers.T)[np.triu_indices(200, k=1)]  # of walkers, 500 numbers each
    assert np.max(np.abs(between)) < 6 / np.sqrt(500)

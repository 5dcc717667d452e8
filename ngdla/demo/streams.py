"""Random numbers of walkers: a stream for each, in whichever process the walker is."""

from __future__ import annotations

import math

import numpy as np

FOUR = 4  # Philox counts in fours
AHEAD = 512  # numbers drawn at once from each stream: asking costs as much as some hundred numbers


class Streams:
    """Uniform random numbers in [0, 1), a stream for each walker.

    The stream of a walker is that of Philox with the key (seed, number of the walker): it does not
    depend on how many processes share the walkers, and a position is all that has to be kept of it.

    Parameters
    ----------
    seed : int
    walkers : range
        The numbers of the walkers that are here.
    position : int
        How many numbers have been taken from each stream, in fours.
    """

    def __init__(self, seed: int, walkers: range, position: int = 0) -> None:
        word = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        keys = [np.array([word, walker], dtype=np.uint64) for walker in walkers]
        self._generators = [
            np.random.Generator(np.random.Philox(key=key, counter=position)) for key in keys
        ]
        self._ahead = np.empty((0, len(walkers)))
        self.position = position

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw numbers of a shape whose last axis is that of the walkers."""
        count = math.prod(shape[:-1])
        fours = -(-count // FOUR)
        if len(self._ahead) < FOUR * fours:
            self._ahead = np.concatenate([self._ahead, self._drawn(max(AHEAD, FOUR * fours))])
        drawn, self._ahead = self._ahead[:count], self._ahead[FOUR * fours :]
        self.position += fours
        return drawn.reshape(shape)

    def _drawn(self, count: int) -> np.ndarray:
        numbers = np.empty((len(self._generators), count))
        for generator, row in zip(self._generators, numbers, strict=True):
            generator.random(out=row)
        return np.ascontiguousarray(numbers.T)

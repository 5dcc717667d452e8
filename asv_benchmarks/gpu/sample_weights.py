"""Questions about weights of samples that only a device answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ngdla
from ngdla._backend.namespace import Array, namespace
from ngdla.per_sample.gradients import gram_by_gradients, gram_by_pairs
from ngdla.per_sample.layer_samples import LayerSamples, layer_samples

from .answers import Answer, Sizes
from .decompositions import seconds_of
from .engines import Engine

__all__ = ["positions", "weighted_gradients"]

_SAMPLES = 128
_POSITIONS = (2, 4, 8, 16, 32, 64)
_WAYS = {"pairs": gram_by_pairs, "gradients": gram_by_gradients}


def weighted_gradients(engine: Engine, sizes: Sizes) -> Answer:
    """Compare a natural gradient by weights of samples with a plain weight gradient."""

    def plain(a: Array, g: Array) -> Array:
        xp = namespace(a)
        return xp.matmul(xp.matrix_transpose(g), a)

    def weighted(a: Array, g: Array) -> Array:
        K = ngdla.sample_gram(a, g, check=False)
        v = ngdla.sample_weights(K, 0.005, normalized=True, check=False)
        return ngdla.weighted_gradient(a, g, v, check=False)

    numbers = []
    for d in sizes.decomposed:
        a, g = (engine.normal((_SAMPLES, d), "float32", seed) for seed in (0, 1))
        ways = {"plain": plain, "weighted": weighted}
        seconds = {name: seconds_of(engine, function, a, g) for name, function in ways.items()}
        numbers.append({"d": d, "seconds": seconds})
        engine.release()
    row = numbers[-1]["seconds"]
    ratio = row["weighted"] / row["plain"]
    size = f"d = {numbers[-1]['d']}, {_SAMPLES} samples, float32"
    return Answer(f"{ratio:.3g} times a plain gradient at {size}", numbers)


def positions(engine: Engine, sizes: Sizes) -> Answer:
    """Find which of the two ways to the Gram matrix is faster, by the number of positions."""
    numbers = []
    d = min(sizes.decomposed)
    for T in _POSITIONS:
        a, g = (engine.normal((_SAMPLES // 2, T, d), "float32", seed) for seed in (0, 1))
        seconds = {
            name: seconds_of(engine, partial(_formed, function), a, g)
            for name, function in _WAYS.items()
        }
        numbers.append({"T": T, "seconds": seconds})
        engine.release()
    faster = [row["T"] for row in numbers if row["seconds"]["pairs"] < row["seconds"]["gradients"]]
    return Answer(f"pairs are faster for T in {faster} of {list(_POSITIONS)}, d = {d}", numbers)


def _formed(way: Callable[[LayerSamples], Array], a: Array, g: Array) -> Array:
    return way(layer_samples(a, g, True))

"""Questions about structured matrices and inverse-free steps that only a device answers."""

from __future__ import annotations

from typing import Any

import ngdla
from ngdla._backend.fourier import convolution
from ngdla._backend.namespace import Array, namespace

from .answers import Answer, Sizes
from .decompositions import seconds_of
from .engines import Engine

__all__ = ["structured_steps", "toeplitz_switch"]

_STRUCTURES: dict[str, Any] = {
    "dense": "dense",
    "blocks of 32": ("block-diagonal", {"block": 32}),
    "hierarchical 15/15": "hierarchical",
    "lower Toeplitz": "lower-toeplitz",
    "diagonal": "diagonal",
}
_COLUMNS = 64


def structured_steps(engine: Engine, sizes: Sizes) -> Answer:
    """Compare structures in a step of SINGD: statistics, update, preconditioned gradient."""
    numbers = []
    for d in sizes.decomposed:
        a, g = (engine.normal((2 * sizes.rank, d), "float32", seed) for seed in (0, 1))
        V = engine.normal((d, d), "float32", 2)
        seconds = {}
        for name, structure in _STRUCTURES.items():
            start = ngdla.inverse_free_init(d, d, structures=(structure, structure), like=a)

            def step(a: Array, g: Array, V: Array, state: Any = start) -> Array:
                statistics = ngdla.inverse_free_statistics(state, a, g)
                state = ngdla.inverse_free_update(
                    state, statistics, damping=1e-3, step_size=1e-3, momentum=0.5, check=False
                )
                return ngdla.inverse_free_apply(state, V)

            seconds[name] = seconds_of(engine, step, a, g, V)
        numbers.append({"d": d, "seconds": seconds})
        engine.release()
    row = numbers[-1]["seconds"]
    times = ", ".join(f"{name} {1e3 * t:.3g} ms" for name, t in row.items())
    return Answer(f"at d = {numbers[-1]['d']}, float32: {times}", numbers)


def toeplitz_switch(engine: Engine, sizes: Sizes) -> Answer:
    """Find the dimension from which transforms are faster than a dense product."""
    numbers = []
    for d in (64, 128, 256, 512, 1024, 2048):
        c, T = engine.normal((d,), "float32", 0), engine.normal((d, d), "float32", 1)
        X = engine.normal((d, _COLUMNS), "float32", 2)
        seconds = {
            "transforms": seconds_of(engine, convolution, c, X),
            "dense": seconds_of(engine, lambda T, X: namespace(T).matmul(T, X), T, X),
        }
        numbers.append({"d": d, "seconds": seconds})
    faster = [row["d"] for row in numbers if row["seconds"]["transforms"] < row["seconds"]["dense"]]
    verdict = f"transforms are faster at d = {faster}" if faster else "the dense product is faster"
    return Answer(f"{verdict}, of 64 to 2048, {_COLUMNS} columns, float32", numbers)

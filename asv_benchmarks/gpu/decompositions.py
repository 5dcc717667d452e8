"""Questions about decompositions of Kronecker factors that only a device answers."""

from __future__ import annotations

from functools import partial
from typing import Any

import ngdla
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.spectral import eigh

from .answers import Answer, Sizes
from .engines import Engine

__all__ = ["decomposition_costs", "seconds_of", "stacked_layers", "tf32_decomposition"]

_DAMPING = 1e-2  # over the trace
_LIMIT = 0.5


def decomposition_costs(engine: Engine, sizes: Sizes) -> Answer:
    """Compare a full eigendecomposition, two products, one from a basis, and an on-line update."""
    numbers = []
    for d in sizes.decomposed:
        X, A = _factor(engine, (2 * sizes.rank, d))
        basis = ngdla.randomized_eigh(A, sizes.rank).eigenvectors
        state = ngdla.online_eigh_init(X, sizes.rank)
        ways = {
            "eigh": (lambda A, *_: eigh(A)[1], A),
            "cold": (lambda A: _arrays(ngdla.randomized_eigh(A, sizes.rank)), A),
            "warm": (
                lambda A, U: _arrays(ngdla.randomized_eigh(A, sizes.rank, passes=1, basis=U)),
                A,
                basis,
            ),
            "on-line": (
                lambda X, *s: _arrays(
                    ngdla.online_eigh_update(ngdla.OnlineEigh(*s), X, decay=0.95, check=False)
                ),
                X,
                *_arrays(state),
            ),
        }
        numbers.append(
            {"d": d, "seconds": {way: seconds_of(engine, *w) for way, w in ways.items()}}
        )
        engine.release()
    row = numbers[-1]["seconds"]
    parts = ", ".join(f"{way} {row['eigh'] / row[way]:.3g}" for way in ("cold", "warm", "on-line"))
    text = f"at d = {numbers[-1]['d']}, rank {sizes.rank}, float32, eigh over it: {parts}"
    return Answer(text, numbers)


def tf32_decomposition(engine: Engine, sizes: Sizes) -> Answer:
    """Compare times and estimated errors with and without TF32 in the products."""
    d = sizes.decomposed[-1]
    _, A = _factor(engine, (2 * sizes.rank, d))
    numbers: dict[str, Any] = {"d": d}
    for precision in ("native", "tf32"):
        call = partial(ngdla.randomized_eigh, rank=sizes.rank, precision=precision)
        result = call(A)
        numbers[precision] = {
            "seconds": seconds_of(engine, lambda A, call=call: _arrays(call(A)), A),
            "error": float(result.error / result.trace),
        }
    native, tf32 = numbers["native"], numbers["tf32"]
    saved = native["seconds"] / tf32["seconds"]
    text = (
        f"native over TF32 {saved:.3g}; estimated errors over the trace {native['error']:.2e} and "
        f"{tf32['error']:.2e}"
    )
    return Answer(text, [numbers])


def stacked_layers(engine: Engine, sizes: Sizes) -> Answer:
    """Compare a damped solve of a stack with eigenvectors and by small Cholesky factors."""
    count, d = sizes.layers
    X = engine.normal((count, 2 * sizes.rank, d), "float32", 0)
    xp = namespace(X)
    A = xp.matmul(xp.matrix_transpose(X), X)
    V = engine.normal((count, d, 32), "float32", 1)
    damping = _DAMPING * 2.0 * sizes.rank * d

    def with_vectors(A: Array, V: Array) -> Array:
        return ngdla.randomized_eigh(A, sizes.rank).solve(V, damping)

    def without(A: Array, V: Array) -> Array:
        return ngdla.nystrom_factor(A, sizes.rank).solve(V, damping)

    def one_by_one(A: Array, V: Array) -> Array:
        return xp.stack([without(A[i, ...], V[i, ...]) for i in range(count)])

    seconds = {
        "eigenvectors": seconds_of(engine, with_vectors, A, V),
        "factor": seconds_of(engine, without, A, V),
        "factor, one by one": seconds_of(engine, one_by_one, A, V),
    }
    times = ", ".join(f"{way} {1e3 * t:.3g} ms" for way, t in seconds.items())
    return Answer(f"{count} layers of {d}, rank {sizes.rank}: {times}", [{"seconds": seconds}])


def _arrays(result: Any) -> tuple[Array, ...]:
    """Return the arrays of a state or of a decomposition."""
    return tuple(vars(result).values())


def _factor(engine: Engine, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return samples with a decaying spectrum, and their Gram matrix of features."""
    X = engine.normal(shape, "float32", 0)
    xp = namespace(X)
    X = X / xp.sqrt(xp.cumulative_sum(xp.ones_like(X), axis=1))
    return X, xp.matmul(xp.matrix_transpose(X), X)


def seconds_of(engine: Engine, function: Any, *arrays: Array) -> float:
    """Return the median time of a function as users of the library compile it."""
    compiled = engine.compiled(function, *arrays)
    engine.wait(compiled(*arrays))
    return engine.median(compiled, *arrays, limit=_LIMIT)

"""Each choice of ngdla/_backend/choices.py, timed in all its ways on calls that depend on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ngdla
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine
from asv_benchmarks.gpu.questions import distance
from ngdla._backend.choices import CHOICES, Choice
from ngdla._backend.dtypes import unit_roundoff
from ngdla._backend.namespace import namespace
from ngdla._backend.spectral import eigh

__all__ = ["CALLS", "Call", "Calls", "choices"]

RANK = 64
_LIMIT = 0.15
_REAL = ("float32", "float64")
Shape = tuple[int, ...]


class Call(NamedTuple):
    """A call on standard normal arrays: its time depends on a choice, its result does not."""

    label: str
    dtype: str
    shapes: tuple[Shape, ...]
    function: Callable[..., Array]
    prepare: Callable[..., tuple[Any, ...]] = lambda *arrays: arrays  # not timed


class Calls(NamedTuple):
    """The libraries that a choice is about, and calls of full and of tiny size."""

    libraries: tuple[str, ...]
    full: tuple[Call, ...]
    tiny: tuple[Call, ...]


def _gram(dtypes: tuple[str, ...], shapes: tuple[Shape, ...]) -> tuple[Call, ...]:
    return tuple(
        Call(f"gram {n} x {m:,} {dtype}", dtype, ((n, m),), ngdla.gram)
        for n, m in shapes
        for dtype in dtypes
    )


def _eigenvalues(shapes: tuple[Shape, ...]) -> tuple[Call, ...]:
    return tuple(
        Call(f"eigh of {count} x {n} {dtype}", dtype, ((count, n, n),), _values_of, _symmetric)
        for count, n, _ in shapes
        for dtype in ("float32", "float64")
    )


def _values_of(A: Array) -> Array:
    return eigh(A)[0]


def _symmetric(X: Array) -> tuple[Array]:
    return (X + namespace(X).matrix_transpose(X),)


def _decompositions(d: int, rank: int) -> tuple[Call, ...]:
    samples, features = (d, 2 * rank), (2 * rank, d)
    solve = (min(d, 256), 16 * d)
    return (
        *(
            Call(f"randomized_eigh d = {d} {dtype}", dtype, (samples,), _cold(rank), _factor)
            for dtype in ("float32", "float64")
        ),
        Call(f"randomized_eigh warm d = {d}", "float32", (samples,), _warm(rank), _basis(rank)),
        Call(f"randomized_svd d = {d}", "float32", ((d, d),), _svd(rank)),
        Call(f"nystrom_factor d = {d}", "float32", (samples,), _nystrom(rank), _factor),
        Call(f"online_eigh_update d = {d}", "float32", (features,), _update, _followed(rank)),
        Call(f"inverse_free_update d = {d}", "float32", (features,) * 2, _singd, _statistics),
        Call(f"damped_solve {solve[0]} x {solve[1]:,}", "float32", (solve, solve[1:]), _solve),
    )


def _factor(X: Array) -> tuple[Array]:
    """Return a matrix of a decaying spectrum."""
    xp = namespace(X)
    X = X / xp.sqrt(xp.cumulative_sum(xp.ones_like(X), axis=1))
    return (xp.matmul(X, xp.matrix_transpose(X)),)


def _cold(rank: int) -> Callable[[Array], Array]:
    return lambda A: ngdla.randomized_eigh(A, rank).eigenvalues


def _warm(rank: int) -> Callable[[Array, Array], Array]:
    return lambda A, U: ngdla.randomized_eigh(A, rank, passes=1, basis=U).eigenvalues


def _basis(rank: int) -> Callable[[Array], tuple[Array, Array]]:
    def prepare(X: Array) -> tuple[Array, Array]:
        (A,) = _factor(X)
        return A, ngdla.randomized_eigh(A, rank).eigenvectors

    return prepare


def _svd(rank: int) -> Callable[[Array], Array]:
    return lambda A: ngdla.randomized_svd(A, rank).S


def _nystrom(rank: int) -> Callable[[Array], Array]:
    return lambda A: ngdla.nystrom_factor(A, rank).solve(A[0, ...], 0.1)


def _followed(rank: int) -> Callable[[Array], tuple[Any, Array]]:
    return lambda X: (ngdla.online_eigh_init(X, rank), X)


def _update(state: Any, X: Array) -> Array:
    return ngdla.online_eigh_update(state, X, decay=0.95, check=False).eigenvalues


def _triangles(d: int) -> tuple[Call, ...]:
    name = f"inverse_free_update d = {d}, upper-triangular"
    prepare = partial(_statistics, structure="upper-triangular")
    return tuple(
        Call(f"{name}, {dtype}", dtype, ((64, d),) * 2, _singd, prepare) for dtype in _REAL
    )


def _statistics(a: Array, g: Array, structure: str = "dense") -> tuple[Any, Any]:
    d = a.shape[-1]
    state = ngdla.inverse_free_init(d, d, structures=(structure, structure), like=a)
    return state, ngdla.inverse_free_statistics(state, a, g)


def _singd(state: Any, statistics: Any) -> Array:
    state = ngdla.inverse_free_update(
        state, statistics, damping=1e-3, step_size=1e-3, momentum=0.5, check=False
    )
    return state.K.to_dense()


def _solve(S: Array, v: Array) -> Array:
    return ngdla.damped_solve(S, v, 0.1 * S.shape[1], check=False)


_SHAPES = ((1024, 100_000), (64, 100_000), (4096, 100_000))  # the part "gram" has others
_ALL = (*_REAL, "complex64")
_DECOMPOSED = _decompositions(1024, RANK) + _decompositions(4096, RANK)

# Every choice has its calls here; a test holds this.
CALLS: dict[str, Calls] = {
    "gram of cupy": Calls(("cupy",), _gram(_ALL, _SHAPES), _gram(_ALL, ((12, 40),))),
    "gram of torch": Calls(("torch",), _gram(_ALL, _SHAPES), _gram(_ALL, ((12, 40),))),
    "gram of jax": Calls(("jax",), _gram(_REAL, _SHAPES), _gram(_REAL[1:], ((12, 40),))),
    "stacks of eigh": Calls(
        ("cupy",),
        _eigenvalues(((64, 16, 16), (64, 64, 64), (64, 256, 256), (8, 1024, 1024))),
        _eigenvalues(((3, 6, 6),)),
    ),
    "triangles of cupy": Calls(("cupy",), _triangles(512) + _triangles(1024), _triangles(80)),
    "flags": Calls(("cupy", "torch"), _DECOMPOSED, _decompositions(24, 3)),
}


def choices(desk: Desk, engine: Engine) -> None:
    """Time all choices that are about this library, and say which way is the fastest."""
    for name, choice in CHOICES.items():
        if name not in CALLS:
            desk.fault(f"the choice {name!r} has no calls to time")
            continue
        calls = CALLS[name]
        if engine.name not in calls.libraries:
            continue
        for call in calls.tiny if desk.rehearsal else calls.full:
            if desk.over():
                return
            row = {"choice": name, "library": engine.name, "call": call.label}
            desk.add("choices", row | _timed(desk, engine, choice, call))
            engine.release()


def _timed(desk: Desk, engine: Engine, choice: Choice, call: Call) -> dict[str, Any]:
    """Time a call in all ways; a way that fails, or gives another result, is a fault."""
    seconds: dict[str, float] = {}
    distances: dict[str, float] = {}
    errors: dict[str, str] = {}
    first = None
    for way in choice.ways:
        try:
            with choice.taken(way):
                result, seconds[way] = _measured(engine, call)
            first = result if first is None else first
            distances[way] = distance(result, first)
        except Exception as error:  # noqa: BLE001 - the other ways are asked all the same
            errors[way] = desk.fault(f"{call.label}, {way}", error)
    allowed = math.sqrt(unit_roundoff(call.dtype))
    for way in [way for way, error in distances.items() if not error <= allowed]:
        desk.fault(f"{call.label}: {way} differs from {choice.ways[0]} by {distances[way]:.1e}")
    fastest = min(seconds, key=lambda way: seconds[way], default=None)
    taken = seconds.get(choice.way)
    gain = taken / seconds[fastest] if taken and fastest else None
    ways = {"taken": choice.way, "fastest": fastest, "gain": gain}
    return {"seconds": seconds, "distances": distances, "errors": errors, **ways}


def _measured(engine: Engine, call: Call) -> tuple[Array, float]:
    arrays = [engine.normal(shape, call.dtype, i) for i, shape in enumerate(call.shapes)]
    arguments = call.prepare(*arrays)
    function = engine.compiled(call.function, *arguments)
    result = function(*arguments)
    engine.wait(result)
    return result, engine.median(function, *arguments, limit=_LIMIT)

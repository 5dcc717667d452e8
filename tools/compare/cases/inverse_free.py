"""Inverse-free updates: states, statistics, every rule, retraction and storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from compare.expressions import Array, Expression, ngdla
from compare.grids import DTYPES, HALF, Case, grid

from .structures import STRUCTURES, D

__all__ = ["cases"]

OUT, ROWS = 3, 8
RULES = ("ingd", "ikfac")
RETRACTIONS = ("series", "expm", "binomial", "implicit", "exact")
STORAGES = ("native", "float32", "compensated")
UPDATE: dict[str, Any] = {"damping": 0.3, "step_size": 0.1}


def batch(size: tuple[int, ...], seed: int) -> tuple[Array, Array]:
    """Return inputs and output gradients."""
    return Array("normal", (*size, ROWS, D), seed=seed), Array(
        "normal", (*size, ROWS, OUT), seed=seed
    )


def rows_of(size: tuple[int, ...]) -> dict[str, bool]:
    """Return the options that say of a stack of layers that it is one."""
    return {"positions": False} if size else {}


def trained(
    start: dict[str, Any], size: tuple[int, ...], update: dict[str, Any], statistics: dict[str, Any]
) -> Any:
    """Return a state after two updates, and what it does with a gradient."""
    state = ngdla.inverse_free_init(D, OUT, like=Array("normal", (1,)), batch=size, **start)
    for seed in range(2):
        options = rows_of(size) | statistics
        batch_ = ngdla.inverse_free_statistics(state, *batch(size, seed), **options)
        state = ngdla.inverse_free_update(state, batch_, **(UPDATE | update))
    return state, ngdla.inverse_free_apply(state, Array("normal", (*size, OUT, D)))


def by_rule(structure: Expression, rule: str, retraction: str, order: int) -> Any:
    """Return two updates by a rule and a retraction."""
    start = {"structures": (structure, "dense")}
    return trained(start, (), {"rule": rule, "retraction": retraction, "order": order}, {})


def stored(
    storage: str, kept: Any, structure: str, rule: str, retraction: str, momentum: float
) -> Any:
    """Return two updates of a state that is stored in another precision."""
    start = {"structures": (structure, "diagonal"), "dtype": kept, "storage": storage}
    options = {"rule": rule, "retraction": retraction, "momentum": momentum}
    return trained(start, (), options, {})


# Options of updates and of statistics, which b, the batch shape, may matter to.
UPDATES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "momentum": lambda b: {"momentum": 0.9},
    "unguarded": lambda b: {"safeguard": False, "step_size": 5.0},
    "large steps": lambda b: {"step_size": 5.0, "rule": "ikfac"},
    "unchecked": lambda b: {"check": False},
    "dampings": lambda b: {"damping": Array("positive", b), "step_size": Array("positive", b)},
    "negative damping": lambda b: {"damping": -1.0},
    "unknown rule": lambda b: {"rule": "nonsense"},
    "order 0": lambda b: {"order": 0},
}
STATISTICS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "plain": lambda b: {},
    "weights": lambda b: {"weights": Array("positive", (*b, ROWS))},
    "nan weights": lambda b: {"weights": Array("nan", (*b, ROWS))},
    "loss_scale": lambda b: {"loss_scale": 128.0},
    "loss scales": lambda b: {"loss_scale": Array("positive", b), "check": False},
}


def given(size: Any, update: Any, statistics: Any, momentum: bool) -> Any:
    """Return two updates with options."""
    start = {"momentum": momentum, "structures": ("dense", ("hierarchical", {"k1": 1, "k2": 1}))}
    return trained(start, size, update(size), statistics(size))


def summed(size: tuple[int, ...]) -> Any:
    """Return statistics in two parts and their sum."""
    state = ngdla.inverse_free_init(D, OUT, like=Array("normal", (1,)), batch=size)
    first, second = (
        ngdla.inverse_free_statistics(state, *batch(size, seed), **rows_of(size)) for seed in (0, 1)
    )
    bad = (x.like("nan") for x in batch(size, 0))
    skipped = ngdla.inverse_free_statistics(state, *bad, **rows_of(size))
    update = {**UPDATE, "check": False}
    return first, first + second, ngdla.inverse_free_update(state, skipped, **update)


def unchecked(size: tuple[int, ...], right: str) -> Any:
    """Return a product with right-hand sides that nobody looks at."""
    state = ngdla.inverse_free_init(D, OUT, like=Array("normal", (1,)), batch=size)
    return ngdla.inverse_free_apply(state, Array(right, (*size, OUT, D)), check=False)


def positioned(size: tuple[int, ...], weights: bool) -> Any:
    """Return statistics of samples with positions, and of none."""
    state = ngdla.inverse_free_init(D, OUT, like=Array("normal", (1,)), batch=size)
    a, g = (Array("normal", (*size, 4, 3, d)) for d in (D, OUT))
    w = Array("positive", (*size, 4)) if weights else None
    nothing = (Array("normal", (*size, 0, d)) for d in (D, OUT))
    return ngdla.inverse_free_statistics(
        state, a, g, positions=True, weights=w
    ), ngdla.inverse_free_statistics(state, *nothing, **rows_of(size))


def saved(structure: Expression, storage: str, momentum: bool) -> Any:
    """Return a state that was saved and restored."""
    start = {"structures": (structure, "dense"), "storage": storage, "momentum": momentum}
    if storage == "compensated":
        start["dtype"] = "bfloat16"
    state, _ = trained(start, (), {}, {})
    template = ngdla.inverse_free_init(D, OUT, like=Array("normal", (1,)), **start)
    like = Array("normal", (1,))
    return ngdla.load_state_dict(template, ngdla.state_dict(state), like=like)


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    rules = {"rule": RULES, "retraction": RETRACTIONS}
    yield from grid("inverse-free", by_rule, structure=STRUCTURES, **rules, order=(1, 3))
    yield from grid(
        "inverse-free, stored",
        stored,
        dtype=("float32",),
        storage=STORAGES,
        kept=("float16", "bfloat16", *DTYPES, None),
        structure=("dense", "lower-triangular", "upper-toeplitz"),
        **rules,
        momentum=(0.0, 0.9),
    )
    sizes = {"matrix": (), "stack": (2,)}
    options = {"update": UPDATES, "statistics": STATISTICS, "momentum": (True, False)}
    yield from grid("inverse-free, given", given, size=sizes, **options)
    yield from grid("inverse-free, half", given, **HALF, size=sizes, **options)
    yield from grid("inverse-free, sums", summed, size=sizes)
    yield from grid("inverse-free, positions", positioned, size=sizes, weights=(True, False))
    yield from grid(
        "inverse-free, saved",
        saved,
        dtype=("float32",),
        structure=("dense", "upper-toeplitz"),
        storage=STORAGES,
        momentum=(True, False),
    )
    yield from grid("inverse-free, unchecked", unchecked, size=sizes, right=("normal", "nan"))

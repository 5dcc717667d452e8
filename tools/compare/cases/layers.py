"""Gram matrices and weights of the samples of a layer, and how weights are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compare.expressions import Array, ngdla
from compare.grids import HALF, INTERPRETED, Case, grid

__all__ = ["cases"]

# Shapes of inputs, and d_out.
LAYOUTS: dict[str, tuple[tuple[int, ...], int]] = {
    "plain": ((6, 4), 5),
    "many samples": ((11, 3), 2),
    "one sample": ((1, 4), 3),
    "positions": ((5, 3, 4), 2),
    "many positions": ((3, 40, 2), 2),
    "one position": ((5, 1, 4), 3),
    "stack": ((2, 5, 3, 4), 3),
}


def layer(layout: tuple[tuple[int, ...], int], seed: int = 0) -> tuple[Array, Array]:
    """Return inputs and output gradients."""
    shape, d_out = layout
    return Array("normal", shape, seed=seed), Array("normal", (*shape[:-1], d_out), seed=seed)


def count(layout: tuple[tuple[int, ...], int]) -> tuple[int, ...]:
    """Return the shape of the weights of the samples."""
    shape = layout[0]
    return shape[:1] if len(shape) == 2 else shape[:-2]


def weighted(layout: Any, relative: bool, normalized: bool, damping: Any, check: bool) -> Any:
    """Return the Gram matrix of samples, weights, the gradient that they give, and its angle."""
    a, g = layer(layout)
    number = Array("positive", count(layout)[:-1]) if damping == "array" else damping
    K = ngdla.sample_gram(a, g, check=check)
    c = ngdla.sample_weights(K, number, relative=relative, normalized=normalized, check=check)
    d = Array("normal", count(layout))
    gradient = ngdla.weighted_gradient(a, g, c, check=check)
    return K, c, gradient, ngdla.weighted_cosine(K, c, d, check=check)


def shared(layout: Any, policy: str, diagnose: bool, relative: bool, period: Any) -> Any:
    """Return the weights and states of four batches, the third of which has fewer samples."""
    (*stack, M) = count(layout)
    state = ngdla.weight_sharing_init(policy, M, period=period)
    results = [state]
    for seed in range(4):
        a, g = layer(layout, seed)
        if seed == 2 and M > 1 and not stack:
            a, g = a[: M - 1], g[: M - 1]
        options = {"relative": relative, "diagnose": diagnose, "check": seed != 3}
        step = ngdla.weight_sharing_step(state, a, g, 0.1, **options)
        results += [step[0], step[1]]
        state = step[1]
    return results


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    flags = {"relative": (True, False), "normalized": (True, False), "check": (True, False)}
    every = {"layout": LAYOUTS, **flags, "damping": (0.1, 1e-12, "array")}
    yield from grid("sample weights", weighted, **every)
    yield from grid("sample weights, half", weighted, **HALF, **every)
    yield from grid(
        "weight sharing",
        shared,
        layout=LAYOUTS,
        policy=("exact", "every", "shared", "nonsense"),
        diagnose=(True, False),
        relative=(True, False),
        period=(None, 1, 2),
    )
    # Gradients that are formed in chunks, or pairs of positions in blocks.
    large = {"gradients": ((30, 200, 8), 6), "pairs": ((40, 3, 300), 200), "plain": ((300, 40), 30)}
    yield from grid(
        "sample_gram, large",
        lambda layout: ngdla.sample_gram(*layer(layout)),
        layout=large,
        **INTERPRETED,
    )

"""Rows and patches of layers, Gram matrices and weights of samples, and how weights are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compare.expressions import Array, ngdla
from compare.grids import HALF, INTERPRETED, Case, grid

__all__ = ["cases"]

# Shapes of inputs, d_out, and whether they have positions.
Layout = tuple[tuple[int, ...], int, bool | None]
LAYOUTS: dict[str, Layout] = {
    "plain": ((6, 4), 5, None),
    "many samples": ((11, 3), 2, False),
    "one sample": ((1, 4), 3, None),
    "positions": ((5, 3, 4), 2, True),
    "many positions": ((3, 40, 2), 2, True),
    "one position": ((5, 1, 4), 3, True),
    "stack": ((2, 5, 3, 4), 3, True),
    "stack without positions": ((2, 5, 4), 3, False),
    "positions, not said": ((5, 3, 4), 2, None),
}
NOTHING: dict[str, Layout] = {
    "no samples": ((0, 4), 5, None),
    "no samples in a stack": ((2, 0, 3, 4), 5, True),
    "no positions": ((5, 0, 4), 2, True),
}


def layer(layout: Layout, seed: int = 0) -> tuple[Array, Array]:
    """Return inputs and output gradients."""
    shape, d_out, _ = layout
    return Array("normal", shape, seed=seed), Array("normal", (*shape[:-1], d_out), seed=seed)


def count(layout: Layout) -> tuple[int, ...]:
    """Return the shape of the weights of the samples."""
    shape, _, positions = layout
    return shape[:-2] if positions else shape[:-1]


def convolved(
    shape: tuple[int, ...], stride: int, padding: Any, dilation: int, groups: int, channels: str
) -> Any:
    """Return the patches of images, sequences or volumes, and their means."""
    x = Array("normal", shape)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    options |= {"groups": groups, "channels": channels}
    return ngdla.patches(x, 2, **options), ngdla.patch_means(x, 2, **options)


def weighted(
    layout: Layout, relative: bool, normalized: bool, damping: Any, check: bool, full: bool
) -> Any:
    """Return the Gram matrix of samples, weights, the gradient that they give, and its angle."""
    a, g = layer(layout)
    number = Array("positive", count(layout)[:-1]) if damping == "array" else damping
    options = {"positions": layout[2], "check": check}
    K = ngdla.sample_gram(a, g, **options)
    units = {"relative": relative, "normalized": normalized, "full_output": full}
    found = ngdla.sample_weights(K, number, **units, check=check)
    c = found[0] if full else found
    d = Array("normal", count(layout))
    gradient = ngdla.weighted_gradient(a, g, c, **options)
    return K, found, gradient, ngdla.weighted_cosine(K, c, d, check=check)


def shared(layout: Layout, policy: str, diagnose: bool, relative: bool, period: Any) -> Any:
    """Return the weights and states of four batches, the third of which has fewer samples."""
    (*stack, M) = count(layout)
    state = ngdla.weight_sharing_init(policy, M, period=period)
    results = [state]
    for seed in range(4):
        a, g = layer(layout, seed)
        if seed == 2 and M > 1 and not stack:
            a, g = a[: M - 1], g[: M - 1]
        options = {"relative": relative, "diagnose": diagnose, "check": seed != 3}
        step = ngdla.weight_sharing_step(state, a, g, 0.1, positions=layout[2], **options)
        results += [step[0], step[1]]
        state = step[1]
    return results


def by_index(policy: str, period: int, batches: tuple[int, ...]) -> Any:
    """Return the weights and states of batches that say which one of the epoch they are."""
    state = ngdla.weight_sharing_init(policy, 6, period=period)
    results = [state]
    for seed, batch in enumerate(batches):
        a, g = layer(LAYOUTS["plain"], seed)
        step = ngdla.weight_sharing_step(state, a[seed:], g[seed:], 0.1, batch=batch)
        results += [step[0], step[1]]
        state = step[1]
    return results


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from grid(
        "layer_rows",
        lambda layout, sharing, bias, loss: ngdla.layer_rows(
            *layer(layout), sharing=sharing, bias=bias, loss=loss, positions=layout[2]
        ),
        layout={**LAYOUTS, **NOTHING},
        sharing=("expand", "reduce", "none", "nonsense"),
        bias=(True, False),
        loss=("sum", "mean", "token-mean"),
    )
    yield from grid(
        "patches",
        convolved,
        shape=((2, 4, 6), (2, 4, 4, 6), (2, 4, 3, 2, 4), (0, 4, 6), (4, 6)),
        stride=(1, 3),
        padding=(0, 2, "same", ((1, 2), (0, 1)), -1),
        dilation=(1, 2),
        groups=(1, 2, 0),
        channels=("first", "last"),
    )
    flags = {"relative": (True, False), "normalized": (True, False), "check": (True, False)}
    every = {"layout": LAYOUTS, **flags, "damping": (0.1, 1e-12, "array"), "full": (False, True)}
    yield from grid("sample weights", weighted, **every)
    yield from grid("sample weights, half", weighted, **HALF, **every)
    yield from grid("sample weights of nothing", weighted, **{**every, "layout": NOTHING})
    yield from grid(
        "weight sharing",
        shared,
        layout=LAYOUTS,
        policy=("exact", "every", "shared", "table", "mean", "nonsense"),
        diagnose=(True, False),
        relative=(True, False),
        period=(None, 1, 2),
    )
    yield from grid(
        "weight sharing by index",
        by_index,
        policy=("table", "mean"),
        period=(1, 3),
        batches=((0, 1, 2, 2), (2, None, 2, 2), (0, 3), (-1,), (True,)),
    )
    # Gradients that are formed in chunks, or pairs of positions in blocks.
    large: dict[str, Layout] = {
        "gradients": ((30, 200, 8), 6, True),
        "pairs": ((40, 3, 300), 200, True),
        "plain": ((300, 40), 30, None),
    }
    yield from grid(
        "sample_gram, large",
        lambda layout: ngdla.sample_gram(*layer(layout), positions=layout[2]),
        layout=large,
        **INTERPRETED,
    )

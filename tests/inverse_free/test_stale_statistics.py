"""Statistics of other states are refused or skipped, parts of no rows are zero."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import Backend, map_arrays, map_both
from dense_updates import NAMES, samples, structure
from spectra import quick_compilation, refused  # noqa: F401

from ngdla import (
    InverseFreeState,
    InverseFreeStatistics,
    ema,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
    online_eigh_init,
    online_eigh_update,
)

IN, OUT = 6, 5
OPTIONS: dict[str, Any] = {"damping": 0.1, "step_size": 0.1}
STALE = "taken with another state"


def start(like: Any, names: tuple[str, str] = ("dense", "dense"), **options: Any) -> Any:
    pair = structure(names[0], IN), structure(names[1], OUT)
    return inverse_free_init(IN, OUT, structures=pair, like=like, **options)


def rows_of(rng: np.random.Generator, rows: int, dtype: str = "float64") -> tuple[Any, Any]:
    return samples(rng, rows, IN).astype(dtype), samples(rng, rows, OUT).astype(dtype)


def at_step(state: InverseFreeState, step: int) -> InverseFreeState:
    """Return a state as if after that many updates."""
    return dataclasses.replace(state, step=0 * state.step + step)


def assert_refused(state: InverseFreeState, statistics: InverseFreeStatistics) -> None:
    """With checks by an error; without, the old state, bit for bit, whose report says so."""
    update = partial(inverse_free_update, state, statistics, **OPTIONS)
    assert STALE in refused(ValueError, "statistics", update)
    skipped = update(check=False)
    assert skipped.report.skipped
    assert skipped.report.step_K == skipped.report.step_C == 0
    report = state.report
    map_both(np.testing.assert_array_equal, dataclasses.replace(skipped, report=report), state)


# ---------------------------------------------------------------------------- other states


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [0, 1, 254, 255, 256, 999_999, 1_000_000])
def test_statistics_of_other_states_are_refused(
    dtype: str, step: int, rng: np.random.Generator
) -> None:
    """One or two updates off, before or after, and one row of fifty; those of its own are not."""
    a, g = rows_of(rng, 50, dtype)
    state = at_step(start(a), step)
    own = inverse_free_statistics(state, a, g)
    assert inverse_free_update(state, own, **OPTIONS).step == step + 1
    for off in (-2, -1, 1, 2):
        if step + off < 0:
            continue
        other = at_step(state, step + off)
        assert_refused(state, inverse_free_statistics(other, a, g))
        mixed = inverse_free_statistics(state, a[1:], g[1:])
        assert_refused(state, mixed + inverse_free_statistics(other, a[:1], g[:1]))


def test_statistics_cannot_be_used_twice(rng: np.random.Generator) -> None:
    a, g = rows_of(rng, 20)
    state = start(a, ("hierarchical", "upper-toeplitz"))
    statistics = inverse_free_statistics(state, a, g)
    new = inverse_free_update(state, statistics, **OPTIONS)
    assert_refused(new, statistics)
    assert_refused(state, inverse_free_statistics(new, a, g))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_weight_is_a_small_part(dtype: str, rng: np.random.Generator) -> None:
    """Of weights, 2 % are refused; a stale part of weight zero is none."""
    a, g = rows_of(rng, 20, dtype)
    state = at_step(start(a), 1023)
    other = at_step(state, 1022)
    w = rng.uniform(0.1, 3.0, 20).astype(dtype)
    own = inverse_free_statistics(state, a, g, weights=w)
    share = np.asarray(0.0204, dtype)  # of its own weight: 2 % of all
    stale = partial(inverse_free_statistics, other, a, g)
    assert_refused(state, own + stale(weights=share * w))
    assert not inverse_free_update(state, own + stale(weights=0 * w), **OPTIONS).report.skipped


@pytest.mark.parametrize("weighted", [False, True])
def test_many_parts_of_its_own_are_taken(weighted: bool, rng: np.random.Generator) -> None:
    """500 in float32, with the largest rounding: of equal weights, which round alike."""
    a, g = rows_of(rng, 3, "float32")
    state = at_step(start(a, ("diagonal", "diagonal")), 1023)
    for weight in rng.uniform(12, 24, 20 if weighted else 1):
        w = np.full(3, weight if weighted else 1, "float32")
        one = inverse_free_statistics(state, a, g, weights=w)
        total = sum([one] * 500)
        assert inverse_free_update(state, total, **OPTIONS).step == 1024
    assert total.rows.dtype == "float32"


def test_each_layer_counts_its_own_updates(rng: np.random.Generator) -> None:
    """A layer that was skipped is at another step than the others, and takes its own statistics."""
    a, g = (np.stack([x, 2 * x, 3 * x]) for x in rows_of(rng, 9))
    state = start(a, ("upper-triangular", "dense"), batch=(3,))
    bad = a.copy()
    bad[1, 0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        statistics = inverse_free_statistics(state, bad, g, positions=False)
        mixed = inverse_free_update(state, statistics, check=False, **OPTIONS)
    assert mixed.step.tolist() == [1, 0, 1]
    with np.errstate(invalid="ignore"):
        late = inverse_free_update(mixed, statistics, check=False, **OPTIONS)
    assert late.report.skipped.tolist() == [True, True, True]
    first = inverse_free_statistics(state, a, g, positions=False)
    assert STALE in refused(
        ValueError, "statistics", lambda: inverse_free_update(mixed, first, **OPTIONS)
    )
    some = inverse_free_update(mixed, first, check=False, **OPTIONS)
    assert some.report.skipped.tolist() == [True, False, True]
    assert some.step.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(some.K.to_dense()[::2], mixed.K.to_dense()[::2])
    own = inverse_free_statistics(mixed, a, g, positions=False)
    new = inverse_free_update(mixed, own, **OPTIONS)
    assert new.step.tolist() == [2, 1, 2]


@pytest.mark.parametrize("how", ["jax.jit", "torch.vmap"])
def test_where_nothing_can_be_read_the_update_is_skipped(
    how: str, rng: np.random.Generator
) -> None:
    """Whatever `check` says."""
    library, _, transformation = how.partition(".")
    module = pytest.importorskip(library)
    convert = module.numpy.asarray if library == "jax" else module.asarray
    arrays = rows_of(rng, 9, "float32")
    a, g = (convert(np.stack([x, 2 * x]) if transformation == "vmap" else x) for x in arrays)
    axes = tuple(a.shape[:-2])
    state = start(np.ones(1, "float32"), ("diagonal", "diagonal"), batch=axes)
    state = map_arrays(lambda x: convert(np.asarray(x)), state)
    fresh = dataclasses.replace(state, step=state.step + 7)

    def update(state: Any, other: Any, a: Any, g: Any) -> Any:
        statistics = inverse_free_statistics(state, a, g)
        return inverse_free_update(other, statistics, **OPTIONS)

    mapped = getattr(module, transformation)(update)
    assert not np.any(np.asarray(mapped(state, state, a, g).report.skipped))
    skipped = mapped(state, fresh, a, g)
    assert np.all(np.asarray(skipped.report.skipped))
    kept = dataclasses.replace(skipped, report=fresh.report)
    as_numpy = partial(map_arrays, np.asarray)
    map_both(np.testing.assert_array_equal, as_numpy(kept), as_numpy(fresh))


def test_meta_tensors_keep_their_shapes() -> None:
    torch = pytest.importorskip("torch")
    a, g = (torch.zeros((4, d), device="meta") for d in (IN, OUT))
    state = start(a)
    other = at_step(state, 3)
    new = inverse_free_update(other, inverse_free_statistics(state, a, g), **OPTIONS)
    assert new.report.skipped.shape == new.step.shape == ()
    assert new.K.shape == (IN, IN)


# --------------------------------------------------------------------------------- no rows


@pytest.mark.thinned(0)
@pytest.mark.parametrize("axes", [(), (2,)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_no_rows_adds_nothing(
    backend: Backend, name: str, axes: tuple[int, ...], rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[0]
    none = [np.zeros((*axes, 0, d), dtype) for d in (IN, OUT)]
    some = [np.broadcast_to(x, (*axes, *x.shape)).copy() for x in rows_of(rng, 5, dtype)]

    def run(none: Any, some: Any) -> Any:
        state = start(some[0], (name, name), batch=axes)
        zero, other = (
            inverse_free_statistics(state, *x, positions=False, check=False) for x in (none, some)
        )
        return zero, other, zero + other

    zero, other, total = backend.call(run, *map(backend.asarray, (none, some)))
    if not backend.has_values:
        assert zero.rows.shape == axes
        return
    zero, other, total = (map_arrays(backend.numpy, x) for x in (zero, other, total))
    map_arrays(lambda x: np.testing.assert_array_equal(x, np.zeros_like(x)), zero)
    map_both(np.testing.assert_array_equal, total, other)


def test_no_rows_alone_are_refused(rng: np.random.Generator) -> None:
    """As rows of weight zero are; without checks they are skipped."""
    a, g = rows_of(rng, 4)
    state = start(a)
    zero = inverse_free_statistics(state, a[:0], g[:0], weights=np.zeros(0))
    assert zero.rows == zero.step_rows == 0
    with np.errstate(invalid="ignore"):
        update = partial(inverse_free_update, state, zero, **OPTIONS)
        assert "no row of positive weight" in refused(ValueError, "statistics", update)
        skipped = update(check=False)
    assert skipped.report.skipped
    np.testing.assert_array_equal(skipped.K.to_dense(), np.eye(IN))


@pytest.mark.thinned(0)
@pytest.mark.parametrize("axes", [(), (2,)], ids=str)
def test_averages_of_no_rows(
    backend: Backend, axes: tuple[int, ...], rng: np.random.Generator
) -> None:
    """A batch of zeros: the average decays, and eigenvectors stay."""
    dtype, decay, d = backend.dtypes[0], 0.5, 7
    X = np.broadcast_to(rng.standard_normal((9, d)), (*axes, 9, d)).astype(dtype)

    def run(X: Any) -> Any:
        none = X[..., :0, :]
        first = online_eigh_init(X, 3, check=False)
        empty = online_eigh_init(none, 3, check=False)
        A = first.sketch[..., :d, :d]
        A = ema(A, none, decay=decay, check=False)
        return first, empty, online_eigh_update(first, none, decay=decay, check=False), A

    first, empty, second, A = backend.call(run, backend.asarray(X))
    if not backend.has_values:
        assert tuple(second.trace.shape) == axes
        return
    first, empty, second = (map_arrays(backend.numpy, x) for x in (first, empty, second))
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_array_equal(backend.numpy(A), decay * first.sketch[..., :d, :d])
    assert not np.any(empty.eigenvalues)
    assert not np.any(empty.trace)
    assert np.all(empty.weight == 1)
    V = empty.eigenvectors
    gap = np.swapaxes(V, -1, -2) @ V - np.eye(3)
    assert np.abs(gap).max() <= 30 * d * eps
    part = decay / (1 + decay)  # of the sum of weights, debiased
    np.testing.assert_allclose(second.trace, part * first.trace, rtol=8 * eps)
    tolerance = 100 * d * eps
    np.testing.assert_allclose(second.eigenvalues, part * first.eigenvalues, rtol=tolerance)
    overlap = np.abs(np.sum(first.eigenvectors * second.eigenvectors, axis=-2))
    assert math.isclose(float(overlap.min()), 1.0, abs_tol=tolerance)

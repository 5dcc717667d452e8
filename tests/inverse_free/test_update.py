"""Inverse-free updates on every library, against their definition by dense matrices."""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of, half_dtype, has_module
from dense_updates import (
    NAMES,
    DenseState,
    after,
    dense_update,
    preconditioner,
    samples,
    second_moment,
    structure,
    tangents,
    with_members,
)
from references import H, U, random_array
from spectra import (
    REAL,
    needs,
    norm,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import (
    InverseFreeState,
    InverseFreeStatistics,
    StepSizeWarning,
    inverse_free_apply,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
    structured_factor,
)
from ngdla.structures import StructuredMatrix

IN, OUT, ROWS, DAMPING = 6, 5, 9, 0.1
EPS = U["float64"]
RETRACTIONS = ("series", "expm", "binomial", "implicit", "exact")
RULES = ("ingd", "ikfac")
# Of K and of C, unequal; all structures are there.
PAIRS = (
    ("dense", "diagonal"),
    ("hierarchical", "block-diagonal"),
    ("upper-first", "lower-toeplitz"),
    ("upper-triangular", "masked"),
)


def pair(names: tuple[str, str]) -> Any:
    return structure(names[0], IN), structure(names[1], OUT)


def data(rng: np.random.Generator, dtype: str, rows: int = ROWS) -> list[np.ndarray]:
    """Return inputs and output gradients of half the size of standard normal ones, and a V."""
    shapes = ((rows, IN), (rows, OUT), (OUT, IN))
    half = np.array(0.5, REAL[dtype])
    return [half * random_array(rng, shape, dtype) for shape in shapes]


def weights_of(rng: np.random.Generator, dtype: str, rows: int = ROWS) -> np.ndarray:
    return rng.uniform(0.5, 2, rows).astype(REAL[dtype])


# ---------------------------------------------------------------------- on every library


@pytest.mark.thinned
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_an_update_is_its_definition(
    backend: Backend,
    dtype: str,
    names: tuple[str, str],
    retraction: str,
    rng: np.random.Generator,
) -> None:
    """Both rules one after the other, with weights and momentum: factors, tangents, the product."""
    needs(backend, dtype)
    if backend.name in ("dask", "jax") and retraction == "expm" and names != PAIRS[0]:
        retraction = "series"  # expm is slow, and by itself among the tests of retractions
    arrays = [*data(rng, dtype), weights_of(rng, dtype)]
    options = {"damping": DAMPING, "step_size": 0.2, "retraction": retraction, "order": 2}

    def run(a: Any, g: Any, V: Any, w: Any) -> Any:
        state = inverse_free_init(IN, OUT, structures=pair(names), like=a)
        for rule, momentum in (("ikfac", 0.0), ("ingd", 0.5)):
            statistics = inverse_free_statistics(state, a, g, weights=w, check=False)
            state = inverse_free_update(
                state, statistics, momentum=momentum, rule=rule, check=False, **options
            )
        factors = [state.K.to_dense(), state.C.to_dense()]
        return [*factors, *tangents(state), inverse_free_apply(state, V)]

    expected = DenseState.start(IN, OUT)
    a, g, V, w = (x.astype("complex128" if x.dtype.kind == "c" else "float64") for x in arrays)
    for rule, momentum in (("ikfac", 0.0), ("ingd", 0.5)):
        moments = second_moment(a, w), second_moment(g, w)
        expected = dense_update(
            expected, *moments, names=names, rule=rule, momentum=momentum, **options
        )
    K, C = expected.K, expected.C
    references = [K, C, expected.m_K, expected.m_C, C @ H(C) @ V @ K @ H(K)]
    arrays = backend.asarray(arrays)
    found = run(*arrays) if backend.name.startswith("strict") else backend.call(run, *arrays)
    tolerance = 100 * IN * U[dtype]
    backend.assert_matches(found, references, like=arrays[0], dtype=dtype, tolerance=tolerance)


@pytest.mark.thinned(0)
def test_layers_are_looped_over(backend: Backend, rng: np.random.Generator) -> None:
    """A batch axis, with options for each layer; the step of one is shortened.

    Bounds are not compared: where they are good enough, that of a batch may be the sharper one.
    """
    dtype = backend.dtypes[-1]
    layers = [data(rng, dtype) for _ in range(3)]
    layers[1][0] *= 20
    a, g, V = (np.stack(x) for x in zip(*layers))
    w = np.stack([weights_of(rng, dtype) for _ in range(3)])
    names = ("upper-first", "dense")
    numbers = {"damping": [0.1, 0.2, 0.3], "step_size": [0.1, 0.3, 0.2], "momentum": [0, 0.5, 0.2]}
    arrays = {key: np.array(values, REAL[dtype]) for key, values in numbers.items()}

    def run(a: Any, g: Any, V: Any, w: Any, options: dict[str, Any]) -> Any:
        batch = tuple(a.shape[:-2])
        state = inverse_free_init(IN, OUT, structures=pair(names), like=a, batch=batch)
        for _ in range(2):
            statistics = inverse_free_statistics(
                state, a, g, positions=False if batch else None, weights=w, check=False
            )
            state = inverse_free_update(state, statistics, check=False, **options)
        product = inverse_free_apply(state, V)
        return state.K.to_dense(), state.C.to_dense(), product, fields_of(state.report)[2:6]

    expected = [
        run(a[i], g[i], V[i], w[i], {key: x[i] for key, x in arrays.items()}) for i in range(3)
    ]
    like = backend.asarray(a)
    *found, report = backend.call(run, like, *backend.asarray([g, V, w, arrays]))
    references = [np.stack(x) for x in zip(*(one[:3] for one in expected))]
    tolerance = 500 * IN * U[dtype]
    backend.assert_matches(found, references, like=like, dtype=dtype, tolerance=tolerance)
    numbers_of = [np.stack(x) for x in zip(*(one[3] for one in expected))]
    options = {"like": like, "dtype": REAL[dtype], "tolerance": tolerance}
    backend.assert_matches(report, numbers_of, **options)


@pytest.mark.parametrize("names", [("dense", "diagonal"), ("hierarchical", "block-diagonal")])
@pytest.mark.parametrize("safeguard", [True, False])
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_at_most_one_host_read(
    names: tuple[str, str],
    safeguard: bool,
    retraction: str,
    rng: np.random.Generator,
) -> None:
    """One with checks, none without."""
    arrays = *data(rng, "float64"), weights_of(rng, "float64")
    a, g, V, w = (strict_array(x, device=Device("device1")) for x in arrays)
    state = inverse_free_init(IN, OUT, structures=pair(names), like=a)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.1, "retraction": retraction}
    for check in (False, True):
        with counted_host_reads() as reads:
            statistics = inverse_free_statistics(state, a, g, weights=w, check=check)
        assert len(reads) == check
        with counted_host_reads() as reads:
            inverse_free_update(state, statistics, safeguard=safeguard, check=check, **options)
        assert len(reads) == check
        with counted_host_reads() as reads:
            inverse_free_apply(state, V, check=check)
        assert len(reads) == check
    with counted_host_reads() as reads:
        inverse_free_statistics(state, a, g)
    assert reads == []


def leaves_of(*values: Any) -> list[Any]:
    """Return all arrays of states, statistics and reports."""
    found: list[Any] = []
    for x in values:
        if isinstance(x, tuple):
            found += leaves_of(*x)
        elif isinstance(x, StructuredMatrix):
            found += x.leaves
        elif dataclasses.is_dataclass(x):
            found += leaves_of(*fields_of(x))
        else:
            found.append(x)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_states_and_statistics_are_left_as_they_are(
    library: str, name: str, retraction: str, rng: np.random.Generator
) -> None:
    """Also by an update of the state that came of one: no memory is shared and written to."""
    convert = np.array if library == "numpy" else pytest.importorskip("torch").tensor
    a, g, V = (convert(x) for x in data(rng, "float64"))
    names = structure(name, IN), structure(name, OUT)
    state = inverse_free_init(IN, OUT, structures=names, like=a)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.1, "retraction": retraction}
    kept = [a, g, V]
    for rule, momentum in (("ikfac", 0.0), ("ingd", 0.5), ("ikfac", 0.5)):
        statistics = inverse_free_statistics(state, a, g, weights=convert(np.ones(ROWS)))
        kept += leaves_of(state, statistics)
        copies = [np.asarray(x).copy() for x in kept]
        state = inverse_free_update(state, statistics, rule=rule, momentum=momentum, **options)
        inverse_free_apply(state, V)
        for x, copy in zip(kept, copies):
            np.testing.assert_array_equal(np.asarray(x), copy)


# -------------------------------------------------------------------------- transformations


def two_steps(a: Any, g: Any, names: tuple[str, str]) -> list[Any]:
    """Return what two updates make of a layer, as arrays."""
    state = inverse_free_init(IN, OUT, structures=pair(names), like=a)
    for _ in range(2):
        statistics = inverse_free_statistics(state, a, g)
        state = inverse_free_update(state, statistics, damping=DAMPING, step_size=0.2, momentum=0.5)
    return [state.K.to_dense(), state.C.to_dense()]


def layers(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    batches = [data(rng, "float64") for _ in range(count)]
    return np.stack([b[0] for b in batches]), np.stack([b[1] for b in batches])


@pytest.mark.parametrize("names", PAIRS[1:], ids="-".join)
def test_vmapped_torch_is_looped(names: tuple[str, str], rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    a, g = layers(rng, 3)
    found = torch.func.vmap(lambda a, g: two_steps(a, g, names))(torch.tensor(a), torch.tensor(g))
    for i in range(3):
        for one, other in zip(found, two_steps(a[i], g[i], names)):
            assert relative(one[i].numpy(), other) <= 500 * IN * EPS


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(
    "retraction",
    ["series", *(pytest.param(name, marks=pytest.mark.slow) for name in RETRACTIONS[1:])],
)
def test_compiled_torch(retraction: str, rng: np.random.Generator) -> None:
    """Without a break of the graph; the operators of matrices are what it cannot trace."""
    torch = pytest.importorskip("torch")
    a, g = (x[0] for x in layers(rng, 1))

    def run(a: Any, g: Any) -> Any:
        state = inverse_free_init(IN, OUT, structures=("dense", "diagonal"), like=a)
        statistics = inverse_free_statistics(state, a, g)
        state = inverse_free_update(
            state, statistics, damping=DAMPING, step_size=0.2, retraction=retraction
        )
        return inverse_free_apply(state, g.mT @ a)

    found = torch.compile(run, backend="eager", fullgraph=True)(torch.tensor(a), torch.tensor(g))
    assert relative(found.numpy(), run(a, g)) <= 500 * IN * EPS


def jax_with_doubles() -> Any:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def test_scanned_jax_is_looped(rng: np.random.Generator) -> None:
    """The state is a pytree, of the same structure, dtypes and shapes after an update."""
    jax = jax_with_doubles()
    a, g = layers(rng, 4)
    names = ("hierarchical", "lower-toeplitz")
    options = {"damping": DAMPING, "step_size": 0.2, "momentum": 0.5}

    def step(state: InverseFreeState, batch: Any) -> Any:
        statistics = inverse_free_statistics(state, *batch)
        return inverse_free_update(state, statistics, **options), statistics.rows

    start = inverse_free_init(IN, OUT, structures=pair(names), like=a)
    start = jax.tree.map(jax.numpy.asarray, start)
    end, rows = jax.jit(partial(jax.lax.scan, step))(start, (a, g))
    assert jax.tree.structure(end) == jax.tree.structure(start)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(end)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(start)
    ]
    assert rows.tolist() == [ROWS] * 4
    looped = inverse_free_init(IN, OUT, structures=pair(names), like=a)
    for batch in zip(a, g):
        looped, _ = step(looped, batch)
    for found, leaf in zip((*end.K.leaves, *end.C.leaves), (*looped.K.leaves, *looped.C.leaves)):
        np.testing.assert_allclose(found, leaf, atol=500 * IN * EPS)
    assert int(end.step) == 4


def test_vmapped_jax_is_looped(rng: np.random.Generator) -> None:
    """Over layers and, afterwards, over their states."""
    jax = jax_with_doubles()
    a, g = layers(rng, 3)
    names = ("upper-triangular", "block-diagonal")

    def step(state: InverseFreeState, a: Any, g: Any) -> InverseFreeState:
        statistics = inverse_free_statistics(state, a, g)
        return inverse_free_update(state, statistics, damping=DAMPING, step_size=0.2)

    def start(like: Any) -> InverseFreeState:
        return inverse_free_init(IN, OUT, structures=pair(names), like=like)

    arrays = [jax.numpy.asarray(x) for x in (a, g)]
    first = jax.vmap(lambda a, g: step(start(a), a, g))
    states = jax.jit(lambda a, g: jax.vmap(step)(first(a, g), a, g))(*arrays)
    assert states.step.tolist() == [2, 2, 2]
    for i in range(3):
        state = start(a)
        for _ in range(2):
            state = step(state, a[i], g[i])
        for found, leaf in zip(states.K.leaves, state.K.leaves):
            np.testing.assert_allclose(found[i], leaf, atol=500 * IN * EPS)


# ---------------------------------------------------------------------------------- report


def with_curvature(matrix: np.ndarray) -> np.ndarray:
    """Return d samples whose mean of squares is that matrix."""
    return np.linalg.cholesky(len(matrix) * matrix).T


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 5.0])
def test_staleness(factor: float, rng: np.random.Generator) -> None:
    """0 where K K^H is the inverse of the damped moment, c - 1 where that is c times too large.

    It is of the batch alone: momentum does not enter.
    """
    S = second_moment(samples(rng, 50, IN)) + np.eye(IN)
    a, g = with_curvature(factor * S - DAMPING * np.eye(IN)), np.ones((IN, OUT))
    state = inverse_free_init(IN, OUT, like=a)
    state = after(state, 3 * a, g, damping=DAMPING, step_size=0.1)
    state = dataclasses.replace(state, K=structured_factor(S, "dense", 1e-300))
    options = {"damping": DAMPING, "step_size": 1e-3, "momentum": 0.9, "rule": "ikfac"}
    state = after(state, a, g, **options)
    assert state.report.staleness_K == pytest.approx(abs(factor - 1), abs=1e3 * IN * EPS)


def test_what_is_reported(rng: np.random.Generator) -> None:
    """Bounds of the tangents with their momentum, the steps that were made, and no skip."""
    a, g, _ = data(rng, "float64")
    state = inverse_free_init(IN, OUT, structures=("dense", "diagonal"), like=a)
    assert [float(x) for x in fields_of(state.report)] == [0] * 7
    options = {"damping": DAMPING, "step_size": 0.2, "momentum": 0.5}
    state = after(state, a, 30 * g, 2, **options)
    report = state.report
    bounds, steps = (report.bound_K, report.bound_C), (report.step_K, report.step_C)
    for m, bound, step in zip(tangents(state), bounds, steps):
        part = step / 0.2  # of the tangent is remembered, as of the step is made
        largest = np.max(np.abs(np.linalg.eigvals(m))) / part
        assert largest * (1 - 20 * EPS) <= bound <= IN ** (1 / 16) * largest
    assert report.step_C == pytest.approx(0.5 / report.bound_C, rel=4 * EPS)
    assert report.step_C < 0.2
    assert not report.skipped


def test_small_steps_are_not_shortened(rng: np.random.Generator) -> None:
    a, g, _ = data(rng, "float64")
    report = after(inverse_free_init(IN, OUT, like=a), a, g, damping=DAMPING, step_size=0.01).report
    assert (report.step_K, report.step_C) == (0.01, 0.01)


def test_steps_are_counted(rng: np.random.Generator) -> None:
    """Those that changed the factors."""
    a, g, _ = data(rng, "float64")
    options = {"damping": DAMPING, "step_size": 0.1, "check": False}
    state = after(inverse_free_init(IN, OUT, like=a), a, g, 3, **options)
    assert (state.step, state.step.dtype) == (3, "int32")
    skipped = after(state, a * np.nan, g, **options)
    assert skipped.step == 3
    assert after(skipped, a, g, **options).step == 4


def test_a_gradient_must_be_finite(valued_backend: Backend) -> None:
    """In any entry, unless checks are off."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    V = np.ones((OUT, IN), valued_backend.dtypes[0])
    state = inverse_free_init(IN, OUT, like=valued_backend.asarray(V))
    for bad in (np.nan, -np.inf):
        V[1, 2] = bad
        apply = partial(inverse_free_apply, state, valued_backend.asarray(V))
        refused(ValueError, "V", apply)
        with np.errstate(invalid="ignore"):
            assert not np.all(np.isfinite(valued_backend.numpy(apply(check=False))))


def test_factors_of_a_product(rng: np.random.Generator) -> None:
    """C C^H V K K^H, for complex V too."""
    state = with_members(rng, "hierarchical", IN, OUT)
    P, Q = preconditioner(state)
    for dtype in ("float64", "complex128"):
        V = random_array(rng, (OUT, IN), dtype)
        found = inverse_free_apply(state, V)
        assert found.dtype == dtype
        assert norm(found - Q @ V @ P) <= 50 * IN * EPS * norm(P) * norm(Q) * norm(V)


# ----------------------------------------------------------------------- NaN in statistics


def assert_equal_states(one: InverseFreeState, other: InverseFreeState) -> None:
    """All matrices and the number of steps, bit for bit."""
    for x, y in zip(fields_of(one)[:7], fields_of(other)[:7]):
        for a, b in zip(leaves_of(x), leaves_of(y)):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


BAD = {"NaN": np.nan, "Inf": np.inf, "overflow": 1e200}


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("where", ["inputs", "output gradients"])
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_bad_batches_change_nothing(
    bad: str, where: str, names: tuple[str, str], rng: np.random.Generator
) -> None:
    """With checks they are refused, by name; without, they are skipped, and the report says so."""
    a, g, _ = data(rng, "float64")
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.1, "momentum": 0.5}
    state = after(inverse_free_init(IN, OUT, structures=pair(names), like=a), a, g, **options)
    (a if where == "inputs" else g)[3] *= BAD[bad]
    with np.errstate(all="ignore"):
        for rule in RULES:
            statistics = inverse_free_statistics(state, a, g)
            update = partial(inverse_free_update, state, statistics, rule=rule, **options)
            text = refused(ValueError, "statistics", update)
            assert "left as it was" in text
            skipped = update(check=False)
            assert_equal_states(skipped, state)
            assert skipped.report.skipped


def test_no_row_of_positive_weight(rng: np.random.Generator) -> None:
    a, g, _ = data(rng, "float64")
    state = inverse_free_init(IN, OUT, like=a)
    statistics = inverse_free_statistics(state, a, g, weights=np.zeros(ROWS))
    options = {"damping": DAMPING, "step_size": 0.1}
    with np.errstate(all="ignore"):
        refused(ValueError, "statistics", lambda: inverse_free_update(state, statistics, **options))
        assert_equal_states(inverse_free_update(state, statistics, check=False, **options), state)


def test_other_layers_are_updated(rng: np.random.Generator) -> None:
    """NaN in one of three layers: its factors stay, the others are as without it."""
    a, g = layers(rng, 3)
    bad = a.copy()
    bad[1, 2] = np.nan
    start = inverse_free_init(IN, OUT, structures=pair(PAIRS[1]), like=a, batch=(3,))
    options = {"damping": DAMPING, "step_size": 0.1, "momentum": 0.5, "check": False}
    state = after(start, a, g, **options)
    good = after(state, a, g, **options)
    with np.errstate(all="ignore"):
        mixed = after(state, bad, g, **options)
        refused(
            ValueError, "statistics", lambda: after(state, bad, g, **{**options, "check": True})
        )
    for old, new, found in zip(*(fields_of(s)[:4] for s in (state, good, mixed))):
        for x, y, z in zip(old.leaves, new.leaves, found.leaves):
            np.testing.assert_array_equal(z, np.stack([y[0], x[1], y[2]]))
    assert mixed.report.skipped.tolist() == [False, True, False]
    assert mixed.step.tolist() == [2, 1, 2]
    with np.errstate(all="ignore"):
        assert_equal_states(after(state, a * np.nan, g, **options), state)


@pytest.mark.parametrize("transformation", ["jit", "vmap"])
def test_bad_batches_are_skipped_under_jax(transformation: str, rng: np.random.Generator) -> None:
    """Where nothing can be raised, whatever `check` says."""
    jax = jax_with_doubles()
    a, g = layers(rng, 3)
    a[1, 2] = np.nan

    def step(a: Any, g: Any) -> InverseFreeState:
        state = inverse_free_init(IN, OUT, structures=pair(PAIRS[0]), like=a)
        return after(state, a, g, damping=DAMPING, step_size=0.1)

    if transformation == "jit":
        jitted = jax.jit(step)
        states = [jitted(x, y) for x, y in zip(a[:2], g[:2])]
        skipped, counts = [bool(s.report.skipped) for s in states], [int(s.step) for s in states]
        K = states[1].K.to_dense()
    else:
        state = jax.jit(jax.vmap(step))(a, g)
        skipped, counts = state.report.skipped.tolist()[:2], state.step.tolist()[:2]
        K = state.K.to_dense()[1]
    assert skipped == [False, True]
    assert counts == [1, 0]
    np.testing.assert_array_equal(np.asarray(K), np.eye(IN))


def test_bad_batches_are_skipped_under_torch_vmap(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    a, g = layers(rng, 2)
    a[1, 2] = np.nan

    def step(a: Any, g: Any) -> Any:
        state = inverse_free_init(IN, OUT, structures=pair(PAIRS[0]), like=a)
        state = after(state, a, g, damping=DAMPING, step_size=0.1)
        return state.K.to_dense(), state.report.skipped, state.step

    K, skipped, count = torch.func.vmap(step)(torch.tensor(a), torch.tensor(g))
    assert skipped.tolist() == [False, True]
    assert count.tolist() == [1, 0]
    assert torch.equal(K[1], torch.eye(IN, dtype=torch.float64))
    assert torch.isfinite(K).all()


# ------------------------------------------------------------------------- too large steps


def unguarded(step_size: float, retraction: str = "series", **options: Any) -> Callable[[], Any]:
    """Return a call of one update without safeguard, with U + damping = 9 I, and so m_K = 4 I."""
    a, g = with_curvature((9 - DAMPING) * np.eye(IN)), np.zeros((IN, OUT))
    state = inverse_free_init(IN, OUT, like=a)
    statistics = inverse_free_statistics(state, a, g)
    options = {"damping": DAMPING, "rule": "ikfac", "safeguard": False, **options}
    return lambda: inverse_free_update(
        state, statistics, step_size=step_size, retraction=retraction, **options
    )


@pytest.mark.parametrize(
    ("retraction", "limit"), [("series", 0.25), ("expm", 0.25), ("binomial", 0.125)]
)
def test_too_large_steps_warn(retraction: str, limit: float) -> None:
    """Outside of the stable range, with the largest step; warnings are errors elsewhere."""
    unguarded(0.99 * limit / IN ** (1 / 16), retraction)()
    with pytest.warns(StepSizeWarning, match="must be below") as caught:
        unguarded(1.01 * limit, retraction)()
    text = str(caught[0].message)
    below = float(text.partition("below ")[2].partition(". ")[0])  # of step_size times |m_K| = 4
    assert below == pytest.approx(4 * limit, rel=0.01)
    assert f"{retraction!r}" in text
    assert "safeguard=True" in text


def test_the_warning_names_the_line_of_the_caller() -> None:
    call = unguarded(3.0)
    line = inspect.getsourcelines(call)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert [w.filename for w in caught] == [__file__]
    assert 0 <= caught[0].lineno - line <= 3


def test_what_does_not_warn() -> None:
    """Guarded steps, retractions that are bounded, and calls without checks."""
    unguarded(3.0, safeguard=True)()
    unguarded(1.9, "implicit")()
    unguarded(0.9, "exact")()
    unguarded(3.0, check=False)()


# ------------------------------------------------------------------------------- bad input

X, Y = (np.random.default_rng(3).standard_normal((8, d)) for d in (IN, OUT))
STATE = inverse_free_init(IN, OUT, like=X)
STATISTICS = inverse_free_statistics(STATE, X, Y)

Wrong = dict[str, tuple[str, type[Exception], dict[str, Any]]]

WRONG_STARTS: Wrong = {
    "d_in 0": ("d_in", ValueError, {"d_in": 0}),
    "d_in 2.0": ("d_in", TypeError, {"d_in": 2.0}),
    "d_out -1": ("d_out", ValueError, {"d_out": -1}),
    "d_out True": ("d_out", TypeError, {"d_out": True}),
    "like": ("like", TypeError, {"like": [0.0]}),
    "like integers": ("like", TypeError, {"like": np.arange(3)}),
    "dtype": ("dtype", ValueError, {"dtype": "float8"}),
    "dtype of integers": ("dtype", ValueError, {"dtype": "int32"}),
    "storage": ("storage", ValueError, {"storage": "double"}),
    "compensated float32": ("storage", ValueError, {"storage": "compensated", "dtype": "float32"}),
    "compensated float64": ("storage", ValueError, {"storage": "compensated"}),
    "one structure": ("structures", TypeError, {"structures": "dense"}),
    "three structures": ("structures", TypeError, {"structures": ("dense",) * 3}),
    "unknown structure": ("structures[1]", ValueError, {"structures": ("dense", "sparse")}),
    "no structure": ("structures[0]", TypeError, {"structures": (3, "dense")}),
    "options": ("structures[0]", TypeError, {"structures": (("diagonal", {"k": 1}), "dense")}),
}


@pytest.mark.parametrize("wrong", list(WRONG_STARTS))
def test_wrong_starts(wrong: str) -> None:
    name, kind, changes = WRONG_STARTS[wrong]
    arguments: dict[str, Any] = {"d_in": IN, "d_out": OUT, "like": X, **changes}
    refused(kind, name, lambda: inverse_free_init(**arguments))


def others(names: tuple[str, str], d_in: int = IN) -> InverseFreeStatistics:
    state = inverse_free_init(d_in, OUT, structures=names, like=X)
    return inverse_free_statistics(state, X[:, :d_in], Y)


WITHOUT = inverse_free_init(IN, OUT, like=X, momentum=False)

WRONG_UPDATES: Wrong = {
    "state": ("state", TypeError, {"state": (STATE.K, STATE.C)}),
    "statistics": ("statistics", TypeError, {"statistics": (STATISTICS.H_K, STATISTICS.H_C)}),
    "structure": ("statistics", ValueError, {"statistics": others(("dense", "diagonal"))}),
    "dimension": ("statistics", ValueError, {"statistics": others(("dense", "dense"), 4)}),
    "damping 0": ("damping", ValueError, {"damping": 0.0}),
    "damping -1": ("damping", ValueError, {"damping": -1}),
    "damping NaN": ("damping", ValueError, {"damping": np.nan}),
    "damping Inf": ("damping", ValueError, {"damping": np.inf}),
    "damping array": ("damping", ValueError, {"damping": np.asarray(0.0)}),
    "damping shape": ("damping", ValueError, {"damping": np.ones(2)}),
    "damping string": ("damping", TypeError, {"damping": "1"}),
    "damping complex": ("damping", TypeError, {"damping": np.asarray(1j)}),
    "damping library": ("damping", TypeError, {"damping": strict_array(1.0)}),
    "step 0": ("step_size", ValueError, {"step_size": 0}),
    "step -0.1": ("step_size", ValueError, {"step_size": -0.1}),
    "step NaN": ("step_size", ValueError, {"step_size": np.nan}),
    "step Inf": ("step_size", ValueError, {"step_size": np.inf}),
    "step array": ("step_size", ValueError, {"step_size": np.asarray(-0.1)}),
    "step NaN array": ("step_size", ValueError, {"step_size": np.asarray(np.nan)}),
    "step shape": ("step_size", ValueError, {"step_size": np.ones(2)}),
    "step None": ("step_size", TypeError, {"step_size": None}),
    "step True": ("step_size", TypeError, {"step_size": True}),
    "implicit": ("step_size", ValueError, {"step_size": 2.0, "retraction": "implicit"}),
    "implicit with momentum": (
        "step_size",
        ValueError,
        {"step_size": 0.2, "retraction": "implicit", "momentum": 0.9},
    ),
    "exact": ("step_size", ValueError, {"step_size": 1.0, "retraction": "exact"}),
    "exact array": ("step_size", ValueError, {"step_size": np.asarray(1), "retraction": "exact"}),
    "exact with momentum array": (
        "step_size",
        ValueError,
        {"step_size": 0.5, "retraction": "exact", "momentum": np.asarray(0.5)},
    ),
    "momentum 1": ("momentum", ValueError, {"momentum": 1}),
    "momentum -0.1": ("momentum", ValueError, {"momentum": -0.1}),
    "momentum NaN": ("momentum", ValueError, {"momentum": np.nan}),
    "momentum array": ("momentum", ValueError, {"momentum": np.asarray(1.0)}),
    "momentum string": ("momentum", TypeError, {"momentum": "0"}),
    "momentum of none": ("momentum", ValueError, {"momentum": 0.5, "state": WITHOUT}),
    "rule": ("rule", ValueError, {"rule": "kfac"}),
    "retraction": ("retraction", ValueError, {"retraction": "cayley"}),
    "order 0": ("order", ValueError, {"order": 0}),
    "order 1.0": ("order", TypeError, {"order": 1.0}),
}


@pytest.mark.parametrize("wrong", list(WRONG_UPDATES))
def test_wrong_updates(wrong: str) -> None:
    name, kind, changes = WRONG_UPDATES[wrong]
    arguments: dict[str, Any] = {"state": STATE, "statistics": STATISTICS, "damping": 0.1}
    arguments = {**arguments, "step_size": 0.1, **changes}
    refused(kind, name, lambda: inverse_free_update(**arguments))


def test_statistics_of_another_library() -> None:
    a, g = strict_array(X), strict_array(Y)
    foreign = inverse_free_statistics(inverse_free_init(IN, OUT, like=a), a, g)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.1}
    refused(TypeError, "statistics", lambda: inverse_free_update(STATE, foreign, **options))


@pytest.mark.parametrize("batch", [3, (-1,), (0,), (2.0,)], ids=str)
def test_wrong_batch_axes(batch: Any) -> None:
    kind = ValueError if batch in ((-1,), (0,)) else TypeError
    refused(kind, "batch", lambda: inverse_free_init(IN, OUT, like=X, batch=batch))


@pytest.mark.parametrize(
    ("kind", "V"),
    [
        (ValueError, X[:IN, :OUT]),
        (ValueError, Y[0]),
        (ValueError, np.ones((1, OUT, IN))),
        (TypeError, np.ones((OUT, IN), int)),
        (TypeError, strict_array(np.ones((OUT, IN)))),
        (TypeError, [[1.0] * IN] * OUT),
    ],
    ids=["shape", "vector", "batch", "integers", "library", "list"],
)
def test_wrong_gradients(kind: type[Exception], V: Any) -> None:
    refused(kind, "V", lambda: inverse_free_apply(STATE, V))
    refused(TypeError, "state", lambda: inverse_free_apply(STATE.K, np.ones((OUT, IN))))  # type: ignore[arg-type]


def test_bounded_steps_below_their_limit(rng: np.random.Generator) -> None:
    """Just below 2 (1 - momentum) and 1 - momentum they are taken."""
    for retraction, limit in (("implicit", 2.0), ("exact", 1.0)):
        for momentum in (0.0, 0.75):
            step_size = 0.99 * limit * (1 - momentum)
            options = {"damping": DAMPING, "momentum": momentum, "retraction": retraction}
            state = inverse_free_update(STATE, STATISTICS, step_size=step_size, **options)
            assert state.step == 1


def test_values_are_looked_at_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    a, g = (valued_backend.asarray(x.astype(real)) for x in (X, Y))
    bad, weights, step = (
        valued_backend.asarray(np.asarray(x, real))
        for x in (np.where(X > 1, np.nan, X), [1.0] * 7 + [-1.0], -0.1)
    )
    state = inverse_free_init(IN, OUT, structures=pair(PAIRS[1]), like=a)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 0.1}
    with np.errstate(invalid="ignore"):
        statistics = inverse_free_statistics(state, bad, g)
        refused(ValueError, "statistics", lambda: inverse_free_update(state, statistics, **options))
        skipped = inverse_free_update(state, statistics, check=False, **options)
    np.testing.assert_array_equal(valued_backend.numpy(skipped.K.to_dense()), np.eye(IN))
    refused(ValueError, "weights", lambda: inverse_free_statistics(state, a, g, weights=weights))
    statistics, options = inverse_free_statistics(state, a, g), {**options, "step_size": step}
    refused(ValueError, "step_size", lambda: inverse_free_update(state, statistics, **options))


# -------------------------------------------------------------- what must not go wrong silently


@pytest.mark.parametrize("rule", ["ikfac", "ingd"])
@pytest.mark.parametrize("retraction", ["series", "binomial", "expm", "implicit", "exact"])
def test_momentum_does_not_make_up_for_what_the_safeguard_takes(
    rule: str, retraction: str, rng: np.random.Generator
) -> None:
    """Batches 100 times the size that the state starts from: nothing collapses, all recovers."""
    state = inverse_free_init(IN, OUT, like=X)
    least = math.inf
    for _ in range(150):
        a, g = 100 * rng.standard_normal((32, IN)), rng.standard_normal((32, OUT))
        statistics = inverse_free_statistics(state, a, g)
        options: dict[str, Any] = {"rule": rule, "retraction": retraction, "momentum": 0.9}
        state = inverse_free_update(state, statistics, damping=1e-3, step_size=0.05, **options)
        least = min(least, relative_least(state))
    assert least > 1e-11
    assert 0.1 < relative_least(state) < 10


def relative_least(state: InverseFreeState) -> float:
    """Return the least eigenvalue of the preconditioner over that of unit output gradients."""
    K, C = state.K.to_dense(), state.C.to_dense()
    return float(np.linalg.eigvalsh(K @ K.T)[0] * 1e4 * np.linalg.eigvalsh(C @ C.T)[0])


@pytest.mark.parametrize("names", [("dense", "dense"), ("block-diagonal", "hierarchical")])
@pytest.mark.parametrize("retraction", ["implicit", "exact"])
@pytest.mark.parametrize("scale", [1e2, 1e3, 1e4])
def test_rounding_of_large_tangents(
    names: tuple[str, str], retraction: str, scale: float, rng: np.random.Generator
) -> None:
    """In float32, u |m| can exceed the 1 of 1 + b: the safeguard shortens the step before."""
    a, g = (scale * rng.standard_normal((3, IN))).astype("float32"), np.ones((3, OUT), "float32")
    options: dict[str, Any] = {"damping": 1e-3, "rule": "ikfac", "retraction": retraction}
    state = inverse_free_init(IN, OUT, structures=pair(names), like=a)
    state = inverse_free_update(
        state, inverse_free_statistics(state, a, g), step_size=0.5, **options
    )
    exact = inverse_free_init(IN, OUT, structures=pair(names), like=X)
    step = float(state.report.step_K)
    exact = inverse_free_update(
        exact, inverse_free_statistics(exact, a, g), step_size=step, **options
    )
    K, expected = state.K.to_dense(), exact.K.to_dense()
    assert np.min(np.linalg.eigvals(K).real) > 0
    assert np.linalg.norm(K @ K.T - expected @ expected.T) <= 0.02 * np.linalg.norm(expected) ** 2


def test_tangents_beyond_float16_are_shortened() -> None:
    like = np.zeros((4, 2), "float32")
    state = inverse_free_init(2, 1, like=like, dtype="float16")
    statistics = inverse_free_statistics(state, like + 400, like[:, :1] + 1)
    state = inverse_free_update(state, statistics, damping=0.1, step_size=0.1, momentum=0.5)
    assert state.momentum_K
    assert np.isfinite(state.momentum_K.to_dense()).all()
    statistics = inverse_free_statistics(state, like + 1, like[:, :1] + 1)
    state = inverse_free_update(state, statistics, damping=0.1, step_size=0.1, momentum=0.5)
    assert not state.report.skipped


@pytest.mark.skipif(not has_module("jax"), reason="needs JAX")
@pytest.mark.parametrize("wrong", [{"damping": -1.0}, {"step_size": -0.1}, {"damping": math.nan}])
def test_numbers_that_cannot_be_looked_at_skip_the_step(wrong: dict[str, float]) -> None:
    jax = jax_with_doubles()
    state, a, g = inverse_free_init(IN, OUT, like=jax.numpy.asarray(X)), X, Y

    def update(damping: Any, step_size: Any) -> InverseFreeState:
        statistics = inverse_free_statistics(state, jax.numpy.asarray(a), jax.numpy.asarray(g))
        return inverse_free_update(state, statistics, damping=damping, step_size=step_size)

    result = jax.jit(update)(**{"damping": 0.1, "step_size": 0.1, **wrong})
    assert result.report.skipped
    assert (result.report.step_K, result.report.step_C, result.step) == (0, 0, 0)
    np.testing.assert_array_equal(result.K.to_dense(), np.eye(IN))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.skipif(not has_module("torch"), reason="needs torch")
def test_torch_forward_mode_and_autocast() -> None:
    import torch
    from torch.autograd import forward_ad

    a, g = torch.from_numpy(X), torch.from_numpy(Y)

    def stepped(a: Any) -> Any:
        state = inverse_free_init(IN, OUT, like=a)
        statistics = inverse_free_statistics(state, a, g.to(a.dtype))
        return inverse_free_update(state, statistics, damping=0.1, step_size=0.1).K.to_dense()

    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(stepped(forward_ad.make_dual(a, a))).tangent
    difference = (stepped((1 + 1e-6) * a) - stepped((1 - 1e-6) * a)) / 2e-6
    assert torch.allclose(tangent, difference, rtol=1e-6, atol=1e-9)
    exact = stepped(a.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stepped(a.float()), exact)


def test_numbers_in_bfloat16_on_numpy() -> None:
    w = np.ones(len(X)).astype(half_dtype("bfloat16"))
    statistics = inverse_free_statistics(STATE, X, Y, weights=w, loss_scale=w[0:1].reshape(()))
    assert statistics.rows == len(X)

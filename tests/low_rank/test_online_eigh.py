"""Eigenpairs that follow an average that is never formed, against the average itself."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of, half_dtype, map_arrays
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    dense,
    needs,
    norm,
    orthonormal,
    power_law,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import OnlineEigh, online_eigh_init, online_eigh_result, online_eigh_update
from ngdla.low_rank.nystrom_root import LEAST_SHIFT

D, RANK, PROBES = 24, 4, 3


def covariance(X: np.ndarray) -> np.ndarray:
    """Return X^T conj(X)."""
    X = narrow(X)
    return np.swapaxes(X, -1, -2) @ np.conj(X)


def batches(rng: np.random.Generator, count: int, rows: int, dtype: str) -> list[np.ndarray]:
    """Return samples of one distribution, of decaying covariance."""
    mix = orthonormal(rng, D, D, dtype) * power_law(D).astype(dtype)
    return [random_array(rng, (rows, D), dtype) @ H(mix) for _ in range(count)]


def followed(xs: list[np.ndarray], rank: int, decays: Any, **options: Any) -> OnlineEigh:
    state = online_eigh_init(xs[0], rank, **options)
    for i, x in enumerate(xs[1:]):
        state = online_eigh_update(state, x, decay=decays[i] if np.ndim(decays) else decays)
    return state


def average(xs: list[np.ndarray], decays: Any) -> tuple[np.ndarray, float]:
    """Return the debiased average, formed densely, and the sum of its weights."""
    total, weight = covariance(xs[0]), 1.0
    for i, x in enumerate(xs[1:]):
        decay = decays[i] if np.ndim(decays) else decays
        total, weight = decay * total + covariance(x), decay * weight + 1
    return total / weight, weight


def assert_consistent(state: OnlineEigh, A: np.ndarray, u: float, steps: int) -> None:
    """What is exact: orthogonality, the trace and the sketch, to some u for each update."""
    V = wide(state.eigenvectors)
    assert norm(H(V) @ V - np.eye(V.shape[-1])) <= 30 * V.shape[-1] * u
    assert abs(state.trace - np.trace(A).real) <= (D + 4 * steps) * u * np.trace(A).real
    allowed = (D + 4 * steps) * u * norm(A) * norm(state.probes)
    assert norm(state.sketch - A @ narrow(state.probes)) <= allowed
    assert np.all(state.eigenvalues >= 0)
    assert np.all(np.diff(state.eigenvalues) <= 0)


def assert_below(values: np.ndarray, V: np.ndarray, A: np.ndarray, u: float) -> None:
    """A - U diag(d) U^H has no negative eigenvalue, but for d shifts, of 4 u times the trace."""
    rest = np.linalg.eigvalsh(A - narrow(dense(values, V)))
    assert rest[0] >= -4 * D * u * np.trace(A).real - 2 * LEAST_SHIFT


@pytest.mark.thinned
@pytest.mark.parametrize("rows", [2, 7, 40])
def test_the_average_is_followed(
    backend: Backend, dtype: str, rows: int, rng: np.random.Generator
) -> None:
    """Fewer samples than the rank, fewer than d, more than d: from below, and traced exactly."""
    needs(backend, dtype)
    xs = batches(rng, 4 if backend.eager else 2, rows, dtype)

    def init(X: Any) -> Any:
        return fields_of(online_eigh_init(X, RANK, probes=PROBES))

    def update(fields: list[Any], X: Any) -> Any:
        state = online_eigh_update(OnlineEigh(*fields), X, decay=0.75)
        return fields_of(state), fields_of(online_eigh_result(state))

    like = backend.asarray(xs[0])
    fields = backend.call(init, like)
    for x in xs[1:]:
        fields, result = backend.call(update, fields, backend.asarray(x))
    shapes = [(RANK,), (D, RANK), (), (), (D, PROBES), (D, PROBES)]
    backend.assert_kind(fields[-1], like=like, dtype="bool", shape=())
    for field, shape in zip(fields[:-1], shapes):
        kind = dtype if len(shape) == 2 else REAL[dtype]
        backend.assert_kind(field, like=like, dtype=kind, shape=shape)
    if not backend.has_values:
        return
    state = OnlineEigh(*(backend.numpy(field) for field in fields))
    A, weight = average(xs, 0.75)
    assert_consistent(state, A, U[dtype], len(xs))
    assert state.weight == pytest.approx(weight, rel=4 * U[dtype])
    values, V, tail, trace, _ = (backend.numpy(field) for field in result)
    assert abs(tail - (trace - values.sum()) / (D - RANK)) <= D * U[dtype] * trace
    assert_below(values, V, A, U[dtype])
    if rows == 40:  # a batch shows all directions
        best = norm(np.linalg.eigvalsh(A)[: D - RANK])
        assert norm(A - narrow(dense(values, V))) <= 1.5 * best


def test_a_stationary_stream(dtype: str, rng: np.random.Generator) -> None:
    """The same batch again and again: its truncated eigendecomposition, to D u |A|."""
    (X,) = batches(rng, 1, 40, dtype)
    state = followed([X] * 60, RANK, 0.5)
    A = covariance(X)
    exact, V = np.linalg.eigh(A)
    best = dense(exact[: -RANK - 1 : -1], V[:, : -RANK - 1 : -1])
    found = dense(state.eigenvalues, state.eigenvectors)
    assert norm(found - best) <= 4 * D * U[dtype] * norm(A)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_two_hundred_updates(dtype: str, rng: np.random.Generator) -> None:
    """Nothing drifts away: orthogonality, trace and sketch; the error stays near the best."""
    xs = batches(rng, 200, 8, dtype)
    state = followed(xs, RANK, 0.95, probes=5)
    A, _ = average(xs, 0.95)
    assert_consistent(state, A, U[dtype], 200)
    rest = norm(A - narrow(dense(state.eigenvalues, state.eigenvectors)))
    assert rest <= 1.2 * norm(np.linalg.eigvalsh(A)[: D - RANK])


@pytest.mark.parametrize("decays", [0.75, [0.9, 0.1, 0.0, 0.5, 0.99]], ids=["one", "changing"])
def test_with_all_eigenpairs_nothing_is_lost(
    dtype: str, decays: Any, rng: np.random.Generator
) -> None:
    """With rank d it is the debiased average, to some shifts, 4 u times the trace, an update."""
    xs = batches(rng, 6, 9, dtype)
    state = followed(xs, D, decays)
    A, weight = average(xs, decays)
    assert state.weight == pytest.approx(weight, rel=8 * U[dtype])
    found = dense(state.eigenvalues, state.eigenvectors)
    assert norm(found - A) <= 6 * 8 * D**0.5 * U[dtype] * np.trace(A).real
    assert_consistent(state, A, U[dtype], 6)


def test_without_memory(rng: np.random.Generator) -> None:
    """decay = 0 leaves the last batch, exactly where its rank is at most that of the state."""
    xs = batches(rng, 3, RANK, "float64")
    state = followed(xs, RANK, 0)
    assert state.weight == 1
    A = covariance(xs[-1])
    assert_consistent(state, A, U["float64"], 3)
    assert relative(narrow(dense(state.eigenvalues, state.eigenvectors)), A) <= 1e-10


@pytest.mark.parametrize("zeros", [(0,), (1,), (0, 1), (2, 3), (0, 1, 2, 3)], ids=str)
def test_zero_batches(dtype: str, zeros: tuple[int, ...], rng: np.random.Generator) -> None:
    """First, in between, several, and nothing else: an average like others, and never NaN."""
    xs = batches(rng, 5, 6, dtype)
    for i in zeros:
        xs[i] = np.zeros_like(xs[i])
    for count in range(1, 6):
        state = followed(xs[:count], RANK, 0.5)
        A, _ = average(xs[:count], 0.5)
        assert all(np.all(np.isfinite(field)) for field in fields_of(state))
        assert_consistent(state, A, U[dtype], count)
        assert_below(state.eigenvalues, state.eigenvectors, A, U[dtype])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_a_layer_wakes_up_again(decay: float, rng: np.random.Generator) -> None:
    """After 2,000 zero batches the average is exactly zero, and the next batch is all of it."""
    first, last = batches(rng, 2, RANK, "float32")
    state = online_eigh_init(first, RANK, probes=PROBES)
    zero = np.zeros_like(first)
    for _ in range(2000):
        state = online_eigh_update(state, zero, decay=decay)
    assert not any(np.any(x) for x in (state.eigenvalues, state.trace, state.sketch))
    for count in (1, 2):  # the second one turns the vectors into those of the batch
        state = online_eigh_update(state, last, decay=decay)
        A = covariance(last) * (1 - decay**count)
        assert_consistent(state, A, U["float32"], 2)
    exact = np.linalg.eigvalsh(A)[: -RANK - 1 : -1]
    np.testing.assert_allclose(state.eigenvalues, exact, atol=1e-5 * exact[0])


@pytest.mark.thinned(0)
def test_one_of_two_layers_vanishes(backend: Backend, rng: np.random.Generator) -> None:
    """Below the normal range its past is zero, and a batch is; the other one is followed."""
    real = backend.dtypes[0]
    least = float(np.finfo(real).smallest_normal)
    (X,) = batches(rng, 1, 6, real)
    X = X / norm(X)
    both = np.stack([X * (2 * least) ** 0.5, X]).astype(real)
    tiny = np.stack([X * (least / 2) ** 0.5, X]).astype(real)

    def run(both: Any, tiny: Any, decay: Any) -> Any:
        state = online_eigh_init(both, RANK, probes=PROBES, check=False)
        state = online_eigh_update(state, tiny, decay=decay, check=False)
        first = online_eigh_init(tiny, RANK, probes=PROBES, check=False)
        return fields_of(state), fields_of(first)

    decay = np.array([0.1, 0.5], real)
    fields, first = backend.call(run, *backend.asarray([both, tiny, decay]))
    if not backend.has_values:
        return
    for found in (fields, first):
        state = OnlineEigh(*(backend.numpy(field) for field in found))
        dead, alive = (map_arrays(lambda x, i=i: x[i], state) for i in range(2))
        assert not any(np.any(x) for x in (dead.eigenvalues, dead.trace, dead.sketch))
        assert_consistent(dead, np.zeros((D, D)), U[real], 3)
        assert_consistent(alive, covariance(X.astype(real)), U[real], 3)


def test_batches_of_any_size_in_float32(rng: np.random.Generator) -> None:
    """Followed where each part of the average is in the normal range; below it X is zero."""
    X = batches(rng, 1, RANK, "float64")[0]
    X /= norm(X)
    for size in (*10.0 ** rng.uniform(-45, 38, 15), 1e-45, 1e-40, 1e-36, 3e38):
        batch = (X * size**0.5).astype("float32")
        state = followed([batch] * 4, RANK, 0.5)
        exact = np.linalg.eigvalsh(covariance(batch))[: -RANK - 1 : -1]
        if exact.sum() < 2.0**-126:
            assert not np.any(state.eigenvalues), size
        elif exact.sum() > 2.0**-122:  # whose parts, of weights down to 1 / 4, are normal numbers
            np.testing.assert_allclose(state.eigenvalues, exact, atol=1e-5 * exact[0])
        V = state.eigenvectors
        assert np.abs(V.T @ V - np.eye(RANK)).max() <= 30 * RANK * U["float32"]


@pytest.mark.thinned(0)
def test_batches_that_are_not_finite_are_skipped(
    backend: Backend, rng: np.random.Generator
) -> None:
    """Each layer by itself: the old state bit for bit, and nothing at all where there is none."""
    real = backend.dtypes[0]
    X, Y, Z = (np.stack(batches(rng, 3, 6, real)) for _ in range(3))
    X[2, 0, 3], Y[0, 1, 2], Y[2, 0, 0] = np.nan, np.inf, np.nan

    def run(X: Any, Y: Any, Z: Any) -> Any:
        first = online_eigh_init(X, RANK, probes=PROBES, check="nan")
        second = online_eigh_update(first, Y, decay=0.5, check=False)
        return [fields_of(s) for s in (first, second, online_eigh_update(second, Z, decay=0.5))]

    with np.errstate(invalid="ignore"):
        found = backend.call(run, *backend.asarray([X, Y, Z]))
    if not backend.has_values:
        return
    first, second, third = (OnlineEigh(*map(backend.numpy, fields)) for fields in found)
    assert [list(s.skipped) for s in (first, second, third)] == [
        [False, False, True],
        [True, False, True],
        [False, False, False],
    ]
    for one, other in zip(fields_of(first)[:-1], fields_of(second)[:-1]):
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
    zeros = (first.eigenvalues, first.trace, first.weight, first.sketch)
    assert not any(np.any(x[2]) for x in zeros)
    streams = [X[0], Z[0]], [X[1], Y[1], Z[1]], [Z[2]]
    for i, xs in enumerate(streams):
        A, weight = average(xs, 0.5)
        state = map_arrays(lambda x, i=i: x[i], third)
        assert state.weight == pytest.approx(weight)
        assert_consistent(state, A, U[real], 3)


def test_mapped_batches_that_are_not_finite_are_skipped(rng: np.random.Generator) -> None:
    """By `torch.vmap`, where no value can be read: each by itself, with checks too."""
    torch = pytest.importorskip("torch")
    X, Y = (torch.asarray(np.stack(batches(rng, 3, 6, "float64"))) for _ in range(2))
    Y[1, 2, 3] = np.nan
    state = online_eigh_init(X, RANK)
    update = torch.vmap(lambda s, y: online_eigh_update(s, y, decay=0.5))
    found = update(state, Y)
    assert found.skipped.tolist() == [False, True, False]
    for one, other in zip(fields_of(found)[:-1], fields_of(state)[:-1]):
        np.testing.assert_array_equal(one[1], other[1])
    looped = online_eigh_update(map_arrays(lambda x: x[2], state), Y[2], decay=0.5)
    assert relative(found.sketch[2], looped.sketch) <= 1e-12


def test_a_sudden_change(rng: np.random.Generator) -> None:
    """Directions that the state has never seen are learned, and vectors stay orthonormal."""
    axes = np.eye(D)[:, ::-1] * power_law(D)
    old, new = (random_array(rng, (30, D), "float32") @ x.astype("float32") for x in (axes, axes.T))
    new = np.ascontiguousarray(new[:, ::-1]) * np.float32(1e3)
    xs = [old] * 5 + [new] * 40
    for count in (6, 7, 45):
        state = followed(xs[:count], RANK, 0.5)
        A, _ = average(xs[:count], 0.5)
        assert_consistent(state, A, U["float32"], count)
    rest = norm(A - narrow(dense(state.eigenvalues, state.eigenvectors)))
    assert rest <= 1.01 * norm(np.linalg.eigvalsh(A)[: D - RANK])


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_probes_show_the_error(dtype: str, rng: np.random.Generator) -> None:
    """Within 20 %, with 200 probes, after any number of updates; NaN without any."""
    xs = batches(rng, 12, 8, dtype)
    for count in (1, 4, 12):
        state = followed(xs[:count], RANK, 0.8, probes=200)
        result = online_eigh_result(state)
        A, _ = average(xs[:count], 0.8)
        truth = norm(A - narrow(dense(result.eigenvalues, result.eigenvectors)))
        assert 0.8 <= result.error / truth <= 1.2
    assert np.isnan(online_eigh_result(followed(xs[:2], RANK, 0.8, probes=0)).error)


@pytest.mark.parametrize("tail", ["trace", "min", "zero"])
def test_tails(tail: str, rng: np.random.Generator) -> None:
    state = followed(batches(rng, 3, 8, "float64"), RANK, 0.8)
    d = state.eigenvalues
    expected = {"trace": (state.trace - d.sum()) / (D - RANK), "min": d[-1], "zero": 0.0}
    result = online_eigh_result(state, tail=tail)
    assert float(result.tail) == pytest.approx(float(expected[tail]), rel=1e-12)
    np.testing.assert_array_equal(result.eigenvectors, state.eigenvectors)


def test_a_state_is_saved_and_restored(rng: np.random.Generator) -> None:
    """As its seven arrays: what follows is the same, bit for bit."""
    xs = batches(rng, 4, 8, "complex64")
    state, file = followed(xs[:3], RANK, 0.9), io.BytesIO()
    np.savez(file, **vars(state))
    file.seek(0)
    with np.load(file) as saved:
        restored = OnlineEigh(**saved)
    ends = (online_eigh_update(s, xs[3], decay=0.9) for s in (state, restored))
    for one, other in zip(*map(fields_of, ends)):
        np.testing.assert_array_equal(one, other)


def test_scanned_is_looped(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    xs = batches(rng, 9, 8, "float64")
    start = online_eigh_init(xs[0], RANK)

    def step(state: OnlineEigh, X: Any) -> Any:
        state = online_eigh_update(state, X, decay=0.9)
        return state, online_eigh_result(state).tail

    stack = jax.numpy.asarray(np.stack(xs[1:]))
    state, tails = jax.jit(lambda s: jax.lax.scan(step, s, stack))(map_arrays(np.asarray, start))
    looped = followed(xs, RANK, 0.9)
    found, expected = (dense(s.eigenvalues, s.eigenvectors) for s in (state, looped))
    assert relative(found, expected) <= 1e-10
    for name in ("trace", "weight", "sketch"):
        np.testing.assert_allclose(getattr(state, name), getattr(looped, name), rtol=1e-10)
    assert tails.shape == (8,)


@pytest.mark.thinned(0)
def test_stacked_is_looped(backend: Backend, rng: np.random.Generator) -> None:
    """With a decay for each; one of the streams has a batch of zeros."""
    dtype = backend.dtypes[-1]
    first, second = (np.stack(batches(rng, 2, 7, dtype)) for _ in range(2))
    second[1] = 0
    decay = np.array([0.9, 0.3], REAL[dtype])

    def run(X: Any, Y: Any, decay: Any) -> Any:
        state = online_eigh_init(X, RANK, check=False)
        return fields_of(online_eigh_update(state, Y, decay=decay))

    fields = backend.call(run, *backend.asarray([first, second, decay]))
    assert tuple(fields[1].shape) == (2, D, RANK)
    if not backend.has_values:
        return
    state = OnlineEigh(*(backend.numpy(field) for field in fields))
    for i in range(2):
        one = followed([first[i], second[i]], RANK, decay[i])
        tolerance = 1e3 * D * U[dtype]
        found = dense(state.eigenvalues[i], state.eigenvectors[i])
        assert relative(found, dense(one.eigenvalues, one.eigenvectors)) <= tolerance
        for name in ("trace", "weight", "sketch"):
            np.testing.assert_allclose(
                getattr(state, name)[i], getattr(one, name), rtol=tolerance, atol=tolerance
            )


def test_a_state_keeps_its_dtype(rng: np.random.Generator) -> None:
    """Real batches enter a complex state, wider ones a narrow one, half precision is widened."""
    X = batches(rng, 1, 8, "float64")[0]
    state = online_eigh_init(X.astype("float16"), RANK)
    assert state.eigenvectors.dtype == "float32"
    assert online_eigh_update(state, X, decay=0.5).eigenvectors.dtype == "float32"
    state = online_eigh_init(X.astype("complex64"), RANK)
    assert online_eigh_update(state, X, decay=np.asarray(0.5)).sketch.dtype == "complex64"


@pytest.mark.parametrize(("half", "roundoff"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_state_is_stored_in_half_precision(
    library: str, half: str, roundoff: float, rng: np.random.Generator
) -> None:
    module = pytest.importorskip(library)
    dtype: Any = half_dtype(half) if library == "numpy" else getattr(module, half)

    def rounded(x: Any) -> Any:
        return x.to(dtype) if library == "torch" else x.astype(dtype)

    xs = batches(rng, 12, 40, "float32")
    state = online_eigh_init(module.asarray(xs[0]), RANK, probes=PROBES)
    for x in xs[1:]:
        stored = map_arrays(rounded, state)
        state = online_eigh_update(stored, module.asarray(x), decay=0.9)
    assert {str(x.dtype).rpartition(".")[2] for x in fields_of(state)[:-1]} == {"float32"}
    result = online_eigh_result(map_arrays(rounded, state))
    single = followed(xs, RANK, 0.9, probes=PROBES).eigenvalues
    # the weight of the past, eigenvalues and columns are rounded, and remembered for 10 updates
    tolerance = 3 * roundoff / (1 - 0.9) * single[0]
    assert np.abs(np.asarray(result.eigenvalues) - single).max() <= tolerance


def test_columns_of_the_caller(rng: np.random.Generator) -> None:
    from ngdla._backend.random import gaussian

    (X,) = batches(rng, 1, 8, "float64")
    columns = gaussian(4, (D, D + PROBES), X, "float64")
    one, other = (online_eigh_init(X, RANK, rng=r, probes=PROBES) for r in (4, columns))
    for x, y in zip(fields_of(one), fields_of(other)):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(one.probes, columns[:, -PROBES:])


# -------------------------------------------------------------------------------- bad input

X = np.random.default_rng(3).standard_normal((5, 12))
STATE = online_eigh_init(X, 3)

WRONG_STARTS: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "rank 0": ("rank", ValueError, {"rank": 0}),
    "rank 13": ("rank", ValueError, {"rank": 13}),
    "rank 2.0": ("rank", TypeError, {"rank": 2.0}),
    "rank True": ("rank", TypeError, {"rank": True}),
    "probes -1": ("probes", ValueError, {"probes": -1}),
    "probes 1.0": ("probes", TypeError, {"probes": 1.0}),
    "probes True": ("probes", TypeError, {"probes": True}),
    "seed": ("rng", TypeError, {"rng": "0"}),
    "negative seed": ("rng", ValueError, {"rng": -3}),
    "test matrix": ("rng", ValueError, {"rng": np.ones((12, 5))}),
    "complex test matrix": ("rng", TypeError, {"rng": np.ones((12, 20)) * 1j}),
    "vector": ("X", ValueError, {"X": X[0]}),
    "list": ("X", TypeError, {"X": [X]}),
    "sparse": ("X", TypeError, {"X": scipy.sparse.csr_array(X)}),
    "integers": ("X", TypeError, {"X": X.astype(int)}),
    "NaN": ("X", ValueError, {"X": np.where(X > 1, np.nan, X)}),
    "overflow": ("X", ValueError, {"X": X * 1e200}),
}


@pytest.mark.parametrize("wrong", list(WRONG_STARTS))
def test_wrong_starts(wrong: str) -> None:
    name, kind, changes = WRONG_STARTS[wrong]
    arguments: dict[str, Any] = {"X": X, "rank": 3, **changes}
    refused(kind, name, lambda: online_eigh_init(**arguments))


WRONG_UPDATES: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "decay 1": ("decay", ValueError, {"decay": 1}),
    "decay -0.1": ("decay", ValueError, {"decay": -0.1}),
    "decay NaN": ("decay", ValueError, {"decay": np.nan}),
    "decay array": ("decay", ValueError, {"decay": np.asarray(1.0)}),
    "decay NaN array": ("decay", ValueError, {"decay": np.asarray(np.nan)}),
    "decay shape": ("decay", ValueError, {"decay": np.ones(2) / 2}),
    "decay None": ("decay", TypeError, {"decay": None}),
    "decay string": ("decay", TypeError, {"decay": "0.5"}),
    "decay True": ("decay", TypeError, {"decay": True}),
    "decay complex": ("decay", TypeError, {"decay": np.asarray(0.5j)}),
    "width": ("X", ValueError, {"X": X[:, :7]}),
    "batch": ("X", ValueError, {"X": X[None]}),
    "vector": ("X", ValueError, {"X": X[0]}),
    "complex": ("X", TypeError, {"X": X + 0j}),
    "library": ("X", TypeError, {"X": strict_array(X)}),
    "list": ("X", TypeError, {"X": X.tolist()}),
    "Inf": ("X", ValueError, {"X": np.where(X > 1, np.inf, X)}),
}


@pytest.mark.parametrize("wrong", list(WRONG_UPDATES))
def test_wrong_updates(wrong: str) -> None:
    name, kind, changes = WRONG_UPDATES[wrong]
    arguments: dict[str, Any] = {"X": X, "decay": 0.5, **changes}
    refused(kind, name, lambda: online_eigh_update(STATE, **arguments))


def test_wrong_tails() -> None:
    refused(ValueError, "tail", lambda: online_eigh_result(STATE, tail="mean"))


def test_values_are_looked_at_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    state = OnlineEigh(*valued_backend.asarray([np.asarray(x, real) for x in fields_of(STATE)]))
    bad, good = (valued_backend.asarray(x.astype(real)) for x in (np.where(X > 1, np.nan, X), X))
    decay = valued_backend.asarray(np.asarray(1.5, real))
    with np.errstate(invalid="ignore"):
        refused(ValueError, "X", lambda: online_eigh_update(state, bad, decay=0.5))
        refused(ValueError, "X", lambda: online_eigh_init(bad, 3))
        refused(ValueError, "decay", lambda: online_eigh_update(state, good, decay=decay))


def test_nothing_is_read_without_checks() -> None:
    like = strict_array(X, device=Device("device1"))
    decay = strict_array(0.5, device=Device("device1"))
    checks: tuple[Any, ...] = (False, "nan", True)
    for check in checks:
        with counted_host_reads() as reads:
            state = online_eigh_init(like, 3, check=check)
        assert len(reads) == (check is True)
        with counted_host_reads() as reads:
            state = online_eigh_update(state, like, decay=decay, check=check)
        assert len(reads) == (check is True)
        with counted_host_reads() as reads:
            online_eigh_result(state)
        assert reads == []

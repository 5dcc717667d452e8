"""Scores, residuals and the SR step against their definitions with explicit probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, random_array, sr_data
from spectra import quick_compilation  # noqa: F401

import ngdla

MODES = ("real", "complex", "holomorphic")


def defined_step(
    O: np.ndarray,
    E: np.ndarray,
    damping: float,
    p: np.ndarray,
    mode: str,
    x0: np.ndarray | None = None,
) -> np.ndarray:
    """Solve (Cov(O, O) + damping) d = Cov(O, E) + damping x0 with dense covariances."""
    dO, dE = O - p @ O, E - p @ E
    metric, force = H(dO) @ (p[:, None] * dO), H(dO) @ (p * dE)
    if mode != "holomorphic":
        metric, force = metric.real, force.real
    if mode == "real":
        force = dO.T @ (p * dE.real)
    prior = 0 if x0 is None else damping * x0
    return np.linalg.solve(metric + damping * np.eye(O.shape[1]), force + prior)


@pytest.mark.thinned
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 15), (15, 6)], ids=str)
def test_step(
    backend: Backend, mode: str, weighted: bool, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    n, m = shape
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O, E = sr_data(rng, mode, dtype, n, m)
    if mode == "real":
        E = E.real
    weights = rng.integers(1, 5, n).astype(real)
    p = (weights if weighted else np.ones(n)).astype("float64")
    p = p / p.sum()
    previous = random_array(rng, (m,), dtype if mode == "holomorphic" else real)
    like = backend.asarray(O)
    options: dict[str, Any] = {"weights": backend.asarray(weights)} if weighted else {}
    d = backend.call(
        ngdla.stochastic_reconfiguration,
        like,
        backend.asarray(E),
        0.1,
        mode=mode,
        previous=backend.asarray(previous),
        momentum=0.8,
        **options,
    )
    reference = defined_step(O, E, 0.1, p, mode, 0.8 * previous)
    expected = dtype if mode == "holomorphic" else real
    backend.assert_matches(d, reference, like=like, dtype=expected, tolerance=1e4 * U[dtype])


@pytest.mark.parametrize("mode", MODES)
def test_batches_of_problems(backend: Backend, mode: str, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O, E = (np.stack(x) for x in zip(*(sr_data(rng, mode, dtype, 4, 7) for _ in range(3))))
    weights = rng.random((3, 4)).astype(real)
    if mode == "real":
        E = E.real
    like = backend.asarray(O)
    d = backend.call(
        ngdla.stochastic_reconfiguration,
        like,
        backend.asarray(E),
        0.1,
        mode=mode,
        weights=backend.asarray(weights),
    )
    p = weights.astype("float64") / weights.sum(axis=1, dtype="float64", keepdims=True)
    reference = np.stack([defined_step(O[i], E[i], 0.1, p[i], mode) for i in range(3)])
    expected = dtype if mode == "holomorphic" else real
    backend.assert_matches(d, reference, like=like, dtype=expected, tolerance=1e4 * U[dtype])


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.sampled_from(MODES))
def test_weights_are_repetitions(counts: list[int], mode: str) -> None:
    """Integer weights are the same as samples that occur so often; weight 0 as absent samples."""
    if sum(counts) == 0:
        counts[0] = 1
    rng = np.random.default_rng(sum(c * 4**i for i, c in enumerate(counts)))
    O, E = sr_data(rng, mode, "complex128", len(counts), 9)
    one = ngdla.stochastic_reconfiguration(
        O, E, 0.1, weights=np.array(counts, dtype=float), mode=mode
    )
    rows = np.repeat(np.arange(len(counts)), counts)
    other = ngdla.stochastic_reconfiguration(O[rows], E[rows], 0.1, mode=mode)
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_holomorphic_is_stacked(rng: np.random.Generator) -> None:
    """Complex parameters as pairs of real ones, with derivatives [O, i O]: NetKet's other form."""
    O, E = sr_data(rng, "holomorphic", "complex128", 6, 10)
    one = ngdla.stochastic_reconfiguration(O, E, 0.1, mode="holomorphic")
    pairs = ngdla.stochastic_reconfiguration(
        np.concatenate([O, 1j * O], axis=1), E, 0.1, mode="complex"
    )
    np.testing.assert_allclose(pairs[:10] + 1j * pairs[10:], one, rtol=1e-10)


@pytest.mark.parametrize("direction", [1, -1])
def test_real_time(direction: int, rng: np.random.Generator) -> None:
    O, E = sr_data(rng, "complex", "complex128", 6, 10)
    d = ngdla.stochastic_reconfiguration(O, direction * 1j * E, 0.1, mode="complex")
    p = np.full(6, 1 / 6)
    np.testing.assert_allclose(
        d, defined_step(O, direction * 1j * E, 0.1, p, "complex"), rtol=1e-10
    )


def test_a_constant_shift_changes_nothing(rng: np.random.Generator) -> None:
    """Centring: neither the normalisation of psi nor the zero of the energy matters."""
    O, E = sr_data(rng, "holomorphic", "complex128", 6, 10)
    one = ngdla.stochastic_reconfiguration(O, E, 0.1, mode="holomorphic")
    other = ngdla.stochastic_reconfiguration(O + 7.0, E - 3.0, 0.1, mode="holomorphic")
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_spring_without_a_previous_step_is_minsr(rng: np.random.Generator) -> None:
    O, E = rng.standard_normal((6, 10)), rng.standard_normal(6)
    one = ngdla.stochastic_reconfiguration(O, E, 0.1)
    first = ngdla.stochastic_reconfiguration(O, E, 0.1, previous=None, momentum=0.9)
    still = ngdla.stochastic_reconfiguration(O, E, 0.1, previous=one, momentum=0.0)
    np.testing.assert_array_equal(one, first)
    np.testing.assert_array_equal(one, still)


def test_float32_steps_at_tiny_damping(valued_backend: Backend, rng: np.random.Generator) -> None:
    """The exact null vector of centred scores would sink Cholesky; it is passed on."""
    backend = valued_backend
    O = rng.standard_normal((100, 300)).astype("float32")
    E = rng.standard_normal(100).astype("float32")
    damping = 1e-8 * 300
    d, info = ngdla.stochastic_reconfiguration(
        backend.asarray(O), backend.asarray(E), damping, full_output=True
    )
    exact = defined_step(
        O.astype("float64"), E.astype("float64"), damping, np.full(100, 0.01), "real"
    )
    error = np.linalg.norm(backend.numpy(d) - exact)
    assert error <= min(1e-3 * np.linalg.norm(exact), backend.numpy(info.error_bound))


def test_options_reach_the_solver(rng: np.random.Generator) -> None:
    O, E = rng.standard_normal((6, 10)), rng.standard_normal(6)
    blocks = [O[:, :4], O[:, 4:]]
    metric = np.linspace(0.5, 2.0, 10)
    d, info = ngdla.stochastic_reconfiguration(
        blocks, E, 0.1, metric=[metric[:4], metric[4:]], method="qr", refine=2, full_output=True
    )
    reference = ngdla.damped_lstsq(ngdla.scores(O), ngdla.residuals(E), 0.1, metric=metric)
    np.testing.assert_allclose(np.concatenate(d), reference, rtol=1e-10)
    assert info.converged
    with pytest.raises(TypeError, match="sweeps"):
        ngdla.stochastic_reconfiguration(O, E, 0.1, sweeps=2)


def test_damping_momentum_and_weights_are_traced(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    O, E, previous = rng.standard_normal((6, 10)), rng.standard_normal(6), rng.standard_normal(10)
    weights = rng.random(6)

    def step(O: Any, E: Any, damping: Any, weights: Any, previous: Any, momentum: Any) -> Any:
        return ngdla.stochastic_reconfiguration(
            O, E, damping, weights=weights, previous=previous, momentum=momentum
        )

    d = jax.jit(step)(O, E, 0.1, weights, previous, 0.7)
    np.testing.assert_allclose(d, step(O, E, 0.1, weights, previous, 0.7), rtol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(6, 15), (60, 80), (15, 6)], ids=str)
def test_single_precision_scores_with_double_precision_energies(
    mode: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    O, _ = sr_data(rng, mode, "complex64", *shape)
    _, E = sr_data(rng, mode, "complex128", *shape)
    E = E.real if mode == "real" else E
    d = ngdla.stochastic_reconfiguration(O, E, 0.1, mode=mode)
    wide = O.astype("complex128" if np.iscomplexobj(O) else "float64")
    n = shape[0]
    reference = defined_step(wide, E, 0.1, np.full(n, 1 / n), mode)
    assert d.dtype == ("complex128" if mode == "holomorphic" else "float64")
    assert np.linalg.norm(d - reference) <= 1e-4 * np.linalg.norm(reference)


@pytest.mark.parametrize("scale", [1.0, 1e4 / 3, 1e6])
def test_samples_that_are_all_the_same_give_no_step(scale: float, rng: np.random.Generator) -> None:
    O = np.repeat((rng.standard_normal((1, 9)) * scale), 7, axis=0).astype("float32")
    E = np.full(7, -3.0, dtype="float32")
    d = ngdla.stochastic_reconfiguration(O, E, 1e-3)
    assert np.linalg.norm(d) <= 1e-3


@pytest.mark.parametrize("factor", [1e-60, 1.0, 1e60])
def test_double_precision_weights_of_any_scale(factor: float, rng: np.random.Generator) -> None:
    O = rng.standard_normal((6, 9)).astype("float32")
    E = rng.standard_normal(6).astype("float32")
    weights = rng.random(6)
    one = ngdla.stochastic_reconfiguration(O, E, 0.1, weights=weights)
    other = ngdla.stochastic_reconfiguration(O, E, 0.1, weights=factor * weights)
    assert other.dtype == np.float32
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_illegal_weights_and_momenta_are_never_certified(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    O, E, previous = (jax.numpy.asarray(rng.standard_normal(s)) for s in ((6, 9), (6,), (9,)))

    def converged(weights: Any, momentum: Any) -> Any:
        return ngdla.stochastic_reconfiguration(
            O, E, 0.1, weights=weights, previous=previous, momentum=momentum, full_output=True
        )[1].converged

    step = jax.jit(converged)
    assert step(np.ones(6), 0.5)
    for weights, momentum in ((-np.ones(6), 0.5), (np.zeros(6), 0.5), (np.ones(6), 5.0)):
        assert not step(weights, momentum)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_gradients_by_weights_and_momentum(library: str, rng: np.random.Generator) -> None:
    """The checks of their values must not turn them into NaN."""
    backend: Any = BACKENDS[library]()
    O, E, previous, c = (rng.standard_normal(s) for s in ((5, 11), (5,), (11,), (11,)))
    weights, momentum = rng.random(5), np.asarray(0.5)

    def value(weights: Any, momentum: Any) -> Any:
        arrays = (O, E, previous, c)
        if not isinstance(weights, np.ndarray):
            arrays = backend.asarray(arrays)
        options = {"weights": weights, "previous": arrays[2], "momentum": momentum}
        return (arrays[3] * ngdla.stochastic_reconfiguration(*arrays[:2], 0.3, **options)).sum()

    if library == "jax":
        gradient = backend.jax.grad(value, argnums=(0, 1))
        gradients = backend.call(gradient, *backend.asarray((weights, momentum)))
    else:
        leaves = [x.requires_grad_() for x in backend.asarray((weights, momentum))]
        value(*leaves).backward()
        gradients = [x.grad for x in leaves]
    step, direction = 1e-6, rng.standard_normal(5)
    ahead, behind = (value(weights + s * direction, momentum + s) for s in (step, -step))
    slope = np.sum(backend.numpy(gradients[0]) * direction) + backend.numpy(gradients[1])
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


# --------------------------------------------------------------------------------- streams


def stream_of(kind: str, O: Any, dtype: str, **options: Any) -> Any:
    """Return a stream of columns or of rows in three blocks."""
    n, m = O.shape
    third = -(-(m if kind == "columns" else n) // 3)
    cuts = [slice(start, start + third) for start in (0, third, 2 * third)]
    if kind == "columns":
        blocks = [O[:, cut] for cut in cuts]
        return ngdla.ColumnStream(blocks, (n, m), dtype=dtype, **options)
    return ngdla.RowStream([O[cut, :] for cut in cuts], (n, m), dtype=dtype, **options)


@pytest.mark.thinned
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape"), [("columns", (6, 15)), ("columns", (15, 6)), ("rows", (15, 6))], ids=str
)
def test_streams(
    valued_backend: Backend,
    mode: str,
    weighted: bool,
    kind: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    backend, (n, m) = valued_backend, shape
    dtype = backend.dtypes[-1]
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O, E = sr_data(rng, mode, dtype, n, m)
    E = E.real if mode == "real" else E
    weights = rng.integers(0, 5, n).astype(real)
    weights[: n // 3] = 0.0  # a first block of rows that tells nothing of the mean
    p = (weights if weighted else np.ones(n)).astype("float64")
    p = p / p.sum()
    previous = random_array(rng, (m,), dtype if mode == "holomorphic" else real)
    like = backend.asarray(O)
    options: dict[str, Any] = {"weights": backend.asarray(weights)} if weighted else {}
    d, info = ngdla.stochastic_reconfiguration(
        stream_of(kind, O, str(O.dtype), like=like),
        backend.asarray(E),
        0.1,
        mode=mode,
        previous=backend.asarray(previous),
        momentum=0.8,
        metric=backend.asarray(np.ones(m, real)),
        full_output=True,
        **options,
    )
    reference = defined_step(O, E, 0.1, p, mode, 0.8 * previous)
    expected = dtype if mode == "holomorphic" else real
    backend.assert_matches(d, reference, like=like, dtype=expected, tolerance=1e4 * U[dtype])
    assert bool(info.converged)


@pytest.mark.parametrize(("kind", "passes"), [("columns", 3), ("rows", 2)])
@pytest.mark.parametrize("mode", MODES)
def test_streams_are_centred_on_the_way(kind: str, passes: int, mode: str) -> None:
    O, E = sr_data(np.random.default_rng(1), mode, "complex128", 15, 6)
    given = stream_of(kind, O, str(O.dtype))._reader.source
    calls = []

    def counted() -> Any:
        calls.append(1)
        return iter(given)

    make = ngdla.ColumnStream if kind == "columns" else ngdla.RowStream
    stream = make(counted, O.shape, dtype=O.dtype)
    ngdla.stochastic_reconfiguration(stream, E, 0.1, mode=mode)
    assert len(calls) == passes


@pytest.mark.parametrize("kind", ["columns", "rows"])
@pytest.mark.parametrize("mode", MODES)
def test_streams_with_a_metric(kind: str, mode: str, rng: np.random.Generator) -> None:
    O, E = sr_data(rng, mode, "complex128", 15, 6)
    metric = 0.5 + rng.random(6)
    d = ngdla.stochastic_reconfiguration(
        stream_of(kind, O, str(O.dtype)), E, 0.1, mode=mode, metric=metric
    )
    one = ngdla.stochastic_reconfiguration(O, E, 0.1, mode=mode, metric=metric)
    np.testing.assert_allclose(d, one, rtol=1e-10)


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_single_precision_streams_with_double_precision_energies(kind: str) -> None:
    O, _ = sr_data(np.random.default_rng(2), "real", "complex64", 30, 6)
    E = np.random.default_rng(3).standard_normal(30)
    d = ngdla.stochastic_reconfiguration(stream_of(kind, O, "float32"), E, 0.1)
    reference = defined_step(O.astype("float64"), E, 0.1, np.full(30, 1 / 30), "real")
    assert d.dtype == np.float64
    assert np.linalg.norm(d - reference) <= 1e-4 * np.linalg.norm(reference)


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_bad_streams_of_log_derivatives(kind: str) -> None:
    O, E = np.ones((9, 6)), np.ones(9)
    O[4, 3] = np.nan
    stream = stream_of(kind, O, "float64")
    with pytest.raises(ValueError, match=r"block 1 of the stream `log_derivatives`.*NaN"):
        ngdla.stochastic_reconfiguration(stream, E, 0.1)
    with pytest.raises(TypeError, match="Pass it to stochastic_reconfiguration"):
        ngdla.scores(stream)
    with pytest.raises(ValueError, match="`local_energies` has shape"):
        ngdla.stochastic_reconfiguration(stream, E[1:], 0.1)


def test_objects_that_hold_energies_are_named() -> None:
    """As the local estimators of other programs do, by chains and samples."""

    class Estimators:
        data = np.ones((2, 3))

    with pytest.raises(TypeError, match=r"such as `local_energies\.data\.reshape\(-1\)`"):
        ngdla.stochastic_reconfiguration(np.ones((6, 8)), Estimators(), 1e-3)


def test_energies_of_chains_are_to_be_flattened() -> None:
    says = r"`local_energies` has shape \(2, 4\); it must be \(8,\), .* flatten chains and samples"
    with pytest.raises(ValueError, match=says):
        ngdla.stochastic_reconfiguration(np.ones((8, 3)), np.ones((2, 4)), 0.1)

"""Jitted steps of large S: what XLA reserves, what devices send, and that loops change nothing.

A pass that copies more than 64 MB is a loop of compiled code. Here the limit is lowered, or arrays
are shapes alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import random_array
from spectra import quick_compilation  # noqa: F401, a fixture

import ngdla
from ngdla._backend import column_loops, shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "asv_benchmarks"))

from claims import compiled_steps as claims
from claims import sharded_jax

jax = pytest.importorskip("jax")

N, M = 6, 77
pytestmark = pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning")


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    """Let there be double precision, to which "auto" may go."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of more than ten columns are loops, of at most nine."""
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 10 * 4 * N)
    monkeypatch.setattr(column_loops, "_ENTRIES", 9 * N)


def jitted(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    return jax.tree.map(np.asarray, jax.jit(function)(*map(jax.numpy.asarray, arrays)))


# ------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize(("m", "columns"), [(1, 1), (7, 1), (40, 8), (77, 8), (64, 100)])
def test_a_loop_visits_each_column_once(m: int, columns: int, rng: np.random.Generator) -> None:
    S, x, w = (random_array(rng, shape, "complex128") for shape in ((2, 3, m), (2, m, 4), (3, 4)))

    def both(S: Any, x: Any, w: Any) -> Any:
        def step(S: Any, x: Any, nothing: None) -> Any:
            assert nothing is None
            return S @ x, S.conj().mT @ w + x

        return column_loops.loop_over_columns(S, step, x, None, columns=columns)

    product, back = jitted(both, S, x, w)
    np.testing.assert_allclose(product, S @ x, atol=1e-12)
    np.testing.assert_allclose(back, S.conj().mT @ w + x, atol=1e-12)


@pytest.mark.usefixtures("_small_chunks")
def test_the_largest_term(rng: np.random.Generator) -> None:
    S = rng.standard_normal((N, M)).astype("float32")

    def largest(S: Any) -> Any:
        def step(S: Any) -> Any:
            return abs(S).max(axis=-1, keepdims=True), None

        return column_loops.pass_over_columns(S, step, dtype="float32", copied=True, largest=True)

    assert (jitted(largest, S)[0] == abs(S).max(axis=1, keepdims=True)).all()


# --------------------------------------------------------------------------------- steps


def reference(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    S, f = (x.astype("complex128" if np.iscomplexobj(x) else "float64") for x in (S, f))
    return S.conj().T @ np.linalg.solve(S @ S.conj().T + damping * np.eye(len(S)), f)


@pytest.mark.usefixtures("_small_chunks", "quick_compilation")
@pytest.mark.parametrize("ratio", [1e-2, 1e-9], ids=["native", "double"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_steps_of_loops(dtype: str, ratio: float, rng: np.random.Generator) -> None:
    S, f = random_array(rng, (N, M), dtype), random_array(rng, (N,), dtype)
    damping = ratio * float(np.linalg.norm(S)) ** 2
    x, info = jitted(lambda S, f: ngdla.damped_lstsq(S, f, damping, full_output=True), S, f)
    expected = reference(S, f, damping)
    assert np.linalg.norm(x - expected) < 1e-5 * np.linalg.norm(expected)
    assert info.converged


@pytest.mark.usefixtures("_small_chunks", "quick_compilation")
@pytest.mark.parametrize(
    ("mode", "blocks"), [("real", 3), ("complex", 1), ("holomorphic", 1)], ids=str
)
def test_scores_centred_as_they_enter(mode: str, blocks: int, rng: np.random.Generator) -> None:
    """The same step as of scores that are centred first, of samples that count and one that not."""
    dtype = "float32" if mode == "real" else "complex64"
    O, E = random_array(rng, (N, M), dtype) + 5, random_array(rng, (N,), dtype)
    weights = rng.random(N).astype("float32")
    O[2], weights[2] = np.nan, 0.0
    previous = random_array(rng, (M,), "complex64" if mode == "holomorphic" else "float32")

    def step(O: Any, E: Any, weights: Any, previous: Any) -> Any:
        options = {"weights": weights, "mode": mode, "momentum": 0.5}
        if blocks == 1:
            return ngdla.stochastic_reconfiguration(O, E, 0.1, previous=previous, **options)
        ends = (20, 50)
        O, previous = (jax.numpy.split(x, ends, axis=-1) for x in (O, previous))
        parts = ngdla.stochastic_reconfiguration(O, E, 0.1, previous=previous, **options)
        return jax.numpy.concatenate(parts)

    x = jitted(step, O, E, weights, previous)
    S = ngdla.scores(
        O.astype("complex128" if mode != "real" else "float64"), weights=weights, mode=mode
    )
    f = ngdla.residuals(E, weights=weights, mode=mode)
    expected = ngdla.damped_lstsq(S, f, 0.1, x0=0.5 * previous)
    assert np.linalg.norm(x - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.usefixtures("_small_chunks", "quick_compilation")
@pytest.mark.parametrize("method", ["eigh", "qr", "cg"])
def test_methods_of_scores_centred_as_they_enter(method: str, rng: np.random.Generator) -> None:
    O, E = (rng.standard_normal(shape).astype("float32") for shape in ((N, M), (N,)))
    metric = 0.5 + rng.random(M).astype("float32")

    def step(O: Any, E: Any, metric: Any) -> Any:
        return ngdla.stochastic_reconfiguration(O, E, 0.1, method=method, metric=metric)

    x, expected = jitted(step, O, E, metric), step(O, E, metric)
    assert np.linalg.norm(x - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_chunks")
def test_derivatives_of_loops(rng: np.random.Generator) -> None:
    S, f = (rng.standard_normal(shape).astype("float32") for shape in ((N, M), (N,)))
    damping = 1e-9 * float(np.linalg.norm(S)) ** 2  # worked on in double precision

    def size(S: Any, f: Any) -> Any:
        return (ngdla.damped_lstsq(S, f, damping) ** 2).sum()

    slope = jitted(jax.grad(size), S, f)
    expected = jitted(jax.grad(size), S.astype("float64"), f.astype("float64"))
    assert np.linalg.norm(slope - expected) < 1e-4 * np.linalg.norm(expected)


# ---------------------------------------------------------------------- compiled programs


LARGEST = {
    "damped_lstsq, float32": 0.1,
    "SR, holomorphic, weights, previous, full_output": 0.1,
    "SR, complex": 0.1,
}


@pytest.mark.parametrize("name", LARGEST)
def test_memory_that_xla_reserves(name: str) -> None:
    assert claims.memory(name) < LARGEST[name]


def test_no_device_sends_more_than_a_gram_matrix() -> None:
    names = ["damped_lstsq, complex64", "SR, real"]
    for name, words in claims.words_on_four_devices(*names).items():
        assert words <= claims.gram_words(name)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device")
def test_sharded_gram_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of columns it is one sum, and rows are exchanged for columns before."""
    monkeypatch.setattr(sharded_jax, "DEVICES", 2)
    by_columns = sharded_jax.row("Explicit", "columns", "gram", 64, "complex128")
    assert (by_columns["largest collective / n^2"], by_columns["exchanged"]) == (1, False)
    by_rows = sharded_jax.row("Auto", "rows", "gram", 64, "float64")
    assert (by_rows["largest gather / (n m)"], by_rows["exchanged"]) == (0, True)

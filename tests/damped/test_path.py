"""All fits of a path against the fits themselves, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, columns, exact_lstsq, narrow, random_array, scores_with_spectrum
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend import shapes

DAMPINGS = [1e-2, 0.3, 4.0]


def defined_path(
    S: np.ndarray, f: np.ndarray, null: np.ndarray | None, stacked: bool | None
) -> list[np.ndarray]:
    """Return the fields after `dampings` from solutions, dense inverses and factors."""
    G, fields = S.astype(complex) @ H(S.astype(complex)), []
    for damping in DAMPINGS:
        x = narrow(exact_lstsq(S, columns(f), damping))
        wide = S.astype(np.result_type(S, "float64"))
        factor = ngdla.damped_factor(wide, damping, null=null, check=False)  # null of rounded S
        e = factor.leave_one_out(f, stacked=stacked)
        W = G + damping * np.eye(len(G))
        norms = [np.linalg.norm(y, axis=0) for y in (columns(f) - S @ x, x)]
        dimension = np.trace(np.linalg.solve(W, G)).real
        shape = f.shape[1:]
        left = np.linalg.norm(columns(e), axis=0)
        fields.append([*(np.reshape(y, shape) for y in norms), dimension, np.reshape(left, shape)])
    return [np.stack(field) for field in zip(*fields)]


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (8, 8)], ids=str)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("kind", ["real", "paired", "complex", "null", "stacked"])
def test_path(
    backend: Backend, shape: tuple[int, int], k: int | None, kind: str, rng: np.random.Generator
) -> None:
    if kind == "stacked" and shape[0] % 2:
        shape = (shape[0] + 1, shape[1])
    n = shape[0]
    single = backend.dtypes[-1] == "complex64"
    real, paired = ("float32", "complex64") if single else ("float64", "complex128")
    S = random_array(rng, shape, paired if kind == "complex" else real)
    f = random_array(rng, (n,) if k is None else (n, k), paired if kind == "paired" else real)
    null = stacked = None
    if kind == "null":
        S, null = S - S.mean(axis=0), np.full(n, n**-0.5, dtype=real)
    if kind == "stacked":
        stacked = True
    like = backend.asarray(S)
    options: dict[str, Any] = {} if null is None else {"null": backend.asarray(null)}
    path = backend.call(
        ngdla.damping_path, like, backend.asarray(f), DAMPINGS, stacked=stacked, **options
    )
    reference = [np.asarray(DAMPINGS), *defined_path(S, f, null, stacked)]
    for found, expected in zip(path, reference):
        backend.assert_matches(found, expected, like=like, dtype=real, tolerance=1e4 * U[real])


def test_dampings_may_be_an_array(backend: Backend, rng: np.random.Generator) -> None:
    real = "float32" if backend.dtypes[-1] == "complex64" else "float64"
    S, f = random_array(rng, (4, 9), real), random_array(rng, (4,), real)
    like, dampings = backend.asarray(S), backend.asarray(np.asarray(DAMPINGS, dtype=real))
    path = backend.call(ngdla.damping_path, like, backend.asarray(f), dampings)
    expected = ngdla.damping_path(S.astype("float64"), f.astype("float64"), DAMPINGS)
    for one, other in zip(path, expected):
        backend.assert_matches(one, other, like=like, dtype=real, tolerance=1e4 * U[real])


@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 9, 5)], ids=str)
def test_batches_are_stacked_problems(
    backend: Backend, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if backend.name == "dask":
        pytest.skip("batches are chunked along their last axis only")
    real = "float32" if backend.dtypes[-1] == "complex64" else "float64"
    S, f = random_array(rng, shape, real), random_array(rng, (*shape[:2], 2), real)
    S = S - S.mean(axis=1, keepdims=True)
    null = np.full(shape[:2], shape[1] ** -0.5, dtype=real)
    like, arrays = backend.asarray(S), backend.asarray([f, null])
    path = backend.call(ngdla.damping_path, like, arrays[0], DAMPINGS, null=arrays[1])
    looped = [ngdla.damping_path(S[i], f[i], DAMPINGS, null=null[i]) for i in range(3)]
    for field in path._fields[1:]:
        expected = np.stack([getattr(one, field) for one in looped])
        found = getattr(path, field)
        backend.assert_matches(found, expected, like=like, dtype=real, tolerance=1e4 * U[real])


def test_column_blocks_and_chunks_of_rows(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    S, f = rng.standard_normal((20, 6)), rng.standard_normal((20, 2))
    whole = ngdla.damping_path(S, f, DAMPINGS, stacked=True)
    monkeypatch.setattr(shapes, "CHUNK_BYTES", 4 * 6 * 8)
    for given in (S, [S[:, :2], S[:, 2:]]):
        path = ngdla.damping_path(given, f, DAMPINGS, stacked=True)
        for one, other in zip(path, whole):
            np.testing.assert_allclose(one, other, rtol=1e-11)


def test_columns_from_a_stream(rng: np.random.Generator) -> None:
    """One pass for all dampings, and no rows."""
    S, f = rng.standard_normal((6, 20)), rng.standard_normal(6)
    passes = []

    def blocks() -> Any:
        passes.append(1)
        return iter([S[:, :12], S[:, 12:]])

    path = ngdla.damping_path(ngdla.ColumnStream(blocks, S.shape, dtype="float64"), f, DAMPINGS)
    assert len(passes) == 1
    for one, other in zip(path, ngdla.damping_path(S, f, DAMPINGS)):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_large_and_small_dampings(rng: np.random.Generator) -> None:
    """Every field keeps its relative accuracy where it is tiny."""
    S = scores_with_spectrum(rng, 10, 40, "float64", decades=1)
    S = S - S.mean(axis=0)
    f = rng.standard_normal(10)
    f -= f.mean()
    null = np.full(10, 10**-0.5)
    path = ngdla.damping_path(S, f, [1e-12, 1e9], null=null)
    trace = np.sum(S**2)
    np.testing.assert_allclose(path.effective_dimension, [9, trace / 1e9], rtol=1e-8)
    np.testing.assert_allclose(path.solution_norm[1], np.linalg.norm(S.T @ f) / 1e9, rtol=1e-8)
    y = np.linalg.pinv(S @ S.T) @ f
    np.testing.assert_allclose(path.residual_norm[0], 1e-12 * np.linalg.norm(y), rtol=1e-8)


def test_without_null_the_residuals_of_centred_scores_vanish(rng: np.random.Generator) -> None:
    """Why `null` is to be named: the mean is then taken over the sample that was left out."""
    S, f = rng.standard_normal((20, 100)), rng.standard_normal(20)
    S, f = S - S.mean(axis=0), f - f.mean()
    null = np.full(20, 20**-0.5)
    dampings = [1e-9, 1e-3]
    naive = ngdla.damping_path(S, f, dampings).leave_one_out
    assert naive[0] < 1e-5 * naive[1]
    honest = ngdla.damping_path(S, f, dampings, null=null).leave_one_out
    assert 0.5 * np.linalg.norm(f) < honest[0]
    np.testing.assert_allclose(honest[0], honest[1], rtol=1e-3)


def test_scaling(rng: np.random.Generator) -> None:
    """(S, damping) -> (c S, c^2 damping) changes x by 1 / c and no residual."""
    S, f = rng.standard_normal((6, 15)), rng.standard_normal(6)
    one = ngdla.damping_path(S, f, DAMPINGS)
    other = ngdla.damping_path(8 * S, f, [64 * damping for damping in DAMPINGS])
    for field, factor in (("residual_norm", 1), ("leave_one_out", 1), ("solution_norm", 8)):
        np.testing.assert_allclose(getattr(one, field), factor * getattr(other, field), rtol=1e-12)


def test_illegal_dampings_under_jit_are_nan(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    S, f = jax.numpy.asarray(rng.standard_normal((4, 9))), jax.numpy.ones(4)
    path = jax.jit(ngdla.damping_path)(S, f, jax.numpy.asarray([0.1, -1.0]))
    for field in path[:5]:
        np.testing.assert_array_equal(np.isnan(field), [False, True])


@pytest.mark.parametrize(
    ("dampings", "message"),
    [
        ([], r"`dampings` is \[\]; it must be a list of positive numbers"),
        (0.1, "`dampings` is 0.1"),
        ([0.1, "x"], "`dampings` holds 'x'"),
        ([0.1, 0.0], "`dampings` holds 0.0; each must be positive and finite"),
        ([0.1, float("nan")], "`dampings` holds nan"),
        (np.asarray([[0.1]]), r"shape \(1, 1\)"),
        (np.asarray([0.1j]), "complex128"),
        (np.asarray([0.1, -1.0]), "`dampings` holds values that are not positive"),
        (np.asarray([0.1, np.nan]), "`dampings` holds values that are not positive"),
        (np.asarray([]), r"`dampings` has shape \(0,\)"),
    ],
)
def test_bad_dampings(dampings: Any, message: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        ngdla.damping_path(rng.standard_normal((4, 9)), np.ones(4), dampings)


def test_bad_input(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((4, 9)), np.ones(4)
    with pytest.raises(ValueError, match="`f` contains NaN"):
        ngdla.damping_path(S, np.full(4, np.nan), [0.1])
    with pytest.raises(ValueError, match="`S` contains NaN"):
        ngdla.damping_path(np.full((4, 9), np.nan), f, [0.1])
    with pytest.raises(ValueError, match="`null` must have orthonormal columns"):
        ngdla.damping_path(S, f, [0.1], null=np.full(4, 0.5))
    with pytest.raises(ValueError, match="`stacked` is True but `S` has 5 rows"):
        ngdla.damping_path(np.ones((5, 9)), np.ones(5), [0.1], stacked=True)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="`dampings` is a numpy array but `f` is a torch array"):
        ngdla.damping_path(torch.asarray(S), torch.asarray(f), np.asarray([0.1]))


def test_a_path_needs_functions_that_are_adjoint(rng: np.random.Generator) -> None:
    S = rng.standard_normal((4, 9))
    operator = ngdla.ScoreOperator(lambda x: S @ x, lambda y: 2 * S.T @ y, (4, 9), like=S)
    with pytest.raises(ValueError, match="`rmatvec` of `S` is not the adjoint of `matvec`"):
        ngdla.damping_path(operator, S[:, 0], [1.0])

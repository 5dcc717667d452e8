"""Right-hand sides that are S^H f, rounded."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import H, exact_lstsq, random_array, scores_with_spectrum

import ngdla

DAMPINGS = (1e-2, 1e-6, 1e-12)


def rounded(rng: np.random.Generator, dtype: str, decades: float) -> tuple[Any, Any, Any]:
    """Return S, f and S^H f in single precision."""
    S = scores_with_spectrum(rng, 40, 200, dtype, decades)
    f = random_array(rng, (40, 2), dtype)
    wide = S.astype("complex128" if np.iscomplexobj(S) else "float64")
    return S, f, (H(wide) @ f).astype(dtype)


def errors(x: Any, exact: Any) -> Any:
    length = np.linalg.norm
    return length((x - exact).astype(complex), axis=0) / length(exact.astype(complex), axis=0)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "strict"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_what_rounding_lost_is_filtered(dtype: str, library: str, rng: Any) -> None:
    if library not in BACKENDS:
        pytest.skip(f"{library} is not installed")
    backend: Backend = BACKENDS[library]()
    S, f, v = rounded(rng, dtype, 3)
    like, right = backend.asarray(S), backend.asarray(v)
    for damping in DAMPINGS:
        exact = exact_lstsq(S, f, damping)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            x, info = ngdla.damped_solve(like, right, damping, row_space=True, full_output=True)
        backend.assert_kind(x, like=like, dtype=dtype, shape=(200, 2))
        assert np.all(errors(backend.numpy(x), exact) <= 2e-2)
        assert np.all(backend.numpy(info.converged))
        factor = ngdla.damped_factor(like, 1e-2)
        if damping == DAMPINGS[0]:
            y = factor.solve(right, row_space=True)
            assert np.all(errors(backend.numpy(y), exact) <= 2e-2)


def test_under_jit_with_metric_blocks_and_streams(rng: np.random.Generator) -> None:
    S, f, v = rounded(rng, "float32", 3)
    metric = rng.uniform(0.5, 2.0, 200).astype("float32")
    exact = exact_lstsq(S, f, 1e-9, metric=metric)
    blocks, pieces = [S[:, :50], S[:, 50:]], [v[:50], v[50:]]
    options: Any = {"row_space": True, "method": "eigh"}
    x = ngdla.damped_solve(blocks, pieces, 1e-9, metric=[metric[:50], metric[50:]], **options)
    assert np.all(errors(np.concatenate(x), exact) <= 5e-2)
    stream = ngdla.ColumnStream(blocks, S.shape, dtype="float32")
    x = ngdla.damped_solve(stream, v, 1e-9, metric=metric, **options)
    assert np.all(errors(x, exact) <= 5e-2)
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    solve = jax.jit(lambda S, v, d: ngdla.damped_solve(S, v, 1e-9, metric=d, **options))
    assert np.all(errors(np.asarray(solve(S, v, metric)), exact) <= 5e-2)


def test_complex_right_hand_sides_of_real_scores(rng: np.random.Generator) -> None:
    S, _, _ = rounded(rng, "float32", 3)
    f = random_array(rng, (40, 1), "complex64")
    v = (S.T.astype("float64") @ f).astype("complex64")
    x = ngdla.damped_solve(S, v, 1e-9, row_space=True)
    assert x.dtype == "complex64"
    assert np.all(errors(x, exact_lstsq(S.astype("complex128"), f, 1e-9)) <= 2e-2)


def test_what_it_needs_is_named(rng: np.random.Generator) -> None:
    S, v = rng.standard_normal((5, 9)), rng.standard_normal(9)
    with pytest.raises(ValueError, match=r"`method` is 'svd'.*row_space.*'eigh'"):
        ngdla.damped_solve(S, v, 1.0, row_space=True, method="svd")
    with pytest.raises(ValueError, match="fewer samples than parameters"):
        ngdla.damped_solve(S.T, v[:5], 1.0, row_space=True)
    with pytest.raises(TypeError, match="`row_space` is 'yes'"):
        ngdla.damped_solve(S, v, 1.0, row_space="yes")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="contains NaN"):
        ngdla.damped_solve(S, v * np.nan, 1.0, row_space=True)
    operator = ngdla.ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, S.shape, like=S)
    with pytest.raises(ValueError, match="`gram`"):
        ngdla.damped_solve(operator, v, 1.0, row_space=True)
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False), pytest.raises(ValueError, match="enable_x64"):
        ngdla.damped_solve(jax.numpy.asarray(S), jax.numpy.asarray(v), 1.0, row_space=True)

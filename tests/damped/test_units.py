"""Results do not depend on the scale of a problem, as long as its numbers are normal ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import U, random_array, scores_with_spectrum

import ngdla

METHODS = ("cholesky", "cg", "eigh", "svd", "qr")
# Powers of two for S; x stays as it is.
EXPONENTS = {"float32": (-40, -20, 20, 40), "float64": (-480, -360, 360, 480)}


@pytest.fixture(params=["numpy", "torch", "jax", "strict"])
def library(request: pytest.FixtureRequest) -> Backend:
    if request.param not in BACKENDS:
        pytest.skip(f"{request.param} is not installed")
    return BACKENDS[request.param]()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_covariant(method: str, dtype: str, library: Backend) -> None:
    """(S, damping, v) -> (c S, c^2 damping, c v): bit-equal by Cholesky and conjugate gradients."""
    if library.name == "jax" and (method, dtype) != ("cholesky", "float32"):
        pytest.skip("each operation is compiled")
    rng = np.random.default_rng(0)
    few = library.name in ("jax", "strict") and method in ("svd", "qr")
    for shape in ((7, 30), (30, 7))[: 1 if few else 2]:
        S = scores_with_spectrum(rng, *shape, dtype, 2)
        f, v, x0 = (random_array(rng, (size,), dtype) for size in (*shape, shape[1]))
        damping = 1e-2
        for e in (0, *EXPONENTS[dtype]):
            c = 2.0**e
            like = library.asarray((S * c).astype(dtype))
            options: Any = {"method": method, "full_output": True, "precision": "native"}
            x, of_f = ngdla.damped_lstsq(
                like, library.asarray((f * c).astype(dtype)), damping * c * c,
                x0=library.asarray(x0), **options,
            )  # fmt: skip
            y, of_v = ngdla.damped_solve(
                like, library.asarray((v * c).astype(dtype)), damping * c * c, **options
            )
            found = [library.numpy(a) for a in (x, y)]
            assert np.all(library.numpy(of_f.converged))
            assert np.all(library.numpy(of_v.converged))
            if e == 0:
                expected = found
                continue
            found[1] = library.numpy(y).astype(np.longdouble) * np.longdouble(c)
            for a, b in zip(found, expected):
                error = np.linalg.norm((a - b).astype(float)) / np.linalg.norm(b.astype(float))
                exact = method in ("cholesky", "cg") and library.name != "jax"
                assert error <= (0 if exact else 64 * U[dtype])


@pytest.mark.parametrize("size", [1e14, 1e16, 1e-14, 1e-16])
def test_odd_scales_in_single_precision(size: float, library: Backend) -> None:
    rng = np.random.default_rng(1)
    S = random_array(rng, (6, 20), "float32") * np.float32(size)
    v = random_array(rng, (20,), "float32") * np.float32(size)
    damping = float(np.float32(0.1 * size**2))
    x = ngdla.damped_solve(library.asarray(S), library.asarray(v), damping)
    exact = ngdla.damped_solve(S.astype("float64"), v.astype("float64"), damping)
    assert np.linalg.norm(library.numpy(x) - exact) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("size", [1e110, 1e-110, 1e150, 1e-150])
def test_odd_scales_in_double_precision(size: float, rng: np.random.Generator) -> None:
    S, v = rng.standard_normal((6, 20)), rng.standard_normal(20)
    exact = ngdla.damped_solve(S, v, 0.1)
    x = ngdla.damped_solve(S * size, v, 0.1 * size * size)
    assert np.linalg.norm(x * size * size - exact) <= 1e-13 * np.linalg.norm(exact)
    f = rng.standard_normal(6)
    x = ngdla.damped_lstsq(S * size, f, 0.1 * size * size)
    exact = ngdla.damped_lstsq(S, f, 0.1)
    assert np.linalg.norm(x * size - exact) <= 1e-13 * np.linalg.norm(exact)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_scores_whose_square_underflows_are_named(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    S = rng.standard_normal(shape) * 1e-170
    f = rng.standard_normal(shape[0])
    with pytest.raises(ValueError, match=r"norm of `S` is below the range of float64.*Scale"):
        ngdla.damped_lstsq(S, f, 1e-300)
    x, info = ngdla.damped_lstsq(S, f, 1e-300, check="nan", full_output=True)
    assert np.all(np.isnan(x))
    assert not info.converged
    with pytest.raises(ValueError, match=r"`S`.*range of float64"):
        ngdla.damped_lstsq(S * 1e170 * 1e170, f, 1.0)


def test_dampings_at_the_end_of_the_range(library: Backend) -> None:
    """Right-hand sides over their unit are as small, and no part of them may be lost."""
    rng = np.random.default_rng(2)
    S = random_array(rng, (4, 12), "float32") * np.float32(1e-12)
    v = random_array(rng, (12,), "float32") * np.float32(1e-25)
    x = ngdla.damped_solve(
        library.asarray(S), library.asarray(v), 2e-38, method="eigh", precision="float64"
    )
    exact = ngdla.damped_solve(S.astype("float64"), v.astype("float64"), 2e-38, method="svd")
    assert np.linalg.norm(library.numpy(x) - exact) <= 1e-5 * np.linalg.norm(exact)


def test_scores_of_zeros_are_legal() -> None:
    v = np.arange(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(ngdla.damped_solve(np.zeros((3, 5)), v, 0.5), 2 * v)
        np.testing.assert_array_equal(ngdla.damped_lstsq(np.zeros((3, 5)), v[:3], 0.5), 0 * v)


def test_columns_of_all_sizes_are_solved_together(rng: np.random.Generator) -> None:
    S, V = rng.standard_normal((6, 20)), rng.standard_normal((20, 5))
    sizes = np.array([1e-200, 1e-100, 1.0, 1e100, 1e200])
    x, info = ngdla.damped_solve(S, V * sizes, 0.1, full_output=True)
    np.testing.assert_allclose(x / sizes, ngdla.damped_solve(S, V, 0.1), rtol=1e-12)
    assert np.all(info.converged)


@pytest.mark.parametrize("size", [1e-142, 1e-100, 1e100, 1e148])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_small_eigenvalues_are_found_at_any_scale(shape: tuple[int, int], size: float) -> None:
    """The damping is below the roundings of the Gram matrix, but does not matter here."""
    rng = np.random.default_rng(3)
    S, v = rng.standard_normal(shape), rng.standard_normal(shape[1])
    f = rng.standard_normal(shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = ngdla.damped_lstsq(S * size, f * size, 1e-17 * size * size)
    np.testing.assert_allclose(x, ngdla.damped_lstsq(S, f, 1e-17), rtol=1e-9)
    if shape[0] > shape[1]:
        y = ngdla.damped_solve(S * size, v, 1e-17 * size * size)
        np.testing.assert_allclose(y * size * size, ngdla.damped_solve(S, v, 1e-17), rtol=1e-9)

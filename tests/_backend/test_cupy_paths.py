"""The CuPy branches on a machine without a GPU: NumPy in the place of CuPy.

The stand-in has CuPy's names and, where it matters, its behaviour: a Cholesky factorisation that
fails silently and leaves behind what potrf had written, gemm and syrk by name, compute types that
are global. What it cannot show is speed, and that the real names exist.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
import scipy.linalg
from references import H, exact_lstsq, exact_solve, random_array

import ngdla
from ngdla._backend import (
    checks,
    creation,
    dtypes,
    gram,
    namespace,
    products,
    settings,
    spectral,
    triangular,
)

FP32, TF32 = 4, 7
MODULES = (checks, creation, dtypes, gram, namespace, products, settings, spectral, triangular)


@pytest.fixture
def compute_types(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the library take NumPy arrays for CuPy's; give the compute types that it set."""
    types_set = [TF32]
    cupy = types.ModuleType("cupy")
    cupy.linalg, cupy.tril, cupy.zeros = np.linalg, np.tril, np.zeros  # type: ignore[attr-defined]
    cublas = types.ModuleType("cupy.cublas")
    cublas.gemm, cublas.syrk = gemm, syrk  # type: ignore[attr-defined]
    routines: Any = types.ModuleType("cupy._core._routines_linalg")
    routines.COMPUTE_TYPE_FP32, routines.COMPUTE_TYPE_TF32 = FP32, TF32
    routines.get_compute_type = lambda dtype: types_set[-1]
    routines.set_compute_type = lambda dtype, value: types_set.append(value)
    core = types.ModuleType("cupy._core")
    core._routines_linalg = routines  # type: ignore[attr-defined]
    cupy.cublas, cupy._core = cublas, core  # type: ignore[attr-defined]
    cupyx = types.ModuleType("cupyx.scipy.linalg")
    cupyx.solve_triangular = solve_triangular  # type: ignore[attr-defined]
    for module in (cupy, cublas, core, routines, cupyx):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for module in (
        checks,
        creation,
        dtypes,
        gram,
        namespace,
        products,
        settings,
        spectral,
        triangular,
    ):
        for name, answer in (("is_numpy_namespace", False), ("is_cupy_namespace", True)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda _, answer=answer: answer)
    monkeypatch.setattr(xp.linalg, "cholesky", silent_cholesky)
    with np.errstate(all="ignore"):
        yield types_set


def gemm(transa: str, transb: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    assert (transa, transb, a.ndim, b.ndim) == ("N", "H", 2, 2)
    assert a.dtype == b.dtype
    return a @ H(b)


def syrk(trans: str, a: np.ndarray, out: np.ndarray, lower: bool) -> np.ndarray:
    assert trans == "N"
    assert out.flags.c_contiguous  # otherwise CuPy would copy a
    out[...] = np.tril(a @ a.T) if lower else np.triu(a @ a.T)
    return out


def solve_triangular(a: np.ndarray, b: np.ndarray, trans: str, lower: bool) -> np.ndarray:
    assert a.dtype == b.dtype  # CuPy casts b to the dtype of a
    assert a.shape[:-2] == b.shape[:-2]  # and does not broadcast
    return scipy.linalg.solve_triangular(a, b, trans=trans, lower=lower, check_finite=False)


def silent_cholesky(A: np.ndarray) -> np.ndarray:
    """Factor column by column; on failure leave the rest as it is, and say nothing."""

    def one(A: np.ndarray) -> np.ndarray:
        L = np.tril(A).astype(A.dtype)
        for j in range(len(L)):
            if not L[j, j].real > 0:
                return L
            L[j, j] = np.sqrt(L[j, j].real)
            L[j + 1 :, j] /= L[j, j]
            L[j + 1 :, j + 1 :] -= np.tril(np.outer(L[j + 1 :, j], L[j + 1 :, j].conj()))
        return L

    return np.stack([one(M) for M in A.reshape(-1, *A.shape[-2:])]).reshape(A.shape)


@functools.cache
def solved_problem(dtype: str, shape: tuple[int, int]) -> list[np.ndarray]:
    """Return S, v, f and the solutions of both functions."""
    rng, (n, m) = np.random.default_rng(20231017), shape
    S, v, f = (random_array(rng, s, dtype) for s in ((n, m), (m, 2), (n, 2)))
    return [S, v, f, exact_solve(S, v, 1.0), exact_lstsq(S, f, 1.0)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (600, 3)], ids=str)
def test_solves(
    compute_types: list[int],
    dtype: str,
    method: str,
    shape: tuple[int, int],
) -> None:
    S, v, f, *exact = solved_problem(dtype, shape)
    bound = 1e3 * np.finfo(dtype).eps
    x = ngdla.damped_solve(S, v, 1.0, method=method)
    assert x.dtype == dtype
    assert np.linalg.norm(x - exact[0]) <= bound * np.linalg.norm(exact[0])
    x = ngdla.damped_lstsq(S, f, 1.0, method=method)
    assert np.linalg.norm(x - exact[1]) <= bound * np.linalg.norm(exact[1])


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_gram_in_blocks(compute_types: list[int], dtype: str, rng: np.random.Generator) -> None:
    S = random_array(rng, (1100, 7), dtype)
    np.testing.assert_allclose(ngdla.gram(S), S @ H(S), rtol=1e-4, atol=1e-4)
    if dtype == "float32":
        np.testing.assert_allclose(gram.gram_cupy_syrk(S), S @ S.T, rtol=1e-4, atol=1e-4)


def test_products_run_in_float32_and_the_setting_is_restored(compute_types: list[int]) -> None:
    ngdla.gram(np.ones((2, 3), dtype="float32"))
    assert compute_types == [TF32, FP32, TF32]


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_silent_failure_is_heard(compute_types: list[int], batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    S = (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 50))).astype("float32")
    S = np.broadcast_to(S, (*batch, 40, 50)).copy()
    f = np.ones((*batch, 40), dtype="float32")
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        ngdla.damped_lstsq(S, f, 1e-12, precision="native")
    options: Any = {"precision": "native", "check": False, "full_output": True}
    x, info = ngdla.damped_lstsq(S, f, 1e-12, **options)
    assert np.all(np.isnan(x))
    assert not np.any(info.converged)


def test_stochastic_reconfiguration(compute_types: list[int], rng: np.random.Generator) -> None:
    O, E = random_array(rng, (6, 9), "complex128"), random_array(rng, (6,), "complex128")
    weights = rng.random(6)
    p = weights / weights.sum()
    dO, dE = O - p @ O, E - p @ E
    metric, force = H(dO) @ (p[:, None] * dO), H(dO) @ (p * dE)
    reference = np.linalg.solve(metric.real + 0.1 * np.eye(9), force.real)
    d = ngdla.stochastic_reconfiguration(O, E, 0.1, weights=weights, mode="complex")
    np.testing.assert_allclose(d, reference, rtol=1e-9)

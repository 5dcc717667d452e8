"""Factor once, solve often; failures of the factorisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Backend
from references import U, columns, exact_lstsq, exact_solve, random_array, scores_with_spectrum

import ngdla


@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_a_factor_solves_as_the_functions_do(
    valued_backend: Backend, method: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    backend = valued_backend
    n, m = shape
    dtype = backend.dtypes[-1]
    S, v, f, x0 = (random_array(rng, s, dtype) for s in ((n, m), (m,), (n, 2), (m, 2)))
    like = backend.asarray(S)
    factor = ngdla.damped_factor(like, 0.1, method=method, refine=2)
    x = factor.solve(backend.asarray(v))
    reference = exact_solve(S, columns(v), 0.1)[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=1e3 * U[dtype])
    x, info = factor.lstsq(backend.asarray(f), backend.asarray(x0), full_output=True)
    reference = exact_lstsq(S, f, 0.1, x0)
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=1e3 * U[dtype])
    assert np.all(backend.numpy(info.converged))
    x = factor.lstsq(backend.asarray(f))
    reference = exact_lstsq(S, f, 0.1)
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=1e3 * U[dtype])


def test_a_float32_factor_solves_in_float64(rng: np.random.Generator) -> None:
    """The factor keeps its precision, the sweeps run in that of the result."""
    S = scores_with_spectrum(rng, 8, 40, "float32", decades=1)
    factor = ngdla.damped_factor(S, 0.1, refine=3)
    assert factor.inverse.L.dtype == np.float32
    f = rng.standard_normal((8, 1))
    x = factor.lstsq(f)
    assert x.dtype == np.float64
    exact = exact_lstsq(S, f, 0.1)
    assert np.linalg.norm(x - exact) <= 1e-13 * np.linalg.norm(exact)


@pytest.mark.parametrize("n", [4, 12])
def test_null_vectors_do_not_change_the_solution(
    valued_backend: Backend, n: int, rng: np.random.Generator
) -> None:
    backend = valued_backend
    dtype = backend.dtypes[-1]
    S = random_array(rng, (n, 9), dtype)
    S = S - S.mean(axis=0)
    f, v = random_array(rng, (n, 1), dtype), random_array(rng, (9, 1), dtype)
    null = np.full(n, n**-0.5).astype(np.real(S).dtype)
    like = backend.asarray(S)
    for method in ("cholesky", "eigh", "svd", "qr"):
        factor = ngdla.damped_factor(like, 0.1, null=backend.asarray(null), method=method)
        x, info = factor.lstsq(backend.asarray(f), full_output=True)
        exact = exact_lstsq(S, f, 0.1)
        bound = 1e3 * U[dtype]
        backend.assert_matches(x, exact, like=like, dtype=dtype, tolerance=bound)
        assert np.linalg.norm(backend.numpy(x) - exact) <= backend.numpy(info.error_bound)
        x = factor.solve(backend.asarray(v))
        exact = exact_solve(S, v, 0.1)
        backend.assert_matches(x, exact, like=like, dtype=dtype, tolerance=bound)


def test_null_vectors_save_a_float32_factor(rng: np.random.Generator) -> None:
    """The last pivot of centred scores is a rounding of 0, and negative half of the time."""
    n = 100
    null = np.full(n, n**-0.5, dtype="float32")
    failures = 0
    for _ in range(20):
        S = rng.standard_normal((n, 200)).astype("float32")
        S -= S.mean(axis=0)
        f = rng.standard_normal(n).astype("float32")
        damping = 1e-12 * np.linalg.norm(S) ** 2
        try:
            ngdla.damped_lstsq(S, f, damping)
        except np.linalg.LinAlgError:
            failures += 1
        x = ngdla.damped_lstsq(S, f, damping, null=null)
        exact = exact_lstsq(S, (f - f.mean())[:, None], damping)[:, 0]
        assert np.linalg.norm(x - exact) <= 1e-3 * np.linalg.norm(exact)
    assert failures > 0


def rank_two() -> np.ndarray:
    """Return scores whose Gram matrix has 38 eigenvalues that are roundings of 0."""
    rng = np.random.default_rng(3)
    return (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 50))).astype("float32")


def test_an_indefinite_gram_names_the_ratio(valued_backend: Backend) -> None:
    backend = valued_backend
    S = rank_two()
    like = backend.asarray(S)
    with pytest.raises(
        np.linalg.LinAlgError, match=r"(?s)float32.*1\.0e-12 of \|S\|_F\^2.*float64"
    ):
        ngdla.damped_factor(like, 1e-12 * float(np.sum(S.astype("float64") ** 2)))


def test_one_bad_matrix_of_a_batch_is_found(
    valued_backend: Backend, rng: np.random.Generator
) -> None:
    backend = valued_backend
    S = random_array(rng, (3, 40, 50), "float32")
    S[1] = rank_two()
    like = backend.asarray(S)
    with pytest.raises(np.linalg.LinAlgError):
        ngdla.damped_factor(like, 1e-12)
    factor = ngdla.damped_factor(like, 1e-12, check=False)
    np.testing.assert_array_equal(backend.numpy(factor.ok), [True, False, True])


def test_a_factor_passes_through_jit(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, v = jax.numpy.asarray(rng.standard_normal((4, 9))), jax.numpy.asarray(rng.standard_normal(9))
    factor = jax.jit(lambda S: ngdla.damped_factor(S, 0.1))(S)
    x = jax.jit(lambda factor, v: factor.solve(v))(factor, v)
    np.testing.assert_allclose(x, ngdla.damped_solve(S, v, 0.1), rtol=1e-12)
    assert len(jax.tree_util.tree_leaves(factor)) == 5


def test_a_factor_is_a_pytree_of_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils import _pytree

    S = torch.from_numpy(rng.standard_normal((4, 9)))
    factor = ngdla.damped_factor([S[:, :4], S[:, 4:]], 0.1)
    leaves, structure = _pytree.tree_flatten(factor)
    again: Any = _pytree.tree_unflatten(leaves, structure)
    v = [torch.ones(4, dtype=torch.float64), torch.ones(5, dtype=torch.float64)]
    for one, other in zip(again.solve(v), factor.solve(v)):
        assert torch.equal(one, other)

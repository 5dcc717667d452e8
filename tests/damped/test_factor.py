"""Factor once, solve often; failures of the factorisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, columns, exact_lstsq, exact_solve, random_array, scores_with_spectrum
from spectra import quick_compilation  # noqa: F401

import ngdla


@pytest.mark.thinned
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
    assert factor.small.inverse.L.dtype == np.float32
    f = rng.standard_normal((8, 1))
    x = factor.lstsq(f)
    assert x.dtype == np.float64
    exact = exact_lstsq(S, f, 0.1)
    assert np.linalg.norm(x - exact) <= 1e-13 * np.linalg.norm(exact)


@pytest.mark.thinned
@pytest.mark.parametrize("n", [4, 12])
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
def test_null_vectors_do_not_change_the_solution(
    valued_backend: Backend, n: int, method: str, rng: np.random.Generator
) -> None:
    backend = valued_backend
    dtype = backend.dtypes[-1]
    S = random_array(rng, (n, 9), dtype)
    S = S - S.mean(axis=0)
    f, v = random_array(rng, (n, 1), dtype), random_array(rng, (9, 1), dtype)
    null = np.full(n, n**-0.5).astype(np.real(S).dtype)
    like = backend.asarray(S)
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
    for _ in range(8):
        S = rng.standard_normal((n, 200)).astype("float32")
        S -= S.mean(axis=0)
        f = rng.standard_normal(n).astype("float32")
        damping = 1e-12 * np.linalg.norm(S) ** 2
        try:
            ngdla.damped_lstsq(S, f, damping, precision="native")
        except np.linalg.LinAlgError:
            failures += 1
        x = ngdla.damped_lstsq(S, f, damping, null=null, precision="native")
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
    damping = 1e-12 * float(np.sum(S.astype("float64") ** 2))
    with pytest.raises(
        np.linalg.LinAlgError, match=r"(?s)float32.*1\.0e-12 of \|S\|_F\^2.*float64"
    ):
        ngdla.damped_factor(like, damping, precision="native")


def test_one_bad_matrix_of_a_batch_is_found(
    valued_backend: Backend, rng: np.random.Generator
) -> None:
    backend = valued_backend
    S = random_array(rng, (3, 40, 50), "float32")
    S[1] = rank_two()
    like = backend.asarray(S)
    with pytest.raises(np.linalg.LinAlgError):
        ngdla.damped_factor(like, 1e-12, precision="native")
    factor = ngdla.damped_factor(like, 1e-12, precision="native", check=False)
    np.testing.assert_array_equal(backend.numpy(factor.ok), [True, False, True])


def test_a_factor_passes_through_jit(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, v = jax.numpy.asarray(rng.standard_normal((4, 9))), jax.numpy.asarray(rng.standard_normal(9))
    factor = jax.jit(lambda S: ngdla.damped_factor(S, 0.1))(S)
    x = jax.jit(lambda factor, v: factor.solve(v))(factor, v)
    np.testing.assert_allclose(x, ngdla.damped_solve(S, v, 0.1), rtol=1e-12)
    assert len(jax.tree_util.tree_leaves(factor)) == 6


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


# -------------------------------------------------------------------- for other dampings

METHODS = ("cholesky", "eigh", "svd", "qr")
SHAPES = [(5, 12), (12, 5), (6, 6)]


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_another_damping(
    valued_backend: Backend,
    method: str,
    shape: tuple[int, int],
    centred: bool,
    rng: np.random.Generator,
) -> None:
    backend = valued_backend
    (n, m), dtype = shape, backend.dtypes[-1]
    S, f, v = (random_array(rng, s, dtype) for s in (shape, (n,), (m,)))
    like, options = backend.asarray(S), {}
    if centred:
        S = S - S.mean(axis=0)
        null = np.full(n, n**-0.5, dtype=S.real.dtype)
        like, options = backend.asarray(S), {"null": backend.asarray(null)}
    before = ngdla.damped_factor(like, 5.0, method=method, refine=2, **options)
    factor = before.with_damping(0.1)
    kind = {"like": like, "dtype": dtype, "tolerance": 1e3 * U[dtype]}
    x, info = factor.lstsq(backend.asarray(f), full_output=True)
    backend.assert_matches(x, exact_lstsq(S, columns(f), 0.1)[:, 0], **kind)
    assert bool(backend.numpy(info.converged))
    x = factor.solve(backend.asarray(v))
    backend.assert_matches(x, exact_solve(S, columns(v), 0.1)[:, 0], **kind)
    x = before.solve(backend.asarray(v))  # which is as it was
    backend.assert_matches(x, exact_solve(S, columns(v), 5.0)[:, 0], **kind)


def test_no_pass_over_the_scores_for_another_damping(rng: np.random.Generator) -> None:
    S = rng.standard_normal((4, 9))
    factor = ngdla.damped_factor(S, 0.1)
    again = factor.with_damping(np.asarray(2.0))
    assert again.scores is factor.scores
    assert again.squared_norm is factor.squared_norm
    S[:] = np.nan
    np.testing.assert_allclose(factor.with_damping(0.1).small.inverse.L, factor.small.inverse.L)


def test_dampings_of_a_batch(valued_backend: Backend, rng: np.random.Generator) -> None:
    backend = valued_backend
    dtype = backend.dtypes[0]
    S, v = random_array(rng, (2, 4, 9), dtype), random_array(rng, (2, 9), dtype)
    like, damping = backend.asarray(S), np.asarray([0.1, 0.5], dtype=dtype)
    factor = ngdla.damped_factor(like, 3.0).with_damping(backend.asarray(damping))
    x = factor.solve(backend.asarray(v))
    exact = [exact_solve(S[i], columns(v[i]), float(damping[i]))[:, 0] for i in range(2)]
    backend.assert_matches(x, np.stack(exact), like=like, dtype=dtype, tolerance=1e3 * U[dtype])
    determinants = [np.linalg.slogdet(s.T @ s + d * np.eye(9))[1] for s, d in zip(S, damping)]
    kind = {"like": like, "dtype": dtype, "tolerance": 1e4 * U[dtype]}
    backend.assert_matches(factor.logdet(), np.stack(determinants), **kind)


def test_bad_dampings_of_a_factor(rng: np.random.Generator) -> None:
    factor = ngdla.damped_factor(rng.standard_normal((4, 9)), 0.1)
    with pytest.raises(ValueError, match=r"`damping` is -1.0; it must be positive"):
        factor.with_damping(-1.0)
    with pytest.raises(ValueError, match="`damping` holds values that are not positive"):
        factor.with_damping(np.asarray(np.nan))
    with pytest.raises(ValueError, match=r"`damping` has shape \(2,\)"):
        factor.with_damping(np.ones(2))
    factor = ngdla.damped_factor(rank_two(), 1e3, precision="native")
    with pytest.raises(np.linalg.LinAlgError, match=r"`damping` is .* below the rounding"):
        factor.with_damping(1e-9)


@pytest.mark.parametrize("decades", [2, 5])
def test_a_factor_goes_on_with_its_gram_matrix(decades: int, rng: np.random.Generator) -> None:
    """What damped_factor would form anew in float64 only preconditions here."""
    S = scores_with_spectrum(rng, 30, 80, "float32", decades=decades)
    f = rng.standard_normal((30, 1)).astype("float32")
    factor = ngdla.damped_factor(S, 0.1)
    said = {2: "residuals were computed in double precision", 5: "keeps its Gram matrix"}[decades]
    message = rf"too small for float32 alone.*{said}.*damped_factor"
    with pytest.warns(ngdla.PrecisionWarning, match=message):
        factor = factor.with_damping(1e-8)
    x, info = factor.lstsq(f, full_output=True)
    exact = exact_lstsq(S, f, 1e-8)
    assert bool(np.all(info.converged))
    assert np.linalg.norm(x - exact) <= 1e-4 * np.linalg.norm(exact)


def test_legality_under_jit(rng: np.random.Generator) -> None:
    """A null that is none stays one, and a damping that was too small does not."""
    jax = pytest.importorskip("jax")
    S, f = jax.numpy.asarray(rng.standard_normal((4, 9))), jax.numpy.ones(4)
    factor = jax.jit(lambda S: ngdla.damped_factor(S, 0.1))(S)
    with_damping = jax.jit(lambda factor, damping: factor.with_damping(damping))
    assert not with_damping(factor, -1.0).ok
    assert with_damping(with_damping(factor, -1.0), 1.0).ok
    factor = jax.jit(lambda S, f: ngdla.damped_factor(S, 0.1, null=f))(S, f)
    assert not with_damping(factor, 0.2).ok


# ----------------------------------------------------- determinants, effective dimensions


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_sums_over_the_eigenvalues(
    backend: Backend,
    method: str,
    shape: tuple[int, int],
    centred: bool,
    rng: np.random.Generator,
) -> None:
    (n, m), dtype = shape, backend.dtypes[-1]
    real = "float32" if dtype == "complex64" else "float64"
    S, metric = random_array(rng, shape, dtype), (0.5 + rng.random(m)).astype(real)
    S = S - S.mean(axis=0) if centred else S
    null = np.full(n, n**-0.5, dtype=real)
    like = backend.asarray(S)

    def sums(S: Any, metric: Any, null: Any) -> Any:
        null = null if centred else None
        options: dict[str, Any] = {"method": method, "null": null, "check": False}
        factor = ngdla.damped_factor(S, 0.1, metric=metric, **options)
        return factor.logdet(), factor.effective_dimension()

    found = backend.call(sums, like, backend.asarray(metric), backend.asarray(null))
    wide = S.astype("complex128")
    A = np.conj(wide.T) @ wide + 0.1 * np.diag(metric)
    dimension = m - 0.1 * np.trace(np.linalg.solve(A, np.diag(metric))).real
    for value, exact in zip(found, (np.linalg.slogdet(A)[1], dimension)):
        backend.assert_matches(
            value, np.asarray(exact), like=like, dtype=real, tolerance=1e4 * U[real]
        )


@pytest.mark.parametrize("method", METHODS)
def test_the_effective_dimension_of_large_dampings(method: str, rng: np.random.Generator) -> None:
    S = rng.standard_normal((6, 15))
    S -= S.mean(axis=0)
    factor = ngdla.damped_factor(S, 1e12, null=np.full(6, 6**-0.5), method=method)
    np.testing.assert_allclose(factor.effective_dimension(), np.sum(S**2) / 1e12, rtol=1e-9)


def test_an_approximation_has_no_determinant(rng: np.random.Generator) -> None:
    factor = ngdla.damped_factor(rng.standard_normal((4, 9)), 0.1, method="cg")
    for call in (
        factor.logdet,
        factor.effective_dimension,
        lambda: factor.leave_one_out(np.ones(4)),
    ):
        with pytest.raises(ValueError, match="method 'cg' has only an approximation"):
            call()


def test_sums_of_a_factor_that_only_preconditions(rng: np.random.Generator) -> None:
    S = scores_with_spectrum(rng, 20, 60, "float64", 8)
    factor = ngdla.damped_factor(S, 1e-9, precision="mixed")
    for call in (factor.logdet, factor.effective_dimension, lambda: factor.leave_one_out(S[:, 0])):
        with pytest.raises(ValueError, match=r"`damping` is below .* precision='float64'"):
            call()

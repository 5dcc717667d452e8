"""How much of a vector the rows of S span, against the definition with W = S D^-1 S^H + damping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, columns, narrow, random_array, scores_with_spectrum
from spectra import quick_compilation  # noqa: F401

import ngdla


def by_samples(S: np.ndarray, phi: np.ndarray, damping: float, D: Any = 1.0) -> Any:
    """Return (S phi)^H W^-1 (S phi) / |phi|^2."""
    S, phi = narrow(S), narrow(columns(phi))
    b, W = S @ phi, (S / D) @ H(S) + damping * np.eye(len(S))
    value = np.sum(np.conj(b) * np.linalg.solve(W, b), axis=0).real
    return value / np.sum(np.abs(phi) ** 2, axis=0)


def by_parameters(S: np.ndarray, phi: np.ndarray, damping: float, D: Any = 1.0) -> Any:
    """Return phi^H D A^-1 S^H S phi / |phi|^2, with A = S^H S + damping D."""
    S, phi = narrow(S), narrow(columns(phi))
    K, D = H(S) @ S, D * np.ones(S.shape[1])
    value = np.sum(
        np.conj(phi) * (D[:, None] * np.linalg.solve(K + damping * np.diag(D), K @ phi)), 0
    )
    return value.real / np.sum(np.abs(phi) ** 2, axis=0)


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7)], ids=str)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("kind", ["real", "paired", "complex", "metric"])
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr", "cg"])
def test_overlap_is_its_definition(
    backend: Backend,
    shape: tuple[int, int],
    k: int | None,
    kind: str,
    method: str,
    rng: np.random.Generator,
) -> None:
    """Both forms, on both sides of n = m."""
    single = backend.dtypes[-1] == "complex64"
    real, paired = ("float32", "complex64") if single else ("float64", "complex128")
    S = random_array(rng, shape, paired if kind == "complex" else real)
    phi = random_array(rng, (shape[1],) if k is None else (shape[1], k), real)
    if kind in ("paired", "complex"):
        phi = random_array(rng, phi.shape, paired)
    D = rng.uniform(0.5, 2, shape[1]).astype(real) if kind == "metric" else np.ones(shape[1], real)
    options = {"metric": backend.asarray(D)} if kind == "metric" else {}

    def overlap(S: Any, phi: Any, **options: Any) -> Any:
        return ngdla.damped_factor(S, 0.3, method=method, check=False, **options).overlap(phi)

    like = backend.asarray(S)
    value = backend.call(overlap, like, backend.asarray(phi), **options)
    expected = by_samples(S, phi, 0.3, D)
    np.testing.assert_allclose(expected, by_parameters(S, phi, 0.3, D), rtol=1e-11)
    reference = np.reshape(expected, phi.shape[1:])
    backend.assert_matches(value, reference, like=like, dtype=real, tolerance=1e3 * U[real])


def test_blocks_and_batches_and_null_vectors(rng: np.random.Generator) -> None:
    S, phi = rng.standard_normal((5, 12)), rng.standard_normal(12)
    expected = by_samples(S, phi, 0.1)
    blocks, pieces = [S[:, :5], S[:, 5:]], [phi[:5], phi[5:]]
    np.testing.assert_allclose(ngdla.damped_factor(blocks, 0.1).overlap(pieces), expected)
    tree, leaves = {"w": S[:, :8].reshape(5, 2, 4), "b": S[:, 8:]}, {"b": phi[8:]}
    leaves["w"] = phi[:8].reshape(2, 4)
    np.testing.assert_allclose(ngdla.damped_factor(tree, 0.1).overlap(leaves), expected[0])
    stack = ngdla.damped_factor(np.stack([S, 2 * S]), np.array([0.1, 0.4]))
    np.testing.assert_allclose(stack.overlap(np.stack([phi, -3 * phi])), [expected[0]] * 2)
    centred = S - S.mean(axis=0)
    factor = ngdla.damped_factor(centred, 0.1, null=np.full(5, 5**-0.5))
    np.testing.assert_allclose(factor.overlap(phi), by_samples(centred, phi, 0.1)[0])


def test_limits(rng: np.random.Generator) -> None:
    """1 for what the rows span and a small damping, 0 for what they do not, or phi = 0."""
    S = rng.standard_normal((5, 12))
    spanned, rest = S.T @ rng.standard_normal(5), rng.standard_normal(12)
    rest -= np.linalg.pinv(S) @ (S @ rest)
    factor = ngdla.damped_factor(S, 1e-12)
    value = factor.overlap(np.stack([spanned, rest, spanned + 0 * rest, 0 * rest], axis=1))
    np.testing.assert_allclose(value, [1, 0, 1, 0], atol=1e-11)
    assert np.all((value >= 0) & (value <= 1))
    for size in (1e-200, 1e200):
        np.testing.assert_allclose(factor.overlap(size * spanned), 1, rtol=1e-11)
    np.testing.assert_allclose(
        ngdla.damped_factor(S, 1e9).overlap(rest + spanned),
        by_samples(S, rest + spanned, 1e9)[0],
        rtol=1e-9,
    )


@pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning")
@pytest.mark.parametrize("shape", [(10, 40), (40, 10)], ids=str)
@pytest.mark.parametrize("damping", [1e-2, 1e-5, 1e-8])
def test_float32(shape: tuple[int, int], damping: float, rng: np.random.Generator) -> None:
    """As right as float32 numbers can be, for any damping, where the precision is chosen."""
    S = scores_with_spectrum(rng, *shape, "float32", decades=3)
    phi = random_array(rng, (shape[1],), "float32")
    value = ngdla.damped_factor(S, damping).overlap(phi)
    x = by_parameters(S, phi, damping)[0]
    assert value.dtype == np.float32
    assert abs(float(value) - x) <= 64 * U["float32"]


def test_jit_and_derivatives(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, phi = rng.standard_normal((5, 12)), rng.standard_normal(12)

    def overlap(phi: Any) -> Any:
        return ngdla.damped_factor(jax.numpy.asarray(S), 0.1).overlap(phi)

    np.testing.assert_allclose(jax.jit(overlap)(phi), by_samples(S, phi, 0.1)[0])
    W = S.T @ np.linalg.solve(S @ S.T + 0.1 * np.eye(5), S)
    expected = 2 * (W @ phi - phi * (phi @ W @ phi) / (phi @ phi)) / (phi @ phi)
    np.testing.assert_allclose(jax.jit(jax.grad(overlap))(phi), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("phi", "error", "message"),
    [
        (np.ones(5), ValueError, r"`phi` has shape \(5,\)"),
        (np.ones(12, int), TypeError, "`phi` has dtype int64"),
        (None, TypeError, "`phi` is"),
        ([np.ones(12)], TypeError, "`phi` is"),
        (np.full(12, np.nan), ValueError, "`phi` contains NaN or Inf"),
    ],
    ids=str,
)
def test_bad_vectors(phi: Any, error: type[Exception], message: str) -> None:
    factor = ngdla.damped_factor(np.eye(5, 12), 0.1)
    with pytest.raises(error, match=message):
        factor.overlap(phi)

"""The root of the Nystrom approximation: below A, of the range of A Omega, and never failing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    bfloat16,
    geometric,
    needs,
    norm,
    orthonormal,
    power_law,
    psd,
    quick_compilation,  # noqa: F401
)

from ngdla.low_rank.nystrom_root import (
    LEAST_SHIFT,
    SHIFT,
    nystrom_root,
    positive_shift,
    stabilising_shift,
)

D, L = 24, 8
SPECTRA = {
    "slow": power_law(D),
    "fast": geometric(D, 0.2),
    "rank 3": np.where(np.arange(D) < 3, 1.0, 0.0),
    "zero": np.zeros(D),
}


def root_of(A: Any, omega: Any, u: float) -> Any:
    return nystrom_root(omega, A @ omega, u)


def approximation(A: np.ndarray, omega: np.ndarray) -> np.ndarray:
    B = root_of(A, omega, U[str(A.dtype)]).B
    return narrow(wide(B) @ H(wide(B)))


def amplification(A: np.ndarray, omega: np.ndarray) -> float:
    """Return |C|^2 for C = A Omega (Omega^H A Omega)^+: an error E of the core is one C E C^H."""
    A, omega = narrow(A), narrow(omega)
    core = H(omega) @ A @ omega
    C = A @ omega @ np.linalg.pinv(core, rtol=1e-5, hermitian=True)
    return max(1.0, float(np.linalg.norm(C, 2)) ** 2)


@pytest.mark.thinned(0)
def test_it_is_below_the_matrix(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    """B B^H <= A + shift up to l shifts, the level of the roundings."""
    needs(backend, dtype)
    A = np.stack([psd(rng, values, dtype) for values in SPECTRA.values()])
    omega = np.stack([orthonormal(rng, D, L, dtype)] * len(A))
    like = backend.asarray(A)
    root = backend.call(root_of, like, backend.asarray(omega), U[dtype])
    backend.assert_kind(root.B, like=like, dtype=dtype, shape=omega.shape)
    backend.assert_kind(root.shift, like=like, dtype=REAL[dtype], shape=(len(A),))
    if not backend.has_values:
        return
    assert backend.numpy(root.ok).all()
    B, shift = backend.numpy(root.B), backend.numpy(root.shift)
    for i, name in enumerate(SPECTRA):
        rest = narrow(A[i]) + shift[i] * np.eye(D) - narrow(wide(B[i]) @ H(wide(B[i])))
        assert np.linalg.eigvalsh(rest)[0] >= -L * shift[i], name
        if name in ("rank 3", "zero"):  # nothing is left but the shift
            allowed = L * shift[i] * amplification(A[i], omega[i])
            assert np.linalg.eigvalsh(rest)[-1] <= allowed, name
    np.testing.assert_allclose(
        shift[:3], SHIFT * U[dtype] * np.linalg.norm(A @ omega, axis=(1, 2))[:3], rtol=1e-5
    )


def test_it_is_below_also_where_the_first_columns_nearly_miss_the_range(dtype: str) -> None:
    """The Cholesky factor then has a small diagonal early on, which an inverse of it multiplies."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        V, K = orthonormal(rng, D, D, dtype), orthonormal(rng, 3, 3, dtype)
        omega = V[:, :L].copy()
        omega[:, :3] = (V[:, :3] * np.array([1, 0.1, 1e-4], dtype) + V[:, -3:]) @ K
        omega[:, 3:6] = V[:, 3:6] + V[:, :3]
        omega = np.linalg.qr(omega)[0]
        A = (V[:, :3] @ H(V[:, :3])).astype(dtype)
        shift = root_of(A, omega, U[dtype]).shift
        rest = narrow(A) + shift * np.eye(D) - approximation(A, omega)
        assert np.linalg.eigvalsh(rest)[0] >= -L * shift


@pytest.mark.parametrize("spectrum", ["slow", "fast"])
def test_only_the_range_of_the_columns_counts(spectrum: str, rng: np.random.Generator) -> None:
    """Omega K, for invertible K, gives the same: to shifts times the condition of the core."""
    A = psd(rng, SPECTRA[spectrum], "complex128")
    omega = orthonormal(rng, D, L, "complex128")
    K = random_array(rng, (L, L), "complex128")
    mixed = omega @ K
    mixed /= np.linalg.norm(mixed, axis=0)
    core = np.linalg.cond(H(omega) @ A @ omega) * np.linalg.cond(K)
    difference = norm(approximation(A, omega) - approximation(A, mixed))
    assert difference <= SHIFT * U["float64"] * core * norm(A)


@pytest.mark.parametrize("spectrum", list(SPECTRA))
def test_more_columns_are_better(dtype: str, spectrum: str, rng: np.random.Generator) -> None:
    """The error falls with each column, in all unitarily invariant norms."""
    A = psd(rng, SPECTRA[spectrum], dtype)
    omega = orthonormal(rng, D, D, dtype)
    errors = []
    for count in range(1, D + 1):
        rest = narrow(A) - approximation(A, omega[:, :count])
        sigma = np.linalg.svd(rest, compute_uv=False)
        errors.append([sigma[0], np.linalg.norm(sigma), sigma.sum()])
    rounding = D * L * SHIFT * U[dtype] * norm(A)
    steps = np.diff(errors, axis=0)
    assert np.all(steps <= rounding + 2 * LEAST_SHIFT)  # of the zero matrix
    assert errors[-1][0] <= rounding + 2 * LEAST_SHIFT


def test_exactly_the_best_for_eigenvectors(dtype: str, rng: np.random.Generator) -> None:
    V = orthonormal(rng, D, D, dtype)
    A = ((V * SPECTRA["slow"].astype(dtype)) @ H(V)).astype(dtype)
    best = (V[:, :L] * SPECTRA["slow"][:L]) @ H(V[:, :L])
    assert norm(approximation(A, V[:, :L]) - best) <= 4 * D * U[dtype] * norm(A)


def test_products_in_bfloat16_need_its_roundoff(rng: np.random.Generator) -> None:
    """With the shift of float32 the core is not positive; with that of bfloat16 it always is."""
    found = []
    for _ in range(10):
        A, omega = psd(rng, geometric(D, 0.3), "float32"), orthonormal(rng, D, L, "float32")
        Y = bfloat16(A) @ bfloat16(omega)
        found.append([nystrom_root(omega, Y, u).ok for u in (U["float32"], 2.0**-8)])
    in_float32, in_bfloat16 = np.sum(found, axis=0)
    assert in_float32 <= 2
    assert in_bfloat16 == 10


def test_a_negative_matrix_has_no_root(backend: Backend) -> None:
    """A flag and NaN for that matrix of the stack only."""
    real = backend.dtypes[0]
    A = np.stack([-np.eye(5), np.eye(5)]).astype(real)
    omega = np.stack([np.eye(5, 2)] * 2).astype(real)
    root = backend.call(root_of, backend.asarray(A), backend.asarray(omega), U[real])
    if backend.has_values:
        np.testing.assert_array_equal(backend.numpy(root.ok), [False, True])
        np.testing.assert_array_equal(np.isnan(backend.numpy(root.B)).any((1, 2)), [True, False])


def test_a_shift_is_never_zero(backend: Backend) -> None:
    real = backend.dtypes[0]
    Y = np.stack([np.zeros((4, 2)), np.ones((4, 2))]).astype(real)
    shift = backend.call(stabilising_shift, backend.asarray(Y), 0.25)
    like = backend.asarray(Y)
    backend.assert_matches(
        shift, np.array([LEAST_SHIFT, 8**0.5]), like=like, dtype=real, tolerance=4 * U[real]
    )
    kept = backend.call(positive_shift, shift)
    if backend.has_values:
        np.testing.assert_array_equal(backend.numpy(kept), backend.numpy(shift))

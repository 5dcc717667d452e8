"""The Nystrom preconditioner: how well it approximates, on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array, scores_with_spectrum
from spectra import quick_compilation  # noqa: F401

from ngdla._backend.random import orthonormal_columns
from ngdla.damped import nystrom_preconditioner
from ngdla.damped.nystrom_preconditioner import SketchedMatrix, sketch_small_matrix


@pytest.mark.parametrize("rank", [4, 10])
def test_low_rank_matrices_are_found(
    backend: Backend, dtype: str, rank: int, rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, (10, 4), dtype)
    K = (S @ H(S)).astype(dtype)
    like = backend.asarray(K)

    def found(K: Any) -> Any:
        return sketch_small_matrix(lambda p: K @ p, (10, rank), K, dtype)

    sketch, squared_norm = backend.call(found, like)
    real = "float32" if U[dtype] > 1e-10 else "float64"
    backend.assert_kind(sketch.values, like=like, dtype=real, shape=(rank,))
    backend.assert_kind(sketch.U, like=like, dtype=dtype, shape=(10, rank))
    if not backend.has_values:
        return
    U_, values = backend.numpy(sketch.U), backend.numpy(sketch.values)
    error = np.linalg.norm((U_ * values) @ H(U_) - K) / np.linalg.norm(K)
    assert error <= 1e3 * U[dtype]
    trace = np.linalg.norm(S) ** 2
    np.testing.assert_allclose(
        backend.numpy(squared_norm), trace, rtol=50 * U[dtype] if rank == 10 else 0.9
    )


def test_the_inverse_is_that_of_the_approximation(rng: np.random.Generator) -> None:
    Q, _ = np.linalg.qr(rng.standard_normal((9, 4)))
    values = np.asarray([4.0, 3.0, 2.0, 1.0])
    inverse, ok = SketchedMatrix(values, Q).inverse(0.5)
    assert ok
    tail = 1.5 * (np.eye(9) - Q @ Q.T)
    dense = (Q * (values + 0.5)) @ Q.T + tail
    np.testing.assert_allclose(inverse(np.eye(9)), np.linalg.inv(dense), atol=1e-13)


def test_it_preconditions(rng: np.random.Generator) -> None:
    """The condition number falls to the eigenvalues beyond the rank, over the damping."""
    S = scores_with_spectrum(rng, 80, 300, "float64", decades=4)
    K, damping = S @ S.T, 1e-5
    sketch, _ = sketch_small_matrix(lambda p: K @ p, (80, 40), S, "float64")
    inverse, _ = sketch.inverse(damping)
    eigenvalues = np.linalg.eigvals(inverse(K + damping * np.eye(80))).real
    assert eigenvalues.max() / eigenvalues.min() <= 60
    assert np.linalg.cond(K + damping * np.eye(80)) >= 1e4


def test_tall_test_matrices_are_the_same_wherever_they_are_made(
    backend: Backend, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device, on the host or while code is traced: to roundings."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    monkeypatch.setattr(nystrom_preconditioner, "_TALL", 300)
    like, shape = backend.asarray(np.zeros(2, dtype)), (300, 7)

    def drawn(like: Any) -> Any:
        return nystrom_preconditioner._test_matrix(shape, like, dtype)

    expected = orthonormal_columns(0, shape, np.zeros(1), dtype)
    tolerance = 8 * U[dtype] * shape[1] ** 0.5
    results = [backend.call(drawn, like)]
    if backend.name == "jax":  # not traced
        results.append(drawn(like))
    for Q in results:
        backend.assert_matches(Q, expected, like=like, dtype=dtype, tolerance=tolerance)

"""The factor of each method, against the dense inverse of the small damped matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend.calls import ValueChecks
from ngdla.damped.factorisation import factorise
from ngdla.damped.problem import Options, damped_problem
from ngdla.score_matrices.column_blocks import column_blocks


@pytest.mark.thinned
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)], ids=str)
def test_inverse(
    valued_backend: Backend,
    dtype: str,
    method: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = random_array(rng, shape, dtype)
    scores = column_blocks(backend.asarray(S))
    problem = damped_problem(scores, 0.5, Options(method, refine=0), dtype)
    factor, _ = factorise(problem, ValueChecks(enabled=False), (None, None), keep=True)
    inverse, ok, squared_norm = factor.small.inverse, factor.small.ok, factor.small.squared_norm
    small = S @ H(S) if shape[0] < shape[1] else H(S) @ S
    identity = backend.asarray(np.eye(4, dtype=dtype))
    result = inverse(identity)
    reference = np.linalg.inv(small.astype(complex) + 0.5 * np.eye(4))
    if not dtype.startswith("complex"):
        reference = reference.real
    backend.assert_matches(result, reference, like=identity, dtype=dtype, tolerance=2e3 * U[dtype])
    assert backend.numpy(ok)
    np.testing.assert_allclose(
        backend.numpy(squared_norm), np.linalg.norm(S) ** 2, rtol=20 * U[dtype]
    )


@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)], ids=str)
def test_null_vectors_are_tested_on_every_path(
    method: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    S = rng.standard_normal(shape)
    n = shape[0]
    centred = S - S.mean(axis=0)
    null = np.full(n, n**-0.5)
    for matrix, vector, expected in (
        (centred, null, True),
        (S, null, False),
        (centred, 2 * null, False),
    ):
        scores = column_blocks(matrix)
        problem = damped_problem(scores, 0.5, Options(method, refine=0, null=vector), "float64")
        factor, _ = factorise(problem, ValueChecks(enabled=False), (None, None), keep=False)
        assert bool(factor.small.ok) is expected


@pytest.mark.cupy_double
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_silent_failure_of_cupy_is_heard(
    batch: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    """Of potrf, which leaves what it had, of a Gram matrix that roundings make indefinite."""
    import cupy

    S = random_array(rng, (40, 2), dtype) @ random_array(rng, (2, 50), dtype)
    S = cupy.asarray(np.broadcast_to(S, (*batch, 40, 50)).copy())
    f = cupy.asarray(np.ones((*batch, 40), dtype=dtype))
    for check in (True, False):
        options: Any = {"precision": "native", "check": check, "full_output": True}
        if check:
            with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
                ngdla.damped_lstsq(S, f, 1e-12, **options)
        else:
            x, info = ngdla.damped_lstsq(S, f, 1e-12, **options)
            assert np.all(np.isnan(x.get()))
            assert not np.any(info.converged.get())

"""B B^H + tail by small Cholesky factors: against dense definitions, and against eigenpairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of, map_arrays
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    Operator,
    geometric,
    needs,
    norm,
    orthonormal,
    power_law,
    psd,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import NystromFactor, nystrom_factor, randomized_eigh

D, RANK, DAMPING = 24, 4, 0.125
COMPLEX = {"float32": "complex64", "float64": "complex128"}


def dense_of(factor: NystromFactor) -> np.ndarray:
    """Return B B^H + tail."""
    B, tail = narrow(wide(factor.root)), np.asarray(factor.tail)
    return B @ H(B) + tail[..., None, None] * np.eye(B.shape[-2])


def factor_of(rng: np.random.Generator, batch: tuple[int, ...], dtype: str) -> NystromFactor:
    B = random_array(rng, (*batch, D, 6), dtype) / np.asarray(D**0.5, dtype)
    real = np.full(batch, 0.25, REAL[dtype])
    return NystromFactor(B, (H(B) @ B).astype(dtype), real, real, real)


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_against_dense_matrices(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Vectors, columns, and complex columns of a real matrix; u times the condition, about 20."""
    needs(backend, dtype)
    factor = factor_of(rng, batch, dtype)
    wider = COMPLEX.get(dtype, dtype)
    right = [
        random_array(rng, (*batch, D), dtype),
        random_array(rng, (*batch, D, 2), dtype),
        random_array(rng, (*batch, D, 2), wider),
    ]

    def run(fields: list[Any], *right: Any) -> list[Any]:
        factor = NystromFactor(*fields)
        products = [factor.matmul(V, check=False) for V in right]
        solved = [factor.solve(V, DAMPING, check=False) for V in right]
        return products + solved + [factor.logdet(DAMPING)]

    like = backend.asarray(factor.root)
    results = backend.call(run, backend.asarray(fields_of(factor)), *backend.asarray(right))
    M = dense_of(factor)
    shifted = M + DAMPING * np.eye(D)
    columns = [right[0][..., None], *right[1:]]
    expected = [M @ V for V in columns] + [np.linalg.solve(shifted, V) for V in columns]
    expected = [x[..., 0] if i % 3 == 0 else x for i, x in enumerate(expected)]
    expected.append(np.linalg.slogdet(shifted)[1])
    for result, reference, kind in zip(
        results, expected, [dtype, dtype, wider] * 2 + [REAL[dtype]]
    ):
        tolerance = 4 * D * 20 * U[dtype]
        backend.assert_matches(result, reference, like=like, dtype=kind, tolerance=tolerance)


def test_dampings_of_a_batch(rng: np.random.Generator) -> None:
    factor, V = factor_of(rng, (2,), "float64"), random_array(rng, (2, D), "float64")
    for damping in (np.asarray(0.5), np.array([0.25, 0.75])):
        shifted = dense_of(factor) + damping[..., None, None] * np.eye(D)
        expected = np.linalg.solve(shifted, V[..., None])[..., 0]
        np.testing.assert_allclose(factor.solve(V, damping), expected, rtol=1e-11, atol=1e-12)
        reference = np.linalg.slogdet(shifted)[1]
        np.testing.assert_allclose(factor.logdet(damping), reference, rtol=1e-12)


@pytest.mark.thinned
@pytest.mark.parametrize("passes", [1, 2])
def test_the_matrix_is_factored(
    backend: Backend, dtype: str, passes: int, rng: np.random.Generator
) -> None:
    """Decaying: the root of the eigenpairs of as many columns; of lower rank: to roundings."""
    needs(backend, dtype)
    for values in (geometric(D, 0.5), np.where(np.arange(D) < 3, 1.0, 0.0), np.zeros(D)):
        if backend.name == "dask" and values[3] == 0:
            continue  # slow
        A = psd(rng, values, dtype)
        like = backend.asarray(A)
        factor = backend.call(nystrom_factor, like, RANK, passes=passes, oversample=6)
        width = 10 if passes == 1 else 16
        backend.assert_kind(factor.root, like=like, dtype=dtype, shape=(D, width))
        backend.assert_kind(factor.gram, like=like, dtype=dtype, shape=(width, width))
        backend.assert_kind(factor.tail, like=like, dtype=REAL[dtype], shape=())
        if not backend.has_values:
            continue
        factor = map_arrays(backend.numpy, factor)
        rest = norm(narrow(A) - dense_of(factor) + factor.tail * np.eye(D))
        rounding = (4 * 4 * U[dtype] * norm(A) + 2.0**-39) * D**0.5  # shifts, of all modes
        allowed = 4 * np.sum(values[6:])  # twice the expectation, with rank 6 of 10 columns
        assert rest <= allowed + rounding
        assert factor.error <= allowed + rounding
        trace = np.sum(values)
        assert abs(factor.trace - trace) <= D * U[dtype] * trace
        tail = max(0.0, (trace - norm(factor.root) ** 2) / D)
        assert abs(factor.tail - tail) <= 4 * D * U[dtype] * trace + 2.0**-40


def test_the_error_is_estimated() -> None:
    """Within 20 % on a slowly decaying spectrum, over 200 columns, cold and warm."""
    for passes in (1, 2):
        squares = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            A = psd(rng, power_law(40), "float64")
            basis = randomized_eigh(A, 8, rng=rng).eigenvectors if passes == 1 else None
            factor = nystrom_factor(A, 8, passes=passes, basis=basis, rng=rng)
            truth = norm(A - factor.root @ factor.root.T)
            squares.append([factor.error**2, truth**2])
        estimate, truth = np.sqrt(np.mean(squares, axis=0))
        assert 0.8 <= estimate / truth <= 1.2


def test_solves_are_those_with_eigenvectors(rng: np.random.Generator) -> None:
    """Where nothing is truncated and no tail is added, both are one matrix."""
    A, V = psd(rng, power_law(D), "float64"), random_array(rng, (D, 2), "float64")
    factor = nystrom_factor(A, RANK, passes=1, oversample=6, tail="zero")
    eigh = randomized_eigh(A, 10, passes=1, oversample=0, tail="zero")
    assert factor.tail == 0
    assert relative(factor.solve(V, 0.1), eigh.solve(V, 0.1)) <= 1e-10
    assert float(factor.logdet(0.1)) == pytest.approx(float(eigh.logdet(0.1)), rel=1e-10)


@pytest.mark.thinned(0)
def test_stacked_is_looped(backend: Backend, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    A = np.stack([psd(rng, power_law(D, p), dtype) for p in (0.5, 2)])
    factor = backend.call(nystrom_factor, backend.asarray(A), RANK)
    if not backend.has_values:
        return
    factor = map_arrays(backend.numpy, factor)
    for i in range(2):
        one = nystrom_factor(A[i], RANK)
        assert relative(dense_of(factor)[i], dense_of(one)) <= 100 * D * U[dtype]
        np.testing.assert_allclose(factor.error[i], one.error, rtol=1e3 * D * U[dtype])


def test_operands_and_options(rng: np.random.Generator) -> None:
    """Objects, a basis, a test matrix, TF32: as of `randomized_eigh`."""
    A, basis = psd(rng, power_law(D), "float32"), orthonormal(rng, D, RANK, "float32")
    options: dict[str, Any] = {"basis": basis, "passes": 1}
    direct = nystrom_factor(A, RANK, **options)
    of_object = nystrom_factor(Operator(A), RANK, trace=np.trace(A), **options)
    np.testing.assert_allclose(of_object.root, direct.root, rtol=1e-5, atol=1e-6)
    rounded = nystrom_factor(A, RANK, precision="tf32", **options)
    assert relative(dense_of(rounded), dense_of(direct)) <= 4 * 14**0.5 * 2.0**-11  # shifts
    columns = random_array(rng, (D, RANK + 6), "float32")
    given = nystrom_factor(A, RANK, passes=1, oversample=6, rng=columns)
    assert given.root.shape == (D, 10)


# -------------------------------------------------------------------------------- bad input

A = psd(np.random.default_rng(1), geometric(12), "float64")


def test_wrong_arguments() -> None:
    """The others are those of `randomized_eigh`, and tested there."""
    refused(ValueError, "tail", lambda: nystrom_factor(A, 3, tail="min"))
    refused(TypeError, "rank", lambda: nystrom_factor(A, "auto"))  # type: ignore[arg-type]
    factor = nystrom_factor(A, 3)
    for damping in (0.0, -1.0, np.nan, np.ones(2), np.asarray(0.0)):
        refused(ValueError, "damping", lambda d=damping: factor.solve(A, d))
        refused(ValueError, "damping", lambda d=damping: factor.logdet(d))
    for damping in (None, True, "1", 1j):
        refused(TypeError, "damping", lambda d=damping: factor.solve(A, d))
    refused(ValueError, "V", lambda: factor.matmul(A[:5]))
    refused(TypeError, "V", lambda: factor.solve([1.0] * 12, 0.1))
    refused(TypeError, "V", lambda: factor.solve(strict_array(A), 0.1))


def test_wrong_values(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    for B in (A - np.eye(12) / 2, np.where(np.eye(12), np.nan, A), A + np.triu(A, 1)):
        like = valued_backend.asarray(B.astype(real))
        with np.errstate(invalid="ignore"):
            refused(ValueError, "A", partial(nystrom_factor, like, 10))


def test_nothing_is_read_without_checks() -> None:
    like = strict_array(A, device=Device("device1"))
    damping = strict_array(0.5, device=Device("device1"))
    for check in (False, True):
        with counted_host_reads() as reads:
            factor = nystrom_factor(like, 3, check=check)
        assert len(reads) == check
        with counted_host_reads() as reads:
            factor.solve(like, damping, check=check)
        assert len(reads) == check

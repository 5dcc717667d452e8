"""Few singular triplets from few products, against those of dense decompositions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, map_arrays
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    bfloat16,
    geometric,
    needs,
    norm,
    orthonormal,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import SVDResult, randomized_svd

RANK, MORE, SHORT, LONG = 3, 7, 16, 36
SHAPES = {"wide": (SHORT, LONG), "tall": (LONG, SHORT)}


def matrix(
    rng: np.random.Generator, shape: tuple[int, int], sigma: np.ndarray, dtype: str
) -> np.ndarray:
    """Return a matrix with these singular values."""
    m, n = shape
    left, right = (narrow(orthonormal(rng, size, SHORT, dtype)) for size in (m, n))
    return ((left * sigma) @ H(right)).astype(dtype)


def product(result: SVDResult) -> np.ndarray:
    return (wide(result.U) * wide(result.S)[..., None, :]) @ wide(result.Vh)


def assert_orthonormal(result: SVDResult, dtype: str) -> None:
    """Both sides, to 8 u for each of the rank + oversample columns."""
    for columns in (wide(result.U), H(wide(result.Vh))):
        gram = H(columns) @ columns
        assert norm(gram - np.eye(gram.shape[-1])) <= 8 * (RANK + MORE) * U[dtype]


@pytest.mark.thinned
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_against_dense_decompositions(
    backend: Backend, dtype: str, passes: int, shape: str, rng: np.random.Generator
) -> None:
    """Decaying by halves: errors of sigma_10 / sigma_3 to the power of passes - 1, if squared.

    That is < 1 % of the best for two passes. With one pass, singular values are below the exact
    ones. Matrices of lower rank than columns are recovered from two passes on.
    """
    needs(backend, dtype)
    spectra = {"decaying": geometric(SHORT), "rank 2": 1.0 * (np.arange(SHORT) < 2)}
    for name, sigma in {**spectra, "zero": np.zeros(SHORT)}.items():
        if backend.name == "dask" and name != "decaying":
            continue  # slow
        A = matrix(rng, SHAPES[shape], sigma, dtype)
        m, n = A.shape
        like = backend.asarray(A)
        result = backend.call(randomized_svd, like, RANK, passes=passes, oversample=MORE)
        backend.assert_kind(result.U, like=like, dtype=dtype, shape=(m, RANK))
        backend.assert_kind(result.S, like=like, dtype=REAL[dtype], shape=(RANK,))
        backend.assert_kind(result.Vh, like=like, dtype=dtype, shape=(RANK, n))
        if not backend.has_values:
            continue
        result = map_arrays(backend.numpy, result)
        assert_orthonormal(result, dtype)
        assert np.all(np.diff(result.S) <= 0)
        rounding = 40 * U[dtype] * norm(sigma)
        assert np.max(result.S - sigma[:RANK]) <= rounding
        if passes > 1:
            assert norm(wide(A) - product(result)) <= 1.01 * norm(sigma[RANK:]) + rounding, name
            assert norm(result.S - sigma[:RANK]) <= 1e-2 * sigma[RANK - 1] + rounding


def test_more_passes_are_better() -> None:
    """On average over seeds, each pass counts, as each product with A or A^H is half a power."""
    rng = np.random.default_rng(0)
    A = matrix(rng, SHAPES["wide"], np.arange(1.0, SHORT + 1) ** -0.5, "float64")
    errors = [
        np.mean(
            [
                norm(A - product(randomized_svd(A, 3, oversample=2, passes=p, rng=i)))
                for i in range(9)
            ]
        )
        for p in (1, 2, 3, 4, 5)
    ]
    assert np.all(np.diff(errors) < 0)


def test_all_singular_values(dtype: str, rng: np.random.Generator) -> None:
    """With all columns, passes do not matter, and the result is exact to a few u |A|."""
    A = matrix(rng, SHAPES["tall"], geometric(SHORT), dtype)
    result = randomized_svd(A, SHORT, passes=1)
    assert relative(product(result), A) <= 8 * SHORT * U[dtype]
    result = randomized_svd(H(A), SHORT, passes=2, oversample=0)
    assert relative(product(result), H(A)) <= 8 * SHORT * U[dtype]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("known", [RANK, SHORT + 4])
def test_a_warm_start(passes: int, known: int, rng: np.random.Generator) -> None:
    """From exact right vectors one pass is exact; more columns than the short side are no harm."""
    A = matrix(rng, SHAPES["wide"], geometric(SHORT, 0.8), "float64")
    _, sigma, Vh = np.linalg.svd(A)
    result = randomized_svd(A, RANK, passes=passes, basis=Vh[:known].T.copy())
    np.testing.assert_allclose(result.S, sigma[:RANK], rtol=1e-12)
    assert norm(A - product(result)) <= (1 + 1e-12) * norm(sigma[RANK:])


def test_a_drifting_matrix(rng: np.random.Generator) -> None:
    A = matrix(rng, SHAPES["wide"], geometric(SHORT, 0.8), "float64")
    before = randomized_svd(A, RANK)
    A = A + 0.02 * matrix(rng, SHAPES["wide"], geometric(SHORT, 0.8), "float64")
    options: dict[str, Any] = {"passes": 2, "oversample": 0}
    warm = randomized_svd(A, RANK, basis=H(before.Vh), **options)
    cold = randomized_svd(A, RANK, **options)
    assert norm(A - product(warm)) < norm(A - product(cold))


@pytest.mark.thinned(0)
def test_stacked_is_looped(backend: Backend, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    A = np.stack([matrix(rng, SHAPES["wide"], geometric(SHORT, q), dtype) for q in (0.3, 0.6)])
    result = backend.call(randomized_svd, backend.asarray(A), RANK, passes=2)
    if not backend.has_values:
        assert tuple(result.Vh.shape) == (2, RANK, LONG)
        return
    found = product(map_arrays(backend.numpy, result))
    for i in range(2):
        assert relative(found[i], product(randomized_svd(A[i], RANK, passes=2))) <= 1e3 * U[dtype]


def test_one_seed_and_columns_of_the_caller(rng: np.random.Generator) -> None:
    from ngdla._backend.random import gaussian

    A = matrix(rng, SHAPES["wide"], geometric(SHORT), "complex64")
    columns = gaussian(5, (LONG, RANK + MORE), A, "complex64")
    one, other = (randomized_svd(A, RANK, oversample=MORE, rng=rng) for rng in (5, columns))
    for x, y in zip(one, other):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_half_precision_is_stored_only(shape: str, rng: np.random.Generator) -> None:
    A = bfloat16(matrix(rng, SHAPES[shape], geometric(SHORT), "float32")).astype("float16")
    result, expected = (randomized_svd(B, RANK) for B in (A, A.astype("float32")))
    assert {x.dtype.name for x in result} == {"float32"}
    assert relative(product(result), product(expected)) <= 100 * U["float32"]


# -------------------------------------------------------------------------------- bad input

A = np.random.default_rng(2).standard_normal((5, 12))

WRONG: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "rank 0": ("rank", ValueError, {"rank": 0}),
    "rank 6": ("rank", ValueError, {"rank": 6}),
    "rank 2.0": ("rank", TypeError, {"rank": 2.0}),
    "rank True": ("rank", TypeError, {"rank": True}),
    "vector": ("A", ValueError, {"A": A[0]}),
    "list": ("A", TypeError, {"A": [A]}),
    "dict": ("A", TypeError, {"A": {"a": A}}),
    "sparse": ("A", TypeError, {"A": scipy.sparse.csr_array(A)}),
    "integers": ("A", TypeError, {"A": A.astype(int)}),
    "NaN": ("A", ValueError, {"A": np.where(A > 1, np.nan, A)}),
    "Inf": ("A", ValueError, {"A": np.where(A > 1, np.inf, A)}),
    "passes 0": ("passes", ValueError, {"passes": 0}),
    "passes -1": ("passes", ValueError, {"passes": -1}),
    "passes 2.0": ("passes", TypeError, {"passes": 2.0}),
    "oversample -1": ("oversample", ValueError, {"oversample": -1}),
    "oversample True": ("oversample", TypeError, {"oversample": True}),
    "seed": ("rng", TypeError, {"rng": 0.5}),
    "test matrix": ("rng", ValueError, {"rng": np.ones((12, 2))}),
    "complex test matrix": ("rng", TypeError, {"rng": np.ones((12, 5)) + 0j}),
    "basis, rows": ("basis", ValueError, {"basis": np.ones((5, 2))}),
    "basis, complex": ("basis", TypeError, {"basis": np.eye(12, 2) + 0j}),
    "basis, library": ("basis", TypeError, {"basis": strict_array(np.eye(12, 2))}),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(wrong: str) -> None:
    name, kind, changes = WRONG[wrong]
    arguments: dict[str, Any] = {"A": A, "rank": 2, **changes}
    refused(kind, name, lambda: randomized_svd(**arguments))


def test_nan_is_found_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    like = valued_backend.asarray(np.where(A > 1, np.nan, A).astype(real))
    with np.errstate(invalid="ignore"):
        assert "NaN" in refused(ValueError, "A", lambda: randomized_svd(like, 2))
        result = randomized_svd(like, 2, check=False)
    assert np.isnan(valued_backend.numpy(result.S)).all()


def test_nothing_is_read_without_checks(rng: np.random.Generator) -> None:
    like = strict_array(random_array(rng, (6, 9), "float64"), device=Device("device1"))
    for check in (False, True):
        with counted_host_reads() as reads:
            randomized_svd(like, 2, check=check)
        assert len(reads) == check

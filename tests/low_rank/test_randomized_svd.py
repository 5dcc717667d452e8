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


# ----------------------------------------------------------------------- slow decay, by default

SLOW = {
    "1/k": lambda k: 1 / k,
    "0.9^k": lambda k: 0.9**k,
    "even": lambda k: 2 - k / len(k),
    "20 equal ones": lambda k: np.where(k <= 20, 1.0, 0.5),
}


def subspace_iteration(A: np.ndarray, rank: int, seed: int) -> np.ndarray:
    """Return the approximation by the products that scikit-learn makes by default: 16, or 10."""
    Q = np.random.default_rng(seed).standard_normal((A.shape[1], rank + 10))
    for _ in range(7 if 10 * rank < min(A.shape) else 4):
        Q = np.linalg.qr(H(A) @ np.linalg.qr(A @ Q).Q).Q
    Q = np.linalg.qr(A @ Q).Q
    W, s, Zh = np.linalg.svd(H(Q) @ A, full_matrices=False)
    return Q @ (W[:, :rank] * s[:rank]) @ Zh[:rank]


@pytest.mark.parametrize("spectrum", list(SLOW))
@pytest.mark.parametrize("rank", [8, 20])
def test_slow_decay(spectrum: str, rank: int, rng: np.random.Generator) -> None:
    """Errors, on average over seeds, are not above those of scikit-learn's more products."""
    left, right = (orthonormal(rng, size, 160, "float64") for size in (240, 160))
    sigma = SLOW[spectrum](np.arange(1.0, 161))
    A = (left * sigma) @ right.T
    least = norm(sigma[rank:])
    ours = [norm(A - product(randomized_svd(A, rank, rng=seed))) / least for seed in range(3)]
    theirs = [norm(A - subspace_iteration(A, rank, seed)) / least for seed in range(3)]
    assert np.mean(ours) <= np.mean(theirs) + 1e-5


# ---------------------------------------------------------------------------- the error estimate


def random_problem(seed: int) -> tuple[np.ndarray, int]:
    """Return a matrix of random dtype, shape and spectrum, and a rank."""
    rng = np.random.default_rng(seed)
    dtype = list(U)[seed % len(U)]
    m, n = (int(x) for x in rng.integers(20, 80, size=2))
    k = np.arange(1.0, min(m, n) + 1)
    step = np.where(k <= 5, 1.0, 10.0 ** -rng.uniform(0, 6))
    sigma = [k ** -rng.uniform(0.3, 3), rng.uniform(0.5, 0.99) ** k, 2 - k / len(k), step][seed % 3]
    left, right = (orthonormal(rng, size, len(k), dtype) for size in (m, n))
    return ((left * sigma) @ H(right)).astype(dtype), int(rng.integers(1, len(k) // 2))


def test_the_estimate_is_within_a_factor_of_two() -> None:
    """Of ten columns: a chi-squared number of ten degrees of freedom at worst, 1 % outside."""
    ratios = []
    for seed in range(40):
        A, rank = random_problem(seed)
        passes = [None, 1, 2, 3, 4][seed % 5]
        result, error = randomized_svd(A, rank, passes=passes, rng=seed, full_output=True)
        true = norm(wide(A) - product(result))
        if true > 8 * U[A.dtype.name] * norm(wide(A)):
            ratios.append(float(error) / true)
    assert len(ratios) >= 20
    assert np.mean([0.5 <= ratio <= 2 for ratio in ratios]) >= 0.95
    assert 0.9 <= np.median(ratios) <= 1.1


@pytest.mark.thinned(0)
def test_full_output(backend: Backend, rng: np.random.Generator) -> None:
    """The triplets are those of a call without it, and the estimate one real number for each."""
    dtype = backend.dtypes[-1]
    A = np.stack([matrix(rng, SHAPES["tall"], geometric(SHORT, q), dtype) for q in (0.5, 0.8)])
    like = backend.asarray(A)
    result, error = backend.call(randomized_svd, like, RANK, passes=2, full_output=True)
    backend.assert_kind(error, like=like, dtype=REAL[dtype], shape=(2,))
    if not backend.has_values:
        return
    assert isinstance(result, SVDResult)
    result, error = map_arrays(backend.numpy, result), backend.numpy(error)
    true = np.linalg.norm(wide(A) - product(result), axis=(-2, -1))
    assert np.all((true / 2 <= error) & (error <= 2 * true))
    plain = product(randomized_svd(A, RANK, passes=2))
    assert relative(product(result), plain) <= 1e3 * U[dtype]


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-200), ("float64", 1e200)],
)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_odd_scales(dtype: str, scale: float, shape: str, rng: np.random.Generator) -> None:
    A = matrix(rng, SHAPES[shape], geometric(SHORT, 0.8), dtype)
    for passes in (None, 1, 5):
        options: dict[str, Any] = {"passes": passes, "oversample": 2, "full_output": True}
        (result, error), (scaled, its) = (
            randomized_svd(B, RANK, **options) for B in (A, (A * scale).astype(dtype))
        )
        np.testing.assert_allclose(scaled.S / scale, result.S, rtol=100 * U[dtype])
        np.testing.assert_allclose(its / scale, error, rtol=1e3 * U[dtype])
    zero, error = randomized_svd(0 * A, RANK, full_output=True)
    assert error == 0
    assert not zero.S.any()


def test_fresh_columns_of_the_caller(rng: np.random.Generator) -> None:
    """They are the last ones; without any there is no estimate."""
    A = matrix(rng, SHAPES["tall"], geometric(SHORT, 0.8), "float64")
    columns = rng.standard_normal((SHORT, RANK + 4))
    options: dict[str, Any] = {"oversample": 2, "full_output": True}
    result, error = randomized_svd(A, RANK, rng=columns, **options)
    plain = randomized_svd(A, RANK, oversample=2, rng=columns[:, : RANK + 2].copy())
    np.testing.assert_allclose(result.S, plain.S, rtol=1e-13)
    rest = (A - product(result)) @ columns[:, RANK + 2 :]
    np.testing.assert_allclose(error, norm(rest) / 2**0.5)
    assert np.isnan(randomized_svd(A, RANK, oversample=0, full_output=True)[1])


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
    "full_output 1": ("full_output", TypeError, {"full_output": 1}),
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


@pytest.mark.parametrize(("dtype", "scale"), [("complex64", 1e-36), ("complex128", 1e-300)])
def test_complex_matrices_of_subnormal_parts(dtype: str, scale: float) -> None:
    g = np.random.default_rng(0).standard_normal
    A = ((g((60, 3)) + 1j * g((60, 3))) @ g((3, 40)) * scale).astype(dtype)
    result, error = randomized_svd(A, 2, full_output=True)
    exact = np.linalg.svd((A / scale).astype("complex128"), compute_uv=False)
    np.testing.assert_allclose(result.S / scale, exact[:2], rtol=1e-4)
    assert 0.5 < error / scale / exact[2] < 2

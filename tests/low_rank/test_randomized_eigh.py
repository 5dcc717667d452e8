"""Few eigenpairs from few products: against dense decompositions, on every library."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of, map_arrays
from references import H, U, narrow, wide
from spectra import (
    REAL,
    Operator,
    bfloat16,
    dense,
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

from ngdla import LowRankEigh, nystrom_factor, randomized_eigh, randomized_svd

METHODS = ("nystrom", "rayleigh-ritz", "rsvd", "sre")
D, RANK, MORE = 30, 4, 6


def best(A: np.ndarray, rank: int) -> float:
    """Return the least Frobenius error of that rank."""
    return norm(np.linalg.eigvalsh(narrow(A))[: len(A) - rank])


def true_error(result: LowRankEigh, A: np.ndarray) -> float:
    return norm(wide(A) - dense(result.eigenvalues, result.eigenvectors))


def assert_is_decomposition(result: LowRankEigh, A: np.ndarray, dtype: str) -> None:
    """Orthonormal vectors, descending values >= 0, the trace, and the tail that makes it up.

    Orthonormal to 8 u for each of the columns, of which there are rank + 2 oversample; the trace
    to d u.
    """
    d, V = result.eigenvalues, wide(result.eigenvectors)
    assert norm(H(V) @ V - np.eye(len(d))) <= 8 * (RANK + 2 * MORE) * U[dtype]
    assert np.all(d >= 0)
    assert np.all(np.diff(d) <= 0)
    trace = np.trace(wide(A)).real
    assert abs(result.trace - trace) <= D * U[dtype] * trace
    tail = max(0.0, float(result.trace - np.sum(d))) / (D - len(d))
    assert abs(result.tail - tail) <= 2 * U[dtype] * float(trace)
    assert all(np.all(np.isfinite(field)) for field in fields_of(result))


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
def test_against_dense_decompositions(
    backend: Backend, dtype: str, method: str, rng: np.random.Generator
) -> None:
    """Decaying, of lower rank, zero, and of any scale; one compiled function for all of them.

    Of lower rank than columns, the matrix is recovered to some roundings of |A|_F; the error of the
    decaying one is the best there is up to (0.7^6)^4 < 1 %.
    """
    needs(backend, dtype)
    decaying = psd(rng, geometric(D, 0.7), dtype)
    most = 20 if method == "sre" else 40  # powers of A are formed, and Gram matrices of them
    matrices = {
        "decaying": decaying,
        "scaled up": decaying * np.asarray(2.0**most, dtype),
        "scaled down": decaying * np.asarray(2.0**-most, dtype),
        "rank 3": psd(rng, np.where(np.arange(D) < 3, 1.0, 0.0), dtype),
        "zero": np.zeros((D, D), dtype),
    }
    options = {"method": method, "passes": 3, "oversample": MORE}
    for name, A in matrices.items():
        if backend.name == "dask" and name != "decaying":
            continue  # slow
        like = backend.asarray(A)
        result = backend.call(randomized_eigh, like, RANK, **options)
        for field, shape in zip(fields_of(result), [(RANK,), (D, RANK), (), (), ()]):
            kind = dtype if shape == (D, RANK) else REAL[dtype]
            backend.assert_kind(field, like=like, dtype=kind, shape=shape)
        if not backend.has_values:
            continue
        result = map_arrays(backend.numpy, result)
        assert_is_decomposition(result, A, dtype)
        error = true_error(result, A)
        if name in ("decaying", "scaled up", "scaled down"):
            assert error <= 1.01 * best(A, RANK)
            exact = np.linalg.eigvalsh(narrow(A))[: -RANK - 1 : -1]
            np.testing.assert_allclose(result.eigenvalues, exact, rtol=1e-2)
        else:
            rounding = 20 * U[dtype] * norm(A) + 2.0**-39  # what a zero matrix is shifted by
            assert error <= rounding
            assert result.tail <= rounding
            assert result.error <= rounding


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("warm", [False, True])
def test_estimates_of_the_error(method: str, warm: bool) -> None:
    """Of 200 fresh columns: within 20 % of the Frobenius norm; the trace bounds the nuclear norm.

    Cold, and from the basis of a matrix that moved a tenth.
    """
    squares, bounds = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        A, before = psd(rng, power_law(40), "float64"), None
        options: dict[str, Any] = {"method": method, "rng": rng}
        options["passes"] = 2 if method in ("nystrom", "rsvd") else 3
        if warm:
            before = randomized_eigh(A, 8, rng=rng).eigenvectors
            A = 0.9 * A + 0.1 * psd(rng, power_law(40), "float64")
            options["passes"] -= 1
        result = randomized_eigh(A, 8, basis=before, **options)
        rest = A - narrow(dense(result.eigenvalues, result.eigenvectors))
        squares.append([result.error**2, norm(rest) ** 2])
        bounds.append([result.trace_bound, np.linalg.norm(rest, "nuc")])
    estimate, truth = np.sqrt(np.mean(squares, axis=0))
    assert 0.8 <= estimate / truth <= 1.2
    for bound, truth in bounds:
        assert 0.8 <= bound / truth <= 1.2
        if method == "nystrom":  # what is left is positive
            assert bound == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_the_rest_is_positive(dtype: str, rng: np.random.Generator) -> None:
    """A - U diag(d) U^H of method "nystrom" has no negative eigenvalue beyond its shift."""
    A = psd(rng, power_law(D), dtype)
    for passes in (1, 2, 3):
        result = randomized_eigh(A, RANK, passes=passes)
        rest = narrow(A) - narrow(dense(result.eigenvalues, result.eigenvectors))
        assert np.linalg.eigvalsh(rest)[0] >= -8 * D * U[dtype] * norm(A)


def test_more_is_better(rng: np.random.Generator) -> None:
    """With the rank, with oversampling and with each pass, errors fall, on average over seeds."""
    A = psd(rng, power_law(D), "float64")

    def mean(**options: Any) -> float:
        rank = options.pop("rank", RANK)
        return np.mean(
            [true_error(randomized_eigh(A, rank, rng=i, **options), A) for i in range(9)]
        )

    for key, values in {"rank": (2, 4, 8), "oversample": (0, 4, 12), "passes": (1, 2, 3)}.items():
        assert np.all(np.diff([mean(**{key: value}) for value in values]) < 0), key


def test_without_oversampling(rng: np.random.Generator) -> None:
    """No fresh column: the bound by the trace, or NaN; all of d: exact."""
    A = psd(rng, power_law(D), "float64")
    result = randomized_eigh(A, RANK, oversample=0)
    assert result.error == pytest.approx(float(result.trace_bound), rel=1e-12)
    for method in METHODS[1:]:
        assert np.isnan(randomized_eigh(A, RANK, method=method, oversample=0).error)
    for method in METHODS[:3]:
        full = randomized_eigh(A, D, method=method, passes=1)
        assert full.complete
        assert true_error(full, A) <= 8 * D * U["float64"] * norm(A)
    assert full.tail == 0


@pytest.mark.parametrize("passes", [1, 2])
def test_a_warm_start(passes: int) -> None:
    """From the basis of a matrix that drifted, one pass beats a cold one, and two beat two."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        A = psd(rng, power_law(40), "float64")
        basis = randomized_eigh(A, 8, passes=3, rng=rng).eigenvectors
        A = 0.95 * A + 0.05 * psd(rng, power_law(40), "float64")
        warm = randomized_eigh(A, 8, basis=basis, passes=passes, rng=rng)
        cold = randomized_eigh(A, 8, passes=passes, rng=rng)
        assert true_error(warm, A) < true_error(cold, A)
        assert true_error(warm, A) <= 1.1 * best(A, 8)


@pytest.mark.thinned(0)
def test_one_seed_on_all_libraries(backend: Backend, rng: np.random.Generator) -> None:
    """The same columns, and so the same result; from the basis of an earlier one, too."""
    dtype = backend.dtypes[-1]
    A = psd(rng, power_law(D), dtype)
    basis = orthonormal(rng, D, RANK, dtype)

    def run(A: Any, basis: Any) -> Any:
        result = randomized_eigh(A, RANK, basis=basis, passes=1, rng=7)
        return [result.to_dense(), result.error]

    expected = [np.asarray(x) for x in run(A, basis)]
    like = backend.asarray(A)
    result = backend.call(run, like, backend.asarray(basis))
    for one, other, kind in zip(result, expected, (dtype, REAL[dtype])):
        backend.assert_matches(one, other, like=like, dtype=kind, tolerance=100 * D * U[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_columns_of_the_caller(dtype: str, method: str, rng: np.random.Generator) -> None:
    """The test matrix that a seed stands for gives what the seed gives, bit for bit."""
    from ngdla._backend.random import gaussian

    A = psd(rng, power_law(D), dtype)
    columns = gaussian(3, (D, RANK + 2 * MORE), A, dtype)
    one, other = (
        randomized_eigh(A, RANK, method=method, oversample=MORE, rng=seed) for seed in (3, columns)
    )
    for x, y in zip(fields_of(one), fields_of(other)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.thinned(0)
def test_stacked_is_looped(backend: Backend, rng: np.random.Generator) -> None:
    """All matrices of a stack see the same columns; each has its own tail, trace and error."""
    dtype = backend.dtypes[-1]
    A = np.stack([psd(rng, power_law(D, p), dtype) for p in (0.5, 1, 2, 3)])
    stack = A.reshape(2, 2, D, D)
    result = backend.call(randomized_eigh, backend.asarray(stack), RANK)
    if not backend.has_values:
        assert tuple(result.eigenvectors.shape) == (2, 2, D, RANK)
        return
    result = map_arrays(backend.numpy, result)
    for i in range(4):
        one = map_arrays(lambda x, i=i: np.asarray(x)[i // 2, i % 2], result)
        looped = randomized_eigh(A[i], RANK)
        tolerance = 100 * D * U[dtype]
        assert relative(one.to_dense(), looped.to_dense()) <= tolerance
        for name in ("eigenvalues", "tail", "trace", "error"):
            np.testing.assert_allclose(getattr(one, name), getattr(looped, name), rtol=tolerance)


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_mapped_is_looped(library: str, rng: np.random.Generator) -> None:
    module = pytest.importorskip(library)
    xp = module.numpy if library == "jax" else module
    if library == "jax":
        module.config.update("jax_enable_x64", True)
    A = np.stack([psd(rng, power_law(D, p), "float64") for p in (0.5, 2)])
    mapped = module.vmap(lambda A: randomized_eigh(A, RANK).to_dense())
    result = (module.jit(mapped) if library == "jax" else mapped)(xp.asarray(A))
    for i in range(2):
        assert relative(np.asarray(result)[i], randomized_eigh(A[i], RANK).to_dense()) <= 1e-11


# ------------------------------------------------------------------ operands and precisions


@pytest.mark.thinned(0)
@pytest.mark.parametrize("method", METHODS)
def test_objects_with_products(backend: Backend, method: str, rng: np.random.Generator) -> None:
    """Known by @, .shape, .dtype and their trace; a basis says which arrays they take."""
    dtype = backend.dtypes[-1]
    A = psd(rng, power_law(D), dtype)
    like, basis = backend.asarray(A), orthonormal(rng, D, RANK, dtype)
    trace = np.asarray(np.trace(A).real, dtype=REAL[dtype])

    def run(A: Any, basis: Any, trace: Any) -> Any:
        options = {"basis": basis, "method": method, "passes": 1}
        return randomized_eigh(Operator(A), RANK, trace=trace, **options).to_dense()

    result = backend.call(run, like, backend.asarray(basis), backend.asarray(trace))
    expected = randomized_eigh(A, RANK, basis=basis, method=method, passes=1).to_dense()
    backend.assert_matches(result, expected, like=like, dtype=dtype, tolerance=100 * D * U[dtype])


def test_an_object_and_a_test_matrix(rng: np.random.Generator) -> None:
    A = psd(rng, power_law(D), "float64")
    columns = rng.standard_normal((D, RANK + 2 * MORE))
    options: dict[str, Any] = {"rng": columns, "oversample": MORE}
    result = randomized_eigh(Operator(A), RANK, trace=np.trace(A), **options)
    np.testing.assert_array_equal(result.to_dense(), randomized_eigh(A, RANK, **options).to_dense())
    result = randomized_eigh(scipy.sparse.csr_array(A), RANK, trace=np.trace(A), **options)
    assert relative(result.to_dense(), randomized_eigh(A, RANK, **options).to_dense()) <= 1e-12
    stack = Operator(np.stack([A, A]))
    for trace in (4.0, np.float32(4), np.asarray([4.0, 4.0])):
        given = randomized_eigh(stack, RANK, trace=trace, basis=np.stack([np.eye(D, RANK)] * 2))
        np.testing.assert_array_equal(given.trace, [4.0, 4.0])
        np.testing.assert_allclose(np.trace(given.to_dense(), axis1=1, axis2=2), 4.0, rtol=1e-6)


@pytest.mark.thinned(0)
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_stored_only(
    backend: Backend, half: str, rng: np.random.Generator
) -> None:
    """Products are made in float32: the result is that of the same numbers in float32."""
    if backend.name.startswith(("strict", "dask")) or (
        half == "bfloat16" and "torch" not in backend.name
    ):
        pytest.skip("no such dtype here, or slow")
    call = backend.call if half == "float16" else lambda f, *args: f(*args)
    rounded = bfloat16(psd(rng, power_law(D), "float32"))
    A = (rounded if half == "bfloat16" else rounded.astype("float16")).astype("float32")
    like = backend.asarray(A if half == "bfloat16" else A.astype("float16"))
    if half == "bfloat16":
        like = like.to(backend.torch.bfloat16)  # type: ignore[attr-defined]
    result = call(randomized_eigh, like, RANK)
    for field in fields_of(result):
        assert str(field.dtype).rpartition(".")[2] == "float32"
    if backend.has_values:
        result = map_arrays(backend.numpy, result)
        expected = randomized_eigh(A, RANK)
        tolerance = 100 * D * U["float32"]
        assert relative(result.to_dense(), expected.to_dense()) <= tolerance


@pytest.mark.thinned(0)
def test_tf32(backend: Backend, rng: np.random.Generator) -> None:
    """Taken everywhere; the shift is that of TF32, 2^-11, and other dtypes do not change."""
    double = backend.dtypes[-1]
    if backend.name == "dask":
        pytest.skip("slow")
    for dtype in {"float32", double if backend.eager else "float32"}:
        A = psd(rng, geometric(D, 0.7), dtype)
        result = backend.call(randomized_eigh, backend.asarray(A), RANK, precision="tf32")
        if not backend.has_values:
            continue
        result = map_arrays(backend.numpy, result)
        expected = randomized_eigh(A, RANK)
        u = 2.0**-11 if REAL[dtype] == "float32" else 100 * D * U[dtype]
        assert relative(result.to_dense(), expected.to_dense()) <= 8 * u


def test_products_in_bfloat16(rng: np.random.Generator) -> None:
    """A shift at the level of their roundings makes them safe; that of float32 does not."""
    for _ in range(5):
        A = psd(rng, geometric(D, 0.6), "float32")
        rounded, basis = Operator(A, bfloat16), orthonormal(rng, D, RANK, "float32")
        options: dict[str, Any] = {"trace": np.trace(A), "basis": basis, "rng": rng}
        result = randomized_eigh(rounded, RANK, product_eps=2.0**-8, **options)
        assert true_error(result, A) <= best(A, RANK) + 8 * 2.0**-8 * norm(A)
        with pytest.raises(ValueError, match=r"`product_eps`|not Hermitian"):
            randomized_eigh(rounded, RANK, **options)


def test_sre_loses_small_eigenvalues_in_float32(rng: np.random.Generator) -> None:
    """All below u^(1 / (passes - 1)) of the largest are noise, 4e-3 here; not so in float64."""
    values = 10.0 ** (-np.arange(D) / 2)
    A = psd(rng, values, "float64")
    options: dict[str, Any] = {"passes": 4, "oversample": 4}

    def off(A: np.ndarray, method: str) -> np.ndarray:
        found = randomized_eigh(A, 10, method=method, **options).eigenvalues
        return np.abs(found - values[:10]) / values[:10]

    single = A.astype("float32")
    assert np.all(off(single, "sre")[:4] <= 1e-2)
    assert np.all(off(single, "sre")[7:] >= 0.3)
    assert np.all(off(single, "rayleigh-ritz")[:10] <= 1e-1)
    assert np.all(off(single, "nystrom")[:10] <= 1e-1)
    assert np.all(off(A, "sre")[:9] <= 1e-2)


# -------------------------------------------------------------------------------- bad input

A = psd(np.random.default_rng(1), geometric(12), "float64")
SKEW = np.triu(np.ones((12, 12)), 1)
CALLS = {"eigh": randomized_eigh, "factor": nystrom_factor}

WRONG: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "rank 0": ("rank", ValueError, {"rank": 0}),
    "rank -1": ("rank", ValueError, {"rank": -1}),
    "rank 13": ("rank", ValueError, {"rank": 13}),
    "rank 2.0": ("rank", TypeError, {"rank": 2.0}),
    "rank True": ("rank", TypeError, {"rank": True}),
    "rank None": ("rank", TypeError, {"rank": None}),
    "not square": ("A", ValueError, {"A": A[:5]}),
    "vector": ("A", ValueError, {"A": A[0]}),
    "empty": ("A", ValueError, {"A": A[:0, :0]}),
    "list": ("A", TypeError, {"A": [A, A]}),
    "dict": ("A", TypeError, {"A": {"a": A}}),
    "sparse": ("A", TypeError, {"A": scipy.sparse.csr_array(A)}),
    "integers": ("A", TypeError, {"A": np.eye(12, dtype=int)}),
    "None": ("A", TypeError, {"A": None}),
    "masked": ("A", TypeError, {"A": np.ma.masked_array(A)}),
    "tail": ("tail", ValueError, {"tail": "mean"}),
    "precision": ("precision", ValueError, {"precision": "half"}),
    "passes 0": ("passes", ValueError, {"passes": 0}),
    "passes -1": ("passes", ValueError, {"passes": -1}),
    "passes 1.5": ("passes", TypeError, {"passes": 1.5}),
    "passes True": ("passes", TypeError, {"passes": True}),
    "oversample -1": ("oversample", ValueError, {"oversample": -1}),
    "oversample '2'": ("oversample", TypeError, {"oversample": "2"}),
    "seed -1": ("rng", ValueError, {"rng": -1}),
    "seed 1.0": ("rng", TypeError, {"rng": 1.0}),
    "seed True": ("rng", TypeError, {"rng": True}),
    "seed None": ("rng", TypeError, {"rng": None}),
    "test matrix, width": ("rng", ValueError, {"rng": np.ones((12, 5))}),
    "test matrix, rows": ("rng", ValueError, {"rng": np.ones((11, 12))}),
    "test matrix, vector": ("rng", ValueError, {"rng": np.ones(12)}),
    "test matrix, complex": ("rng", TypeError, {"rng": np.ones((12, 12)) * 1j}),
    "test matrix, library": ("rng", TypeError, {"rng": strict_array(np.ones((12, 12)))}),
    "basis, rows": ("basis", ValueError, {"basis": np.eye(11, 2)}),
    "basis, width": ("basis", ValueError, {"basis": np.ones((12, 13))}),
    "basis, batch": ("basis", ValueError, {"basis": np.ones((2, 12, 3))}),
    "basis, vector": ("basis", ValueError, {"basis": np.ones(12)}),
    "basis, complex": ("basis", TypeError, {"basis": np.eye(12, 2) + 0j}),
    "basis, library": ("basis", TypeError, {"basis": strict_array(np.eye(12, 2))}),
    "basis, result": ("basis", TypeError, {"basis": randomized_eigh(A, 2)}),
    "trace, shape": ("trace", ValueError, {"trace": np.ones(3)}),
    "trace, string": ("trace", TypeError, {"trace": "all"}),
    "trace, True": ("trace", TypeError, {"trace": True}),
    "trace, complex": ("trace", TypeError, {"trace": 1j}),
    "product_eps 0": ("product_eps", ValueError, {"product_eps": 0.0}),
    "product_eps 1": ("product_eps", ValueError, {"product_eps": 1}),
    "product_eps str": ("product_eps", ValueError, {"product_eps": "bf16"}),
    "object, no library": ("A", TypeError, {"A": Operator(A), "trace": 1.0}),
    "object, no trace": ("A", TypeError, {"A": Operator(A), "basis": np.eye(12, 2)}),
    "object, not square": (
        "A",
        ValueError,
        {"A": Operator(A[:5]), "trace": 1.0, "basis": np.eye(12, 2)},
    ),
    "object of integers": (
        "A",
        TypeError,
        {"A": Operator(np.eye(12, dtype=int)), "trace": 1.0, "basis": np.eye(12, 2)},
    ),
    "negative": ("A", ValueError, {"A": A - 0.1 * np.eye(12)}),
    "negative definite": ("A", ValueError, {"A": -A}),
    "not Hermitian": ("A", ValueError, {"A": A + 1e-9 * SKEW}),
    "imaginary diagonal": ("A", ValueError, {"A": A + 1e-9j * np.eye(12)}),
    "NaN": ("A", ValueError, {"A": A + np.where(SKEW, np.nan, 0)}),
    "Inf on the diagonal": ("A", ValueError, {"A": A + np.diag([np.inf, *[0.0] * 11])}),
}


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(call: str, wrong: str) -> None:
    name, kind, changes = WRONG[wrong]
    arguments: dict[str, Any] = {"A": A, "rank": 3, **changes}
    with np.errstate(invalid="ignore"):
        refused(kind, name, lambda: CALLS[call](**arguments))


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", "svd"), ("method", None), ("rank", "all"), ("damping", 0.1)]
    + [("target", 1.0), ("max_rank", 3)],
)
def test_wrong_choices(name: str, value: Any) -> None:
    refused(ValueError, name, lambda: randomized_eigh(A, **{"rank": 3, name: value}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("passes", [1, 3])
def test_values_are_looked_at_by_every_method(
    valued_backend: Backend, method: str, passes: int
) -> None:
    """With one error: by how much it is not Hermitian, which eigenvalue it has, that it is NaN."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    options: dict[str, Any] = {"method": method, "passes": passes, "oversample": 2}
    nan = np.where(np.eye(12) + SKEW, A, np.nan)
    for B, words in ((A + SKEW, "not Hermitian"), (A - np.eye(12) / 2, "-5.00e-01"), (nan, "NaN")):
        like = valued_backend.asarray(B.astype(real))
        with np.errstate(invalid="ignore"):
            text = refused(ValueError, "A", partial(randomized_eigh, like, 10, **options))
        assert words in text
    good = valued_backend.asarray(A.astype(real))
    assert np.isfinite(float(randomized_eigh(good, 10, **options).tail))


def test_it_says_by_how_much_it_is_not_hermitian(rng: np.random.Generator) -> None:
    """With all of d as columns, W is unitary, and |W^H (A - A^H) W| is |A - A^H|."""
    text = refused(ValueError, "A", lambda: randomized_eigh(A + 1e-3 * SKEW, 12, passes=1))
    assert f"= {1e-3 * norm(SKEW - SKEW.T):.2e} for" in text


def test_one_wrong_matrix_of_a_stack() -> None:
    stack = np.stack([A, A - np.eye(12) / 2])
    assert "-5.00e-01" in refused(ValueError, "A", lambda: randomized_eigh(stack, 12))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_read_without_checks(method: str) -> None:
    """And one flag with them, also where an object stands for the matrix."""
    like = strict_array(A, device=Device("device1"))
    basis = strict_array(np.eye(12, 3), device=Device("device1"))
    for check in (False, True):
        for B, trace in ((like, None), (Operator(like), 2.0)):
            with counted_host_reads() as reads:
                randomized_eigh(B, 3, basis=basis, trace=trace, method=method, check=check)
            assert len(reads) == check


def test_wrong_values_pass_without_checks() -> None:
    """NaN comes out where the core has no Cholesky factor, and nothing is raised."""
    assert np.isnan(randomized_eigh(-A, 3, check=False).eigenvalues).all()
    assert np.isnan(randomized_eigh(A * np.nan, 3, check=False).tail)


@pytest.mark.parametrize("method", ["nystrom", "rayleigh-ritz", "rsvd"])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_one_direction_of_one_sign(method: str, real: str) -> None:
    """All columns of A Omega are parallel, and sums of 300 equal terms err by as many roundings."""
    eigh = randomized_eigh(np.ones((300, 300), real), 10, method=method)
    np.testing.assert_allclose(eigh.eigenvalues, [300, *[0] * 9], atol=600 * 300 * U[real])
    assert np.abs(eigh.eigenvectors.T @ eigh.eigenvectors - np.eye(10)).max() <= 300 * U[real]


@pytest.mark.parametrize("method", METHODS)
def test_matrices_of_any_size_in_float32(method: str, rng: np.random.Generator) -> None:
    """Below the normal range as well, where entries lose up to half of the least number.

    Besides what is lost elsewhere, 2^7 of the least numbers for each of d rows are taken for noise,
    and the shift is some times that.
    """
    d, least = 12, 2.0**-149
    unscaled = psd(rng, geometric(d), "float64")
    for size in (*10.0 ** rng.uniform(-45, 38, 15), 1e-45, 1e-44, 1e-40, 2.0**-126, 1.7e38):
        A = (unscaled * size).astype("float32")
        eigh = randomized_eigh(A, 5, oversample=4, method=method)
        exact = np.linalg.eigvalsh(A.astype(float))[:-6:-1]
        allowed = 2e-3 * exact + 2**8 * d * least
        assert np.all(np.abs(eigh.eigenvalues - exact) <= allowed), size
        assert np.abs(eigh.eigenvectors.T @ eigh.eigenvectors - np.eye(5)).max() <= 1e-5
        factor = nystrom_factor(A, 5, oversample=4)
        off = norm(factor.root @ factor.root.T - A.astype(float))
        assert off <= 1e-2 * norm(A) + 2**12 * d * least, size


def test_the_largest_matrices_of_jax(rng: np.random.Generator) -> None:
    """Compiled code takes numbers below the normal range for 0: test columns over the trace."""
    jax = pytest.importorskip("jax")
    A = psd(rng, geometric(12), "float32") * np.float32(1e38)
    found = jax.jit(lambda A: randomized_eigh(A, 5).eigenvalues)(A)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(A)[:-6:-1], rtol=1e-3)


@pytest.mark.parametrize("method", ["nystrom", "rayleigh-ritz"])
def test_nearly_all_columns_are_orthonormal(method: str) -> None:
    A = np.diag(np.exp(-np.arange(100.0))).astype("float32")
    for seed in range(5):
        V = randomized_eigh(A, 90, method=method, rng=seed).eigenvectors
        assert np.abs(V.T @ V - np.eye(90)).max() <= 100 * U["float32"]


def test_nothing_is_missing_where_all_columns_are_used() -> None:
    A = np.diag(1 / (1 + np.arange(15.0)))
    assert randomized_eigh(A, 15, passes=1).error <= 1e-14
    assert nystrom_factor(A, 2).error <= 1e-14


def test_one_bad_matrix_of_a_stack_does_not_spoil_the_others() -> None:
    torch = pytest.importorskip("torch")
    stack = np.stack([np.eye(24)] * 3)
    stack[1, 3, 3] = np.nan
    for library in (np.asarray, torch.asarray):
        A = library(stack)
        values = randomized_eigh(A, 3, check=False).eigenvalues
        assert np.isnan(np.asarray(values)).any(-1).tolist() == [False, True, False]
        values = randomized_svd(A, 3, check=False).S
        assert np.isnan(np.asarray(values)).any(-1).tolist() == [False, True, False]


def test_a_generator_is_not_frozen_by_a_compiler() -> None:
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    with pytest.raises(TypeError, match=r"`rng` is a Generator.*pass a seed"):
        jax.jit(lambda A: randomized_eigh(A, 2, rng=rng))(np.eye(6))


def test_a_basis_without_orthonormal_columns_is_refused() -> None:
    """One pass multiplies it as it is; more passes start from its range only."""
    A, basis = np.diag(np.arange(50.0)), np.random.default_rng(0).standard_normal((50, 5))
    with pytest.raises(ValueError, match=r"`basis` does not have orthonormal.*QR"):
        randomized_eigh(A, 5, passes=1, basis=basis)
    assert randomized_eigh(A, 5, passes=4, basis=basis).eigenvalues[0] > 48

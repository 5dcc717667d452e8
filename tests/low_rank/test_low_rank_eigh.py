"""U diag(d) U^H + tail (1 - U U^H): products, solves and determinants against dense definitions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of, map_arrays
from references import U, narrow, random_array, wide
from spectra import (
    REAL,
    dense,
    model,
    needs,
    norm,
    orthonormal,
    power_law,
    psd,
    quick_compilation,  # noqa: F401
    refused,
)

from ngdla import LowRankEigh, nystrom_factor, randomized_eigh
from ngdla.low_rank.low_rank_eigh import TAILS, clipped, tail_of, truncate_eigenpairs

D, RANK, DAMPING = 12, 4, 0.125
COMPLEX = {"float32": "complex64", "float64": "complex128"}


def eigh_of(
    rng: np.random.Generator, batch: tuple[int, ...], rank: int, dtype: str, tail: str = "trace"
) -> LowRankEigh:
    """Return `rank` eigenpairs of a matrix with eigenvalues in [0, 2] and more beside them."""
    flat = range(int(np.prod(batch)))
    V = np.stack([orthonormal(rng, D, rank, dtype) for _ in flat]).reshape(*batch, D, rank)
    d = -np.sort(-rng.random((*batch, rank)) - 1, axis=-1).astype(REAL[dtype])
    trace = np.asarray(d.sum(axis=-1) + 0.5 * (D - rank), dtype=REAL[dtype])
    error = np.full(batch, 0.25, REAL[dtype])
    return LowRankEigh(d, V, np.asarray(tail_of(tail, d, trace, D)), trace, error)


def solve_dense(M: np.ndarray, V: np.ndarray, damping: Any) -> np.ndarray:
    """Return (M + damping)^-1 V, with V (..., d, k)."""
    shifted = narrow(M) + np.asarray(damping)[..., None, None] * np.eye(D)
    return np.linalg.solve(shifted, V)


@pytest.mark.thinned
@pytest.mark.parametrize("rank", [RANK, D])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("tail", TAILS)
def test_against_dense_matrices(
    backend: Backend,
    dtype: str,
    batch: tuple[int, ...],
    rank: int,
    tail: str,
    rng: np.random.Generator,
) -> None:
    """One vector, two columns, and complex columns of a real matrix; u times the condition, 17."""
    needs(backend, dtype)
    eigh = eigh_of(rng, batch, rank, dtype, tail)
    vector, columns = (
        random_array(rng, (*batch, D), dtype),
        random_array(rng, (*batch, D, 2), dtype),
    )
    wider = COMPLEX.get(dtype, dtype)
    other = random_array(rng, (*batch, D, 2), wider)

    def run(fields: list[Any], *right: Any) -> list[Any]:
        eigh = LowRankEigh(*fields)
        solved = [eigh.solve(V, DAMPING, check=False) for V in right]
        products = [eigh.matmul(V, check=False) for V in right]
        return products + solved + [eigh.logdet(DAMPING), eigh.to_dense()]

    like = backend.asarray(eigh.eigenvectors)
    fields = backend.asarray(fields_of(eigh))
    results = backend.call(run, fields, *(backend.asarray(V) for V in (vector, columns, other)))
    M = model(eigh.eigenvalues, eigh.eigenvectors, eigh.tail)
    right = [vector[..., None], columns, other]
    expected = [narrow(M) @ V for V in right] + [solve_dense(M, V, DAMPING) for V in right]
    for i in (0, 3):
        expected[i] = expected[i][..., 0]
    expected += [np.linalg.slogdet(narrow(M) + DAMPING * np.eye(D))[1], M]
    kinds = [dtype, dtype, wider] * 2 + [REAL[dtype], dtype]
    tolerance = 4 * D * 17 * U[dtype]
    for result, reference, kind in zip(results, expected, kinds):
        backend.assert_matches(result, reference, like=like, dtype=kind, tolerance=tolerance)


@pytest.mark.thinned(0)
@pytest.mark.parametrize("rank", [RANK, D])
def test_dampings_of_a_batch(backend: Backend, rank: int, rng: np.random.Generator) -> None:
    """A number, a 0-d array, one for each matrix, and integers."""
    dtype = backend.dtypes[-1]
    eigh = eigh_of(rng, (2,), rank, dtype)
    V = random_array(rng, (2, D, 3), dtype)
    each = np.array([0.25, 0.75], REAL[dtype])
    dampings = [np.asarray(0.5, REAL[dtype]), each, np.asarray(2)]

    def run(fields: list[Any], V: Any, damping: Any) -> list[Any]:
        eigh = LowRankEigh(*fields)
        return [eigh.solve(V, damping, check=False), eigh.logdet(damping)]

    M, like = model(eigh.eigenvalues, eigh.eigenvectors, eigh.tail), backend.asarray(V)
    for damping in dampings:
        fields = backend.asarray(fields_of(eigh))
        X, logdet = backend.call(run, fields, like, backend.asarray(damping))
        shifted = narrow(M) + damping[..., None, None] * np.eye(D)
        tolerance = 4 * D * 17 * U[dtype]
        backend.assert_matches(
            X, np.linalg.solve(shifted, V), like=like, dtype=dtype, tolerance=tolerance
        )
        reference = np.linalg.slogdet(shifted)[1]
        backend.assert_matches(logdet, reference, like=like, dtype=REAL[dtype], tolerance=tolerance)


def test_a_wider_vector_widens_and_a_damping_does_not(rng: np.random.Generator) -> None:
    eigh = eigh_of(rng, (), RANK, "float32")
    V = random_array(rng, (D,), "float64")
    X = eigh.solve(V, 0.5)
    assert X.dtype == "float64"
    assert eigh.solve(V.astype("float32"), np.asarray(0.5)).dtype == "float32"
    assert eigh.matmul(V.astype("float16")).dtype == "float32"
    reference = solve_dense(model(eigh.eigenvalues, eigh.eigenvectors, eigh.tail), V[:, None], 0.5)[
        :, 0
    ]
    assert norm(X - reference) <= 20 * U["float32"] * norm(reference)


@pytest.mark.thinned(0)
@pytest.mark.parametrize("tail", TAILS)
def test_truncate(backend: Backend, tail: str, rng: np.random.Generator) -> None:
    """Of exact eigenpairs: the tail of the definition, and exactly the error there is."""
    dtype = backend.dtypes[-1]
    A = psd(rng, power_law(D), dtype)
    d, V = np.linalg.eigh(A)
    d, V = d[::-1].astype(REAL[dtype]), V[:, ::-1].astype(dtype)
    trace = np.asarray(np.trace(A).real)
    zero = np.zeros((), REAL[dtype])
    full = LowRankEigh(d, V, zero, trace, zero)

    def run(fields: list[Any]) -> Any:
        once = LowRankEigh(*fields).truncate(7)
        return [fields_of(once.truncate(RANK, tail=tail)), once.trace_bound]

    like = backend.asarray(V)
    result, bound = backend.call(run, backend.asarray(fields_of(full)))
    rest = norm(wide(A) - dense(d[:RANK], V[:, :RANK]))
    tails = {"trace": np.sum(d[RANK:]) / (D - RANK), "min": d[RANK - 1], "zero": 0.0}
    expected = [d[:RANK], V[:, :RANK], tails[tail], trace, rest]
    for one, other, kind in zip(result, expected, [REAL[dtype], dtype] + 3 * [REAL[dtype]]):
        tolerance = 8 * D * U[dtype]
        backend.assert_matches(one, other, like=like, dtype=kind, tolerance=tolerance)
    backend.assert_matches(
        bound, np.sum(d[7:]), like=like, dtype=REAL[dtype], tolerance=50 * D * U[dtype]
    )


def test_the_error_of_a_truncation_adds_in_squares(rng: np.random.Generator) -> None:
    eigh = eigh_of(rng, (2,), 6, "float64")
    cut = eigh.truncate(2, tail="zero")
    expected = np.sqrt(0.25**2 + np.sum(eigh.eigenvalues[:, 2:] ** 2, axis=-1))
    np.testing.assert_allclose(cut.error, expected, rtol=1e-14)
    np.testing.assert_array_equal(eigh.truncate(6).error, eigh.error)


def test_tails_are_never_negative(rng: np.random.Generator) -> None:
    """Where the eigenvalues kept exceed the trace by rounding; NaN stays NaN."""
    d, V = np.array([2.0, 1.0]), np.eye(D, 2)
    for trace, tail in ((3 - 1e-9, 0.0), (np.nan, np.nan)):
        low = truncate_eigenpairs(d, V, np.asarray(trace), np.asarray(0.0), 2, "trace")
        np.testing.assert_array_equal(low.tail, tail)
        np.testing.assert_array_equal(low.trace_bound, tail)
    np.testing.assert_array_equal(clipped(np.array([-1.0, np.nan, 2.0])), [0.0, np.nan, 2.0])
    assert tail_of("trace", np.ones(D), np.asarray(20.0), D) == 0  # nothing is missing


def test_a_damped_inverse_is_off_by_as_much_as_the_tail(rng: np.random.Generator) -> None:
    """(tail - e) / (tail + damping) of the exact one on a mode of eigenvalue e."""
    A = psd(rng, power_law(D), "float64")
    d, V = np.linalg.eigh(A)
    d, V = d[::-1], V[:, ::-1]
    full = LowRankEigh(d, V, np.zeros(()), np.trace(A), np.zeros(()))
    for tail in TAILS:
        low = full.truncate(RANK, tail=tail)
        for j in range(D):
            exact = V[:, j] / (d[j] + 0.01)
            off = 0 if j < RANK else (low.tail - d[j]) / (low.tail + 0.01)
            error = low.solve(V[:, j], 0.01) - exact
            np.testing.assert_allclose(error, -off * exact, atol=1e-11)


def test_it_is_a_pytree(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    eigh = eigh_of(rng, (2,), RANK, "float64")
    V = random_array(rng, (2, D), "float64")
    mapped = jax.jit(jax.vmap(lambda eigh, V: eigh.solve(V, 0.5)))
    x = mapped(map_arrays(jax.numpy.asarray, eigh), jax.numpy.asarray(V))
    np.testing.assert_allclose(x, eigh.solve(V, 0.5), rtol=1e-12)


# -------------------------------------------------------------------------------- bad input

EIGH = eigh_of(np.random.default_rng(0), (), RANK, "float64")
V = np.ones(D)

DAMPINGS: dict[str, tuple[type[Exception], Any]] = {
    "0": (ValueError, 0),
    "-1": (ValueError, -1.0),
    "NaN": (ValueError, np.nan),
    "Inf": (ValueError, np.inf),
    "subnormal": (ValueError, 1e-320),
    "huge integer": (ValueError, 10**400),
    "zero array": (ValueError, np.asarray(0.0)),
    "NaN array": (ValueError, np.asarray(np.nan)),
    "shape": (ValueError, np.ones(2)),
    "string": (TypeError, "0.1"),
    "None": (TypeError, None),
    "True": (TypeError, True),
    "complex": (TypeError, 0.1j),
    "complex array": (TypeError, np.asarray(0.1j)),
    "library": (TypeError, strict_array(0.1)),
}


@pytest.mark.parametrize("wrong", list(DAMPINGS))
def test_wrong_dampings(wrong: str) -> None:
    kind, damping = DAMPINGS[wrong]
    refused(kind, "damping", lambda: EIGH.solve(V, damping))
    refused(kind, "damping", lambda: EIGH.logdet(damping))


def test_one_wrong_damping_of_a_batch(valued_backend: Backend) -> None:
    real = valued_backend.dtypes[0]
    eigh = LowRankEigh(
        *valued_backend.asarray(fields_of(eigh_of(np.random.default_rng(0), (2,), RANK, real)))
    )
    damping = valued_backend.asarray(np.array([0.5, -0.5], real))
    refused(ValueError, "damping", lambda: eigh.logdet(damping))
    assert valued_backend.numpy(eigh.logdet(damping, check=False)).shape == (2,)


WRONG_COLUMNS: dict[str, tuple[type[Exception], Any]] = {
    "rows": (ValueError, np.ones((D + 1, 2))),
    "axes": (ValueError, np.ones((2, D, 2))),
    "list": (TypeError, [1.0] * D),
    "integers": (TypeError, np.ones(D, int)),
    "sparse": (TypeError, scipy.sparse.csr_array(np.ones((D, 1)))),
    "library": (TypeError, strict_array(np.ones(D))),
    "empty": (ValueError, np.ones((D, 0))),
}


@pytest.mark.parametrize("wrong", list(WRONG_COLUMNS))
def test_wrong_columns(wrong: str) -> None:
    kind, V = WRONG_COLUMNS[wrong]
    refused(kind, "V", lambda: EIGH.solve(V, 0.5))
    refused(kind, "V", lambda: EIGH.matmul(V))


@pytest.mark.parametrize(
    ("rank", "kind"), [(0, ValueError), (RANK + 1, ValueError), (True, TypeError), (2.0, TypeError)]
)
def test_wrong_ranks(rank: Any, kind: type[Exception]) -> None:
    refused(kind, "rank", lambda: EIGH.truncate(rank))


def test_wrong_tails() -> None:
    refused(ValueError, "tail", lambda: EIGH.truncate(2, tail="mean"))


def test_nothing_is_read_without_checks() -> None:
    """With them, dampings in an array and the right-hand side are one flag."""
    device = Device("device1")
    eigh = map_arrays(lambda x: strict_array(x, device=device), EIGH)
    damping, v = strict_array(0.5, device=device), strict_array(V, device=device)
    with counted_host_reads() as reads:
        eigh.solve(v, 0.5, check=False)
        eigh.solve(v, damping, check=False)
        eigh.logdet(damping, check=False)
        eigh.logdet(0.5)
        eigh.matmul(v, check=False)
        eigh.truncate(2).to_dense()
    assert reads == []
    calls = partial(eigh.solve, v, damping), partial(eigh.solve, v, 0.5), partial(eigh.matmul, v)
    for call in calls:
        with counted_host_reads() as reads:
            call()
        assert len(reads) == 1


def test_columns_must_be_finite(valued_backend: Backend) -> None:
    """In products and solves, of one column or several; unless checks are off."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    A = EIGH.to_dense().astype(real)
    models = randomized_eigh(valued_backend.asarray(A), 3), nystrom_factor(A, 3)
    models = models[0], valued_backend.asarray(models[1])
    for bad in (np.nan, np.inf):
        V = np.ones((A.shape[0], 2), real)
        V[1, 1] = bad
        for columns in map(valued_backend.asarray, (V, V[:, 1])):
            for M in models:
                refused(ValueError, "V", partial(M.solve, columns, 0.5))
                refused(ValueError, "V", partial(M.matmul, columns))
                with np.errstate(invalid="ignore"):
                    M.solve(columns, 0.5, check=False)
                    M.matmul(columns, check=False)

"""Kronecker factors: averages against their definition, solves against the dense matrix."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import Backend, counted_host_reads, fields_of
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    geometric,
    model,
    needs,
    norm,
    orthonormal,
    power_law,
    psd,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import (
    LowRankEigh,
    ema,
    kronecker_solve,
    nystrom_factor,
    online_eigh_init,
    randomized_eigh,
    sqrtm_psd,
)
from ngdla.kronecker.solve import COUPLINGS, Coupling

IN, OUT, DAMPING = 7, 5, 1e-3
KINDS = ("dense", "pair", "short pair", "low rank", "full rank")
COMPLEX = {"float32": "complex64", "float64": "complex128"}


def factor(rng: np.random.Generator, d: int, kind: str, dtype: str) -> tuple[Any, np.ndarray]:
    """Return a factor of largest eigenvalue 1, and the matrix that it stands for."""
    d_kept = 3 if kind in ("short pair", "low rank") else d
    values, V = geometric(d, 0.3).astype(REAL[dtype]), orthonormal(rng, d, d, dtype)
    A = narrow(wide(V) * wide(values) @ H(wide(V)))
    if kind == "dense":
        A = ((A + H(A)) / 2).astype(dtype)
        return A, narrow(A)
    order = rng.permutation(d_kept)  # of a pair: any
    pair = values[order].copy(), V[:, order].copy()
    if kind.endswith("pair"):
        return pair, narrow(model(*pair, 0.0))
    tail = 0.0 if d_kept == d else values[d_kept:].mean()
    rest = [np.asarray(x, REAL[dtype]) for x in (tail, values.sum(), 1.0)]
    low = LowRankEigh(values[:d_kept], V[:, :d_kept], *rest)
    return low, narrow(model(low.eigenvalues, low.eigenvectors, tail))


def solve_dense(A: np.ndarray, G: np.ndarray, V: np.ndarray, damping: float) -> np.ndarray:
    """Return X with G X A + damping X = V, by the matrix G kron A^T of the rows of X."""
    K = np.kron(G, A.T) + damping * np.eye(len(A) * len(G))
    return np.linalg.solve(K, narrow(V).reshape(-1)).reshape(V.shape)


def solve_factored(
    A: np.ndarray, G: np.ndarray, V: np.ndarray, damping: float, traces: tuple[float, float]
) -> np.ndarray:
    """Return (G + root / pi)^-1 V (A + pi root)^-1 for pi^2 = (tr A / d_in) / (tr G / d_out)."""
    pi, root = np.sqrt((traces[0] / len(A)) / (traces[1] / len(G))), damping**0.5
    Y = np.linalg.solve(G + root / pi * np.eye(len(G)), narrow(V))
    return H(np.linalg.solve(A + pi * root * np.eye(len(A)), H(Y)))


@pytest.mark.thinned
@pytest.mark.parametrize("of_A", KINDS)
@pytest.mark.parametrize("of_G", KINDS)
def test_all_kinds_of_factors(
    backend: Backend, dtype: str, of_A: str, of_G: str, rng: np.random.Generator
) -> None:
    """Jointly damped: u times the condition, 1e3, where factors are truncated; and factored."""
    needs(backend, dtype)
    A, dense_A = factor(rng, IN, of_A, dtype)
    G, dense_G = factor(rng, OUT, of_G, dtype)
    V = random_array(rng, (OUT, IN), dtype)

    def run(A: Any, G: Any, V: Any) -> list[Any]:
        return [
            kronecker_solve(A, G, V, DAMPING, coupling=coupling, check=coupling == "joint")
            for coupling in ("joint", "factored")
        ]

    like = backend.asarray(V)
    joint, factored = backend.call(run, *backend.asarray([A, G]), like)
    tolerance = 10 * IN * U[dtype] / DAMPING
    reference = solve_dense(dense_A, dense_G, V, DAMPING)
    backend.assert_matches(joint, reference, like=like, dtype=dtype, tolerance=tolerance)
    traces = tuple(
        float(F.trace if isinstance(F, LowRankEigh) else np.trace(M).real)
        for F, M in ((A, dense_A), (G, dense_G))
    )
    reference = solve_factored(dense_A, dense_G, V, DAMPING, traces)  # type: ignore[arg-type]
    backend.assert_matches(factored, reference, like=like, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("of_A", ["dense", "pair", "full rank"])
@pytest.mark.parametrize("of_G", ["dense", "pair", "full rank"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_nothing_is_lost_where_nothing_is_truncated(of_A: str, of_G: str, dtype: str) -> None:
    """1e-12 down to a damping of 1e-3 of the largest eigenvalue."""
    rng = np.random.default_rng(5)
    (A, dense_A), (G, dense_G) = factor(rng, 20, of_A, dtype), factor(rng, 15, of_G, dtype)
    V = random_array(rng, (15, 20), dtype)
    for damping in (1e-3, 1.0):
        X = kronecker_solve(A, G, V, damping)
        assert relative(X, solve_dense(dense_A, dense_G, V, damping)) <= 1e-12


@pytest.mark.parametrize("of_A", KINDS)
@pytest.mark.parametrize("of_G", KINDS)
def test_real_and_complex_factors_mix(of_A: str, of_G: str) -> None:
    """Any of the three may be complex, or single; the result has the dtype all promote to."""
    rng = np.random.default_rng(6)
    for dtypes in (
        ("float64", "float64", "complex128"),
        ("complex128", "float64", "float64"),
        ("float64", "complex128", "float64"),
        ("float32", "complex64", "float64"),
    ):
        (A, dense_A), (G, dense_G) = (
            factor(rng, d, kind, dtype) for d, kind, dtype in zip((IN, OUT), (of_A, of_G), dtypes)
        )
        V = random_array(rng, (OUT, IN), dtypes[2])
        X = kronecker_solve(A, G, V, DAMPING)
        assert X.dtype == "complex128"
        tolerance = 10 * IN * max(U[dtype] for dtype in dtypes) / DAMPING
        assert relative(X, solve_dense(dense_A, dense_G, V, DAMPING)) <= tolerance


@pytest.mark.thinned(0)
@pytest.mark.parametrize("coupling", ["joint", "factored"])
@pytest.mark.parametrize("kind", ["dense", "low rank"])
def test_batches(backend: Backend, coupling: str, kind: str, rng: np.random.Generator) -> None:
    """Stacked = looped, with one damping, a 0-d one, and one for each."""
    dtype = backend.dtypes[-1]
    pairs = [(factor(rng, IN, kind, dtype)[0], factor(rng, OUT, kind, dtype)[0]) for _ in range(2)]
    V = random_array(rng, (2, OUT, IN), dtype)
    stacked = [
        np.stack(Fs)
        if kind == "dense"
        else LowRankEigh(*(np.stack(field) for field in zip(*map(fields_of, Fs))))
        for Fs in zip(*pairs)
    ]

    def run(A: Any, G: Any, V: Any, damping: Any) -> Any:
        return kronecker_solve(A, G, V, damping, coupling=coupling, check=False)

    like = backend.asarray(V)
    for damping in (np.array([0.1, 0.02], REAL[dtype]), np.asarray(0.1, REAL[dtype])):
        X = backend.call(run, *backend.asarray(stacked), like, backend.asarray(damping))
        looped = [
            kronecker_solve(A, G, V[i], np.broadcast_to(damping, 2)[i], coupling=coupling)
            for i, (A, G) in enumerate(pairs)
        ]
        tolerance = 10 * IN * U[dtype] / 0.02
        backend.assert_matches(X, np.stack(looped), like=like, dtype=dtype, tolerance=tolerance)


def test_truncated_factors_come_from_decompositions(rng: np.random.Generator) -> None:
    """What `randomized_eigh` returns goes in as it is."""
    A, G = psd(rng, power_law(20), "float64"), psd(rng, power_law(15), "float64")
    V = random_array(rng, (15, 20), "float64")
    a, g = randomized_eigh(A, 4), randomized_eigh(G, 3)
    X = kronecker_solve(a, g, V, 0.01)
    assert relative(X, solve_dense(a.to_dense(), g.to_dense(), V, 0.01)) <= 1e-11
    assert relative(g.to_dense() @ X @ a.to_dense() + 0.01 * X, V) <= 1e-11


@pytest.mark.parametrize("kind", ["dense", "low rank"])
def test_a_zero_factor_is_damped_only(kind: str, rng: np.random.Generator) -> None:
    """Jointly: V / damping. Factored: there is no ratio of traces, and pi is 1."""
    G, _ = factor(rng, OUT, kind, "float64")
    A: Any = np.zeros((IN, IN))
    if kind == "low rank":
        A = randomized_eigh(A, 2)
    V = random_array(rng, (OUT, IN), "float64")
    np.testing.assert_allclose(kronecker_solve(A, G, V, 0.25), 4 * V, rtol=1e-12)
    dense_G = G if kind == "dense" else G.to_dense()
    X = kronecker_solve(A, G, V, 0.25, coupling="factored")
    expected = np.linalg.solve(dense_G + 0.5 * np.eye(OUT), V) / 0.5
    np.testing.assert_allclose(X, expected, rtol=1e-12)


# -------------------------------------------------------------------------------- averages


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_an_average_is_its_definition(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """decay A + (1 - decay) X^T conj(X), with a number and with an array of decays."""
    needs(backend, dtype)
    A = np.broadcast_to(psd(rng, power_law(IN), dtype), (*batch, IN, IN)).copy()
    X = random_array(rng, (*batch, 9, IN), dtype)
    decay = np.linspace(0, 0.9, int(np.prod(batch))).reshape(batch).astype(REAL[dtype])
    like = backend.asarray(A)
    gram = np.swapaxes(wide(X), -1, -2) @ np.conj(wide(X))
    for value in (0.75, decay):
        given = value if isinstance(value, float) else backend.asarray(value)
        result = backend.call(ema, like, backend.asarray(X), decay=given)
        weight = np.asarray(value)[..., None, None]
        reference = weight * A + (1 - weight) * gram
        backend.assert_matches(
            result, reference, like=like, dtype=dtype, tolerance=2 * 9 * U[dtype]
        )


@pytest.mark.parametrize("d", [256, 300])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "batch"])
def test_a_large_average_of_numpy(dtype: str, d: int, layout: str) -> None:
    """By syrk and herk, from d = 256; of any memory layout, and exactly Hermitian."""
    rng = np.random.default_rng(d)
    X = random_array(rng, (2, 12, 2 * d), dtype)
    A = random_array(rng, (2, d, d), dtype)
    A = A + H(A)
    decay: Any = 0.75
    if layout == "batch":
        X, decay = X[..., :d], np.array([0.75, 0.0], REAL[dtype])
    else:
        X = {
            "C": X[0, :, :d].copy(),
            "F": np.asfortranarray(X[0, :, :d]),
            "strided": X[0, ::2, ::2],
        }[layout]
        A = {"C": A[0], "F": np.asfortranarray(A[0]), "strided": A[0]}[layout]
    before = A.copy(), X.copy()
    result = ema(A, X, decay=decay)
    weight = np.asarray(decay)[..., None, None]
    gram = np.swapaxes(narrow(X), -1, -2) @ np.conj(narrow(X))
    assert relative(result, weight * narrow(A) + (1 - weight) * gram) <= 24 * U[dtype]
    np.testing.assert_array_equal(result, H(result))
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(X, before[1])


def test_a_large_average_of_numpy_reads_one_triangle(rng: np.random.Generator) -> None:
    A, X = random_array(rng, (260, 260), "complex128"), random_array(rng, (5, 260), "complex128")
    A += H(A)
    np.testing.assert_array_equal(ema(np.triu(A), X, decay=0.5), ema(A, X, decay=0.5))


def test_an_average_promotes(rng: np.random.Generator) -> None:
    """Never below float32, and by its arrays only."""
    A, X = np.eye(IN), random_array(rng, (3, IN), "complex64")
    assert ema(A, X, decay=0.5).dtype == "complex128"
    assert ema(A.astype("float32"), X, decay=np.asarray(0.5)).dtype == "complex64"
    assert ema(A.astype("float16"), A.astype("float16"), decay=0).dtype == "float32"


def test_an_average_of_a_dead_layer_vanishes(rng: np.random.Generator) -> None:
    """2,000 zero batches: it is exactly zero then, decomposed at any time, and wakes up again."""
    X = random_array(rng, (9, 5), "float32")
    average = ema(np.zeros((5, 5), "float32"), X, decay=0.5)
    for step in range(2000):
        average = ema(average, 0 * X, decay=0.9)
        if step > 800 and step % 10 == 0:
            low, factor = randomized_eigh(average, 3, oversample=2), nystrom_factor(average, 3)
            assert np.isfinite(low.eigenvectors).all()
            assert np.isfinite(factor.root).all()
    assert not average.any()
    assert not low.eigenvalues.any()
    assert not factor.root.any()
    np.testing.assert_array_equal(ema(average, X, decay=0.5), ema(0 * average, X, decay=0.5))


@pytest.mark.thinned(0)
def test_one_of_two_averages_vanishes(backend: Backend, rng: np.random.Generator) -> None:
    """Where the largest entry of the past is below the normal range; the other one is kept."""
    real = backend.dtypes[0]
    least = float(np.finfo(real).smallest_normal)
    A = psd(rng, power_law(IN), real)
    A = np.stack([A / A.max() * 3 * least, A]).astype(real)
    X = np.zeros((2, 4, IN), real)
    X[1] = random_array(rng, (4, IN), real)
    decay = np.array([0.5, 0.9], real)

    def run(A: Any, X: Any, decay: Any) -> Any:
        first = ema(A, X, decay=decay, check=False)
        return first, ema(first, X, decay=decay, check=False)

    found = backend.call(run, *backend.asarray([A, X, decay]))
    if not backend.has_values:
        return
    first, second = map(backend.numpy, found)
    assert first[0].any()
    assert not second[0].any()
    gram = X[1].T.astype(float) @ X[1]
    assert relative(second[1], 0.81 * A[1] + 0.19 * gram) <= 40 * U[real]


@pytest.mark.thinned(0)
def test_batches_that_are_not_finite_are_skipped(
    backend: Backend, rng: np.random.Generator
) -> None:
    """The average of that layer stays as it was, bit for bit; others are made."""
    real = backend.dtypes[0]
    A = np.stack([psd(rng, power_law(IN), real)] * 4)
    X = random_array(rng, (4, 9, IN), real)
    X[0, 3, 1], X[2, 0, 0], X[3, 1] = np.nan, -np.inf, np.finfo(real).max

    def run(A: Any, X: Any) -> Any:
        return ema(A, X, decay=0.5, check="nan", full_output=True), ema(
            A, X, decay=0.5, check=False
        )

    like = backend.asarray(A)
    with np.errstate(invalid="ignore", over="ignore"):
        (average, skipped), again = backend.call(run, like, backend.asarray(X))
    backend.assert_kind(average, like=like, dtype=real, shape=A.shape)
    backend.assert_kind(skipped, like=like, dtype="bool", shape=(4,))
    if not backend.has_values:
        return
    average, skipped = backend.numpy(average), backend.numpy(skipped)
    assert list(skipped) == [True, False, True, True]
    np.testing.assert_array_equal(average, backend.numpy(again))
    np.testing.assert_array_equal(average[skipped], A[skipped])
    assert relative(average[1], A[1] / 2 + X[1].T.astype(float) @ X[1] / 2) <= 20 * U[real]


def test_what_is_said_of_a_good_batch(rng: np.random.Generator) -> None:
    X = random_array(rng, (9, IN), "float64")
    checks: tuple[Any, ...] = (True, "nan", False)
    for check in checks:
        average, skipped = ema(A, X, decay=0.5, check=check, full_output=True)
        assert not skipped
        np.testing.assert_array_equal(average, ema(A, X, decay=0.5))


# -------------------------------------------------------------------------------- bad input

RNG = np.random.default_rng(4)
A, G = psd(RNG, geometric(IN), "float64"), psd(RNG, geometric(OUT), "float64")
V, X = RNG.standard_normal((OUT, IN)), RNG.standard_normal((6, IN))
PAIR = np.linalg.eigh(A)
NAN = np.where(np.eye(IN) > 0, A, np.nan)

WRONG: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "damping 0": ("damping", ValueError, {"damping": 0}),
    "damping -1": ("damping", ValueError, {"damping": -1.0}),
    "damping NaN": ("damping", ValueError, {"damping": np.nan}),
    "damping None": ("damping", TypeError, {"damping": None}),
    "damping True": ("damping", TypeError, {"damping": True}),
    "damping 0-d": ("damping", ValueError, {"damping": np.asarray(0.0)}),
    "damping shape": ("damping", ValueError, {"damping": np.ones(2)}),
    "coupling": ("coupling", ValueError, {"coupling": "both"}),
    "A, size": ("A", ValueError, {"A": G}),
    "G, size": ("G", ValueError, {"G": A}),
    "A, not square": ("A", ValueError, {"A": A[:3]}),
    "V, vector": ("V", ValueError, {"V": V[0]}),
    "V, list": ("V", TypeError, {"V": V.tolist()}),
    "A, None": ("A", TypeError, {"A": None}),
    "A, dict": ("A", TypeError, {"A": {"values": A}}),
    "A, sparse": ("A", TypeError, {"A": scipy.sparse.csr_array(A)}),
    "A, integers": ("A", TypeError, {"A": np.eye(IN, dtype=int)}),
    "A, state": ("A", TypeError, {"A": online_eigh_init(X, 2)}),
    "A, three": ("A", TypeError, {"A": (A, A, A)}),
    "A, library": ("A", TypeError, {"A": strict_array(A)}),
    "pair, lists": ("eigenvalues of A", TypeError, {"A": ([1.0], [1.0])}),
    "pair, values": ("eigenvalues of A", ValueError, {"A": (A, A)}),
    "pair, vectors": ("eigenvectors of A", ValueError, {"A": (PAIR[0], A[:3])}),
    "pair, library": ("eigenvalues of G", TypeError, {"G": (strict_array(V[:, 0]), G)}),
    "A, negative": ("A", ValueError, {"A": A - np.eye(IN) / 2}),
    "G, negative": ("G", ValueError, {"G": G - np.eye(OUT) / 2}),
    "A, NaN": ("A", ValueError, {"A": NAN}),
    "V, NaN": ("V", ValueError, {"V": np.where(V > 1, np.nan, V)}),
}


@pytest.mark.parametrize("coupling", ["joint", "factored"])
@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(wrong: str, coupling: str) -> None:
    name, kind, changes = WRONG[wrong]
    arguments: dict[str, Any] = {"A": A, "G": G, "V": V, "damping": 1e-3, "coupling": coupling}
    refused(kind, name, lambda: kronecker_solve(**{**arguments, **changes}))


WRONG_AVERAGES: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "width": ("A", ValueError, {"X": X[:, :3]}),
    "A, vector": ("A", ValueError, {"A": A[0]}),
    "X, vector": ("X", ValueError, {"X": X[0]}),
    "A, list": ("A", TypeError, {"A": [A]}),
    "X, integers": ("X", TypeError, {"X": X.astype(int)}),
    "X, library": ("X", TypeError, {"X": strict_array(X)}),
    "X, NaN": ("X", ValueError, {"X": np.where(X > 1, np.nan, X)}),
    "A, Inf": ("A", ValueError, {"A": np.where(np.eye(IN) > 0, np.inf, A)}),
    "decay 1": ("decay", ValueError, {"decay": 1.0}),
    "decay -1": ("decay", ValueError, {"decay": -1}),
    "decay None": ("decay", TypeError, {"decay": None}),
    "decay 0-d": ("decay", ValueError, {"decay": np.asarray(1.0)}),
    "decay shape": ("decay", ValueError, {"decay": np.ones(2) / 2}),
}


@pytest.mark.parametrize("wrong", list(WRONG_AVERAGES))
def test_wrong_averages(wrong: str) -> None:
    name, kind, changes = WRONG_AVERAGES[wrong]
    arguments: dict[str, Any] = {"A": A, "X": X, "decay": 0.5, **changes}
    refused(kind, name, lambda: ema(**arguments))


def test_values_are_looked_at_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]

    def on(x: np.ndarray) -> Any:
        return valued_backend.asarray(x.astype(real))

    a, g, v, x, bad = map(on, (A, G, V, X, A - np.eye(IN) / 2))
    with np.errstate(invalid="ignore"):
        for coupling in ("joint", "factored"):
            call = partial(kronecker_solve, bad, g, v, 1e-3, coupling=coupling)
            refused(ValueError, "A", call)
        refused(ValueError, "decay", lambda: ema(a, x, decay=on(np.asarray(1.5))))
        refused(ValueError, "X", lambda: ema(a, on(X * np.nan), decay=0.5))


@pytest.mark.parametrize("coupling", ["joint", "factored"])
def test_nothing_is_read_without_checks(coupling: str) -> None:
    """With checks it is one flag, whether the damping is a number or an array."""
    on = Device("device1")
    a, g, v, x = (strict_array(y, device=on) for y in (A, G, V, X))
    decay = strict_array(0.5, device=on)
    for check in (False, True):
        for damping in (0.1, decay):
            with counted_host_reads() as reads:
                kronecker_solve(a, g, v, damping, coupling=coupling, check=check)
            assert len(reads) == check
        with counted_host_reads() as reads:
            ema(a, x, decay=decay, check=check)
        assert len(reads) == check


def test_couplings_are_those_of_the_type() -> None:
    assert get_args(Coupling) == tuple(COUPLINGS)


def test_references_agree() -> None:
    X = solve_dense(A, G, V, 0.1)
    assert norm(G @ X @ A + 0.1 * X - V) <= 1e-12


def test_small_factors_do_not_overflow_on_the_way() -> None:
    A = np.eye(30, 30, dtype="float32") * np.float32(1e-15)
    low = randomized_eigh(A, 4)
    X = kronecker_solve(low, low, np.ones((30, 30), "float32"), 1e-30)
    np.testing.assert_allclose(X, 5e29, rtol=1e-4)


# ------------------------------------------------------------------------------ half precision


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize(("d", "N"), [(8, 3), (40, 10), (60, 60)])
def test_factors_rounded_to_half_precision(
    half: str, d: int, N: int, rng: np.random.Generator
) -> None:
    """X^T X / N of fewer samples than columns: rounding makes it indefinite, within 4 u |A|_F."""
    torch = pytest.importorskip("torch")
    u = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[half]
    X = rng.standard_normal((N, d))
    A = torch.asarray(X.T @ X / N).to(getattr(torch, half))
    given = A.to(torch.float64).numpy()
    V, size = rng.standard_normal((d, d)).astype("float32"), norm(given)
    root = sqrtm_psd(A).numpy().astype("float64")
    assert norm(root @ root - given) <= 4 * u * size
    w, Q = np.linalg.eigh(given)
    w = np.maximum(w, 0)
    exact = Q @ (Q.T @ V @ Q / (np.outer(w, w) + DAMPING)) @ Q.T
    solved = kronecker_solve(A, A, torch.asarray(V), DAMPING).numpy()
    assert relative(solved, exact) <= 64 * U["float32"] * w[-1] ** 2 / DAMPING
    for method in ("nystrom", "rayleigh-ritz", "rsvd"):
        dense = randomized_eigh(A, d, method=method).to_dense().numpy()
        assert norm(dense - given) <= 8 * u * size
    factored = nystrom_factor(A, d, tail="zero")
    assert np.linalg.norm(factored.matmul(torch.eye(d)).numpy() - given, 2) <= 8 * u * size


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_indefinite_beyond_half_precision(half: str) -> None:
    torch = pytest.importorskip("torch")
    A = torch.diag(torch.asarray([1.0, 1.0, 1.0, -0.1])).to(getattr(torch, half))
    for call in (
        sqrtm_psd,
        partial(randomized_eigh, rank=2),
        partial(nystrom_factor, rank=2),
        lambda A: kronecker_solve(A, A, torch.ones(4, 4), DAMPING),
    ):
        with pytest.raises(ValueError, match=rf"-1\.00e-01.*{half}"):
            call(A)


# -------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_derivatives_by_dense_factors(library: str, dtype: str, rng: np.random.Generator) -> None:
    """By factors with equal, nearly equal and zero eigenvalues: those of the equation solved."""
    pytest.importorskip(library)
    A, EA = (psd(rng, np.array(w), dtype) for w in ([3.0, 1, 1, 1, 0], [1.0, 2, 3, 4, 5]))
    G, EG = (psd(rng, np.array(w), dtype) for w in ([2.0, 2, 1e-15, 0], [1.0, 2, 3, 4]))
    V, EV, B = (random_array(rng, (4, 5), dtype) for _ in range(3))
    damping, slope = 0.03, 0.7

    def solve(right: np.ndarray) -> np.ndarray:
        matrix = np.kron(A.T, G) + damping * np.eye(20)
        return np.linalg.solve(matrix, right.T.reshape(-1)).reshape(5, 4).T

    X = solve(V)
    dX = solve(EV - EG @ X @ A - G @ X @ EA - slope * X)
    second = solve(-2 * (EG @ dX @ A + G @ dX @ EA + EG @ X @ EA + slope * dX))
    exact = [np.vdot(B, D).real for D in (dX, second)]

    def moved(t: Any, A: Any, G: Any, V: Any, EA: Any, EG: Any, EV: Any, B: Any) -> Any:
        X = kronecker_solve(A + t * EA, G + t * EG, V + t * EV, damping + t * slope)
        return (B.conj() * X).sum().real

    arrays = (A, G, V, EA, EG, EV, B)
    assert slopes(library, moved, arrays) == pytest.approx(exact, rel=1e-10)


def slopes(library: str, function: Any, arrays: tuple[np.ndarray, ...]) -> list[float]:
    """Return the first and second derivative at t = 0."""
    if library == "torch":
        import torch

        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        x = function(t, *map(torch.asarray, arrays))
        (first,) = torch.autograd.grad(x, t, create_graph=True)
        return [first.item(), torch.autograd.grad(first, t)[0].item()]
    import jax

    jax.config.update("jax_enable_x64", True)
    given = tuple(map(jax.numpy.asarray, arrays))
    slope = jax.grad(function)
    forward = jax.jit(lambda t: jax.jvp(lambda t: function(t, *given), (t,), (1.0,))[1])(0.0)
    assert float(forward) == pytest.approx(float(jax.jit(slope)(0.0, *given)), rel=1e-10)
    return [float(forward), float(jax.jit(jax.grad(slope))(0.0, *given))]


# ------------------------------------------------------------------- where nothing can raise


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("F", [[[1.0, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]]], ids=str)
def test_refused_factors_are_nan(coupling: Any, F: Any) -> None:
    F, one = np.array(F), np.eye(2)
    assert np.all(np.isnan(kronecker_solve(F, one, one, 1e-3, coupling=coupling, check="nan")))
    assert np.all(np.isfinite(kronecker_solve(one, one, one, 1e-3, coupling=coupling, check="nan")))


def test_an_illegal_decay_is_no_bad_batch() -> None:
    A, X = np.eye(2), 3 * np.eye(2)
    average, skipped = ema(A, X, decay=np.array(1.5), check="nan", full_output=True)
    assert np.all(np.isnan(average))
    assert not skipped


def test_errors_name_the_matrix_of_a_batch() -> None:
    one, bad = np.stack([np.eye(3)] * 2), np.stack([np.eye(3), np.diag([1.0, np.nan, 1.0])])
    negative = np.stack([np.eye(3), -np.eye(3)])
    for call, remedy in (
        (lambda: kronecker_solve(bad, one, one, 0.1), "pass finite values"),
        (lambda: kronecker_solve((bad[:, 1], one), one, one, 0.1), "pass finite values"),
        (lambda: ema(bad, one, decay=0.5), "pass finite values"),
        (lambda: online_eigh_init(bad, 1), "pass finite values"),
        (lambda: randomized_eigh(bad, 1), "pass finite values"),
        (lambda: randomized_eigh(one, 1).solve(bad, 0.1), "pass finite values"),
        (lambda: sqrtm_psd(negative), "a multiple of the identity"),
        (lambda: kronecker_solve(negative, one, one, 0.1), "a multiple of the identity"),
    ):
        with pytest.raises(ValueError, match=f"(?i)in matrix 1 of the batch.*{remedy}"):
            call()

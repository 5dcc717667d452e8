"""Structured inverse Cholesky factors: the equation of the optimum, and the optimum itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import asarray as strict_array
from backends import THINNED, Backend
from patterns import (
    GROUPS,
    ONE_OF_EACH,
    ORIENTATIONS,
    all_structures,
    is_toeplitz,
    member,
    one_of_each,
    pattern,
    projected,
    structures,
)
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    needs,
    norm,
    psd,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import structured_factor
from ngdla.structures import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Hierarchical,
    LowerTriangular,
    LowRankTriangular,
    Masked,
    Structure,
    UpperTriangular,
)

DAMPING = 0.25
COLUMNS = ("upper-last", "lower-first")  # orientations of dense columns
DOUBLES = ("float64", "complex128")


def is_local(structure: Structure, d: int) -> bool:
    """Tell whether a projection holds S[s, s] for the rows s of each column, as documented."""
    if isinstance(structure, LowRankTriangular) and structure.orientation in COLUMNS:
        return structure.k == 0 or d - structure.k <= 1
    if isinstance(structure, Masked):
        mask = pattern(structure, d)
        return bool(np.all(mask | mask.T))
    return not is_toeplitz(structure)


def statistics(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return the second moments of two samples more than d."""
    X = random_array(rng, (*shape[:-1], shape[-1] + 2, shape[-1]), dtype)
    S = np.swapaxes(X, -1, -2) @ np.conj(X) / X.shape[-2]
    return ((S + H(S)) / 2).astype(dtype)


def residual(structure: Structure, S: np.ndarray, K: np.ndarray) -> float:
    """Return |Pi(K^H (S + damping) K) - I|."""
    d = S.shape[-1]
    A = wide(S) + DAMPING * np.eye(d)
    return norm(projected(structure, H(wide(K)) @ A @ wide(K)) - np.eye(d))


def size(S: np.ndarray, K: np.ndarray) -> float:
    """Return |S + damping| |K|^2, what is summed in the residual."""
    return (norm(S) + DAMPING) * norm(K) ** 2


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(1,), (2, 7)], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_the_equation_of_the_optimum(
    backend: Backend, dtype: str, shape: tuple[int, ...], group: str, rng: np.random.Generator
) -> None:
    """The projected curvature in the coordinates of K is the identity; K is a member."""
    needs(backend, dtype)
    d = shape[-1]
    kinds = structures(group, d)[-4 if backend.name in THINNED else 0 :]
    S = statistics(rng, shape, dtype)
    damping = np.full(shape[:-1], DAMPING, REAL[dtype])

    def run(S: Any, damping: Any) -> list[Any]:
        factors = [structured_factor(S, s, damping, check=False).to_dense() for s in kinds]
        kept = [s for s in kinds if is_local(s, d)]
        same = [
            structured_factor(s.project(S, check=False), s, damping, check=False).to_dense()
            for s in kept
        ]
        return [factors, same]

    like, damping = backend.asarray([S, damping])
    factors, same = backend.call(run, like, damping)
    of_projections = iter(same)
    for structure, K in zip(kinds, factors):
        backend.assert_kind(K, like=like, dtype=dtype, shape=S.shape)
        again = next(of_projections) if is_local(structure, d) else None
        if not backend.has_values:
            continue
        K = backend.numpy(K)
        assert not np.any(K[..., ~pattern(structure, d)])
        assert residual(structure, S, K) <= 10 * d * U[dtype] * size(S, K), structure
        if again is not None:
            assert relative(backend.numpy(again), K) <= 100 * d * U[dtype] * size(S, K)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("d", [25, 70])
def test_larger_matrices(d: int, dtype: str) -> None:
    """With triangles that are divided, and blocks with a remainder."""
    rng = np.random.default_rng(d)
    S = statistics(rng, (d,), dtype)
    for name in ONE_OF_EACH:
        structure = one_of_each(name, d)
        K = structured_factor(S, structure, DAMPING).to_dense()
        assert residual(structure, S, K) <= 10 * d * U[dtype] * size(S, K), structure


@pytest.mark.parametrize("dtype", DOUBLES)
@pytest.mark.parametrize("d", [1, 5, 70])
def test_complete_structures_hold_the_inverse(d: int, dtype: str) -> None:
    """K K^H = (S + damping I)^-1, for what holds every triangle of some order of the indices."""
    rng = np.random.default_rng(d)
    S = statistics(rng, (d,), dtype)
    order = rng.permutation(d)
    permuted = Masked(np.tri(d, dtype=bool)[order][:, order])
    exact = np.linalg.inv(S + DAMPING * np.eye(d))
    for structure in (
        *(Dense(), LowerTriangular(), UpperTriangular(), permuted),
        *(BlockDiagonal(d), Hierarchical(d, 0), Hierarchical(0, d), LowRankTriangular(d)),
    ):
        K = structured_factor(S, structure, DAMPING).to_dense()
        assert relative(K @ H(K), exact) <= 1e-13 * d, structure


@pytest.mark.parametrize("dtype", DOUBLES)
def test_it_is_the_minimum(dtype: str, rng: np.random.Generator) -> None:
    """No perturbation of any size within the structure lowers tr(K^H S K) - 2 log |det K|."""
    d = 6
    S = statistics(rng, (d,), dtype) + DAMPING * np.eye(d)

    def objective(K: np.ndarray) -> float:
        return np.trace(H(K) @ S @ K).real - 2 * np.linalg.slogdet(K)[1]

    for structure in all_structures(d):
        K = structured_factor(S - DAMPING * np.eye(d), structure, DAMPING).to_dense()
        least = objective(K)
        for step in (1e-3, 0.1, 1.0):
            change = step * member(rng, structure, (d,), dtype)
            for other in (K + change, K @ (np.eye(d) + change)):
                assert objective(other) >= least - 1e-12 * abs(least), structure


@pytest.mark.parametrize("dtype", DOUBLES)
def test_the_divergence_is_less_for_wider_patterns(dtype: str, rng: np.random.Generator) -> None:
    S = statistics(rng, (9,), dtype)

    def logabsdet(structure: Structure) -> float:
        return float(structured_factor(S, structure, DAMPING).logabsdet())

    for chain in (
        [Diagonal(), BlockDiagonal(3), BlockDiagonal(9), Dense()],
        [Diagonal(), *(LowRankTriangular(k, o) for o in ["upper-first"] for k in (1, 3, 9))],
        [Diagonal(), *(Hierarchical(1, k) for k in (0, 2, 5, 8)), Dense()],
    ):  # at each optimum, the trace is d
        values = [logabsdet(structure) for structure in chain]
        assert np.all(np.diff(values) >= -1e-12)


@pytest.mark.parametrize("dtype", DOUBLES)
@pytest.mark.parametrize(("k1", "k2"), [(0, 0), (3, 0), (0, 2), (3, 2), (1, 4)])
def test_hierarchical_is_dense_rows(k1: int, k2: int, dtype: str, rng: np.random.Generator) -> None:
    """With the first k1 and the last k2 indices as features: the same optimum K K^H."""
    d = 12
    S = statistics(rng, (d,), dtype)
    features = (*range(k1), *range(d - k2, d))
    for orientation in ("upper-first", "lower-last"):
        rows = LowRankTriangular(k1 + k2, orientation, features)
        one, other = (
            structured_factor(S, structure, DAMPING).to_dense()
            for structure in (Hierarchical(k1, k2), rows)
        )
        assert relative(one @ H(one), other @ H(other)) <= 1e-13


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_orientations_model(orientation: str, rng: np.random.Generator) -> None:
    """The curvature, or the preconditioner, is of rank k plus diagonal; the other an arrowhead."""
    d, k = 9, 2
    S = statistics(rng, (d,), "float64")
    K = structured_factor(S, LowRankTriangular(k, orientation), DAMPING).to_dense()
    precondition = K @ K.T
    curvature = np.linalg.inv(precondition)
    rows = orientation not in COLUMNS
    corner = range(d - k, d) if orientation.endswith("last") else range(k)
    low_rank, arrowhead = (curvature, precondition) if rows else (precondition, curvature)
    rest = [i for i in range(d) if i not in corner]
    block = arrowhead[np.ix_(rest, rest)]
    assert norm(block - np.diag(np.diag(block))) <= 1e-12 * norm(arrowhead)
    inside, across = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    values = np.linalg.svd(low_rank[np.ix_(inside, across)], compute_uv=False)
    assert np.all(values[k:] <= 1e-12 * norm(low_rank))


def test_samples_are_enough(rng: np.random.Generator) -> None:
    """The factor of an average of projections is that of the average of what is projected."""
    X, Y = (random_array(rng, (20, 8), "float64") for _ in range(2))
    structure = Hierarchical(2, 1)
    N = 0.9 * structure.project_samples(X) + 0.1 * structure.project_samples(Y)
    S = 0.9 * X.T @ X + 0.1 * Y.T @ Y
    one, other = (structured_factor(A, structure, DAMPING).to_dense() for A in (N, S))
    assert relative(one, other) <= 1e-13


def test_structures_by_name_and_half_precision(rng: np.random.Generator) -> None:
    S = statistics(rng, (2, 5), "float32").astype("float16")
    S = ((S + H(S)) / 2).astype("float16")
    one = structured_factor(S, ("block-diagonal", {"block": 2}), DAMPING)
    other = structured_factor(S.astype("float32"), BlockDiagonal(2), np.float64(DAMPING))
    assert one.dtype == other.dtype == "float32"
    np.testing.assert_array_equal(one.to_dense(), other.to_dense())


def test_one_damping_for_each(rng: np.random.Generator) -> None:
    S, damping = statistics(rng, (3, 5), "float64"), np.array([0.1, 1.0, 10.0])
    for name in ONE_OF_EACH:
        structure = one_of_each(name, 5)
        stacked = structured_factor(S, structure, damping).to_dense()
        for i in range(3):
            one = structured_factor(S[i], structure, float(damping[i])).to_dense()
            assert relative(stacked[i], one) <= 1e-13


def test_scaled_statistics(rng: np.random.Generator) -> None:
    """4 (S + damping I) has half the factor."""
    S = psd(rng, np.arange(1.0, 7), "complex128")
    for structure in all_structures(6):
        one = structured_factor(S, structure, DAMPING).to_dense()
        other = structured_factor(4 * S, structure, 4 * DAMPING).to_dense()
        assert relative(2 * other, one) <= 1e-14 * 6


# ------------------------------------------------------------------------------- bad input

S = narrow(statistics(np.random.default_rng(5), (6,), "float64"))
NAN = np.where(np.eye(6) == 1, np.nan, S)
LOCAL, DENSE_COLUMNS = Hierarchical(2, 1), LowRankTriangular(2, "lower-first")

WRONG: dict[str, tuple[str, type[Exception], Callable[[], Any]]] = {
    "not square": ("statistics", ValueError, lambda: structured_factor(S[:3], "dense", 0.1)),
    "vector": ("statistics", ValueError, lambda: structured_factor(S[0], "dense", 0.1)),
    "empty": ("statistics", ValueError, lambda: structured_factor(S[:0, :0], "dense", 0.1)),
    "list": ("statistics", TypeError, lambda: structured_factor([S], "dense", 0.1)),
    "integers": ("statistics", TypeError, lambda: structured_factor(S.astype(int), "dense", 0.1)),
    "sparse": (
        "statistics",
        TypeError,
        lambda: structured_factor(scipy.sparse.csr_array(S), "dense", 0.1),
    ),
    "NaN": ("statistics", ValueError, lambda: structured_factor(NAN, "dense", 0.1)),
    "NaN diagonal": ("statistics", ValueError, lambda: structured_factor(NAN, "diagonal", 0.1)),
    "indefinite": ("statistics", ValueError, lambda: structured_factor(-S, LOCAL, 1e-3)),
    "other structure": (
        "statistics",
        ValueError,
        lambda: structured_factor(Diagonal().project(S), "dense", 0.1),
    ),
    "other options": (
        "statistics",
        ValueError,
        lambda: structured_factor(LOCAL.project(S), Hierarchical(1, 2), 0.1),
    ),
    "dense columns": (
        "statistics",
        ValueError,
        lambda: structured_factor(DENSE_COLUMNS.project(S), DENSE_COLUMNS, 0.1),
    ),
    "structure": ("structure", ValueError, lambda: structured_factor(S, "sparse", 0.1)),
    "options": ("structure", TypeError, lambda: structured_factor(S, ("dense", {"k": 1}), 0.1)),
    "mask": ("mask", ValueError, lambda: structured_factor(S, Masked([[1]]), 0.1)),
    "damping 0": ("damping", ValueError, lambda: structured_factor(S, "dense", 0)),
    "damping -1": ("damping", ValueError, lambda: structured_factor(S, "dense", -1.0)),
    "damping NaN": ("damping", ValueError, lambda: structured_factor(S, "dense", float("nan"))),
    "damping None": ("damping", TypeError, lambda: structured_factor(S, "dense", None)),
    "damping complex": ("damping", TypeError, lambda: structured_factor(S, "dense", 1j)),
    "dampings": ("damping", ValueError, lambda: structured_factor(S, "dense", np.ones(2))),
    "dampings 0": (
        "damping",
        ValueError,
        lambda: structured_factor(np.stack([S, S]), "dense", np.array([1.0, 0.0])),
    ),
    "damping of another library": (
        "damping",
        TypeError,
        lambda: structured_factor(S, "dense", strict_array(0.1)),
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_bad_input(wrong: str) -> None:
    name, kind, call = WRONG[wrong]
    refused(kind, name, call)


@pytest.mark.parametrize("d", [1, 2, 6])
def test_projections_that_hold_too_little_are_refused(d: int) -> None:
    """All others are taken: which is which follows from the pattern."""
    for structure in all_structures(d):
        N = structure.project(S[:d, :d])
        if is_local(structure, d):
            structured_factor(N, structure, 0.1)
        else:
            text = refused(
                ValueError, "statistics", lambda s=structure, N=N: structured_factor(N, s, 0.1)
            )
            assert str(structure) in text


def test_unchecked_values_are_nan() -> None:
    for structure in (Dense(), LOCAL, Diagonal()):
        with np.errstate(invalid="ignore"):
            K = structured_factor(-S, structure, 1e-3, check=False)
        assert np.isnan(K.to_dense()).any()

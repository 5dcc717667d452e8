"""Structured matrices against dense ones: products, projections, inverses, functions, pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from array_api_strict import asarray as strict_array
from backends import BACKENDS, THINNED, Backend, half_dtype
from hypothesis import given
from hypothesis import strategies as st
from patterns import (
    GROUPS,
    ONE_OF_EACH,
    ORIENTATIONS,
    all_structures,
    diagonal_blocks,
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
    bfloat16,
    needs,
    norm,
    psd,
    quick_compilation,  # noqa: F401
    refused,
)

from ngdla.structures import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Hierarchical,
    LowerToeplitz,
    LowerTriangular,
    LowRankTriangular,
    Masked,
    Structure,
    StructuredMatrix,
    UpperToeplitz,
    UpperTriangular,
    structure_from,
)

SHAPES = ((1,), (2, 7))  # batch axes and d
DOUBLES = ("float64", "complex128")
# Of these all others are made in what follows; on NumPy each is tested.
KINDS = ("block-diagonal", "lower-toeplitz", "hierarchical")

Operations = Callable[..., list[Any]]


def assert_entries(x: np.ndarray, exact: np.ndarray, size: Any, u: float, d: int) -> None:
    """Each entry is right to some d u of what is summed in it, the entry of |K| |L|."""
    excess = np.abs(wide(x) - exact) - 4 * (d + 4) * u * size
    assert np.max(excess, initial=-1.0) <= 0


def some(kinds: list[Structure], backend: Backend) -> list[Structure]:
    """Return four of the structures of a group where each costs a trace."""
    return kinds[-4:] if backend.name in THINNED else kinds


def as_dense(x: Any) -> Any:
    return x.to_dense() if isinstance(x, StructuredMatrix) else x


def on(operations: Operations, kinds: list[Structure]) -> Callable[..., list[list[Any]]]:
    """Return operations on matrices of several structures that are made of dense arrays."""

    def run(Ks: list[Any], *arguments: Any) -> list[list[Any]]:
        made = [s.from_dense(K, check=False) for s, K in zip(kinds, Ks)]
        return [[as_dense(x) for x in operations(K, *arguments)] for K in made]

    return run


def assert_operations(
    backend: Backend,
    operations: Operations,
    kinds: list[Structure],
    Ks: list[np.ndarray],
    arguments: list[np.ndarray],
    expected: Callable[..., list[tuple[np.ndarray, Any]]],
) -> None:
    """Compare with pairs of what is exact and of the size of what is summed in each entry."""
    dtype, d = str(Ks[0].dtype), Ks[0].shape[-1]
    given = backend.asarray([Ks, *arguments])
    results = backend.call(on(operations, kinds), *given)
    for structure, K, found in zip(kinds, Ks, results):
        pairs = expected(structure, wide(K), *map(wide, arguments))
        assert len(pairs) == len(found)
        for x, (exact, size) in zip(found, pairs):
            kind = dtype if np.iscomplexobj(exact) else REAL[dtype]
            backend.assert_kind(x, like=given[0][0], dtype=kind, shape=exact.shape)
            if backend.has_values:
                assert_entries(backend.numpy(x), exact, size, U[dtype], d)


# -------------------------------------------------------------------------------- products


def products(K: StructuredMatrix, x: Any, V: Any, R: Any) -> list[Any]:
    L = K.add_identity(0.75)
    squares = [K.square_matmul(V), K.square_rmatmul(R)]
    return [K @ x, K @ V, K.H @ V, K.rmatmul(R), K.H.rmatmul(R), *squares, L, K @ L, K + K @ L]


def exact_products(K: Any, x: Any, V: Any, R: Any) -> list[Any]:
    L = K + 0.75 * np.eye(K.shape[-1])
    squares = [K @ H(K) @ V, R @ K @ H(K)]
    column = (K @ x[..., None])[..., 0]
    return [column, K @ V, H(K) @ V, R @ K, R @ H(K), *squares, L, K @ L, K + K @ L]


def product_pairs(structure: Structure, *arrays: np.ndarray) -> list[Any]:
    return list(zip(exact_products(*arrays), exact_products(*map(np.abs, arrays))))


def product_arguments(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str
) -> list[np.ndarray]:
    shapes = (shape, (*shape, 3), (*shape[:-1], 2, shape[-1]))
    return [random_array(rng, s, dtype) for s in shapes]


@pytest.mark.thinned
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_products(
    backend: Backend, dtype: str, shape: tuple[int, ...], group: str, rng: np.random.Generator
) -> None:
    """With columns, rows and one another, and sums, entry by entry."""
    needs(backend, dtype)
    kinds = some(structures(group, shape[-1]), backend)
    Ks = [member(rng, structure, shape, dtype) for structure in kinds]
    arguments = product_arguments(rng, shape, dtype)
    assert_operations(backend, products, kinds, Ks, arguments, product_pairs)


@pytest.mark.parametrize("d", [70, 140])
@pytest.mark.parametrize("structure", [LowerTriangular(), UpperTriangular()], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_halves_of_triangles(dtype: str, structure: Structure, d: int) -> None:
    """Above 64 rows triangles are divided, above 128 twice, and once into unequal halves."""
    rng = np.random.default_rng(d)
    K = member(rng, structure, (d,), dtype)
    arguments = product_arguments(rng, (d,), dtype)
    assert_operations(Backend(), products, [structure], [K], arguments, product_pairs)
    arguments = [random_array(rng, shape, dtype) for shape in ((d, d), (5, d))]
    assert_operations(Backend(), projections, [structure], [K], arguments, projection_pairs)
    assert structure.zeros(d, like=K).size <= d**2 / 2 + 32 * d


@given(st.data())
def test_products_and_projections_of_any(data: Any) -> None:
    """Any dimension and options."""
    d = data.draw(st.integers(1, 24))
    sizes = st.integers(0, d + 2)
    features = data.draw(st.lists(st.integers(0, d - 1), unique=True))
    structure = data.draw(
        st.one_of(
            st.builds(BlockDiagonal, st.integers(1, d + 2)),
            st.builds(Hierarchical, sizes, sizes),
            st.builds(LowRankTriangular, sizes, st.sampled_from(ORIENTATIONS)),
            st.builds(
                LowRankTriangular,
                st.just(len(features)),
                st.sampled_from(ORIENTATIONS),
                st.just(features),
            ),
            st.sampled_from([LowerToeplitz(), UpperToeplitz(), UpperTriangular()]),
            st.just(structures("masks", d)[-1]),
        )
    )
    dtype = data.draw(st.sampled_from(list(U)))
    rng = np.random.default_rng(d)
    K = member(rng, structure, (d,), dtype)
    arguments = product_arguments(rng, (d,), dtype)
    assert_operations(Backend(), products, [structure], [K], arguments, product_pairs)
    arguments = [random_array(rng, shape, dtype) for shape in ((d, d), (3, d))]
    assert_operations(Backend(), projections, [structure], [K], arguments, projection_pairs)


def multiples(K: StructuredMatrix, factor: Any) -> list[Any]:
    one = factor[0]  # 0-d
    sums = [K - 0.5 * K, -K, K / 4.0, K * 2, K * one, K * factor, K / factor]
    return [*sums, K.add_identity(one), K.add_identity(factor)]


def multiple_pairs(structure: Structure, K: np.ndarray, factor: np.ndarray) -> list[Any]:
    I, one, factor = np.eye(K.shape[-1]), factor[0], factor[:, None, None]
    sums = [0.5 * K, -K, K / 4, 2 * K, one * K, factor * K, K / factor, K + one * I, K + factor * I]
    return [(exact, np.abs(K) + np.abs(exact)) for exact in sums]


@pytest.mark.thinned(0)
def test_multiples(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    """By numbers, 0-d arrays, and one number for each matrix of a batch."""
    needs(backend, dtype)
    kinds = some([one_of_each(name, 4) for name in ONE_OF_EACH], backend)
    Ks = [member(rng, structure, (2, 4), dtype) for structure in kinds]
    factor = np.array([-0.75, 3.0], REAL[dtype])
    assert_operations(backend, multiples, kinds, Ks, [factor], multiple_pairs)


def test_integers_and_other_libraries_of_factors(rng: np.random.Generator) -> None:
    """NumPy leaves ``array * K`` and ``array @ K`` to the matrix."""
    K = Dense().from_dense(random_array(rng, (2, 3, 3), "float64"))
    factor = np.array([2, 3])
    np.testing.assert_array_equal(as_dense(factor * K), factor[:, None, None] * K.to_dense())
    np.testing.assert_array_equal(as_dense(np.float64(2) * K), 2 * K.to_dense())
    R = random_array(rng, (2, 4, 3), "float64")
    np.testing.assert_array_equal(R @ K, K.rmatmul(R))
    np.testing.assert_array_equal(R @ K.H, K.H.rmatmul(R))
    for other in (3, R, "K"):
        for operation in ("__add__", "__sub__"):
            assert getattr(K, operation)(other) is NotImplemented
    assert K.__mul__(K) is NotImplemented


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_dtypes_are_promoted(name: str, rng: np.random.Generator) -> None:
    """A complex V among real parameters is two real ones; sums and products are in both dtypes."""
    structure = one_of_each(name, 5)
    K = structure.from_dense(member(rng, structure, (5,), "float32"))
    V = random_array(rng, (5, 2), "complex128")
    for found, exact in ((K @ V, K.to_dense() @ V), (K.H @ V, K.to_dense().T @ V)):
        assert found.dtype == "complex128"
        assert norm(found - exact) <= 50 * U["complex128"] * norm(exact)
    L = structure.from_dense(member(rng, structure, (5,), "complex64"))
    wider = L.astype("complex128")
    assert (K + wider).dtype == (K @ wider).dtype == (wider @ K).dtype == "complex128"
    assert (K + L).dtype == (K @ L).dtype == "complex64"
    assert norm((K @ wider).to_dense() - K.to_dense() @ wider.to_dense()) <= 1e-14 * 40
    np.testing.assert_array_equal((K + L).to_dense(), K.to_dense() + L.to_dense())


# ----------------------------------------------------------------------------- projections


def projections(K: StructuredMatrix, N: Any, X: Any) -> list[Any]:
    structure = K.structure
    return [
        structure.project(N, check=False),
        structure.project_samples(X, check=False),
        *(K.project_inner(X), K.project_gram(), K.project_congruence(N)),
    ]


def projected_matrices(K: np.ndarray, N: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
    S = H(X.conj()) @ X.conj()  # X^T conj(X)
    return [N, S, H(K) @ S @ K, H(K) @ K, H(K) @ N @ K]


def projection_pairs(structure: Structure, *arrays: np.ndarray) -> list[Any]:
    """Transforms err by u of the largest sum of a diagonal, the trace; it is never a mean of 0."""
    exact = [projected(structure, A) for A in projected_matrices(*arrays)]
    sizes = projected_matrices(*map(np.abs, arrays))
    if not is_toeplitz(structure):
        return list(zip(exact, (projected(structure, size) for size in sizes)))
    bounds = (2 * size.sum(axis=(-2, -1), keepdims=True) for size in sizes)
    return list(zip(exact, bounds))


@pytest.mark.thinned
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_projections(
    backend: Backend, dtype: str, shape: tuple[int, ...], group: str, rng: np.random.Generator
) -> None:
    """Of any matrix, of samples, and through K: those of the dense matrices."""
    needs(backend, dtype)
    kinds = some(structures(group, shape[-1]), backend)
    Ks = [member(rng, structure, shape, dtype) for structure in kinds]
    N = random_array(rng, (*shape, shape[-1]), dtype)  # not Hermitian: its Hermitian part counts
    X = random_array(rng, (*shape[:-1], 5, shape[-1]), dtype)
    assert_operations(backend, projections, kinds, Ks, [N, X], projection_pairs)


@pytest.mark.parametrize("dtype", DOUBLES)
@pytest.mark.parametrize("d", [1, 2, 5, 7])
def test_the_rule_of_projections(dtype: str, d: int, rng: np.random.Generator) -> None:
    """Among members that are Hermitian in diagonal blocks: the closest of Hermitian part."""
    N = random_array(rng, (d, d), dtype)
    A = (N + H(N)) / 2
    for structure in all_structures(d):
        basis = [(B + H(B)) / 2 for B in tangent_basis(structure, d, dtype)]
        columns = np.stack([_as_reals(B) for B in basis], axis=-1)
        weights, *_ = np.linalg.lstsq(columns, _as_reals(A), rcond=None)
        members = tangent_basis(structure, d, dtype)
        best = sum(w * B for w, B in zip(weights, members))
        M = structure.project(N).to_dense()
        assert norm(M - best) <= 1e-13 * d * norm(A), structure
        rest = A - (M + H(M)) / 2
        for B in basis:
            assert abs(np.vdot(B, rest).real) <= 1e-14 * d * norm(A), structure
        assert np.trace(M).real == pytest.approx(np.trace(A).real, abs=1e-14 * d * norm(A))


def _as_reals(A: np.ndarray) -> np.ndarray:
    return np.concatenate([A.real.ravel(), A.imag.ravel()])


def tangent_basis(structure: Structure, d: int, dtype: str) -> list[np.ndarray]:
    """Return real multiples of what spans the members that are Hermitian in diagonal blocks."""
    i, j = np.indices((d, d))
    mask = pattern(structure, d)
    if is_toeplitz(structure):
        lags = [(mask & (abs(i - j) == lag)).astype(float) for lag in range(d)]
        return lags + ([1j * B for B in lags[1:]] if dtype == "complex128" else [])
    basis = []
    for a, b in zip(*np.nonzero(mask)):
        E = ((i == a) & (j == b)).astype(float)
        if not mask[b, a]:
            basis += [E] if dtype == "float64" else [E, 1j * E]
        elif a == b:
            basis.append(E)
        elif a < b:
            basis += [E + E.T] if dtype == "float64" else [E + E.T, 1j * (E - E.T)]
    return basis


@pytest.mark.parametrize("d", [1, 7, 20])
def test_projections_are_of_the_tangent_space(d: int, dtype: str) -> None:
    """Pi(herm(M)) = M; blocks on the diagonal are Hermitian exactly; the trace is kept."""
    rng = np.random.default_rng(d)
    N, u = random_array(rng, (d, d), dtype), U[dtype]
    for structure in all_structures(d):
        M = structure.project(N)
        again = structure.project((M.to_dense() + H(M.to_dense())) / 2)
        assert norm(again.to_dense() - M.to_dense()) <= 4 * u * norm(M.to_dense())
        assert M.trace() == pytest.approx(np.trace(N).real, abs=d * u * norm(N))
        for J in diagonal_blocks(pattern(structure, d)):
            block = M.to_dense()[np.ix_(J, J)]
            np.testing.assert_array_equal(block, H(block))


def test_projections_of_positive_matrices_need_not_be_positive() -> None:
    """A diagonal of one entry weighs as much as the mean of the main one."""
    v = np.zeros(4)
    v[[0, 3]] = 1.0  # means of 1 / 2 and, in the corner, 1
    M = LowerToeplitz().project(np.outer(v, v)).to_dense()
    assert np.linalg.eigvalsh((M + M.T) / 2)[0] == pytest.approx(-0.5)


# ------------------------------------------------------------------- inverses and numbers


def inverses(K: StructuredMatrix, v: Any, V: Any) -> list[Any]:
    return [K.solve(v), K.solve(V), K.inverse(), K.logabsdet()]


def near_identity(
    rng: np.random.Generator, structure: Structure, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    K = 0.1 * member(rng, structure, shape, dtype) / np.sqrt(shape[-1])
    return (K + np.eye(shape[-1])).astype(dtype)


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_inverses(
    backend: Backend, dtype: str, shape: tuple[int, ...], group: str, rng: np.random.Generator
) -> None:
    """Solves, inverses and determinants of well-conditioned members, by residuals."""
    needs(backend, dtype)
    kinds = some(structures(group, shape[-1]), backend)
    Ks = [near_identity(rng, structure, shape, dtype) for structure in kinds]
    v, V = (random_array(rng, s, dtype) for s in (shape, (*shape, 3)))
    arguments = backend.asarray([Ks, v, V])
    results = backend.call(on(inverses, kinds), *arguments)
    for structure, K, found in zip(kinds, Ks, results):
        for x, reference in zip(found, (v, V, K)):
            backend.assert_kind(x, like=arguments[1], dtype=dtype, shape=reference.shape)
        backend.assert_kind(found[3], like=arguments[1], dtype=REAL[dtype], shape=shape[:-1])
        if backend.has_values:
            assert_inverses(structure, K, v, V, [backend.numpy(x) for x in found], U[dtype])


def assert_inverses(
    structure: Structure, K: np.ndarray, v: np.ndarray, V: np.ndarray, found: list[Any], u: float
) -> None:
    """Assert residuals of some d u, and the pattern of the inverse."""
    x, X, inverse, logabsdet = found
    K, d, one = narrow(K), K.shape[-1], np.eye(K.shape[-1])
    allowed = 8 * d * u * norm(K)
    assert norm((K @ x[..., None])[..., 0] - v) <= allowed * norm(x)
    assert norm(K @ X - V) <= allowed * norm(X)
    assert norm(K @ inverse - one) <= allowed * norm(inverse)
    assert not np.any(inverse[..., ~pattern(structure, d)])
    np.testing.assert_allclose(logabsdet, np.linalg.slogdet(K)[1], rtol=0, atol=8 * d * u)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_inverses_of_larger_matrices(dtype: str, name: str, rng: np.random.Generator) -> None:
    """With corners among many indices, and triangles that are divided."""
    d = 140 if "triangular" in name else 40
    structure = one_of_each(name, d)
    K = near_identity(rng, structure, (d,), dtype)
    v, V = (random_array(rng, shape, dtype) for shape in ((d,), (d, 3)))
    found = [as_dense(x) for x in inverses(structure.from_dense(K), v, V)]
    assert_inverses(structure, K, v, V, found, U[dtype])


@pytest.mark.parametrize("name", KINDS)
def test_singular_matrices(valued_backend: Backend, name: str) -> None:
    """No solve raises: the results are not finite, and log |det| is -inf."""
    zero, ones = np.zeros((4, 4), "float32"), np.ones((4, 1), "float32")
    run = on(lambda K, V: [K.solve(V), K.inverse(), K.logabsdet()], [one_of_each(name, 4)])
    (found,) = valued_backend.call(run, *valued_backend.asarray([[zero], ones]))
    X, inverse, logabsdet = map(valued_backend.numpy, found)
    assert not np.any(np.isfinite(X))
    assert not np.any(np.isfinite(np.diagonal(inverse)))
    assert logabsdet == -np.inf


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_singular_matrix_of_a_batch(name: str, rng: np.random.Generator) -> None:
    """The others are inverted as they are alone."""
    structure = one_of_each(name, 4)
    K = near_identity(rng, structure, (3, 4), "float64")
    alone = [as_dense(structure.from_dense(x).inverse()) for x in K]
    K[1] = 0.0
    stacked = structure.from_dense(K).inverse().to_dense()
    assert norm(stacked[[0, 2]] - np.stack(alone)[[0, 2]]) <= 1e-14
    assert not np.any(np.isfinite(np.diagonal(stacked[1])))


def numbers(K: StructuredMatrix, sufficient: Any) -> list[Any]:
    bounds = [K.spectral_bound(), K.spectral_bound(sufficient=sufficient)]
    return [K.trace(), K.frobenius_norm(), K.max_abs(), *bounds, K.spectral_bound(sufficient=1e-9)]


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_numbers(
    backend: Backend, dtype: str, shape: tuple[int, ...], group: str, rng: np.random.Generator
) -> None:
    """Trace and norms of a projection, and the bound on its eigenvalues."""
    needs(backend, dtype)
    d = shape[-1]
    kinds = some(structures(group, d), backend)
    N = random_array(rng, (*shape, d), dtype)
    Ks = [projected(structure, N).astype(dtype) for structure in kinds]
    sufficient = np.full(shape[:-1], 1e3, REAL[dtype])
    arguments = backend.asarray([Ks, sufficient])
    results = backend.call(on(numbers, kinds), *arguments)
    for structure, K, found in zip(kinds, Ks, results):
        for x in found:
            backend.assert_kind(x, like=arguments[0][0], dtype=REAL[dtype], shape=shape[:-1])
        if backend.has_values:
            assert_numbers(structure, narrow(K), [backend.numpy(x) for x in found], U[dtype])


def assert_numbers(structure: Structure, K: np.ndarray, found: list[Any], u: float) -> None:
    trace, frobenius, largest, bound, enough, not_enough = found
    d = K.shape[-1]
    size = np.linalg.norm(K, axis=(-2, -1))
    assert np.all(abs(trace - np.trace(K, axis1=-2, axis2=-1).real) <= d * u * size)
    assert np.all(abs(frobenius - size) <= d * d * u * size)
    np.testing.assert_allclose(largest, np.max(np.abs(K), axis=(-2, -1)), rtol=2 * u)
    sets = diagonal_blocks(pattern(structure, d))
    blocks = [np.linalg.eigvalsh(K[..., J[:, None], J]) for J in sets]
    radius = np.max(np.abs(np.concatenate(blocks, axis=-1)), axis=-1)
    rounding, slack = 100 * d * u, max(map(len, sets)) ** (1 / 16)
    for sharp in (bound, not_enough):
        assert np.all(sharp >= radius * (1 - rounding))
        assert np.all(sharp <= slack * radius * (1 + rounding))
    assert np.all(enough >= radius * (1 - rounding))
    assert np.all(enough <= 1e3)


@pytest.mark.parametrize("dtype", DOUBLES)
def test_eigenvalues_are_those_of_the_diagonal_blocks(dtype: str, rng: np.random.Generator) -> None:
    """det(M - z) is their product for any z, so that all eigenvalues of projections are real."""
    N = random_array(rng, (7, 7), dtype)
    for structure in all_structures(7):
        M = structure.project(N).to_dense()
        blocks = [M[np.ix_(J, J)] for J in diagonal_blocks(pattern(structure, 7))]
        for z in random_array(rng, (5,), "complex128"):
            whole, *parts = (np.linalg.det(A - z * np.eye(len(A))) for A in (M, *blocks))
            assert abs(whole - np.prod(parts)) <= 1e-12 * max(abs(whole), norm(M) ** 7)


def test_bounds_of_zero(rng: np.random.Generator) -> None:
    K = random_array(rng, (6,), "float64")
    for structure in all_structures(6):
        zero = structure.zeros(6, like=K)
        assert zero.spectral_bound() == zero.frobenius_norm() == zero.max_abs() == 0
        assert zero.size == sum(np.size(leaf) for leaf in zero.leaves)
        np.testing.assert_array_equal(structure.identity(6, like=K).to_dense(), np.eye(6))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("name", ["complex64", "float16", None])
def test_what_a_matrix_says_of_itself(dtype: str, name: str | None) -> None:
    like = np.ones(1, dtype)
    K = Hierarchical(1, 2).identity(6, like=like, dtype=name, batch=(2, 4))
    assert (K.batch, K.shape, K.dimension) == ((2, 4), (2, 4, 6, 6), 6)
    assert (K.dtype, K.dtype_name) == (np.dtype(name or dtype), name or dtype)
    assert K.size == 8 * (1 + 2 + 4 + 3 * 3 + 3)  # A, B2, E, B1 over D, and C
    assert repr(K) == f"<Hierarchical(k1=1, k2=2) of shape (2, 4, 6, 6), {name or dtype}>"
    assert K.astype(K.dtype_name).leaves[0] is K.leaves[0]
    np.testing.assert_array_equal(K.to_dense(), np.broadcast_to(np.eye(6), (2, 4, 6, 6)))


# ------------------------------------------------------------------------------- functions


def functions(K: StructuredMatrix) -> list[Any]:
    return [K.expm(), K.inv_sqrtm()]


def assert_functions(structure: Structure, backend: Backend, dtype: str) -> None:
    """Of projections of positive definite matrices, in higher precision."""
    needs(backend, dtype)
    rng = np.random.default_rng(1)
    spectra = (np.arange(1.0, 7) / 4, np.linspace(1, 0.5, 6))
    N = np.stack([psd(rng, values, dtype) for values in spectra])
    K = projected(structure, N).astype(dtype)
    given = backend.asarray([[K]])
    (found,) = backend.call(on(functions, [structure]), *given)
    root = np.stack([np.linalg.inv(scipy.linalg.sqrtm(narrow(A))) for A in K])
    exponential = narrow(np.stack([wide_expm(A) for A in K]))
    for x, reference in zip(found, (exponential, root)):
        backend.assert_matches(
            x, reference, like=given[0][0], dtype=dtype, tolerance=200 * U[dtype]
        )
        if backend.has_values:
            assert not np.any(backend.numpy(x)[..., ~pattern(structure, 6)])


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("name", KINDS)
def test_functions(backend: Backend, dtype: str, name: str) -> None:
    assert_functions(one_of_each(name, 6), backend, dtype)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_functions_of_each_structure(dtype: str, name: str) -> None:
    assert_functions(one_of_each(name, 6), Backend(), dtype)


def wide_expm(A: np.ndarray) -> np.ndarray:
    """Return exp(A) in extended precision, by squaring what it is without the identity."""
    squarings = max(int(np.ceil(np.log2(norm(A) + 1e-300))) + 3, 0)
    B = wide(A) / 2**squarings
    F = B
    for j in range(22, 1, -1):
        F = B + B @ F / j
    for _ in range(squarings):
        F = 2 * F + F @ F
    return F + np.eye(F.shape[-1])


@pytest.mark.parametrize("decades", [0, 3, 6])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_functions_of_wide_spectra(name: str, decades: int, rng: np.random.Generator) -> None:
    """Errors of exp are u |K| of exp and 1, those of roots u |K^-1/2|^2 |K|; over 6 decades."""
    d, u = 8, U["float64"]
    structure = one_of_each(name, d)
    M = structure.project(psd(rng, np.logspace(-decades, 0, d), "float64"))
    K = (-(10.0**decades)) * M
    exact = wide_expm(K.to_dense())
    found = K.expm()
    allowed = 20 * d * u * (1 + norm(K.to_dense())) * max(norm(exact), 1.0)
    assert norm(found.to_dense() - exact) <= allowed
    root, A = M.inv_sqrtm().to_dense(), M.to_dense()
    residual = norm(wide(root) @ A @ root - np.eye(d))
    assert residual <= 100 * d * u * norm(root) ** 2 * norm(A)


# --------------------------------------------------------------------- Masked is the oracle


def everything(K: StructuredMatrix, V: Any, N: Any, X: Any) -> list[Any]:
    d = K.dimension
    M = K.structure.project(N @ H(N)).add_identity(1.0)
    close = K.scaled(0.1 / d).add_identity(1.0)
    return [
        *(K @ V, K.H @ V, K.rmatmul(H(V)), K @ K, K + K, *projections(K, N, X)),
        *(close.solve(V), close.inverse(), close.logabsdet(), K.trace(), K.frobenius_norm()),
        *(K.max_abs(), M.spectral_bound(), close.expm(), M.inv_sqrtm()),
    ]


@pytest.mark.parametrize("d", [1, 9, pytest.param(70, marks=pytest.mark.slow)])
def test_patterns_are_masks(d: int, dtype: str) -> None:
    """Every operation of every pattern is that of Masked, to rounding, and keeps exact zeros."""
    rng = np.random.default_rng(d)
    V, N, X = (random_array(rng, shape, dtype) for shape in ((d, 2), (d, d), (3, d)))
    for structure in all_structures(d):
        if is_toeplitz(structure) or isinstance(structure, Masked):
            continue
        mask = pattern(structure, d)
        K = member(rng, structure, (d,), dtype)
        for one, other in zip(
            everything(structure.from_dense(K), V, N, X),
            everything(Masked(mask).from_dense(K), V, N, X),
        ):
            x, y = as_dense(one), as_dense(other)
            assert x.dtype == y.dtype
            assert norm(x - y) <= 100 * d * U[dtype] * max(norm(y), 1.0), structure
            if isinstance(one, StructuredMatrix):
                assert not np.any(x[~mask])
                assert not np.any(y[~mask])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_chains_stay_in_the_structure(name: str, rng: np.random.Generator) -> None:
    """Products and inverses one after the other: what comes out is a member, exactly."""
    structure = one_of_each(name, 9)
    K = L = structure.from_dense(near_identity(rng, structure, (9,), "float64"))
    dense = K.to_dense()
    for _ in range(5):
        L = (L @ K).inverse() - 0.5 * L
        dense = np.linalg.inv(dense @ K.to_dense()) - 0.5 * dense
    assert norm(L.to_dense() - dense) <= 1e-11 * norm(dense)
    again = structure.from_dense(L.to_dense())
    np.testing.assert_array_equal(again.to_dense(), L.to_dense())


def test_permuted_triangles(rng: np.random.Generator) -> None:
    """Relabelled indices relabel all results."""
    d = 8
    order = rng.permutation(d)
    again = np.ix_(order, order)
    triangle, permuted = UpperTriangular(), Masked(np.tri(d, dtype=bool).T[again])
    K = member(rng, triangle, (d,), "complex128")
    N = random_array(rng, (d, d), "complex128")
    one, other = triangle.from_dense(K), permuted.from_dense(K[again])
    for A, B in ((triangle.project(N), permuted.project(N[again])), (one @ one, other @ other)):
        assert norm(A.to_dense()[again] - B.to_dense()) <= 1e-14 * norm(A.to_dense())
    assert norm(one.inverse().to_dense()[again] - other.inverse().to_dense()) <= 1e-10


# --------------------------------------------------------------------- storage and batches


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("library", "name"),
    [
        *(("numpy", name) for name in ONE_OF_EACH),
        ("torch", "hierarchical"),
        ("jax", "hierarchical"),
    ],
)
def test_half_precision_is_for_storage(
    library: str, half: str, name: str, rng: np.random.Generator
) -> None:
    """What is computed is that of the rounded numbers in float32."""
    if library == "numpy":
        half_dtype(half)
    backend = BACKENDS[library]()
    structure = one_of_each(name, 5)
    K = member(rng, structure, (5,), "float32")
    rounded = (K.astype("float16") if half == "float16" else bfloat16(K)).astype("float32")
    V = random_array(rng, (5, 2), "float32")

    def run(K: Any, rounded: Any, V: Any) -> list[Any]:
        stored = structure.from_dense(K, check=False).astype(half)
        same = structure.from_dense(rounded, check=False)
        assert stored.dtype_name == half
        return [
            [as_dense(x) for x in (A @ V, A @ A, A + A, A.project_gram(), A.trace())]
            for A in (stored, same)
        ]

    for x, y in zip(*backend.call(run, *backend.asarray([K, rounded, V]))):
        assert str(x.dtype).rpartition(".")[2] == "float32"
        np.testing.assert_array_equal(backend.numpy(x), backend.numpy(y))
    zeros = structure.zeros(5, like=backend.asarray(V), dtype=half)
    assert zeros.dtype_name == half
    assert zeros.astype(half).leaves[0] is zeros.leaves[0]
    assert zeros.add_identity(1.0).dtype_name == "float32"


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_stacked_is_looped(name: str, dtype: str, rng: np.random.Generator) -> None:
    """With two batch axes."""
    structure = one_of_each(name, 7)
    K = near_identity(rng, structure, (2, 3, 7), dtype)
    V, N, X = (random_array(rng, (2, 3, *shape), dtype) for shape in ((7, 2), (7, 7), (4, 7)))
    stacked = [as_dense(x) for x in everything(structure.from_dense(K), V, N, X)]
    for index in np.ndindex(2, 3):
        one = everything(structure.from_dense(K[index]), *(A[index] for A in (V, N, X)))
        for x, y in zip(stacked, map(as_dense, one)):
            assert norm(x[index] - y) <= 500 * U[dtype] * max(norm(y), 1.0)


def test_where_takes_matrix_by_matrix(rng: np.random.Generator) -> None:
    structure = Hierarchical(1, 1)
    K = structure.from_dense(member(rng, structure, (2, 4), "float64"))
    broken = K.map(lambda leaf: leaf * np.nan)
    chosen = K.where(np.array([True, False]), broken).to_dense()
    np.testing.assert_array_equal(chosen[0], K.to_dense()[0])
    assert np.all(np.isnan(chosen[1][pattern(structure, 4)]))


# --------------------------------------------------------------------------------- pytrees


def test_trees_of_jax(rng: np.random.Generator) -> None:
    """The leaves are the arrays; products along `scan`, and inverses under `vmap`, are looped."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    structure = one_of_each("hierarchical", 5)
    stack = near_identity(rng, structure, (3, 5), "float64")
    K = jax.tree.map(jax.numpy.asarray, structure.from_dense(stack))
    leaves, tree = jax.tree.flatten(K)
    assert len(leaves) == len(K.leaves)
    again = jax.tree.unflatten(tree, leaves)
    assert (again.structure, again.shape) == (structure, (3, 5, 5))
    start = jax.tree.map(jax.numpy.asarray, structure.identity(5, like=stack))
    chain = jax.jit(lambda start, K: jax.lax.scan(lambda L, A: (L @ A, L.trace()), start, K))
    product, traces = chain(start, K)
    assert traces.shape == (3,)
    inverses = jax.jit(jax.vmap(lambda A: A.inverse()))(K)
    product, inverses = (jax.tree.map(np.asarray, A) for A in (product, inverses))
    assert norm(product.to_dense() - stack[0] @ stack[1] @ stack[2]) <= 1e-14
    assert norm(inverses.to_dense() - np.linalg.inv(stack)) <= 1e-13


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_trees_of_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils import _pytree

    for name in ("lower-toeplitz", "hierarchical", "masked"):
        structure = one_of_each(name, 5)
        stack = near_identity(rng, structure, (3, 5), "float64")
        K = structure.from_dense(torch.asarray(stack))
        leaves, tree = _pytree.tree_flatten(K)
        again = _pytree.tree_unflatten(leaves, tree)
        assert (again.structure, again.shape) == (structure, (3, 5, 5))
        inverses = torch.vmap(lambda A: A.matmul(A).inverse())(K)
        exact = np.linalg.inv(stack @ stack)
        assert norm(inverses.to_dense().numpy() - exact) <= 1e-13


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_products_of_torch(rng: np.random.Generator) -> None:
    """By `matmul` and `scaled`, which a compiler can trace."""
    torch = pytest.importorskip("torch")
    structure = Hierarchical(2, 1)
    dense = member(rng, structure, (6,), "float64")
    V = random_array(rng, (6, 2), "float64")

    def chain(K: StructuredMatrix, V: Any) -> Any:
        return K.matmul(K).scaled(0.5).matmul(K.H.matmul(V))

    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    found = compiled(structure.from_dense(torch.asarray(dense)), torch.asarray(V))
    exact = 0.5 * dense @ dense @ dense.T @ V
    assert norm(found.numpy() - exact) <= 1e-14 * 50 * norm(exact)


@pytest.mark.parametrize(
    "name", ["lower-toeplitz", pytest.param("hierarchical", marks=pytest.mark.slow)]
)
def test_functions_are_mapped_and_compiled(name: str, rng: np.random.Generator) -> None:
    """jit of vmap of exp and of the inverse root, by JAX, is a loop over NumPy arrays."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    structure = one_of_each(name, 5)
    stack = np.stack([psd(rng, np.arange(1.0, 6), "float64") for _ in range(3)])
    K = structure.project(jax.numpy.asarray(stack))
    mapped = jax.jit(jax.vmap(lambda K: (K.expm(), K.inv_sqrtm())))(K)
    for i in range(3):
        one = structure.project(stack[i])
        for x, y in zip(mapped, (one.expm(), one.inv_sqrtm())):
            assert norm(x.to_dense()[i] - y.to_dense()) <= 1e-12 * norm(y.to_dense())


# ------------------------------------------------------------------------------- bad input

REAL_MATRIX = np.random.default_rng(4).standard_normal((6, 6))
K = Hierarchical(2, 1).project(REAL_MATRIX)
HOLLOW = np.where(REAL_MATRIX > 1, np.nan, REAL_MATRIX)

WRONG_STRUCTURES: dict[str, tuple[str, type[Exception], Callable[[], Any]]] = {
    "block 0": ("block", ValueError, lambda: BlockDiagonal(0)),
    "block 2.0": ("block", TypeError, lambda: BlockDiagonal(2.0)),  # type: ignore[arg-type]
    "block True": ("block", TypeError, lambda: BlockDiagonal(True)),
    "k1 -1": ("k1", ValueError, lambda: Hierarchical(-1, 2)),
    "k2 1.5": ("k2", TypeError, lambda: Hierarchical(1, 1.5)),  # type: ignore[arg-type]
    "k -1": ("k", ValueError, lambda: LowRankTriangular(-1)),
    "k None": ("k", TypeError, lambda: LowRankTriangular(None)),  # type: ignore[arg-type]
    "orientation": ("orientation", ValueError, lambda: LowRankTriangular(1, "upper")),
    "too few features": ("features", ValueError, lambda: LowRankTriangular(2, features=(1,))),
    "equal features": ("features", ValueError, lambda: LowRankTriangular(2, features=(1, 1))),
    "negative feature": ("features", ValueError, lambda: LowRankTriangular(1, features=(-1,))),
    "feature 1.0": ("features", TypeError, lambda: LowRankTriangular(1, features=(1.0,))),  # type: ignore[arg-type]
    "name": ("structure", ValueError, lambda: structure_from("hierarchic")),
    "class": ("structure", TypeError, lambda: structure_from(Dense)),
    "options": ("structure", TypeError, lambda: structure_from(("hierarchical", {"k": 3}))),
    "options missing": ("structure", TypeError, lambda: structure_from("masked")),
    "option value": ("k1", TypeError, lambda: structure_from(("hierarchical", {"k1": "3"}))),
    "no options": ("structure", TypeError, lambda: structure_from(("hierarchical", 3))),
    "other name": ("curvature", ValueError, lambda: structure_from("x", "curvature")),
}


@pytest.mark.parametrize("wrong", list(WRONG_STRUCTURES))
def test_wrong_structures(wrong: str) -> None:
    name, kind, call = WRONG_STRUCTURES[wrong]
    refused(kind, name, call)


WRONG_MATRICES: dict[str, tuple[str, type[Exception], Callable[[], Any]]] = {
    "d 0": ("d", ValueError, lambda: Dense().zeros(0, like=REAL_MATRIX)),
    "d 2.0": ("d", TypeError, lambda: Dense().identity(2.0, like=REAL_MATRIX)),  # type: ignore[arg-type]
    "dtype": ("dtype", ValueError, lambda: Dense().zeros(2, like=REAL_MATRIX, dtype="int32")),
    "like": ("like", TypeError, lambda: Dense().zeros(2, like=[1.0])),
    "d of mask": ("mask", ValueError, lambda: Masked([[1]]).zeros(2, like=REAL_MATRIX)),
    "N of mask": ("mask", ValueError, lambda: Masked([[1]]).project(REAL_MATRIX)),
    "feature beyond d": (
        "features",
        ValueError,
        lambda: LowRankTriangular(1, features=(6,)).project(REAL_MATRIX),
    ),
    "N not square": ("N", ValueError, lambda: Dense().project(REAL_MATRIX[:3])),
    "N vector": ("N", ValueError, lambda: Dense().project(REAL_MATRIX[0])),
    "N empty": ("N", ValueError, lambda: Dense().project(REAL_MATRIX[:0, :0])),
    "N list": ("N", TypeError, lambda: Dense().project([REAL_MATRIX])),
    "N sparse": ("N", TypeError, lambda: Dense().project(scipy.sparse.eye_array(3))),
    "N integers": ("N", TypeError, lambda: Dense().project(REAL_MATRIX.astype(int))),
    "N NaN": ("N", ValueError, lambda: Dense().project(HOLLOW)),
    "X vector": ("X", ValueError, lambda: Dense().project_samples(REAL_MATRIX[0])),
    "X integers": ("X", TypeError, lambda: Dense().project_samples(REAL_MATRIX.astype(int))),
    "X NaN": ("X", ValueError, lambda: LowerToeplitz().project_samples(HOLLOW)),
    "X empty": ("X", ValueError, lambda: Dense().project_samples(REAL_MATRIX[:0])),
    "K not square": ("K", ValueError, lambda: Dense().from_dense(REAL_MATRIX[:3])),
    "K NaN": ("K", ValueError, lambda: Dense().from_dense(HOLLOW)),
    "no Toeplitz": ("K", ValueError, lambda: UpperToeplitz().from_dense(np.diag([1.0, 2.0]))),
    "V vector": ("V", ValueError, lambda: K @ np.ones(5)),
    "V of a batch": ("V", ValueError, lambda: K @ np.ones((2, 6, 3))),
    "V integers": ("V", TypeError, lambda: K @ np.ones(6, int)),
    "V of another library": ("V", TypeError, lambda: K @ strict_array(np.ones(6))),
    "V list": ("V", TypeError, lambda: K.H @ [1.0] * 6),
    "V rows": ("V", ValueError, lambda: K.rmatmul(np.ones((2, 5)))),
    "V row": ("V", ValueError, lambda: K.rmatmul(np.ones(6))),
    "V rows of K^H": ("V", ValueError, lambda: K.H.rmatmul(np.ones((2, 5)))),
    "V row of K^H": ("V", ValueError, lambda: K.H.rmatmul(np.ones(6))),
    "V of a solve": ("V", ValueError, lambda: K.solve(np.ones((1, 6)))),
    "X of inner": ("X", ValueError, lambda: K.project_inner(np.ones((2, 5)))),
    "X of another library": ("X", TypeError, lambda: K.project_inner(strict_array(REAL_MATRIX))),
    "S of congruence": ("S", ValueError, lambda: K.project_congruence(np.ones((5, 5)))),
    "S not square": ("S", ValueError, lambda: K.project_congruence(np.ones((6, 5)))),
    "S vector": ("S", ValueError, lambda: K.project_congruence(np.ones(6))),
    "structures": ("L", ValueError, lambda: K @ Dense().project(REAL_MATRIX)),
    "options differ": ("L", ValueError, lambda: K + Hierarchical(1, 2).project(REAL_MATRIX)),
    "dimensions": ("L", ValueError, lambda: K - Hierarchical(2, 1).project(REAL_MATRIX[:5, :5])),
    "batches": ("L", ValueError, lambda: K + Hierarchical(2, 1).project(REAL_MATRIX[None])),
    "libraries": (
        "L",
        TypeError,
        lambda: K + Hierarchical(2, 1).project(strict_array(REAL_MATRIX)),
    ),
    "factor": ("factor", TypeError, lambda: K * "2"),
    "complex factor": ("factor", TypeError, lambda: 2j * K),
    "complex factors": ("factor", TypeError, lambda: K.scaled(np.asarray(2j))),
    "factors": ("factor", ValueError, lambda: K * np.ones(2)),
    "shift": ("shift", TypeError, lambda: K.add_identity(None)),
    "shifts": ("shift", ValueError, lambda: K.add_identity(np.ones(2))),
    "sufficient": ("sufficient", TypeError, lambda: K.spectral_bound(sufficient="1")),
}


@pytest.mark.parametrize("wrong", list(WRONG_MATRICES))
def test_wrong_matrices(wrong: str) -> None:
    name, kind, call = WRONG_MATRICES[wrong]
    refused(kind, name, call)


def test_the_largest_entry_that_does_not_fit_is_named() -> None:
    dense = np.diag(np.arange(1.0, 5))
    dense[3, 1], dense[2, 0] = -7.0, 5.0
    text = refused(ValueError, "K", lambda: UpperTriangular().from_dense(np.stack([dense] * 2)))
    assert "entry (3, 1) differs by 7.00e+00" in text
    text = refused(ValueError, "K", lambda: Diagonal().from_dense(dense))
    assert "Diagonal()" in text
    assert UpperTriangular().from_dense(dense, check=False).to_dense()[3, 1] == 0


def test_values_that_are_not_used_are_not_checked() -> None:
    assert Diagonal().project(np.where(np.eye(6), 1.0, np.nan)).trace() == 6
    assert np.isnan(Dense().project(HOLLOW, check=False).to_dense()).any()


def test_equal_structures_are_equal() -> None:
    for d in (1, 7):
        for one, other in zip(all_structures(d), all_structures(d)):
            assert one == other
            assert hash(one) == hash(other)
    distinct = {structure_from(s) for s in (*all_structures(7), *all_structures(7))}
    assert len(distinct) == len({repr(s) + str(pattern(s, 7)) for s in distinct})
    assert LowRankTriangular(2, features=[3, 1]) == LowRankTriangular(2, features=(3, 1))  # type: ignore[arg-type]
    assert Masked([[1, 0], [1, 1]]) != LowerTriangular()


def test_names() -> None:
    assert structure_from("hierarchical") == Hierarchical()
    assert structure_from(("hierarchical", {"k1": 3})) == Hierarchical(3, 15)
    assert structure_from(["block-diagonal", {"block": 4}]) == BlockDiagonal(4)
    assert structure_from(("masked", {"mask": [[1]]})) == Masked([[1]])
    assert structure_from(structure := UpperToeplitz()) is structure


def test_matrices_share_no_memory_with_what_callers_hold(rng: np.random.Generator) -> None:
    """Writing into what was given, or handed out, changes no matrix."""
    for structure in all_structures(7):
        dense = structure.identity(7, like=np.zeros(1)).to_dense()
        given = dense.copy()
        made = [structure.from_dense(given), structure.project(given)]
        given[:] = 0
        for K in made:
            K.to_dense()[:] = 0
            np.testing.assert_array_equal(K.to_dense(), dense)


@pytest.mark.parametrize("scale", [1e-30, 0.0, 1e30])
def test_norms_and_bounds_at_any_scale(scale: float) -> None:
    """No square of an entry overflows or vanishes; derivatives at 0 are 0."""
    rng = np.random.default_rng(0)
    for structure in all_structures(6):
        M = structure.project(psd(rng, np.arange(1.0, 7), "float32"))
        K = M.scaled(np.float32(scale))
        assert K.frobenius_norm() == pytest.approx(scale * M.frobenius_norm(), rel=1e-5)
        assert K.spectral_bound() == pytest.approx(scale * M.spectral_bound(), rel=1e-5)


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_derivatives_of_norms_and_bounds_at_zero(library: str) -> None:
    pytest.importorskip(library)
    if library == "jax":
        import jax

        zeros, grad = jax.numpy.zeros((3, 3)), lambda f: jax.jit(jax.grad(f))
    else:
        import torch

        zeros, grad = torch.zeros((3, 3)), torch.func.grad

    def numbers(A: Any) -> Any:
        K = Dense().project(A, check=False)
        return K.frobenius_norm() + K.spectral_bound()

    np.testing.assert_array_equal(np.asarray(grad(numbers)(zeros)), 0)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_exponentials_of_what_is_close_to_multiples_of_the_identity(name: str) -> None:
    """Of -40 I + R, where exp(K) - I rounds to -I."""
    rng = np.random.default_rng(0)
    structure = one_of_each(name, 6)
    K = structure.project(random_array(rng, (6, 6), "float64")).add_identity(-40.0)
    exact = wide_expm(K.to_dense() + 40 * np.eye(6)) * np.exp(np.longdouble(-40))
    error = norm(K.expm().to_dense() - exact)
    assert error <= 256 * U["float64"] * K.frobenius_norm() * norm(exact)

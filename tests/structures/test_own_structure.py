"""A structure that is defined outside of the library, by the recipe in CONTRIBUTING.md."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace
from backends import Backend
from references import U, random_array
from spectra import needs, quick_compilation  # noqa: F401

from ngdla import (
    inverse_free_apply,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
    structured_factor,
)
from ngdla._backend.creation import identity_like
from ngdla.structures import Dense, Structure, StructuredMatrix, structure_from

Leaves = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Exchangeable(Structure):
    """Real matrices that treat all features alike: p on the diagonal, q elsewhere. Leaves: p, q.

    They commute, with the eigenvalue p + (d - 1) q of a constant vector, and p - q of all that are
    orthogonal to it. With d = 1 there is no q.
    """

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        return ((),) * min(d, 2)

    def embed(self, K: Any) -> Leaves:
        return tuple(K[..., 0, j] for j in range(min(K.shape[-1], 2)))

    def to_dense(self, K: Leaves, d: int) -> Any:
        return self.matmul(K, identity_like(K[0], d))

    def project_dense(self, N: Any) -> Leaves:
        xp = array_namespace(N)
        return entries(xp.linalg.trace(N), xp.sum(N, axis=(-2, -1)), N.shape[-1])

    def project_columns(self, S: Any) -> Leaves:
        xp = array_namespace(S)
        sums = xp.sum(S, axis=-2)
        return entries(xp.sum(S * S, axis=(-2, -1)), xp.sum(sums * sums, axis=-1), S.shape[-2])

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        return self.product(K, K, d)

    def matmul(self, K: Leaves, X: Any) -> Any:
        p, *q = (x[..., None, None] for x in K)
        if not q:
            return p * X
        return (p - q[0]) * X + q[0] * array_namespace(X).sum(X, axis=-2, keepdims=True)

    def adjoint_matmul(self, K: Leaves, X: Any) -> Any:
        return self.matmul(K, X)

    def solve(self, K: Leaves, V: Any) -> Any:
        return self.matmul(self.inverse(K, V.shape[-2]), V)

    def add_identity(self, K: Leaves, shift: Any, d: int) -> Leaves:
        return (K[0] + shift, *K[1:])

    def product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        return of_eigenvalues(lambda w, v: w * v, d, K, L)

    def inverse(self, K: Leaves, d: int) -> Leaves:
        return of_eigenvalues(lambda w: 1 / w, d, K)

    def logabsdet(self, K: Leaves, d: int) -> Any:
        xp = array_namespace(*K)
        logarithms = (xp.log(xp.abs(w)) for w in eigenvalues(K, d))
        return sum(count * x for count, x in zip((1, d - 1), logarithms))

    def trace(self, K: Leaves, d: int) -> Any:
        return d * K[0]

    def frobenius_norm(self, K: Leaves, d: int) -> Any:
        squares = (count * x * x for count, x in zip((d, d * (d - 1)), K))
        return array_namespace(*K).sqrt(sum(squares))

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Any:
        xp = array_namespace(*K)
        first, *rest = map(xp.abs, eigenvalues(K, d))
        return xp.maximum(first, *rest) if rest else first

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        return of_eigenvalues(lambda w: 1 / array_namespace(w).sqrt(w), d, N)


def entries(trace: Any, total: Any, d: int) -> Leaves:
    """Return the mean of the diagonal, and that of all other entries."""
    return (trace / d, (total - trace) / (d * (d - 1))) if d > 1 else (trace,)


def eigenvalues(K: Leaves, d: int) -> Leaves:
    return (K[0] + (d - 1) * K[1], K[0] - K[1]) if d > 1 else K


def of_eigenvalues(function: Callable[..., Any], d: int, *matrices: Leaves) -> Leaves:
    """Return the matrix whose eigenvalues are a function of those of others."""
    w = tuple(map(function, *(eigenvalues(K, d) for K in matrices)))
    if d == 1:
        return w
    q = (w[0] - w[1]) / d
    return w[1] + q, q


# -------------------------------------------------------------------------- dense definitions

EXCHANGEABLE = Exchangeable()
BOTH = pytest.mark.parametrize("shape", [(1,), (2, 6)], ids=str)


def dense(p: np.ndarray, q: np.ndarray, d: int) -> np.ndarray:
    return (p - q)[..., None, None] * np.eye(d) + q[..., None, None] * np.ones((d, d))


def projected(N: np.ndarray) -> np.ndarray:
    d, trace = N.shape[-1], np.trace(N, axis1=-2, axis2=-1)
    return dense(trace / d, (N.sum(axis=(-2, -1)) - trace) / max(d * (d - 1), 1), d)


def member(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a matrix with eigenvalues from 1/2 to 2."""
    first, others = rng.uniform(0.5, 2.0, (2, *shape[:-1]))
    return dense(others + (first - others) / shape[-1], (first - others) / shape[-1], shape[-1])


def function_of(A: np.ndarray, function: Callable[[Any], Any]) -> np.ndarray:
    w, Q = np.linalg.eigh(A)
    return (Q * function(w)[..., None, :]) @ np.swapaxes(Q, -1, -2)


def made(A: Any) -> StructuredMatrix:
    return EXCHANGEABLE.from_dense(A, check=False)


def compare(
    backend: Backend, run: Callable[..., Any], arrays: list[Any], expected: list[Any], scale: float
) -> None:
    """Compare with what is exact; `scale` is the number of operations times condition numbers."""
    given = backend.asarray(arrays)
    found = backend.call(run, *given)
    found = [x.to_dense() if isinstance(x, StructuredMatrix) else x for x in found]
    assert len(found) == len(expected)
    for x, exact in zip(found, expected):
        backend.assert_matches(
            x, exact, like=given[0], dtype="float64", tolerance=scale * U["float64"]
        )


# ------------------------------------------------------------------------------- operations


def products(A: Any, B: Any, V: Any, X: Any, N: Any) -> list[Any]:
    K, L, R = made(A), made(B), array_namespace(V).matrix_transpose(V)
    sums = [K + L, K - L, -K, 2.0 * K, K / 4.0, K.add_identity(0.5), K @ L]
    columns = [K @ V[..., 0], K @ V, K.H @ V, K.square_matmul(V), K.solve(V)]
    rows = [K.rmatmul(R), K.H.rmatmul(R), K.square_rmatmul(R)]
    made_here = [EXCHANGEABLE.project(N, check=False), EXCHANGEABLE.project_samples(X)]
    seen = [K.project_inner(X), K.project_gram(), K.project_congruence(N)]
    return [*sums, *columns, *rows, *made_here, *seen]


@BOTH
def test_products_and_projections(
    backend: Backend, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    needs(backend, "float64")
    d, one = shape[-1], np.eye(shape[-1])
    A, B = member(rng, shape), member(rng, shape)
    V, X = (random_array(rng, (*shape[:-1], *s), "float64") for s in ((d, 3), (9, d)))
    N = np.swapaxes(X, -1, -2) @ X
    R = np.swapaxes(V, -1, -2)
    sums = [A + B, A - B, -A, 2.0 * A, A / 4.0, A + 0.5 * one, A @ B]
    columns = [(A @ V)[..., 0], A @ V, A @ V, A @ A @ V, np.linalg.inv(A) @ V]
    rows = [R @ A, R @ A, R @ A @ A]
    projections = map(projected, (N, N, A @ N @ A, A @ A, A @ N @ A))
    # 9 d products are summed, and differences of matrices cancel
    compare(backend, products, [A, B, V, X, N], [*sums, *columns, *rows, *projections], 1e3 * d)


def functions(A: Any) -> list[Any]:
    K = made(A)
    numbers = [K.logabsdet(), K.trace(), K.frobenius_norm(), K.max_abs(), K.spectral_bound()]
    return [K.inverse(), K.expm(), K.inv_sqrtm(), *numbers]


@BOTH
def test_functions(backend: Backend, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Exponentials and roots are those which all structures have that know no better way."""
    needs(backend, "float64")
    A = member(rng, shape)
    w = np.linalg.eigvalsh(A)
    roots = [function_of(A, f) for f in (np.exp, lambda w: w**-0.5)]
    numbers = [np.log(w).sum(-1), w.sum(-1), np.sqrt((w**2).sum(-1))]
    largest = [np.abs(A).max((-2, -1)), w.max(-1)]
    expected = [np.linalg.inv(A), *roots, *numbers, *largest]
    compare(backend, functions, [A], expected, 1e3 * shape[-1])


def test_it_is_a_structure_as_all_are(rng: np.random.Generator) -> None:
    A = member(rng, (2, 6))
    K = EXCHANGEABLE.from_dense(A)
    np.testing.assert_array_equal(K.to_dense(), A)
    assert (K.batch, K.size, structure_from(EXCHANGEABLE)) == ((2,), 4, Exchangeable())
    one = EXCHANGEABLE.identity(6, like=A, batch=(2,)).to_dense()
    np.testing.assert_array_equal(one, [np.eye(6)] * 2)
    again = pickle.loads(pickle.dumps(K.astype("float32")))
    np.testing.assert_array_equal((again - K.astype("float32")).max_abs(), 0.0)
    with pytest.raises(ValueError, match=r"`K` is no member of Exchangeable\(\)"):
        EXCHANGEABLE.from_dense(A * np.arange(6))


@dataclasses.dataclass(frozen=True)
class WithoutOptimum(Exchangeable):
    local_optimum = Structure.local_optimum


def test_what_a_structure_may_leave_out_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"of WithoutOptimum\(\); define `local_optimum`"):
        structured_factor(np.eye(3), WithoutOptimum(), DAMPING)


# --------------------------------------------------------------------------- what uses them

DAMPING, STEP = 0.25, 0.1


def best(X: Any) -> list[Any]:
    S = array_namespace(X).matrix_transpose(X) @ X
    projection = EXCHANGEABLE.project_samples(X, check=False)
    made = [structured_factor(N, EXCHANGEABLE, DAMPING, check=False) for N in (S, projection)]
    return [K.project_congruence(S + DAMPING * identity_like(S, S.shape[-1])) for K in made]


def test_the_best_factor(backend: Backend, rng: np.random.Generator) -> None:
    """Its curvature is the identity on all tangents, from S as from the projection of S."""
    needs(backend, "float64")
    X = random_array(rng, (9, 6), "float64")
    condition = np.linalg.cond(X.T @ X + DAMPING * np.eye(6))
    compare(backend, best, [X], 2 * [np.eye(6)], 100 * condition)


def trained(a: Any, g: Any, V: Any) -> list[Any]:
    state = inverse_free_init(6, 3, structures=(EXCHANGEABLE, "dense"), like=a)
    options = {"damping": DAMPING, "step_size": STEP, "momentum": 0.5, "check": False}
    for rule in ("ikfac", "ingd"):
        statistics = inverse_free_statistics(state, a, g, check=False)
        state = inverse_free_update(state, statistics, rule=rule, **options)
    return [state.K.to_dense(), state.C.to_dense(), inverse_free_apply(state, V)]


def test_inverse_free_updates(backend: Backend, rng: np.random.Generator) -> None:
    """The definition, for inputs in this structure and dense output gradients."""
    needs(backend, "float64")
    shapes = ((9, 6), (9, 3), (3, 6))
    a, g, V = (0.5 * random_array(rng, shape, "float64") for shape in shapes)
    U_, G = a.T @ a / 9, g.T @ g / 9
    one, K, C = (np.eye(6), np.eye(3)), np.eye(6), np.eye(3)
    m = [np.zeros((6, 6)), np.zeros((3, 3))]
    for rule in ("ikfac", "ingd"):
        H, grams = (projected(K.T @ U_ @ K), C.T @ G @ C), (projected(K.T @ K), C.T @ C)
        for i, j in ((0, 1), (1, 0)):
            h, c = (1.0, 1.0) if rule == "ikfac" else (np.trace(H[j]), np.trace(grams[j]))
            size = 1 if rule == "ikfac" else len(H[j])
            m[i] = 0.5 * m[i] + (h * H[i] / size + DAMPING * c * grams[i] / size - one[i]) / 2
        K, C = K @ (one[0] - STEP * m[0]), C @ (one[1] - STEP * m[1])
    compare(backend, trained, [a, g, V], [K, C, C @ C.T @ V @ K @ K.T], 1e3)


class Even(Dense):
    """Matrices of even dimension."""

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        if d % 2:
            raise ValueError(f"the dimension is {d}; it must be even.")
        return super().shapes(d)


@pytest.mark.parametrize("call", ["project", "from_dense", "project_samples", "zeros"])
def test_a_dimension_without_members_is_refused_by_all_that_makes_matrices(call: str) -> None:
    x = np.eye(5)
    make = getattr(Even(), call)
    with pytest.raises(ValueError, match="the dimension is 5; it must be even"):
        make(5, like=x) if call == "zeros" else make(x)
    made = make(4, like=x) if call == "zeros" else make(np.eye(4))
    assert made.shape == (4, 4)

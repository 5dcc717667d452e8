"""A method added from outside, as CONTRIBUTING says: one class, one line in the table.

Cholesky by W = L D L^H, with a unit lower triangular L and without square roots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from backends import Backend
from references import U, exact_lstsq, exact_solve, random_array
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend.dtypes import real_part
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_to_diagonal, adjoint, preserved, trace
from ngdla._backend.triangular import solve_triangular
from ngdla.damped.inverses import smallest_by_iterations
from ngdla.damped.methods import METHODS, GramMethod

DAMPING = 0.5
SHAPES = [(4, 9), (9, 4)]


class LDLInverse(NamedTuple):
    """(L D L^H)^-1 from L^-1 and the diagonal of D, (..., n, 1)."""

    L_inverse: Array
    D: Array

    def __call__(self, r: Array) -> Array:
        xp = namespace(r)
        return xp.matmul(adjoint(self.L_inverse), xp.matmul(self.L_inverse, r) / self.D)

    def smallest_eigenvalue(self) -> Array:
        return smallest_by_iterations(self, self.L_inverse)

    def diagonalised(self, null: Array | None) -> tuple[Array, Array]:
        X = adjoint(self.L_inverse)
        return (X if null is None else X - null @ (adjoint(null) @ X)), 1 / self.D


class LDLMatrix(NamedTuple):
    """G, to be factored with a damping."""

    G: Array

    def inverse(self, damping: Any) -> tuple[LDLInverse, Array]:
        W = add_to_diagonal(preserved(self.G), damping)
        xp = namespace(W)
        identity = add_to_diagonal(xp.zeros_like(W), 1.0)
        columns, pivots = [], []
        for j in range(W.shape[-1]):  # W <- W - d l l^H
            d = real_part(W[..., j : j + 1, j : j + 1])
            column = xp.tril(W)[..., :, j : j + 1] / d
            W = W - d * (column @ adjoint(column))
            columns.append(column)
            pivots.append(d)
        L, D = xp.concat(columns, axis=-1), xp.concat(pivots, axis=-2)
        return LDLInverse(solve_triangular(L, identity), D), xp.all(D > 0, axis=(-2, -1))

    def copy(self) -> LDLMatrix:
        return self

    def log_determinant(self, inverse: LDLInverse, damping: Array) -> Array:
        xp = namespace(damping)
        return xp.sum(xp.log(inverse.D), axis=(-2, -1))

    def effective_dimension(self, inverse: LDLInverse, damping: Array) -> Array:
        return trace(inverse(self.G))


class LDL(GramMethod):
    name = "ldl"

    def small_matrix(self, G: Array) -> LDLMatrix:
        return LDLMatrix(G)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, LDL.name, LDL())


def relative(x: Any, reference: np.ndarray) -> float:
    reference = reference.astype(complex)
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


@pytest.mark.thinned
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_solves(
    valued_backend: Backend, dtype: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    backend = valued_backend
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S, v = random_array(rng, shape, dtype), random_array(rng, (shape[1], 2), dtype)
    f, x0 = random_array(rng, (shape[0], 2), dtype), random_array(rng, (shape[1], 2), dtype)
    metric = rng.uniform(0.5, 2.0, shape[1]).astype(U_REAL[dtype])
    given = [backend.asarray(x) for x in (S, v, f)]

    def solve(S: Array, v: Array) -> Any:
        return ngdla.damped_solve(S, v, DAMPING, method="ldl", full_output=True)

    def lstsq(S: Array, f: Array, x0: Array, metric: Array) -> Any:
        return ngdla.damped_lstsq(S, f, DAMPING, x0=x0, method="ldl", metric=metric)

    x, info = backend.call(solve, given[0], given[1])
    y = backend.call(lstsq, given[0], given[2], backend.asarray(x0), backend.asarray(metric))
    tolerance = 1e3 * U[dtype]
    assert relative(backend.numpy(x), exact_solve(S, v, DAMPING)) <= tolerance
    assert relative(backend.numpy(y), exact_lstsq(S, f, DAMPING, x0, metric)) <= tolerance
    assert np.all(backend.numpy(info.converged))


U_REAL = {
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


def test_a_factor(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((6, 11)), rng.standard_normal(6)
    factor = ngdla.damped_factor(S, 2.0, method="ldl").with_damping(DAMPING)
    assert relative(factor.lstsq(f), exact_lstsq(S, f[:, None], DAMPING)[:, 0]) <= 1e-13
    A = S.T @ S + DAMPING * np.eye(11)
    np.testing.assert_allclose(factor.logdet(), np.linalg.slogdet(A)[1], rtol=1e-12)
    dimension = np.trace(np.linalg.solve(A, S.T @ S))
    np.testing.assert_allclose(factor.effective_dimension(), dimension, rtol=1e-12)
    cholesky = ngdla.damped_factor(S, DAMPING, method="cholesky")
    np.testing.assert_allclose(factor.leave_one_out(f), cholesky.leave_one_out(f), rtol=1e-11)


def test_a_stack_of_problems(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((3, 4, 9)), rng.standard_normal((3, 4))
    x = ngdla.damped_lstsq(S, f, DAMPING, method="ldl")
    for one, matrix, right in zip(x, S, f):
        assert relative(one, exact_lstsq(matrix, right[:, None], DAMPING)[:, 0]) <= 1e-13


def test_a_stream_and_an_operator(rng: np.random.Generator) -> None:
    """A method that does not need S in memory serves them without a word of its own."""
    S, f = rng.standard_normal((4, 9)), rng.standard_normal(4)
    expected = exact_lstsq(S, f[:, None], DAMPING)[:, 0]
    stream = ngdla.ColumnStream(lambda: iter((S[:, :5], S[:, 5:])), (4, 9), dtype="float64")
    operator = ngdla.ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, (4, 9), like=S, gram=S @ S.T)
    for given in (stream, operator):
        assert relative(ngdla.damped_lstsq(given, f, DAMPING, method="ldl"), expected) <= 1e-13


@pytest.mark.parametrize("mode", ["real", "complex", "holomorphic"])
def test_stochastic_reconfiguration(mode: str, rng: np.random.Generator) -> None:
    dtype = "float64" if mode == "real" else "complex128"
    O, E = random_array(rng, (8, 20), dtype), random_array(rng, (8,), dtype)
    steps = [
        ngdla.stochastic_reconfiguration(O, E, 1e-2, mode=mode, method=method)
        for method in ("ldl", "cholesky")
    ]
    assert relative(*steps) <= 1e-12
    with pytest.raises(ValueError, match=r"`method` is 'ldl'; with `snr` it must be 'auto' or"):
        ngdla.stochastic_reconfiguration(O, E, 1e-2, mode=mode, method="ldl", snr=1.0)


def test_paths_go_on_by_eigenvectors(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((6, 11)), rng.standard_normal(6)
    path = ngdla.damping_path(S, f, [DAMPING])
    e = ngdla.damped_factor(S, DAMPING, method="ldl").leave_one_out(f)
    np.testing.assert_allclose(path.leave_one_out, [np.linalg.norm(e)], rtol=1e-12)


def test_a_damping_below_the_roundings(rng: np.random.Generator) -> None:
    S = rng.standard_normal((4, 1)).astype("float32") @ np.ones((1, 9), dtype="float32")
    f = S @ rng.standard_normal(9).astype("float32")
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite in float32"):
        ngdla.damped_lstsq(S, f, 1e-12, method="ldl", precision="native")
    with pytest.warns(ngdla.PrecisionWarning, match="too small for float32 alone"):
        x, info = ngdla.damped_lstsq(S, f, 1e-6, method="ldl", full_output=True)
    assert info.converged
    assert relative(x, exact_lstsq(S, f[:, None], 1e-6)[:, 0]) <= 1e-5


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda S, f: ngdla.damped_lstsq(S * np.nan, f, 1.0, method="ldl"), ValueError, "`S` con"),
        (lambda S, f: ngdla.damped_lstsq(S, f * np.inf, 1.0, method="ldl"), ValueError, "`f` con"),
        (lambda S, f: ngdla.damped_lstsq(S, f, -1.0, method="ldl"), ValueError, "`damping` is -1"),
        (lambda S, f: ngdla.damped_lstsq(S, f[:3], 1.0, method="ldl"), ValueError, "`f` has shape"),
        (lambda S, f: ngdla.damped_factor(S, 1.0, method="LDL"), ValueError, "'cg', 'ldl'"),
        (
            lambda S, f: ngdla.damped_factor(S, 1.0, method="ldl", null=f),
            ValueError,
            "`null` must have orthonormal columns",
        ),
    ],
)
def test_bad_input(
    wrong: Callable[..., Any], error: type[Exception], match: str, rng: np.random.Generator
) -> None:
    with pytest.raises(error, match=match):
        wrong(rng.standard_normal((4, 9)), rng.standard_normal(4))

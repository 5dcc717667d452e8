"""Structured matrices on CuPy: right both ways, and stored alike in all libraries."""

from __future__ import annotations

from typing import Any

import cupy_double
import numpy as np
import pytest
from references import H, U, random_array

import ngdla
from ngdla._backend.choices import CHOICES
from ngdla.structures import LowerTriangular, UpperTriangular

pytestmark = pytest.mark.cupy_double

TRIANGLES = {UpperTriangular(): np.triu, LowerTriangular(): np.tril}
WAYS = CHOICES["triangles of cupy"].ways


def host(x: Any) -> np.ndarray:
    return (x.to_dense() if hasattr(x, "to_dense") else x).get()


def results(structure: Any, K: Any, L: Any, V: Any, S: Any) -> dict[str, Any]:
    T, M = (structure.from_dense(x) for x in (K, L))
    return {
        "to_dense": T,
        "project": structure.project(S),
        "project_samples": structure.project_samples(V.T),
        "project_gram": T.project_gram(),
        "product": T @ M,
        "matmul": T @ V,
        "adjoint": T.H @ V,
        "rmatmul": T.rmatmul(V.T),
        "adjoint_rmatmul": T.structure.adjoint_rmatmul(T.leaves, V.T),
        "square": T.square_matmul(V),
        "square_rmatmul": T.square_rmatmul(V.T),
        "solve": T.solve(V),
        "inverse": T.inverse(),
        "sum": T.project_gram() + 2.0 * M,
        "identity": T.project_gram().add_identity(3.0),
        "trace": T.trace(),
        "bound": T.spectral_bound(),
        "enough": T.spectral_bound(sufficient=0.1),
        "coarse": T.coarse_bound(),
        "frobenius": T.frobenius_norm(),
        "largest": T.max_abs(),
    }


def expected(triangle: Any, K: Any, L: Any, V: Any, S: Any) -> dict[str, Any]:
    def projected(N: np.ndarray) -> np.ndarray:
        N = (N + H(N)) / 2
        return 2 * triangle(N) - np.diag(np.diag(N))

    largest = np.max(np.abs(np.diag(K)))
    return {
        "to_dense": K,
        "project": projected(S),
        "project_samples": projected(V @ H(V)),
        "project_gram": projected(H(K) @ K),
        "product": K @ L,
        "matmul": K @ V,
        "adjoint": H(K) @ V,
        "rmatmul": V.T @ K,
        "adjoint_rmatmul": V.T @ H(K),
        "square": K @ H(K) @ V,
        "square_rmatmul": V.T @ K @ H(K),
        "solve": np.linalg.solve(K, V),
        "inverse": np.linalg.inv(K),
        "sum": projected(H(K) @ K) + 2 * L,
        "identity": projected(H(K) @ K) + 3 * np.eye(len(K)),
        "trace": np.trace(K).real,
        "bound": largest,
        "enough": largest,
        "coarse": largest,
        "frobenius": np.linalg.norm(K),
        "largest": np.max(np.abs(K)),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("structure", TRIANGLES, ids=repr)
@pytest.mark.parametrize(("dtype", "d"), [("float64", 65), ("float32", 131), ("complex128", 140)])
def test_triangles_both_ways(
    rng: np.random.Generator, structure: Any, way: str, dtype: str, d: int
) -> None:
    import cupy

    triangle = TRIANGLES[structure]
    K, L = (triangle(np.eye(d) + random_array(rng, (d, d), dtype) / d) for _ in range(2))
    V, S = random_array(rng, (d, 4), dtype), random_array(rng, (d, d), dtype)
    given = [x.astype(dtype) for x in (K, L, V, S)]
    exact = expected(triangle, *given)
    with CHOICES["triangles of cupy"].taken(way):
        found = results(structure, *map(cupy.asarray, given))
    for name, value in exact.items():
        error = np.linalg.norm(host(found[name]) - value) / np.linalg.norm(value)
        assert error < 8 * d * U[dtype], name  # the triangles have a condition of about 1


@pytest.mark.parametrize("structure", TRIANGLES, ids=repr)
def test_a_triangle_is_stored_alike_everywhere(rng: np.random.Generator, structure: Any) -> None:
    import cupy

    K = TRIANGLES[structure](rng.standard_normal((150, 150)))
    stored = structure.from_dense(K)
    for way in WAYS:
        with CHOICES["triangles of cupy"].taken(way):
            moved = structure.from_dense(cupy.asarray(K)) @ structure.from_dense(cupy.asarray(K))
            for x, y in zip(moved.leaves, (stored @ stored).leaves, strict=True):
                np.testing.assert_allclose(x.get(), y, rtol=1e-12, atol=1e-12)


def test_stacks_of_triangles_are_computed_by_halves(rng: np.random.Generator) -> None:
    import cupy

    K = np.triu(np.eye(70) + rng.standard_normal((2, 70, 70)) / 70)
    T = UpperTriangular().from_dense(cupy.asarray(K))
    np.testing.assert_allclose(host(T @ T), K @ K, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(host(T.trace()), np.trace(K, axis1=1, axis2=2))


# ----------------------------------------------------------------------- inverse-free updates

NAMES = (
    "dense",
    "hierarchical",
    "upper-triangular",
    "lower-triangular",
    "block-diagonal",
    "upper-toeplitz",
    "diagonal",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_sends_nothing_to_the_device(rng: np.random.Generator, name: str) -> None:
    import cupy

    a, g = (cupy.asarray(rng.standard_normal((20, 100))) for _ in range(2))
    state = ngdla.inverse_free_init(100, 100, structures=(name, name), like=a)
    statistics = ngdla.inverse_free_statistics(state, a, g)
    for _ in range(2):  # what is kept on the device is there for the second one
        with cupy_double.recorded() as record:
            ngdla.inverse_free_update(state, statistics, damping=0.1, step_size=0.1, momentum=0.5)
    assert record.reads == ["bool"]
    assert not record.uploads


def test_updates_are_those_of_numpy(rng: np.random.Generator) -> None:
    import cupy

    a, g = rng.standard_normal((2, 40, 100))
    for name in NAMES:
        pair = []
        for asarray in (np.asarray, cupy.asarray):
            state = ngdla.inverse_free_init(100, 100, structures=(name, name), like=asarray(a))
            for _ in range(3):
                statistics = ngdla.inverse_free_statistics(state, asarray(a), asarray(g))
                state = ngdla.inverse_free_update(
                    state, statistics, damping=0.1, step_size=0.1, momentum=0.5
                )
            pair.append(state)
        for part in ("K", "C", "momentum_K", "momentum_C"):
            exact, found = (getattr(state, part) for state in pair)
            for x, y in zip(exact.leaves, found.leaves, strict=True):
                np.testing.assert_allclose(y.get(), x, rtol=1e-10, atol=1e-10)

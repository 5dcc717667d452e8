"""What only a device can decide: every choice is taken in all its ways, which agree to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cupy_double
import numpy as np
import pytest
from references import H, U, random_array, wide

import ngdla
from ngdla._backend import gram as gram_module
from ngdla._backend.choices import CHOICES
from ngdla._backend.gram import gram
from ngdla._backend.spectral import eigh
from ngdla.structures import UpperTriangular

on_double = pytest.mark.cupy_double

# Where each choice is compared in all its ways; more of torch and JAX is in test_gram_ways.py.
TESTS = {
    "gram of cupy": "test_gram_of_cupy",
    "stacks of eigh": "test_stacks_of_eigh",
    "triangles of cupy": "test_triangles_of_cupy",
    "flags": "test_flags",
    "gram of torch": "test_gram_of_torch",
    "gram of jax": "test_gram_of_jax",
}


def test_no_choice_is_missing() -> None:
    assert TESTS.keys() == CHOICES.keys()
    assert all(callable(globals()[name]) for name in TESTS.values())


def test_the_first_way_is_taken_and_others_by_their_names() -> None:
    for choice in CHOICES.values():
        assert len(set(choice.ways)) == len(choice.ways) > 1
        assert choice.way == choice.ways[0]
        for way in choice.ways:
            with choice.taken(way):
                assert choice.way == way
        assert choice.way == choice.ways[0]
        with pytest.raises(ValueError, match="it must be one of"), choice.taken("another"):
            pass


def in_all_ways(name: str, call: Callable[[], Any]) -> dict[str, Any]:
    results = {}
    for way in CHOICES[name].ways:
        with CHOICES[name].taken(way):
            results[way] = call()
    return results


# ----------------------------------------------------------------------------- Gram matrices

FEW = [(1, 1), (1, 5000), (5, 1), (7, 3), (3, 24), (3, 25), (130, 17), (2, 3, 5, 40), (2, 20, 170)]
MANY = [(511, 9), (512, 33), (513, 20), (1025, 31), (2, 513, 3)]


def laid_out(S: np.ndarray, asarray: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """Return the same matrix in several layouts of memory."""
    *batch, n, m = S.shape
    every, middle = np.zeros((*batch, n, 2 * m), S.dtype), np.zeros((*batch, n, m + 5), S.dtype)
    every[..., ::2], middle[..., 2 : m + 2] = S, S
    return {
        "rows": asarray(S),
        "columns": asarray(np.ascontiguousarray(S.mT)).mT,
        "middle columns": asarray(middle)[..., 2 : m + 2],
        "every second": asarray(every)[..., ::2],
    }


def assert_are_gram(results: list[np.ndarray], S: np.ndarray) -> None:
    """Assert errors of at most those of sums in any order, entry by entry."""
    X = S.astype("complex128" if S.dtype.kind == "c" else "float64")
    X = X if X.dtype != S.dtype else wide(S)
    exact = X @ H(X)
    norms = np.sqrt(np.real(np.linalg.diagonal(exact)))
    bound = 4 * S.shape[-1] * U[str(S.dtype)] * norms[..., :, None] * norms[..., None, :]
    for G in results:
        assert G.dtype == S.dtype
        assert np.all(np.abs(G - exact) <= bound)


@on_double
@pytest.mark.parametrize(
    ("shape", "dtypes"),
    [(s, ("float32", "float64", "complex64", "complex128")) for s in FEW]
    + [(s, ("float32", "complex64")) for s in MANY],
    ids=str,
)
def test_gram_of_cupy(shape: tuple[int, ...], dtypes: Any, rng: np.random.Generator) -> None:
    import cupy

    for dtype in dtypes:
        S = random_array(rng, shape, dtype)
        found = [
            in_all_ways("gram of cupy", lambda X=X: gram(X).get())
            for X in laid_out(S, cupy.asarray).values()
        ]
        assert_are_gram([G for ways in found for G in ways.values()], S)


@pytest.mark.parametrize("shape", [*FEW, *MANY], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_gram_of_torch(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    """What is done on CUDA, on the CPU."""
    torch = pytest.importorskip("torch")
    S = random_array(rng, shape, dtype)
    for X in laid_out(S, torch.from_numpy).values():
        found = in_all_ways("gram of torch", lambda X=X: gram_module._gram_torch_cuda(X))
        assert_are_gram([G.resolve_conj().numpy() for G in found.values()], S)


@pytest.mark.parametrize("shape", [(1, 9), (511, 9), (513, 1025), (2, 20, 170)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_gram_of_jax(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    """And what the symmetric product does on GPUs, on the CPU; it is of real matrices."""
    jax = pytest.importorskip("jax")
    S = random_array(rng, shape, dtype)
    found = list(in_all_ways("gram of jax", lambda: gram(jax.numpy.asarray(S))).values())
    if not dtype.startswith("complex"):
        found.append(jax.jit(gram_module._symmetric_jax)(S))
    assert_are_gram(list(map(np.asarray, found)), S)


# -------------------------------------------------------------------------------- eigenpairs

STACKS = [(1, 1, 1), (3, 1, 1), (2, 3, 7, 7), (3, 32, 32), (2, 33, 33), (2, 65, 65), (0, 4, 4)]


@on_double
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", STACKS, ids=str)
def test_stacks_of_eigh(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    """In C order, Fortran order, and of views."""
    import cupy

    A = random_array(rng, shape, dtype)
    A, n = (A + H(A)) / 2, shape[-1]
    error = 16 * n * U[dtype] * np.linalg.norm(A, axis=(-2, -1))
    for X in laid_out(A, cupy.asarray).values():
        found = in_all_ways("stacks of eigh", lambda X=X: eigh(X))
        for w, V in ((w.get(), V.get()) for w, V in found.values()):
            assert (w.shape, w.dtype) == (shape[:-1], A.real.dtype)
            assert (V.shape, V.dtype) == (shape, dtype)
            assert np.all(np.diff(w) >= 0)
            residual = np.linalg.norm(A @ V - V * w[..., None, :], axis=(-2, -1))
            assert np.all(residual <= error)
            assert np.all(np.abs(H(V) @ V - np.eye(n)) <= 16 * n * U[dtype])


@on_double
@pytest.mark.parametrize("way", CHOICES["stacks of eigh"].ways)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_nan_alone(value: float, way: str, rng: np.random.Generator) -> None:
    import cupy

    A = rng.standard_normal((2, 3, 5, 5))
    A = A + H(A)
    A[1, 2, 0, 3] = value
    with CHOICES["stacks of eigh"].taken(way):
        w, V = (x.get() for x in eigh(cupy.asarray(A)))
    bad = np.zeros((2, 3), bool)
    bad[1, 2] = True
    np.testing.assert_array_equal(np.isnan(w), np.broadcast_to(bad[..., None], w.shape))
    np.testing.assert_array_equal(np.isnan(V), np.broadcast_to(bad[..., None, None], V.shape))


# ---------------------------------------------------------------------------------- triangles


@on_double
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("d", [1, 64, 65, 129, 511, 512, 513, 1025])
def test_triangles_of_cupy(d: int, dtype: str, rng: np.random.Generator) -> None:
    """More operations on fewer sizes are compared in tests/structures/test_structures_cupy.py."""
    import cupy

    K = np.triu(np.eye(d) + random_array(rng, (d, d), dtype) / d).astype(dtype)
    V = random_array(rng, (d, 3), dtype)
    exact = [K @ K, K @ V, H(K) @ V, np.linalg.solve(K, V)]

    def computed() -> list[Any]:
        T = UpperTriangular().from_dense(cupy.asarray(K))
        X = cupy.asarray(V)
        return [(T @ T).to_dense(), T @ X, T.H @ X, T.solve(X)]

    for results in in_all_ways("triangles of cupy", computed).values():
        for x, y in zip(results, exact, strict=True):
            error = np.linalg.norm(x.get() - y)
            assert error <= 32 * d * U[dtype] * np.linalg.norm(y)  # conditions are near 1


# -------------------------------------------------------------------------------------- flags


def decompositions(A: Any, S: Any, v: Any) -> list[Any]:
    """Return what does not depend on the basis, of calls that may wait for flags."""
    X = A[..., :9].mT if A.shape[-1] > 8 else A
    state = ngdla.online_eigh_update(ngdla.online_eigh_init(X, 3), 2 * X, decay=0.9)
    eigenpairs, factor = ngdla.randomized_eigh(A, 3), ngdla.nystrom_factor(A, 3)
    return [
        eigenpairs.to_dense(),
        eigenpairs.solve(v, 0.1),
        factor.solve(v, 0.1),
        ngdla.randomized_svd(A, 3).S,
        state.eigenvalues[:3],
        ngdla.damped_solve(S, S[0], 0.1, check=False),
        ngdla.hermitian_solve(A, v, check=False),
        ngdla.kronecker_solve(A, A, A, 0.3, check=False),
    ]


@on_double
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("n", [3, 24, 65, 130])
def test_flags(n: int, dtype: str, rng: np.random.Generator) -> None:
    import cupy

    Q = np.linalg.qr(random_array(rng, (n, n), dtype)).Q
    values = np.full(n, 0.01)
    values[:3] = 4.0, 2.0, 1.0
    A = (Q * values) @ H(Q)
    S, v = random_array(rng, (n, 8 * n + 1), dtype), random_array(rng, (n,), dtype)
    given = [cupy.asarray(x) for x in ((A + H(A)) / 2, S, v)]
    read, unread = in_all_ways("flags", lambda: decompositions(*given)).values()
    for x, y in zip(read, unread, strict=True):
        error = np.linalg.norm(x.get() - y.get())
        assert error <= 1e5 * n * U[dtype] * np.linalg.norm(y.get())  # conditions are up to 400


# ---------------------------------------------------------------------------- the ways differ


def calls() -> dict[str, Callable[[], Any]]:
    import cupy

    rng = np.random.default_rng(0)
    S = cupy.asarray(rng.standard_normal((513, 8 * 513)).astype("float32"))
    A = cupy.asarray(rng.standard_normal((3, 20, 20)))
    T = UpperTriangular().from_dense(cupy.asarray(np.triu(rng.standard_normal((200, 200)))))
    return {
        "gram of cupy": lambda: gram(S),
        "stacks of eigh": lambda: eigh(A @ A.mT),
        "triangles of cupy": lambda: T @ T,
        "flags": lambda: ngdla.randomized_eigh(A[0] @ A[0].T, 3),
    }


@on_double
def test_every_way_of_cupy_is_its_own() -> None:
    for name, call in calls().items():
        call()  # what is kept is made
        taken = []
        for way in CHOICES[name].ways:
            with CHOICES[name].taken(way), cupy_double.recorded() as record:
                call()
            taken.append((record.launches, record.reads))
        assert all(x != y for x, y in itertools.combinations(taken, 2)), name
    others = {name for name in CHOICES if name.partition(" of ")[2] in ("torch", "jax")}
    assert others == CHOICES.keys() - calls().keys()

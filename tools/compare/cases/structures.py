"""Structured matrices: how they are made, and everything that they can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from compare.expressions import Array, Expression, lifted, ngdla
from compare.grids import EAGER, HALF, INTERPRETED, Case, grid

__all__ = ["STRUCTURES", "D", "cases"]

D, SAMPLES = 6, 9
MASK = [[i == j or (j == 0) or (i > 3 and j > 3) for j in range(D)] for i in range(D)]
ORIENTATIONS = ("upper-first", "upper-last", "lower-first", "lower-last")
SIZES = {"matrix": (), "stack": (2,)}

s = ngdla.structures
STRUCTURES: dict[str, Expression] = {
    "dense": s.Dense(),
    "diagonal": s.Diagonal(),
    "block-diagonal": s.BlockDiagonal(block=4),
    "lower-triangular": s.LowerTriangular(),
    "upper-triangular": s.UpperTriangular(),
    "lower-toeplitz": s.LowerToeplitz(),
    "upper-toeplitz": s.UpperToeplitz(),
    "hierarchical": s.Hierarchical(k1=2, k2=1),
    **{f"low-rank {o}": s.LowRankTriangular(k=2, orientation=o) for o in ORIENTATIONS},
    **{f"features {o}": s.LowRankTriangular(2, o, (4, 1)) for o in ORIENTATIONS},
    "masked": s.Masked(MASK),
}
NAMES: dict[str, Any] = {
    "name": "dense",
    "pair": ("hierarchical", {"k1": 2, "k2": 1}),
    "block": ("block-diagonal", {"block": 3}),
    "low rank": ["low-rank-triangular", {"k": 2, "orientation": "lower-last"}],
    "mask": ("masked", {"mask": MASK}),
    "diagonal": "diagonal",
    "triangles": ["lower-triangular", {}],
    "toeplitz": ("upper-toeplitz", {}),
    "structure": s.Dense(),
    "unknown": "nonsense",
    "unknown option": ("dense", {"k": 3}),
    "number": 3,
    "open mask": ("masked", {"mask": [[True, True], [True, False]]}),
}
represented = lifted(repr)
equal = lifted(lambda one, other: (one == other, hash(one) == hash(other)))

# How a structure makes a matrix of X, (samples, d).
MADE: dict[str, Callable[[Any, Any], Any]] = {
    "project": lambda T, size: T.project(Array("psd", (*size, D, D))),
    "project general": lambda T, size: T.project(Array("normal", (*size, D, D)), check=False),
    "project nan": lambda T, size: T.project(Array("nan", (*size, D, D))),
    "project_samples": lambda T, size: T.project_samples(Array("normal", (*size, SAMPLES, D))),
    "from_dense": lambda T, size: T.from_dense(member(T, size).to_dense()),
    "from_dense of no member": lambda T, size: T.from_dense(Array("normal", (*size, D, D))),
    "identity": lambda T, size: T.identity(D, like=Array("normal", (1,)), batch=size),
    "zeros": lambda T, size: T.zeros(D, like=Array("normal", (1,)), dtype="float32", batch=size),
}


def member(T: Any, size: tuple[int, ...], seed: int = 0) -> Expression:
    """Return a matrix of a structure, with eigenvalues that are not small."""
    return T.project_samples(Array("normal", (*size, SAMPLES, D), seed=seed)).add_identity(0.5)


def positive(size: tuple[int, ...]) -> Array:
    """Return a factor, or one for each matrix of a stack."""
    return Array("positive", size)


# What is asked of K, with L of the same structure, columns V and the batch shape.
ASKED: dict[str, Callable[[Any, Any, Any, tuple[int, ...]], Any]] = {
    "itself": lambda K, L, V, b: (K, represented(K)),
    "to_dense": lambda K, L, V, b: K.to_dense(),
    "sizes": lambda K, L, V, b: [K.size, K.shape, K.batch, K.dtype_name, represented(K.dtype)],
    "sum": lambda K, L, V, b: K + L,
    "difference": lambda K, L, V, b: K - L,
    "negative": lambda K, L, V, b: -K,
    "multiples": lambda K, L, V, b: (2.5 * K, K * 0.5, K / 3.0, K.scaled(positive(b))),
    "product": lambda K, L, V, b: K @ L,
    "columns": lambda K, L, V, b: (K @ V, K @ V[..., 0], K.matmul(V.like("imaginary"))),
    "rows": lambda K, L, V, b: K.rmatmul(Array("normal", (*b, 2, D))),
    "adjoint": lambda K, L, V, b: (K.H @ V, K.H.matmul(V), K.H.H @ V),
    "adjoint rows": lambda K, L, V, b: K.H.rmatmul(Array("normal", (*b, 2, D))),
    "squares": lambda K, L, V, b: (K.square_matmul(V), K.square_matmul(V[..., 0])),
    "squares of rows": lambda K, L, V, b: K.square_rmatmul(Array("normal", (*b, 8, D))),
    "solve": lambda K, L, V, b: (K.solve(V), K.solve(V[..., 0])),
    "inverse": lambda K, L, V, b: K.inverse(),
    "expm": lambda K, L, V, b: (0.1 * K).expm(),
    "inv_sqrtm": lambda K, L, V, b: K.inv_sqrtm(),
    "numbers": lambda K, L, V, b: [K.logabsdet(), K.trace(), K.frobenius_norm(), K.max_abs()],
    "spectral_bound": lambda K, L, V, b: [K.spectral_bound(), K.spectral_bound(sufficient=50.0)],
    "coarse_bound": lambda K, L, V, b: K.coarse_bound(),
    "add_identity": lambda K, L, V, b: (K.add_identity(-0.5), K.add_identity(positive(b))),
    "project_inner": lambda K, L, V, b: K.project_inner(Array("normal", (*b, 4, D))),
    "project_gram": lambda K, L, V, b: K.project_gram(),
    "project_congruence": lambda K, L, V, b: K.project_congruence(Array("psd", (*b, D, D))),
    "astype": lambda K, L, V, b: [K.astype(name) for name in ("float16", "float32")],
    "wrong dtype": lambda K, L, V, b: K.astype("nonsense"),
    "half": lambda K, L, V, b: (K.astype("float16") @ V, K.astype("float16").computed()),
    "bfloat16": lambda K, L, V, b: K.astype("bfloat16").computed(),
    "map": lambda K, L, V, b: K.map(lambda a, c: a + 2 * c, L),
    "where": lambda K, L, V, b: K.where(K.trace() > L.trace(), L),
    "wrong columns": lambda K, L, V, b: K @ Array("normal", (*b, D + 1)),
    "singular": lambda K, L, V, b: (0.0 * K).inverse(),
}


def asked(structure: Any, ask: Any, size: tuple[int, ...]) -> Any:
    """Return an answer of a structured matrix."""
    K, L = member(structure, size), member(structure, size, seed=1)
    return ask(K, L, Array("normal", (*size, D, 3)), size)


def made(structure: Any, size: tuple[int, ...], make: Any) -> Any:
    """Return a matrix that a structure makes."""
    return make(structure, size)


def optimum(structure: Any, size: tuple[int, ...], of: str, damping: float, check: bool) -> Any:
    """Return the structured factor of a dense matrix, or of its projection."""
    N = Array("psd", (*size, D, D))
    statistics = N if of == "matrix" else structure.project(N)
    return ngdla.structured_factor(statistics, structure, damping, check=check)


def large(structure: Any) -> Any:
    """Return products and an inverse in a dimension where they are made of blocks."""
    d = 150
    K = structure.project(Array("psd", (d, d))).add_identity(0.5)
    products = K @ Array("normal", (d, 4)), K @ K, K.square_rmatmul(Array("normal", (200, d)))
    return K, *products, K.inverse()


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    every = {"structure": STRUCTURES, "size": SIZES}
    yield from grid("structured matrix", asked, **every, ask=ASKED)
    yield from grid("structure", made, **every, make=MADE)
    yield from grid("structure, half", made, **HALF, **every, make=MADE)
    factored = {"of": ("matrix", "projection"), "damping": (0.3, 1e-30), "check": (True, False)}
    yield from grid("structured_factor", optimum, **every, **factored)
    yield from grid("structured_factor, half", optimum, **HALF, **every, **factored)
    sized = {name: structure for name, structure in STRUCTURES.items() if name != "masked"}
    yield from grid("structured matrix, large", large, **INTERPRETED, structure=sized)
    once = {"dtype": ("float64",), **EAGER}
    yield from grid(
        "structure_from", lambda given: represented(s.structure_from(given)), **once, given=NAMES
    )
    yield from grid(
        "structures compared",
        equal,
        **once,
        one=STRUCTURES,
        other=STRUCTURES,
    )

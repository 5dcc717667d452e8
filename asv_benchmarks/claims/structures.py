"""Structured matrices: errors against dense definitions, the cost of Toeplitz, stored numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from benchmarks.measuring import alternating, normal, optional
from benchmarks.peers_singd import structure as peer_structure
from benchmarks.structure_list import STRUCTURES, member
from threads import limited

from ngdla._backend.fourier import convolution
from ngdla.structures import LowerToeplitz, StructuredMatrix

from .randomized_eigh import slope
from .tracked import tracked

DIMENSIONS = range(1, 71)
ROWS = 5
SIZES = (1024, 2048, 4096)
GROWTH = (1024, 2048, 4096, 8192, 16384)
COLUMNS = 64


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.longdouble)


def _excess(found: np.ndarray, exact: np.ndarray, size: np.ndarray) -> float:
    """Return the largest |found - exact| / size, where size = 0 allows no error."""
    error = np.abs(_wide(found) - exact)
    if np.any(error[size == 0] > 0):
        return math.inf
    return float(np.max(error / np.where(size == 0, 1, size)))


def _cases() -> Iterator[tuple[Any, int, np.random.Generator]]:
    for d in DIMENSIONS:
        for i, structure in enumerate(STRUCTURES.values()):
            yield structure, d, np.random.default_rng([d, i])


@tracked(
    "structures, products K X, K^H X, K L and sums, d = 1 to 70, float64: largest error of an "
    "entry, relative to |K| |L|, over d",
    unit="relative",
    at_most=1e-13,
)
def track_products() -> float:
    worst = 0.0
    for structure, d, rng in _cases():
        K, L = member(structure, d, rng), member(structure, d, rng)
        dense, other = _wide(K.to_dense()), _wide(L.to_dense())
        X = rng.standard_normal((d, ROWS))
        for found, A, B in (
            (K @ X, dense, _wide(X)),
            (K.H @ X, dense.T, _wide(X)),
            ((K @ L).to_dense(), dense, other),
        ):
            worst = max(worst, _excess(found, A @ B, np.abs(A) @ np.abs(B)) / d)
        total = _excess(
            (2.0 * K - L).to_dense(), 2 * dense - other, 2 * np.abs(dense) + np.abs(other)
        )
        worst = max(worst, total / d)
    return worst


@tracked(
    "structures, projections of K^H X^H X K, K^H K and dense matrices, d = 1 to 70, float64: "
    "largest error of an entry, relative to the projection of the moduli, over d",
    unit="relative",
    at_most=1e-13,
)
def track_projections() -> float:
    worst = 0.0
    for structure, d, rng in _cases():
        K, X = member(structure, d, rng), rng.standard_normal((ROWS, d))
        dense, rows = _wide(K.to_dense()), _wide(X)
        inner, size = rows @ dense, np.abs(rows) @ np.abs(dense)
        for found, exact, modulus in (
            (K.project_inner(X), inner.T @ inner, size.T @ size),
            (K.project_gram(), dense.T @ dense, np.abs(dense).T @ np.abs(dense)),
            (structure.project(K.to_dense()), dense, np.abs(dense)),
        ):
            # Weights are positive: the projection of the moduli bounds every sum.
            reference = _projected(structure, exact)
            allowed = _projected(structure, modulus)
            worst = max(worst, _excess(found.to_dense(), reference, allowed) / d)
    return worst


def _projected(structure: Any, N: np.ndarray) -> np.ndarray:
    """Return Pi(N) by weights of entries, in extended precision: means of diagonals if Toeplitz."""
    N, d = (N + N.T) / 2, len(N)
    pattern = structure.project(np.ones((d, d))).to_dense() != 0
    one_way = pattern & ~pattern.T
    if isinstance(structure, LowerToeplitz) or type(structure).__name__ == "UpperToeplitz":
        for lag in range(-d + 1, d):
            i, j = np.diag_indices(d - abs(lag))
            i, j = (i - min(lag, 0), j + max(lag, 0))
            N[i, j] = N[i, j].mean()
    return N * pattern * np.where(one_way, 2, 1)


@tracked(
    "structures, solve and inverse of I + 0.1 M / sqrt(d), d = 1 to 70, float64: largest "
    "backward error |K X - V| / (|K| |X| + |V|), over d",
    unit="relative",
    at_most=1e-13,
)
def track_solves() -> float:
    worst = 0.0
    for structure, d, rng in _cases():
        K = member(structure, d, rng, scale=0.1 / math.sqrt(d), shift=1.0)
        dense, V = _wide(K.to_dense()), rng.standard_normal((d, ROWS))
        for X, B in ((K.solve(V), V), (K.inverse().to_dense(), np.eye(d))):
            size = np.linalg.norm(dense.astype(float)) * np.linalg.norm(X) + np.linalg.norm(B)
            worst = max(worst, float(np.linalg.norm((dense @ X - B).astype(float)) / size / d))
    return worst


@tracked(
    "structures, log |det(I + 0.1 M / sqrt(d))|, d = 1 to 70, float64: largest error, over d",
    unit="absolute",
    at_most=1e-13,
)
def track_logabsdet() -> float:
    worst = 0.0
    for structure, d, rng in _cases():
        K = member(structure, d, rng, scale=0.1 / math.sqrt(d), shift=1.0)
        exact = np.linalg.slogdet(K.to_dense())[1]
        worst = max(worst, abs(float(K.logabsdet()) - exact) / d)
    return worst


# -------------------------------------------------------------------------------- Toeplitz

Operation = Callable[[StructuredMatrix, np.ndarray], Any]

OPERATIONS: dict[str, tuple[Operation, Operation]] = {
    "K @ X": (lambda K, X: K @ X, lambda T, X: T @ X),
    "project_inner(X)": (lambda K, X: K.project_inner(X.T), lambda T, X: _inner(T.T @ X)),
    "project_gram()": (lambda K, X: K.project_gram(), lambda T, X: _sums(T.T @ T)),
}


def _inner(S: np.ndarray) -> np.ndarray:
    return _sums(S @ S.T)


def _sums(N: np.ndarray) -> np.ndarray:
    """Return the sums of the diagonals, as one reads them off a dense matrix."""
    d = len(N)
    padded = np.concatenate([N, np.zeros((d, d + 1), N.dtype)], axis=1).ravel()
    return padded[: d * 2 * d].reshape(d, 2 * d)[:, :d].sum(axis=0)


@cache
def toeplitz() -> dict[int, dict[str, dict[str, float]]]:
    """Return the times of our operations, the dense ones and the peer's; float32, one thread."""
    found: dict[int, dict[str, dict[str, float]]] = {}
    for d in SIZES:
        K = member(LowerToeplitz(), d, np.random.default_rng(d)).astype("float32")
        T, X = K.to_dense(), normal((d, COLUMNS), "float32")
        theirs = _peer(K.leaves[0])
        for name, (ours, dense) in OPERATIONS.items():
            ways = {"ngdla": partial(ours, K, X), "dense": partial(dense, T, X)}
            if name in theirs:
                ways["singd"] = partial(theirs[name], X)
            with limited(1):
                found.setdefault(d, {})[name] = alternating(ways, 5)
    return found


def _peer(c: np.ndarray) -> dict[str, Callable[[np.ndarray], Any]]:
    """Return the operations of the same matrix in the `singd` package, if there is one."""
    try:
        torch = optional("torch")
        K = peer_structure("lower Toeplitz")(torch.from_numpy(c))
    except NotImplementedError:
        return {}
    return {
        "K @ X": lambda X: K @ torch.from_numpy(X),
        "project_inner(X)": lambda X: K.from_inner(X=torch.from_numpy(X)),
        "project_gram()": lambda X: K.from_inner(),
    }


def _least(operation: str, other: str) -> float:
    times = [toeplitz()[d][operation] for d in SIZES]
    if any(other not in one for one in times):
        raise NotImplementedError(f"{other} is not installed")
    return min(one[other] / one["ngdla"] for one in times)


@tracked(
    "lower Toeplitz K @ X, 64 columns, float32, d = 1024, 2048, 4096, one thread: least ratio of "
    "the time of a dense product",
    at_least=1.0,
)
def track_toeplitz_product() -> float:
    return _least("K @ X", "dense")


@tracked(
    "lower Toeplitz project_inner, the same: least ratio of the time of dense operations",
    at_least=1.0,
)
def track_toeplitz_inner() -> float:
    return _least("project_inner(X)", "dense")


@tracked(
    "lower Toeplitz project_gram, the same: least ratio of the time of dense operations",
    at_least=1.0,
)
def track_toeplitz_gram() -> float:
    return _least("project_gram()", "dense")


@tracked("lower Toeplitz K @ X, the same: least ratio of the time of the singd package's class")
def track_toeplitz_product_peer() -> float:
    return _least("K @ X", "singd")


@tracked("lower Toeplitz project_inner, the same: least ratio of the time of the singd package's")
def track_toeplitz_inner_peer() -> float:
    return _least("project_inner(X)", "singd")


SWITCH = (64, 128, 256, 512, 1024)


@cache
def switch() -> list[dict[str, Any]]:
    """Return times in ms of K @ X as it is, by transforms, and by the dense matrix made for it."""
    rows = []
    for d in SWITCH:
        for library, convert in {"numpy": np.asarray, "torch": _tensor}.items():
            c = convert(member_of_coefficients(d).leaves[0])
            X = convert(normal((d, COLUMNS), "float32"))
            K = StructuredMatrix((c,), LowerToeplitz(), d)
            ways = {
                "K @ X": partial(StructuredMatrix.matmul, K, X),
                "transforms": partial(convolution, c, X),
                "dense": lambda K=K, X=X: K.to_dense() @ X,
            }
            with limited(1):
                times = alternating(ways, 25)
            rows.append({"d": d, "library": library} | {way: 1e3 * t for way, t in times.items()})
    return rows


def _tensor(x: np.ndarray) -> Any:
    return optional("torch").from_numpy(x)


@tracked(
    "lower Toeplitz K @ X, 64 columns, float32, d = 64 to 1024, NumPy and torch: time over that of "
    "the faster of transforms and dense product, geometric mean"
)
def track_switch() -> float:
    ratios = [row["K @ X"] / min(row["transforms"], row["dense"]) for row in switch()]
    return float(np.exp(np.mean(np.log(ratios))))


@cache
def growth() -> dict[str, list[float]]:
    """Return times of each operation for dimensions of a factor of 16."""
    found: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for d in GROWTH:
        K = member_of_coefficients(d)
        X = normal((d, COLUMNS), "float32")
        with limited(1):
            times = alternating(
                {name: partial(ours, K, X) for name, (ours, _) in OPERATIONS.items()}, 5
            )
        for name, seconds in times.items():
            found[name].append(seconds)
    return found


def member_of_coefficients(d: int) -> StructuredMatrix:
    """Return a lower Toeplitz matrix without a dense one."""
    zeros = LowerToeplitz().zeros(d, like=np.zeros(1, "float32"))
    return zeros.map(lambda leaf: normal(leaf.shape, "float32"))


@tracked(
    "lower Toeplitz, growth of the time with d from 1024 to 16384, worst of the three operations; "
    "that of d log d is 1.11, of a dense product 2",
    unit="exponent",
)
def track_growth() -> float:
    return max(slope({"size": list(GROWTH), "seconds": seconds}) for seconds in growth().values())


# --------------------------------------------------------------------------------- memory

LAYER = (769, 3072)  # 768 inputs and a bias; a weight of 2.36 million numbers
TABLE = {  # stored numbers of K and of C by the patterns
    "dense": (591_361, 9_437_184),
    "blocks of 30": (22_861, 91_944),
    "hierarchical 15/15": (23_584, 94_977),
    "one dense row": (1_537, 6_143),
    "diagonal": (769, 3_072),
    "lower Toeplitz": (769, 3_072),
}


@cache
def stored_numbers() -> dict[str, tuple[int, ...]]:
    """Return `.size` of both factors of a layer 768 -> 3072, for each structure."""
    like = np.zeros(1, "float32")
    return {
        name: tuple(structure.zeros(d, like=like).size for d in LAYER)
        for name, structure in STRUCTURES.items()
    }


@tracked(
    "numbers stored for a layer 768 -> 3072 with bias, six structures: differences from the count "
    "of the patterns",
    unit="numbers",
    at_most=0,
)
def track_stored_numbers() -> float:
    sizes = stored_numbers()
    return float(sum(abs(a - b) for key in TABLE for a, b in zip(sizes[key], TABLE[key])))


def details() -> dict[str, Any]:
    """Return the times of Toeplitz operations in ms, their growth, and the stored numbers."""
    return {
        "toeplitz": [
            {"d": d, "operation": name, **{way: 1e3 * seconds for way, seconds in times.items()}}
            for d, operations in toeplitz().items()
            for name, times in operations.items()
        ],
        "switch": switch(),
        "growth": [
            {"d": d, **{name: 1e3 * seconds[i] for name, seconds in growth().items()}}
            for i, d in enumerate(GROWTH)
        ],
        "layer": [
            {"structure": name, "K": K, "C": C, "K + C": K + C}
            for name, (K, C) in stored_numbers().items()
        ],
    }

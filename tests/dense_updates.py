"""Inverse-free updates by their definition: dense matrices in plain NumPy, and what they are for.

Structures are given by their names in `PATTERNS`; each is a pattern of zeros but for Toeplitz.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg
from references import H

from ngdla import InverseFreeState, inverse_free_init, inverse_free_statistics, inverse_free_update
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
    UpperToeplitz,
    UpperTriangular,
)

__all__ = [
    "COLUMNS",
    "NAMES",
    "TOEPLITZ",
    "DenseState",
    "after",
    "basis",
    "dense_update",
    "member",
    "preconditioner",
    "project",
    "samples",
    "second_moment",
    "structure",
    "tangents",
    "with_members",
]

# ------------------------------------------------------------------------------ structures


def _rows(d: int, rows: list[int]) -> np.ndarray:
    """Return the pattern of a diagonal matrix with some dense rows."""
    pattern = np.eye(d, dtype=bool)
    pattern[rows] = True
    return pattern


def _hierarchical(d: int) -> np.ndarray:
    """Two dense first rows, and a last row that is dense but for the first two columns."""
    pattern = _rows(d, [0, 1, d - 1])
    pattern[d - 1, :2] = False
    return pattern


def _preorder(d: int) -> np.ndarray:
    """Pairs of indices, in no order; each pair sees those that its number divides."""
    group = 1 + (np.arange(d) * 3 + 1) % d // 2
    return group[None, :] % group[:, None] == 0


PATTERNS: dict[str, Callable[[int], np.ndarray]] = {
    "dense": lambda d: np.ones((d, d), bool),
    "diagonal": lambda d: np.eye(d, dtype=bool),
    "block-diagonal": lambda d: np.arange(d)[:, None] // 2 == np.arange(d) // 2,
    "lower-triangular": lambda d: np.tri(d, dtype=bool),
    "upper-triangular": lambda d: np.tri(d, dtype=bool).T,
    "lower-toeplitz": lambda d: np.tri(d, dtype=bool),
    "upper-toeplitz": lambda d: np.tri(d, dtype=bool).T,
    "hierarchical": _hierarchical,
    "upper-first": lambda d: _rows(d, [0, 1]),
    "lower-last": lambda d: _rows(d, [d - 2, d - 1]),
    "lower-first": lambda d: _rows(d, [0, 1]).T,
    "upper-last": lambda d: _rows(d, [d - 2, d - 1]).T,
    "masked": _preorder,
}
NAMES = tuple(PATTERNS)
TOEPLITZ = ("lower-toeplitz", "upper-toeplitz")
COLUMNS = ("lower-first", "upper-last")  # dense columns, which converge slowly


def structure(name: str, d: int) -> Structure:
    fixed: dict[str, Structure] = {
        "dense": Dense(),
        "diagonal": Diagonal(),
        "block-diagonal": BlockDiagonal(2),
        "lower-triangular": LowerTriangular(),
        "upper-triangular": UpperTriangular(),
        "lower-toeplitz": LowerToeplitz(),
        "upper-toeplitz": UpperToeplitz(),
        "hierarchical": Hierarchical(2, 1),
    }
    if name == "masked":
        return Masked(_preorder(d))
    return fixed[name] if name in fixed else LowRankTriangular(2, name)


def basis(name: str, d: int) -> Iterator[np.ndarray]:
    """Yield a basis of the tangents: of members that are symmetric in their diagonal blocks."""
    pattern = PATTERNS[name](d)
    if name in TOEPLITZ:
        for lag in range(d):
            yield np.eye(d, k=-lag if name == "lower-toeplitz" else lag)
        return
    for i, j in zip(*np.nonzero(pattern)):
        E = np.zeros((d, d))
        E[i, j] = 1
        if not pattern[j, i]:
            yield E
        elif i <= j:
            yield np.maximum(E, E.T)


def project(name: str, N: np.ndarray) -> np.ndarray:
    """Return the tangent whose Hermitian part is closest to that of N."""
    N, d = (N + H(N)) / 2, N.shape[-1]
    pattern = PATTERNS[name](d)
    if name not in TOEPLITZ:
        return pattern * (2 - pattern.T * pattern) * N
    if name == "upper-toeplitz":
        return project("lower-toeplitz", N.T).T
    means = [np.mean(np.diagonal(N, -lag)) for lag in range(d)]
    column = np.array(means) * ([1] + [2] * (d - 1))
    return scipy.linalg.toeplitz(column, [means[0]] + [0] * (d - 1))


def member(rng: np.random.Generator, name: str, d: int) -> np.ndarray:
    """Return a member near the identity, not symmetric in its diagonal blocks."""
    M = rng.standard_normal((d, d)) * PATTERNS[name](d)
    if name in TOEPLITZ:
        M = sum(x * E for x, E in zip(rng.standard_normal(d), basis(name, d)))
    return np.eye(d) + 0.3 * M / math.sqrt(d)


# ------------------------------------------------------------------------------ the update


@dataclasses.dataclass
class DenseState:
    """Factors and tangents of an update, as dense matrices."""

    K: np.ndarray
    C: np.ndarray
    m_K: np.ndarray
    m_C: np.ndarray

    @classmethod
    def start(cls, d_in: int, d_out: int, dtype: str = "float64") -> DenseState:
        K, C = np.eye(d_in, dtype=dtype), np.eye(d_out, dtype=dtype)
        return cls(K, C, 0 * K, 0 * C)


def second_moment(X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return sum_i w_i x_i x_i^H / sum_i w_i of the rows of X."""
    w = np.ones(len(X)) if weights is None else weights
    return (X.T * w) @ np.conj(X) / np.sum(w)


def dense_update(
    state: DenseState,
    U: np.ndarray,
    G: np.ndarray,
    *,
    names: tuple[str, str] = ("dense", "dense"),
    damping: float,
    step_size: float,
    momentum: float = 0.0,
    rule: str = "ingd",
    retraction: str = "series",
    order: int = 1,
) -> DenseState:
    """Lin et al., arXiv:2312.05705, figure 3, in a structure and with any retraction."""
    K, C = state.K, state.C
    H_K, H_C, K_K, C_C = H(K) @ U @ K, H(C) @ G @ C, H(K) @ K, H(C) @ C
    if rule == "ikfac":
        N_K, N_C = H_K + damping * K_K, H_C + damping * C_C
    else:
        N_K = (_trace(H_C) * H_K + damping * _trace(C_C) * K_K) / len(C)
        N_C = (_trace(H_K) * H_C + damping * _trace(K_K) * C_C) / len(K)
    m_K, m_C = (
        momentum * m + (project(name, N) - np.eye(len(N))) / 2
        for name, m, N in ((names[0], state.m_K, N_K), (names[1], state.m_C, N_C))
    )
    K, C = (
        F @ _function(step_size * m, retraction, order) for F, m in ((state.K, m_K), (state.C, m_C))
    )
    return DenseState(K, C, m_K, m_C)


def _trace(A: np.ndarray) -> float:
    return float(np.trace(A).real)


def _function(b: np.ndarray, retraction: str, order: int) -> np.ndarray:
    one = np.eye(len(b))
    if retraction == "expm":
        return scipy.linalg.expm(-b)
    if retraction == "implicit":
        return np.linalg.inv(one + b)
    if retraction == "exact":
        return np.linalg.inv(scipy.linalg.sqrtm(one + 2 * b))
    power = -1.0 if retraction == "series" else -0.5
    coefficients = (
        [power**j / math.factorial(j) for j in range(order + 1)]
        if retraction == "series"
        else [2.0**j * math.prod((power - i) / (i + 1) for i in range(j)) for j in range(order + 1)]
    )
    return sum(c * np.linalg.matrix_power(b, j) for j, c in enumerate(coefficients))


# ----------------------------------------------------------------------------- the library


def samples(rng: np.random.Generator, rows: int, d: int, *, spread: float = 10.0) -> np.ndarray:
    """Return samples of a covariance of that condition, in no special coordinates."""
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return rng.standard_normal((rows, d)) * spread ** (-np.arange(d) / (2 * max(d - 1, 1))) @ Q.T


def after(
    state: InverseFreeState, a: np.ndarray, g: np.ndarray, steps: int = 1, **options: Any
) -> InverseFreeState:
    """Return the state after some updates with one batch."""
    for _ in range(steps):
        positions = False if state.K.batch else None
        statistics = inverse_free_statistics(state, a, g, positions=positions)
        state = inverse_free_update(state, statistics, **options)
    return state


def with_members(rng: np.random.Generator, name: str, d_in: int, d_out: int) -> InverseFreeState:
    """Return a state with random factors of one structure."""
    pair = structure(name, d_in), structure(name, d_out)
    state = inverse_free_init(d_in, d_out, structures=pair, like=np.zeros(1))
    K, C = (s.from_dense(member(rng, name, d)) for s, d in zip(pair, (d_in, d_out)))
    return dataclasses.replace(state, K=K, C=C)


def preconditioner(state: InverseFreeState) -> tuple[np.ndarray, np.ndarray]:
    """Return K K^H and C C^H."""
    K, C = state.K.to_dense(), state.C.to_dense()
    return K @ H(K), C @ H(C)


def tangents(state: InverseFreeState) -> tuple[np.ndarray, np.ndarray]:
    """Return the tangents of the last update, of a state that keeps them."""
    assert state.momentum_K
    assert state.momentum_C
    return state.momentum_K.to_dense(), state.momentum_C.to_dense()

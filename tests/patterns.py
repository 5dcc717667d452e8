"""Structures of one dimension, and their patterns, members and projections by definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from references import H, random_array

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
    "GROUPS",
    "ONE_OF_EACH",
    "ORIENTATIONS",
    "all_structures",
    "closure",
    "diagonal_blocks",
    "is_toeplitz",
    "member",
    "one_of_each",
    "pattern",
    "projected",
    "random_preorder",
    "structures",
]

GROUPS = ("blocks", "triangles and Toeplitz", "hierarchical", "low rank", "features", "masks")
ORIENTATIONS = ("upper-first", "upper-last", "lower-first", "lower-last")


def structures(group: str, d: int) -> list[Structure]:
    """Return the structures of a group that matrices of dimension d are tested with."""
    if group == "blocks":
        return [Dense(), Diagonal(), *map(BlockDiagonal, (1, 2, 3, 100))]
    if group == "triangles and Toeplitz":
        return [LowerTriangular(), UpperTriangular(), LowerToeplitz(), UpperToeplitz()]
    if group == "hierarchical":
        corners = ((3, 2), (0, 2), (3, 0), (0, 0), (100, 1), (1, 100))
        return [Hierarchical(k1, k2) for k1, k2 in corners]
    if group == "low rank":
        some = [LowRankTriangular(2, orientation) for orientation in ORIENTATIONS]
        limits = [LowRankTriangular(k, o) for o in ("upper-first", "upper-last") for k in (0, 100)]
        return some + limits
    if group == "features":
        features = tuple({d - 1: 0, d // 2: 0})  # in descending order, and different
        return [LowRankTriangular(len(features), o, features) for o in ORIENTATIONS]
    rng = np.random.default_rng(d)
    order = rng.permutation(d)
    triangle = np.tri(d, dtype=bool)[order][:, order]
    return [Masked(triangle), *(Masked(random_preorder(rng, d, links)) for links in (0.3, 1.0))]


def all_structures(d: int) -> list[Structure]:
    """Return the structures of all groups."""
    return [structure for group in GROUPS for structure in structures(group, d)]


ONE_OF_EACH = (
    "dense",
    "diagonal",
    "block-diagonal",
    "lower-triangular",
    "upper-triangular",
    "lower-toeplitz",
    "upper-toeplitz",
    "hierarchical",
    "dense rows",
    "dense columns",
    "masked",
)


def one_of_each(name: str, d: int) -> Structure:
    """Return a structure of each kind, where one is enough."""
    rng = np.random.default_rng(d)
    kinds: list[Structure] = [
        Dense(),
        Diagonal(),
        BlockDiagonal(3),
        LowerTriangular(),
        UpperTriangular(),
        LowerToeplitz(),
        UpperToeplitz(),
        Hierarchical(2, 1),
        LowRankTriangular(2, "upper-first"),
        LowRankTriangular(2, "upper-last"),
        Masked(random_preorder(rng, d, 0.6)),
    ]
    return dict(zip(ONE_OF_EACH, kinds))[name]


def is_toeplitz(structure: Structure) -> bool:
    return isinstance(structure, (LowerToeplitz, UpperToeplitz))


# -------------------------------------------------------------------------------- patterns


def pattern(structure: Structure, d: int) -> np.ndarray:
    """Return where entries may differ from zero, as the documentation draws it."""
    i, j = np.indices((d, d))
    if isinstance(structure, Masked):
        return np.asarray(structure.preorder.pattern, bool)
    if isinstance(structure, Dense):
        return i == i
    if isinstance(structure, BlockDiagonal):
        return i // structure.block == j // structure.block
    if isinstance(structure, (LowerTriangular, LowerToeplitz)):
        return i >= j
    if isinstance(structure, (UpperTriangular, UpperToeplitz)):
        return i <= j
    if isinstance(structure, Hierarchical):
        first = min(structure.k1, d)
        last = max(d - structure.k2, first)
        return (i == j) | (i < first) | ((i >= last) & (j >= first))
    if isinstance(structure, LowRankTriangular):
        k, orientation = structure.k, structure.orientation
        ends = range(d - k, d) if orientation.endswith("last") else range(k)
        corner = np.isin(np.arange(d), structure.features or list(ends))
        rows = orientation in ("upper-first", "lower-last")
        return (i == j) | (corner[i] if rows else corner[j])
    return i == j


def closure(mask: np.ndarray) -> np.ndarray:
    """Return the smallest reflexive and transitive relation that holds a given one."""
    mask = np.asarray(mask, bool) | np.eye(len(mask), dtype=bool)
    for m in range(len(mask)):  # Warshall's algorithm
        mask = mask | (mask[:, m : m + 1] & mask[m])
    return mask


def random_preorder(rng: np.random.Generator, d: int, links: float) -> np.ndarray:
    """Return the closure of about `links` random pairs for each index."""
    return closure(rng.random((d, d)) < links / d)


def diagonal_blocks(mask: np.ndarray) -> list[np.ndarray]:
    """Return the sets of indices that are related both ways."""
    both = mask & mask.T
    return [np.flatnonzero(row) for row in np.unique(both, axis=0)]


# --------------------------------------------------------------------------------- members


def member(
    rng: np.random.Generator, structure: Structure, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """Return random dense members, of the shape (..., d, d) for (..., d)."""
    d = shape[-1]
    mask = pattern(structure, d)
    if not is_toeplitz(structure):
        return mask * random_array(rng, (*shape, d), dtype)
    i, j = np.indices((d, d))
    return mask * random_array(rng, shape, dtype)[..., abs(i - j)]


def projected(structure: Structure, N: Any) -> np.ndarray:
    """Return Pi(N) by weights: 1 for what is related both ways, 2 for one way, 0 for none.

    On diagonals of Toeplitz matrices, entries are replaced by their mean.
    """
    N = np.asarray(N)
    A, mask = (N + H(N)) / 2, pattern(structure, N.shape[-1])
    if is_toeplitz(structure):
        i, j = np.indices(mask.shape)
        lags = range(-len(mask) + 1, len(mask))
        means = [np.diagonal(A, -lag, axis1=-2, axis2=-1).mean(axis=-1) for lag in lags]
        A = np.stack(means, axis=-1)[..., i - j + len(mask) - 1]
    return mask * (2 - (mask & mask.T)) * A

"""The structures that are measured, by the names under which results list them."""

from __future__ import annotations

import numpy as np

from ngdla import structures
from ngdla.structures import Structure, StructuredMatrix

STRUCTURES: dict[str, Structure] = {
    "dense": structures.Dense(),
    "diagonal": structures.Diagonal(),
    "blocks of 30": structures.BlockDiagonal(30),
    "lower triangular": structures.LowerTriangular(),
    "upper triangular": structures.UpperTriangular(),
    "lower Toeplitz": structures.LowerToeplitz(),
    "upper Toeplitz": structures.UpperToeplitz(),
    "hierarchical 15/15": structures.Hierarchical(15, 15),
    "one dense row": structures.LowRankTriangular(1),
    "one dense column": structures.LowRankTriangular(1, "lower-first"),
    "15 dense rows": structures.LowRankTriangular(15),
    "15 last dense rows": structures.LowRankTriangular(15, "lower-last"),
    "15 dense columns": structures.LowRankTriangular(15, "lower-first"),
    "15 last dense columns": structures.LowRankTriangular(15, "upper-last"),
}


def member(
    structure: Structure, d: int, rng: np.random.Generator, *, scale: float = 1.0, shift: float = 0
) -> StructuredMatrix:
    """Return a general member of independent normal numbers times `scale`, plus shift I."""
    parameters = structure.project(np.ones((d, d))).map(
        lambda leaf: scale * rng.standard_normal(leaf.shape) * (leaf != 0)
    )
    return parameters.add_identity(shift)

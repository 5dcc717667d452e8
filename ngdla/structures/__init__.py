"""Matrices closed under sums, products and inverses, kept by their parameters.

A structure, such as ``Hierarchical(k1=3, k2=2)``, is a pattern without a size. It makes matrices
of that pattern, `StructuredMatrix`, by `identity`, `zeros`, `from_dense`, `project` and
`project_samples`; what can be done with them is the same for all structures.
"""

from ngdla._backend.pickles import name_public

from .base import Structure
from .block_diagonal import BlockDiagonal
from .dense import Dense
from .diagonal import Diagonal
from .hierarchical import Hierarchical
from .low_rank_triangular import LowRankTriangular
from .masked import Masked
from .matrix import StructuredMatrix
from .names import structure_from
from .toeplitz import LowerToeplitz, UpperToeplitz
from .triangular import LowerTriangular, UpperTriangular

__all__ = [
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "Hierarchical",
    "LowRankTriangular",
    "LowerToeplitz",
    "LowerTriangular",
    "Masked",
    "Structure",
    "StructuredMatrix",
    "UpperToeplitz",
    "UpperTriangular",
    "structure_from",
]

name_public(__name__, globals(), __all__)

"""Functions of structured matrices by products and inverses, which stay in the structure."""

from __future__ import annotations

import math

from ngdla._backend.dtypes import dtype_name
from ngdla._backend.fused import bounded
from ngdla._backend.general import SQUARINGS, expm1_series
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.tracing import nan_unless, number_if_free, repeated

from .matrix import StructuredMatrix

__all__ = ["expm_by_squaring", "inv_sqrtm_by_inverses"]

_ORDER = 14  # terms of the exponential series that matter for |A| <= 1/2 in double precision


def expm_by_squaring(A: StructuredMatrix) -> StructuredMatrix:
    """Return exp(A) by a series for A / 2^s and s squarings; the host reads s where that is free.

    NaN where |A|_F is beyond 1 / u.
    """
    norm = A.frobenius_norm()
    xp = namespace(norm)
    log = xp.log2(xp.where(norm > 0, norm, xp.ones_like(norm)))
    limit = SQUARINGS[dtype_name(norm.dtype)]
    known = nan_unless(~(log + 1 > limit), norm)
    squarings = bounded(xp.ceil(log) + 1, 0, limit)
    most = number_if_free(xp.max(squarings))
    F = expm1_series(A.scaled(known * 2.0**-squarings), _ORDER, StructuredMatrix.matmul)
    E = F.add_identity(1.0)

    def step(state: tuple[StructuredMatrix, Array]) -> tuple[StructuredMatrix, Array]:
        E, left = state
        return E.matmul(E).where(left > 0, E), left - 1

    def unfinished(state: tuple[StructuredMatrix, Array]) -> Array:
        return xp.any(state[1] > 0)

    steps = limit if most is None or math.isnan(most) else int(most)
    return repeated(step, unfinished, (E, squarings), steps, early=False)[0]


_ITERATIONS = 10  # six reach roundings for spectra of a few decades, eight for any


def inv_sqrtm_by_inverses(M: StructuredMatrix) -> StructuredMatrix:
    """Return M^(-1/2) by the scaled Denman-Beavers iteration, for positive eigenvalues.

    Y goes to M^(1/2) and Z to M^(-1/2). The scaling by determinants makes the number of iterations
    nearly independent of M; near the end it is 1.

    N. J. Higham, "Functions of Matrices", SIAM 2008, equations (6.28) and (6.29).
    """
    Y, Z = M, M.scaled(0.0).add_identity(1.0)
    xp = namespace(M.leaves[0])
    for _ in range(_ITERATIONS):
        scale = xp.exp((Y.logabsdet() + Z.logabsdet()) / (-2 * M.dimension))
        Y, Z = Y.scaled(scale), Z.scaled(scale)
        Y, Z = (Y + Z.inverse()).scaled(0.5), (Z + Y.inverse()).scaled(0.5)
    return Z

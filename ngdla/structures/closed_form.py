"""Structured inverse Cholesky factors in closed form: what inverse-free updates converge to."""

from __future__ import annotations

from typing import Any

from ngdla._backend.calls import all_finite, opened
from ngdla._backend.checks import square_matrix
from ngdla._backend.products import add_to_diagonal, preserved
from ngdla._backend.scalars import eigenvalue_damping

from . import Structure, StructuredMatrix, structure_from

__all__ = ["structured_factor"]


def structured_factor(
    statistics: Any, structure: Any, damping: Any, *, check: bool = True
) -> StructuredMatrix:
    """Return the structured K whose K K^H is the best inverse of S + damping I.

    Parameters
    ----------
    statistics : array, shape (..., d, d), or StructuredMatrix
        S, Hermitian positive semi-definite; or its projection Pi(S), such as
        ``structure.project_samples(X)`` or an exponential average of these, in the memory of K.
    structure : Structure, str or (str, dict)
        As in `inverse_free_init`.
    damping : float or array, shape () or (...)
        Positive, in units of eigenvalues of S.
    check : bool, default True
        Refuse NaN, Inf and an S that is not positive with its damping: reads one flag on the host.

    Returns
    -------
    StructuredMatrix
        K, in the dtype of S, half precision in float32.

    Raises
    ------
    TypeError
        If `statistics` is neither a floating-point array nor a StructuredMatrix.
    ValueError
        If `statistics` is not square, is of another structure, is a projection that does not hold
        enough of S (dense columns, Toeplitz, and masks that leave pairs of indices unrelated),
        contains NaN or Inf, or is not positive definite with its damping.

    Notes
    -----
    Method: the minimum of tr(K^H (S + damping I) K) - 2 log |det K| over the structure, which is
    that of the Kullback-Leibler divergence of two Gaussians. Each group of columns has a problem of
    its own: with s the rows in which columns J may differ from zero,
    K_sJ = S_ss^-1 E_J (E_J^T S_ss^-1 E_J)^(-1/2). It is K K^H = (S + damping I)^-1 where the
    structure can hold that (dense and full triangles); K is unique up to unitary factors of its
    dense diagonal blocks.
    Cost: d for diagonal, b^2 d for blocks of b, 4 k^2 d for k dense rows and hierarchical, d^3 / 3
    for dense, triangles, dense columns and Toeplitz.

    References
    ----------
    F. Schaefer, M. Katzfuss, H. Owhadi, "Sparse Cholesky factorization by Kullback-Leibler
    minimization", SIAM J. Sci. Comput. 43 (2021) A2019, theorem 2.1 (for triangular patterns).

    Examples
    --------
    >>> import numpy as np
    >>> K = structured_factor(np.diag([3.0, 8.0]), "diagonal", 1.0)
    >>> K.to_dense()
    array([[0.5       , 0.        ],
           [0.        , 0.33333333]])
    """
    structure = structure_from(structure)
    if isinstance(statistics, StructuredMatrix):
        _require_local(statistics, structure)
        like, batch, d = statistics.leaves[0], statistics.batch, statistics.dimension
    else:
        like = square_matrix(statistics, "statistics")
        batch, d = tuple(like.shape[:-2]), like.shape[-1]
        structure.shapes(d)  # which refuses a mask of another size
    with opened(like, check) as checks:
        shift = eigenvalue_damping(damping, like, "statistics", batch, checks)
        if isinstance(statistics, StructuredMatrix):
            leaves = structure.local_optimum(statistics.add_identity(shift).leaves, d)
        else:
            leaves = structure.optimum(add_to_diagonal(preserved(like), shift))
        checks.require(lambda: all_finite(*leaves), _not_positive)
    return StructuredMatrix(leaves, structure, d)


def _require_local(N: StructuredMatrix, structure: Structure) -> None:
    """Raise unless a projection is on this structure, and holds what its factor depends on."""
    if N.structure != structure:
        msg = f"`statistics` is {N!r}; for this `structure` it must be a matrix of {structure}."
        raise ValueError(msg)
    if not structure.is_local(N.dimension):
        msg = (
            f"`statistics` is a projection on {structure}, whose factor needs the whole of S; pass "
            f"S itself, (..., d, d)."
        )
        raise ValueError(msg)


def _not_positive() -> Exception:
    msg = (
        "`statistics` is not positive definite with its damping, or it contains NaN or Inf; pass "
        "finite, positive semi-definite statistics, or raise the damping."
    )
    return ValueError(msg)

"""Structured inverse Cholesky factors in closed form: what inverse-free updates converge to."""

from __future__ import annotations

from typing import Any

from ngdla._backend.checks import ValueChecks, all_finite, square_matrix
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_to_diagonal, preserved
from ngdla._backend.scalars import eigenvalue_damping
from ngdla._backend.settings import library_settings

from . import StructuredMatrix, structure_from

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
    checks = ValueChecks(enabled=check)
    if isinstance(statistics, StructuredMatrix):
        K = _from_projection(statistics, structure, damping, checks)
    else:
        K = _from_dense(square_matrix(statistics, "statistics"), structure, damping, checks)
    checks.require(lambda: all_finite(*K.leaves), _not_positive)
    checks.read()
    return K


def _from_dense(S: Array, structure: Any, damping: Any, checks: ValueChecks) -> StructuredMatrix:
    d = S.shape[-1]
    structure.shapes(d)  # which refuses a mask of another size
    with library_settings(namespace(S)):
        shift = eigenvalue_damping(damping, S, "statistics", tuple(S.shape[:-2]), checks)
        return StructuredMatrix(
            structure.optimum(add_to_diagonal(preserved(S), shift)), structure, d
        )


def _from_projection(
    N: StructuredMatrix, structure: Any, damping: Any, checks: ValueChecks
) -> StructuredMatrix:
    d = N.dimension
    if N.structure != structure:
        msg = f"`statistics` is {N!r}; for this `structure` it must be a matrix of {structure}."
        raise ValueError(msg)
    if not structure.is_local(d):
        msg = (
            f"`statistics` is a projection on {structure}, whose factor needs the whole of S; pass "
            f"S itself, (..., d, d)."
        )
        raise ValueError(msg)
    with library_settings(namespace(N.leaves[0])):
        shift = eigenvalue_damping(damping, N.leaves[0], "statistics", N.batch, checks)
        N = N.add_identity(shift)
        return StructuredMatrix(structure.local_optimum(N.leaves, d), structure, d)


def _not_positive() -> Exception:
    msg = (
        "`statistics` is not positive definite with its damping, or it contains NaN or Inf; pass "
        "finite, positive semi-definite statistics, or raise the damping."
    )
    return ValueError(msg)

"""Solves, inverses, determinants and exponentials of general square matrices.

Where a matrix is singular, or holds NaN or Inf, its results are NaN on every library (some give
Inf): nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .array import AnyArray
from .chunks import in_one_block
from .creation import unit_columns
from .namespace import (
    LinAlgError,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)

__all__ = ["expm", "expm1_series", "inverse", "logabsdet", "solve"]


def solve(A: AnyArray, B: AnyArray) -> AnyArray:
    """Return A^-1 B, (..., n, k)."""
    xp = namespace(A)
    if is_torch_namespace(xp):
        import torch

        X, failure = torch.linalg.solve_ex(A, B)
        return torch.where((failure == 0)[..., None, None], X, torch.full_like(X, math.nan))
    if is_dask_namespace(xp):
        return in_one_block(solve, A, B, results=(B,))
    try:
        return xp.linalg.solve(A, B)
    except LinAlgError:
        return _each(solve, A, B) if A.ndim > 2 else xp.full_like(B, xp.nan)


def inverse(A: AnyArray) -> AnyArray:
    """Return A^-1, (..., n, n)."""
    return solve(A, namespace(A).zeros_like(A) + unit_columns(A))


def logabsdet(A: AnyArray) -> AnyArray:
    """Return log |det A|, (...); -inf where A is singular."""
    xp = namespace(A)
    if is_dask_namespace(xp):
        return in_one_block(logabsdet, A, results=(xp.real(A[..., 0, 0]),))
    return xp.linalg.slogdet(A)[1]


def expm(A: AnyArray) -> AnyArray:
    """Return exp(A), (..., n, n)."""
    xp = namespace(A)
    if is_numpy_namespace(xp):
        return _expm_by_products(A, _halvings(A))
    if is_torch_namespace(xp):
        import torch

        return torch.linalg.matrix_exp(A)
    if is_jax_namespace(xp):
        from jax.scipy import linalg

        return linalg.expm(A, max_squarings=64)
    if is_cupy_namespace(xp):
        from cupyx.scipy import linalg

        return _each(expm, A) if A.ndim > 2 else linalg.expm(A)
    if is_dask_namespace(xp):
        return in_one_block(expm, A, results=(A,))
    return _expm_by_products(A, _MOST_HALVINGS)


def _halvings(A: AnyArray) -> int:
    """Return how often the largest matrix of a stack must be halved to have a norm below 1/2."""
    norm = np.max(np.linalg.norm(A, axis=(-2, -1)), initial=0.0)
    return math.ceil(math.log2(norm)) + 1 if 0.5 < norm < math.inf else 0


Ring = TypeVar("Ring", bound=Any)
_MOST_HALVINGS = 20
_ORDER = 14  # terms of the exponential series that matter for |A| <= 1/2 in double precision


def _expm_by_products(A: AnyArray, halvings: int) -> AnyArray:
    """Return exp(A) by products alone, accurate for |A| up to 2^(halvings - 1).

    For NumPy in the place of scipy.linalg.expm, which loses three digits of real matrices (SciPy
    1.17.1: 1e-12 for a symmetric 3 x 3 matrix of eigenvalues 1, 2, 8) and more in complex64
    (https://github.com/scipy/scipy/issues/21584).
    """
    F = expm1_series(A * 2.0**-halvings, _ORDER, namespace(A).matmul)
    for _ in range(halvings):
        F = 2.0 * F + F @ F  # exp(2 x) - 1, which keeps what is small against 1
    return F + unit_columns(A)


def expm1_series(A: Ring, order: int, product: Callable[[Ring, Ring], Ring]) -> Ring:
    """Return A + A^2 / 2 + ... + A^p / p!, for whatever has sums and multiples by numbers."""
    F = A * (1.0 / order)
    for j in range(order - 1, 0, -1):
        F = (A + product(A, F)) * (1.0 / j)
    return F


def _each(function: Any, *arrays: AnyArray) -> AnyArray:
    """Return the results of a function of matrices, one at a time."""
    results = [function(*(A[i, ...] for A in arrays)) for i in range(arrays[0].shape[0])]
    return namespace(arrays[0]).stack(results)

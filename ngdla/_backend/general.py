"""Solves, inverses, determinants and exponentials of general square matrices.

Where a matrix is singular, or holds NaN or Inf, its results are NaN on every library (some give
Inf): nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

from .array import AnyArray
from .chunks import in_one_block
from .creation import unit_columns
from .dtypes import dtype_name, unit_roundoff
from .fused import bounded
from .namespace import (
    LinAlgError,
    as_array,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .norms import frobenius_norm
from .products import add_diagonal, add_to_diagonal, preserved
from .shapes import expanded
from .tracing import chooses, compiled, detached, nan_unless, number, repeated

__all__ = ["SQUARINGS", "expm", "expm1_series", "inverse", "logabsdet", "solve"]


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


SQUARINGS = {"float32": 25, "float64": 54}  # up to norms of 1 / u; more where they are counted


def expm(A: AnyArray) -> AnyArray:
    """Return exp(A), (..., n, n), by a polynomial and squarings.

    The same on every library. Measured against extended precision, in u max(1, |A|_F) |exp(A)|_F,
    this errs by up to 20; scipy.linalg.expm by 1e3 (SciPy 1.17.1: 1e-12 for a symmetric matrix of
    eigenvalues 1, 2, 8), jax.scipy.linalg.expm by 5e6 (JAX 0.10.2, near -80 I), and
    torch.linalg.matrix_exp by 2e5 (torch 2.13: 2e-11 for 1-norms of 3e-4 to 0.06 in float64).
    Where squarings are not counted, norms beyond 1 / u give NaN.
    """
    xp = namespace(A)
    if is_dask_namespace(xp):
        return in_one_block(expm, A, results=(A,))
    if 0 in A.shape:
        return xp.zeros_like(A)
    E, s = compiled(_root, A)
    count, most = _count(xp.max(s)), SQUARINGS[dtype_name(s.dtype)]
    if count is not None:
        return _squared(E, s, count, counted=True)
    E = E * expanded(nan_unless(s <= most, s), 2)
    return _squared(E, bounded(s, largest=float(most)), most, counted=False)


def _root(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return exp(A / 2^s) and s, (...), as exp(mu / 2^s) exp(B / 2^s) with |B|_F / 2^s <= 1/2."""
    xp = namespace(A)
    mu, B, size = _shifted(A)
    counts = (size > 0.5) & xp.isfinite(size)
    s = xp.ceil(xp.log2(xp.where(counts, size, 0.5 * xp.ones_like(size)))) + 1
    half = xp.floor(s / 2)  # in two parts: 2^-s may be subnormal
    first, second = (_power_of_half(part) for part in (half, s - half))
    E = _exp_of_small(B * expanded(first, 2) * expanded(second, 2))
    return expanded(xp.exp(mu * first * second), 2) * E, s


def _shifted(A: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return mu, B = A - mu I and |B|_F, for constants mu that make B much smaller than A.

    mu is the mean of the diagonal, exactly so for multiples of I, or 0.
    """
    xp, constant = namespace(A), detached(A)
    diagonal = xp.linalg.diagonal(constant)
    mu = as_array(diagonal[..., 0] + xp.mean(diagonal - diagonal[..., :1], axis=-1))
    B = add_diagonal(preserved(A), -mu[..., None])
    size, shifted_size = frobenius_norm(constant), frobenius_norm(detached(B))
    u = unit_roundoff(dtype_name(A.dtype))
    smaller = (shifted_size <= 0.5 * size) & (shifted_size <= 1 / u)
    mu = xp.where(smaller, mu, xp.zeros_like(mu))
    return mu, xp.where(expanded(smaller, 2), B, A), xp.where(smaller, shifted_size, size)


def _count(squarings: AnyArray) -> int | None:
    """Return a number of squarings, or None where it cannot be read.

    It is read on GPUs too: one wait costs less than squarings that are not needed.
    """
    xp = namespace(squarings)
    known = is_numpy_namespace(xp) or is_torch_namespace(xp) or is_jax_namespace(xp)
    value = number(squarings) if known or is_cupy_namespace(xp) else None
    return None if value is None else int(value)


def _power_of_half(exponent: AnyArray) -> AnyArray:
    return namespace(exponent).pow(0.5 * namespace(exponent).ones_like(exponent), exponent)


def _exp_of_small(A: AnyArray) -> AnyArray:
    """Return exp(A) for |A|_F <= 1/2, by the first 16 terms in six products.

    M. S. Paterson and L. J. Stockmeyer, SIAM J. Comput. 2 (1973) 60.
    """
    matmul = namespace(A).matmul
    A2 = matmul(A, A)
    A3, A4 = matmul(A2, A), matmul(A2, A2)

    def four(k: int) -> AnyArray:
        """Return I / k! + A / (k+1)! + A^2 / (k+2)! + A^3 / (k+3)!."""
        one, a, b, c = (1 / math.factorial(j) for j in range(k, k + 4))
        return add_to_diagonal(A * a + A2 * b + A3 * c, one)

    E = A4 * (1 / math.factorial(16)) + four(12)
    for k in (8, 4, 0):
        E = matmul(A4, E) + four(k)
    return E


def _squared(E: AnyArray, s: AnyArray, steps: int, *, counted: bool) -> AnyArray:
    """Return E^(2^s), for one s of each matrix."""
    xp, alone, s = namespace(E), counted and E.ndim == 2, expanded(s, 2)

    def step(E: AnyArray, unfinished: AnyArray) -> AnyArray:
        square = xp.matmul(E, E)
        return square if alone else xp.where(unfinished, square, E)

    if counted or not chooses(s):
        return reduce(lambda E, i: step(E, s > i), range(steps), E)
    return repeated(
        lambda state: (step(state[0], state[1] > 0), state[1] - 1),
        lambda state: xp.any(state[1] > 0),
        (E, s),
        steps,
        early=False,
    )[0]


Ring = TypeVar("Ring", bound=Any)


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

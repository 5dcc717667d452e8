"""Cholesky factors with one failure semantics, and solves with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import lapack

from .array import AnyArray
from .cholesky_cupy import cho_solve_cupy, cholesky_cupy, inverse_triangular_cupy
from .chunks import in_one_block
from .creation import unit_columns
from .dtypes import is_complex
from .namespace import (
    LinAlgError,
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
)
from .products import adjoint, real_diagonal
from .scipy_threads import short_call

__all__ = ["cho_solve", "cholesky", "inverse_triangular", "over_batch", "solve_triangular"]


def cholesky(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return (L, ok) with A = L L^H, L lower triangular, for Hermitian A (..., n, n).

    Where A is not positive definite, `ok`, a boolean array of shape (...), is False and L is
    filled with NaN: nothing raises, nothing is read on the host, and no garbage is passed on.
    `A` may be overwritten; only its lower triangle is read.
    """
    xp = namespace(A)
    if is_numpy_namespace(xp):
        return over_batch(_cholesky_numpy, A)
    if is_torch_namespace(xp):
        import torch

        L, failure = torch.linalg.cholesky_ex(A)
        return _nan_unless(failure == 0, L)
    if is_jax_namespace(xp):  # NaN already; a diagonal costs XLA more than a sum of all
        L = xp.linalg.cholesky(A, symmetrize_input=False)
        return L, xp.isfinite(xp.sum(L, axis=(-2, -1)))
    if is_cupy_namespace(xp):
        return cholesky_cupy(A)
    if is_dask_namespace(xp):  # its own returns the upper factor through array-api-compat 1.16
        ok = xp.zeros(A.shape[:-2], dtype=xp.bool)
        return in_one_block(cholesky, A, results=(A, ok))
    try:
        L = xp.linalg.cholesky(A)
    except LinAlgError:
        if A.ndim > 2:  # one matrix failed: ask each
            L, ok = zip(*(cholesky(A[i, ...]) for i in range(A.shape[0])))
            return xp.stack(L), xp.stack(ok)
        L = xp.full_like(A, xp.nan)
    return L, xp.all(xp.isfinite(real_diagonal(L)), axis=-1)


# Below this n, SciPy's wrapper costs less; from here on NumPy's threads, which made the Gram matrix
# of real S, factor it faster than the one that SciPy's BLAS is held to (see scipy_threads.py).
_SMALL = 200


def _cholesky_numpy(A: AnyArray) -> tuple[AnyArray, AnyArray]:
    try:
        small = len(A) < _SMALL
        L = _potrf(A) if small or is_complex(A) else np.linalg.cholesky(A)
    except LinAlgError:
        L = np.full_like(A, np.nan)
    ok = np.isfinite(L.trace())  # OpenBLAS lets NaN through
    return L if ok else np.full_like(A, np.nan), np.asarray(ok)


def _potrf(A: AnyArray) -> AnyArray:
    # LAPACK reads Fortran order, so that the upper factor U of A^T = conj(A) is L^T of A.
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (A,))
    with short_call(A, len(A) ** 3 / 3):
        U, failure = potrf(A.T, lower=0, overwrite_a=1, clean=1)
    if failure:
        msg = f"the leading minor of order {failure} is not positive"
        raise LinAlgError(msg)
    return U.T


def _nan_unless(ok: AnyArray, L: AnyArray) -> tuple[AnyArray, AnyArray]:
    xp = namespace(L)
    return xp.where(xp.reshape(ok, ok.shape + (1, 1)), L, xp.full_like(L, xp.nan)), ok


def cho_solve(L: AnyArray, B: AnyArray, *, used_up: bool = False) -> AnyArray:
    """Return A^-1 B, (..., n, k), from the factor L of A = L L^H. B may be `used_up`."""
    xp = namespace(L)
    if is_numpy_namespace(xp):
        return over_batch(_cho_solve_numpy, L, B)
    if is_torch_namespace(xp):
        import torch

        return torch.cholesky_solve(B, L)
    if is_jax_namespace(xp):
        import jax

        return jax.scipy.linalg.cho_solve((L, True), B)
    if is_dask_namespace(xp):
        return in_one_block(cho_solve, L, B, results=(B,))
    if is_cupy_namespace(xp) and L.ndim == 2 and B.size:
        return cho_solve_cupy(L, B, used_up=used_up)
    return solve_triangular(L, solve_triangular(L, B), transposed=True)


def _cho_solve_numpy(L: AnyArray, B: AnyArray) -> AnyArray:
    (potrs,) = lapack.get_lapack_funcs(("potrs",), (L, B))
    with short_call(L, 2 * len(L) * B.size):
        if not is_complex(L):
            return potrs(L.T, B, lower=0)[0]
        return np.conj(potrs(L.T, np.conj(B), lower=0)[0])  # L.T factors conj(A): see cholesky


def solve_triangular(L: AnyArray, B: AnyArray, *, transposed: bool = False) -> AnyArray:
    """Return L^-1 B, or L^-H B if `transposed`, for lower triangular L."""
    xp = namespace(L)
    if is_numpy_namespace(xp):
        from scipy.linalg import solve_triangular as solve

        def one(L: AnyArray, B: AnyArray) -> AnyArray:
            with short_call(L, len(L) * B.size):
                return solve(L, B, lower=True, trans="C" if transposed else "N", check_finite=False)

        return over_batch(one, L, B)
    if is_cupy_namespace(xp):
        from cupyx.scipy.linalg import solve_triangular as solve

        return solve(L, B, lower=True, trans="C" if transposed else "N")
    if is_jax_namespace(xp):
        from jax.scipy.linalg import solve_triangular as solve

        return solve(L, B, lower=True, trans="C" if transposed else "N")
    if is_torch_namespace(xp):
        import torch

        A = L.mH if transposed else L
        return torch.linalg.solve_triangular(A, B, upper=transposed)
    if is_dask_namespace(xp):
        solve = partial(solve_triangular, transposed=transposed)
        return in_one_block(solve, L, B, results=(B,))
    try:
        return xp.linalg.solve(adjoint(L) if transposed else L, B)
    except LinAlgError:  # NaN in L, which array-api-strict may take for singular
        return xp.full_like(B, xp.nan)


# Above this n, a general inverse by NumPy's threads is faster than trtri by one.
_TRTRI = 160


def inverse_triangular(L: AnyArray) -> AnyArray:
    """Return L^-1 for small lower triangular L: products with it are faster than solves."""
    xp = namespace(L)
    if is_numpy_namespace(xp):
        return over_batch(_inverse_numpy, L)
    if is_cupy_namespace(xp) and L.ndim == 2 and L.size and L.flags.c_contiguous:
        return inverse_triangular_cupy(L)
    identity = xp.zeros_like(L) + unit_columns(L)
    return solve_triangular(L, identity)


def _inverse_numpy(L: AnyArray) -> AnyArray:
    if len(L) <= _TRTRI:
        (trtri,) = lapack.get_lapack_funcs(("trtri",), (L,))
        with short_call(L, len(L) ** 3 / 3):
            inverse, failure = trtri(L.T, lower=0)
        return np.full_like(L, np.nan) if failure else inverse.T
    try:
        return np.tril(np.linalg.inv(L))
    except LinAlgError:
        return np.full_like(L, np.nan)


def over_batch(function: Callable[..., Any], *arrays: AnyArray) -> Any:
    """Apply a function of NumPy matrices to each matrix of a stack; tuples are stacked by field."""
    if arrays[0].ndim == 2:
        return function(*arrays)
    batch = arrays[0].shape[:-2]
    stacks = [A.reshape((math.prod(batch),) + A.shape[-2:]) for A in arrays]
    results = [function(*matrices) for matrices in zip(*stacks)]
    if not isinstance(results[0], tuple):
        results = [(result,) for result in results]
    fields = tuple(np.stack(field).reshape(batch + np.shape(field[0])) for field in zip(*results))
    return fields if len(fields) > 1 else fields[0]

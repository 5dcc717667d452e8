"""A randomized Nystrom approximation of a small matrix that is too large: a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ngdla._backend.dtypes import unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.powers import power_of_two
from ngdla._backend.products import rmatvec, trace
from ngdla._backend.random import orthonormal_columns, to_be_orthonormal
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import left_singular
from ngdla._backend.tracing import detached, is_traced
from ngdla.low_rank.cholesky_qr import orthonormal
from ngdla.low_rank.nystrom_root import nystrom_root

__all__ = ["SketchedInverse", "SketchedMatrix", "sketch_small_matrix"]

# Rows from which columns are made orthonormal where the work is done: a QR on the host takes 1 s at
# 1e5. The condition of so tall Gaussian matrices is near 1.
_TALL = 4096


@part
class SketchedInverse(NamedTuple):
    """U diag(1 / shifted) U^H + (1 - U U^H) / tail, where `tail` stands for all other eigenvalues.

    Shapes (..., r, 1), (..., n, r), (..., 1, 1).
    """

    shifted: Array
    U: Array
    tail: Array

    def __call__(self, r: Array) -> Array:
        """Return the inverse times r, (..., n, k)."""
        weights = 1 / self.shifted - 1 / self.tail
        return r / self.tail + namespace(r).matmul(self.U, weights * rmatvec(self.U, r))


@part
class SketchedMatrix(NamedTuple):
    """Eigenvalues, (..., r), descending, and eigenvectors, (..., n, r)."""

    values: Array
    U: Array

    def inverse(self, damping: Any) -> tuple[SketchedInverse, Array]:
        """Return the preconditioner for a damping, and whether it exists."""
        xp = namespace(self.values)
        shifted = xp.expand_dims(self.values + expanded(damping, 1), axis=-1)
        ok = xp.all(xp.isfinite(shifted), axis=(-2, -1))
        return SketchedInverse(shifted, self.U, shifted[..., -1:, :]), ok

    def copy(self) -> SketchedMatrix:
        """Return this, as nothing is used up."""
        return self


def sketch_small_matrix(
    product: Callable[[Array], Array], shape: tuple[int, ...], like: Array, dtype: str
) -> tuple[SketchedMatrix, Array]:
    """Return the approximation of K (..., n, n) from K Omega, (..., n, r), and tr K to 20 per cent.

    K is divided by a power of two first, as what follows squares it.
    K + shift is approximated, with a shift at the level of roundings, which is taken off again:
    algorithm 2.1 of Z. Frangella, J. A. Tropp, M. Udell, "Randomized Nystrom preconditioning",
    SIAM J. Matrix Anal. Appl. 44 (2023), arXiv:2110.02820. Omega is the Q of a Gaussian matrix.
    """
    omega = _test_matrix(shape, like, dtype)
    Y = detached(product(omega))  # no gradient is that of a preconditioner
    xp = namespace(Y)
    unit = power_of_two(xp.max(xp.abs(Y), axis=(-2, -1)))
    Y = Y / expanded(unit, 2)
    core = rmatvec(omega, Y)  # Omega^H K Omega, whose trace is r / n tr K on average
    squared_norm = unit * (trace(core) * (shape[-2] / shape[-1]))
    root = nystrom_root(omega, Y, unit_roundoff(dtype))
    s, U = left_singular(root.B)
    values = s * s - expanded(root.shift, 1)
    values = xp.where(values > 0, values, xp.zeros_like(values)) * expanded(unit, 1)
    return SketchedMatrix(values, U), squared_norm


def _test_matrix(shape: tuple[int, ...], like: Array, dtype: str) -> Array:
    """Return the Q of a Gaussian matrix, the same to rounding wherever it is found.

    A matrix that is a constant of compiled code is made before that: XLA would fold the work.
    """
    if shape[-2] < _TALL or shape[-2] < 4 * shape[-1] or is_traced(like):
        return orthonormal_columns(0, shape, like, dtype)
    return orthonormal(to_be_orthonormal(0, shape, like, dtype))

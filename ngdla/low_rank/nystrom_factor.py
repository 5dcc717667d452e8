"""B B^H + tail: damped solves with a low-rank approximation, without any eigendecomposition."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened
from ngdla._backend.checks import require_choice
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import squared_norm
from ngdla._backend.products import add_to_diagonal, preserved, rmatvec
from ngdla._backend.scalars import eigenvalue_damping
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.states import state_class
from ngdla._backend.triangular import cho_solve, cholesky

from .cholesky_qr import column_gram
from .columns import apply_to_columns
from .derivatives import trusted_root
from .low_rank_eigh import require_rank, rounded_up_to_zero
from .operand import ProductPrecision, hermitian_operand, operand_like
from .sketch_columns import require_basis, require_finite_columns, require_rng
from .sketches import SketchRequest, sketch_options, sketch_root

__all__ = ["FACTOR_TAILS", "FactorTail", "NystromFactor", "nystrom_factor"]

FactorTail = Literal["trace", "zero"]
FACTOR_TAILS = ("trace", "zero")


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class NystromFactor:
    """A as B B^H + tail, for damped solves that need a small Cholesky factor only.

    A frozen dataclass and a pytree of arrays, saved by `state_dict`.

    Attributes
    ----------
    root : array, shape (..., d, l)
        B, with l = rank + oversample columns or somewhat more.
    gram : array, shape (..., l, l)
        B^H B.
    tail : array, shape (...), real
        Added to every eigenvalue; never negative.
    trace : array, shape (...), real
        The trace of A itself.
    error : array, shape (...), real
        Estimate of |A - B B^H|_F.
    """

    root: AnyArray
    gram: AnyArray
    tail: AnyArray
    trace: AnyArray
    error: AnyArray

    def matmul(self, V: Array, *, check: Check = True) -> AnyArray:
        """Return the product with V, of the shape of V.

        Parameters
        ----------
        V, check
            As for `LowRankEigh.matmul`.

        Returns
        -------
        array
            B B^H V + tail V.
        """

        def product(B: Array, tail: Array, V: Array) -> Array:
            return namespace(V).matmul(B, rmatvec(B, V)) + tail * V

        def promoted(V: Array, checks: ValueChecks) -> Array:
            return in_common_dtype(product, self.root, expanded(self.tail, 2), V)

        return apply_to_columns(promoted, V, self.root, "root", check=check)

    def solve(self, V: Array, damping: Any, *, check: Check = True) -> AnyArray:
        """Return X with (B B^H + tail + damping) X = V.

        Parameters
        ----------
        V, damping, check
            As for `LowRankEigh.solve`.

        Returns
        -------
        array
            (V - B (B^H B + sigma)^-1 B^H V) / sigma for sigma = tail + damping, of the shape of V.
        """

        def solution(B: Array, L: Array, sigma: Array, V: Array) -> Array:
            return (V - namespace(V).matmul(B, cho_solve(L, rmatvec(B, V)))) / sigma

        def promoted(V: Array, checks: ValueChecks) -> Array:
            sigma, L = self._factor(damping, checks)
            return in_common_dtype(solution, self.root, L, expanded(sigma, 2), V)

        return apply_to_columns(promoted, V, self.root, "root", check=check)

    def logdet(self, damping: Any, *, check: Check = True) -> AnyArray:
        """Return log det(B B^H + tail + damping), (...).

        Parameters
        ----------
        damping, check
            As for `LowRankEigh.solve`.

        Returns
        -------
        array, shape (...), real
            log det(B^H B + sigma) + (d - l) log sigma for sigma = tail + damping.
        """
        xp = namespace(self.root)
        with opened(self.root, check, nan=True) as checks:
            sigma, L = self._factor(damping, checks)
            kept = 2 * xp.sum(xp.log(xp.abs(xp.linalg.diagonal(L))), axis=-1)
            d, columns = self.root.shape[-2:]
            return kept + (d - columns) * xp.log(sigma)

    def _factor(self, damping: Any, checks: ValueChecks) -> tuple[Array, Array]:
        """Return sigma, (...), and the Cholesky factor of B^H B + sigma."""
        batch = tuple(self.tail.shape)
        sigma = self.tail + eigenvalue_damping(damping, self.tail, "A", batch, checks)
        return sigma, cholesky(add_to_diagonal(preserved(self.gram), sigma))[0]


def nystrom_factor(
    A: Any,
    rank: int,
    *,
    passes: int = 2,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    tail: FactorTail = "trace",
    trace: Any = None,
    precision: ProductPrecision = "native",
    product_eps: float | None = None,
    check: Check = True,
) -> NystromFactor:
    """Return A as B B^H + tail, for damped solves by a small Cholesky factor, without eigenvectors.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian positive semi-definite; or an object with @, .shape and .dtype, as for
        `randomized_eigh`.
    rank : int
        B has rank + oversample columns, or rank + 2 oversample with more than one pass.
    passes : int, default 2
        Number of products with `A`. With a `basis` one is enough.
    oversample : int, default 10
        Gaussian columns beside the `rank` ones. The last product takes as many fresh ones, which
        show the error.
    basis : array, shape (..., d, k), optional
        Orthonormal columns to start from.
    rng : int, numpy.random.Generator, or array, shape (d, c)
        As for `randomized_eigh`.
    tail : {"trace", "zero"}
        Number added to every eigenvalue: (tr A - |B|_F^2) / d, or 0.
    trace : float or array, shape (...), optional
        The trace of `A`; by default it is read off the diagonal.
    precision : {"native", "tf32"}
        "tf32" lets the products with a float32 `A` drop to TF32 on devices that have it.
    product_eps : float, optional
        The unit roundoff of products with `A`, where it is not that of its dtype.
    check : {True, "nan", False}
        Refuse a matrix that is seen not to be finite, Hermitian, or positive semi-definite: reads
        one flag on the host, of a GPU up to 25, which leave out work. "nan", and True where values
        cannot be read: what is refused is NaN. False: nothing is tested, and a GPU is read as for
        True.

    Returns
    -------
    NystromFactor
        With `solve`, `matmul` and `logdet`.

    Raises
    ------
    TypeError, ValueError
        As `randomized_eigh`.

    Notes
    -----
    Cost: as `randomized_eigh` without its eigendecomposition, and l^3 / 3 + 4 d l k flops per
    solve with k right-hand sides, for l columns. Nothing is truncated: to truncate, or to damp two
    factors jointly, use `randomized_eigh`.
    Precision: a solve loses u |A| / (tail + damping) relative to the solution in its stiffest
    direction, as one with eigenvectors does.

    References
    ----------
    Z. Frangella, J. A. Tropp, M. Udell, SIAM J. Matrix Anal. Appl. 44, 718 (2023),
    arXiv:2110.02820.

    Examples
    --------
    >>> import numpy as np
    >>> Q = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100))).Q
    >>> A = (Q * 2.0 ** -np.arange(100)) @ Q.T
    >>> x = nystrom_factor(A, 10).solve(A @ np.ones(100), damping=1e-2)
    >>> bool(np.allclose(A @ x + 1e-2 * x, A @ np.ones(100), atol=1e-4))
    True
    """
    require_choice(tail, "tail", FACTOR_TAILS)
    options = sketch_options("nystrom", passes, oversample, tail)
    require_rng(rng)
    columns = rng if basis is None else basis
    with opened(operand_like(A, columns), check, nan=True, waits=True) as checks:
        operand = hermitian_operand(A, trace, columns, precision, product_eps)
        require_rank(rank, operand.size, "the size of `A`")
        shape = (*operand.batch, operand.size)
        basis = require_basis(basis, operand.like, shape, operand.dtype)
        require_finite_columns(checks, basis, rng)
        sketch = sketch_root(SketchRequest(operand, options, rank, basis, rng), checks)
        xp = namespace(operand.like)
        B = trusted_root(sketch.root.B, sketch.root.L) * expanded(xp.sqrt(operand.scale), 2)
        rest = rounded_up_to_zero((operand.trace - squared_norm(B)) / operand.size)
        rest = xp.zeros_like(rest) if tail == "zero" else rest
        return NystromFactor(B, column_gram(B), rest, operand.trace, sketch.error * operand.unit)

"""A matrix of a structure: its parameters, and what can be done with it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import computing
from ngdla._backend.checks import require_array, require_like
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.products import preserved
from ngdla._backend.settings import device_of
from ngdla._backend.states import state_class
from ngdla._backend.sums_together import multiples

from .kernels import Leaves
from .operands import in_one_dtype, on_columns, on_rows, real_number, require_rows
from .storage import StoredMatrix

__all__ = ["Adjoint", "StructuredMatrix"]


@state_class(static=("structure", "dimension"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StructuredMatrix(StoredMatrix):
    """A square matrix kept by the parameters of its structure. Made by a structure.

    A value, and a pytree of its leaves: it passes through `jax.jit`, `jax.vmap`, `jax.lax.scan`,
    and the transformations of torch.

    Attributes
    ----------
    leaves : tuple of arrays
        The parameters, as the structure lists them, each with the leading batch axes.
    structure : Structure
        The pattern.
    dimension : int
        d.

    Notes
    -----
    Half precision is for storage: every operation computes, and returns, in float32 at least.
    ``K + L``, ``K - L``, ``a * K`` and ``K / a`` are matrices of the structure, for a number a
    or a real array of the shape of the batch (write ``K * a`` where the library of a refuses
    ``a * K``); so is ``K @ L``. ``K @ V`` and ``K.H @ V`` are arrays, for V of shape (..., d) or
    (..., d, n), V real or complex.
    """

    __array_ufunc__ = None  # so that NumPy leaves `array * K` to this class
    __array_priority__ = 1000.0

    # ------------------------------------------------------------------------- what it is

    @property
    def H(self) -> Adjoint:
        """The conjugate transpose, for products ``K.H @ V``."""
        return Adjoint(self)

    def to_dense(self) -> AnyArray:
        """Return the matrix itself.

        Returns
        -------
        array, shape (..., d, d)
            In the compute dtype, a copy.
        """
        with computing(self.leaves[0]):
            K = self.computed().map(preserved)
            return self.structure.to_dense(K.leaves, self.dimension)

    # ---------------------------------------------------------------------------- sums

    def __add__(self, other: Any) -> StructuredMatrix:
        return self._combined(operator.add, other)

    def __sub__(self, other: Any) -> StructuredMatrix:
        return self._combined(operator.sub, other)

    def _combined(self, function: Callable[..., Array], other: Any) -> StructuredMatrix:
        if not isinstance(other, StructuredMatrix):
            return NotImplemented
        with device_of(self.leaves[0]):
            K, L = in_one_dtype(self, other)
            return K.map(function, L)

    def __neg__(self) -> StructuredMatrix:
        return (-1.0) * self

    def __mul__(self, factor: Any) -> StructuredMatrix:
        return NotImplemented if isinstance(factor, StructuredMatrix) else self.scaled(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> StructuredMatrix:
        return self.scaled(1 / divisor)

    def scaled(self, factor: Any) -> StructuredMatrix:
        """Return factor * K; for `torch.compile`, which cannot trace ``tensor * K``.

        Parameters
        ----------
        factor : float or array, shape () or (...), real
            One number, or one for each matrix.

        Returns
        -------
        StructuredMatrix
            In the compute dtype.
        """
        with device_of(self.leaves[0]):
            K = self.computed()
            factor = real_number(factor, "factor", K)
            return K._like(multiples(K.leaves, factor))

    def add_identity(self, shift: Any) -> StructuredMatrix:
        """Return K + shift I.

        Parameters
        ----------
        shift : float or array, shape () or (...), real
            One number, or one for each matrix.

        Returns
        -------
        StructuredMatrix
            In the compute dtype.
        """
        with device_of(self.leaves[0]):
            K = self.computed()
            shift = real_number(shift, "shift", K)
            if self.dtype_name == K.dtype_name:  # otherwise they are new already
                K = K.map(preserved)
            return K._like(self.structure.add_identity(K.leaves, shift, self.dimension))

    # ------------------------------------------------------------------------- products

    def matmul(self, other: Any) -> Any:
        """Return K @ other; for `torch.compile`, which cannot trace the operator.

        Parameters
        ----------
        other : StructuredMatrix, or array, shape (..., d) or (..., d, n)
            A matrix of the same structure and dimension, or one or n columns.

        Returns
        -------
        StructuredMatrix or array
            K L of the structure, or K V of the shape of V.

        Raises
        ------
        TypeError
            If V is no floating-point array of the library of K.
        ValueError
            If dimensions or structures differ.
        """
        if not isinstance(other, StructuredMatrix):
            return on_columns(self.structure.matmul, self, other)
        K, L = in_one_dtype(self, other)
        with computing(K.leaves[0]):
            return K._like(self.structure.product(K.leaves, L.leaves, self.dimension))

    __matmul__ = matmul

    def square_matmul(self, V: Array) -> AnyArray:
        """Return K K^H V, the preconditioner of which K is a factor.

        Cost: that of two products, or less: of one for diagonal matrices, for blocks and, with
        n >= d, for dense ones, after K K^H.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, n)

        Returns
        -------
        array, of the shape of V
        """
        return on_columns(self.structure.square_matmul, self, V)

    def square_rmatmul(self, V: Array) -> AnyArray:
        """Return V K K^H, at the cost of `square_matmul`.

        Parameters
        ----------
        V : array, shape (..., n, d)

        Returns
        -------
        array, shape (..., n, d)
        """
        return on_rows(self.structure.square_rmatmul, self, V)

    def rmatmul(self, V: Array) -> AnyArray:
        """Return V K, which is ``V @ K`` where the library of V leaves that to K.

        Parameters
        ----------
        V : array, shape (..., n, d)

        Returns
        -------
        array, shape (..., n, d)
        """
        return on_rows(self.structure.rmatmul, self, V)

    __rmatmul__ = rmatmul

    def project_inner(self, X: Array) -> StructuredMatrix:
        """Return Pi(K^H (X^T conj(X)) K), the curvature seen through K, as Pi(S S^H), S = K^H X^T.

        Cost: that of N columns of K^H @ V, and of `project_samples`.

        Parameters
        ----------
        X : array, shape (..., N, d)
            Rows are samples; there may be none. Not checked for NaN and Inf.

        Returns
        -------
        StructuredMatrix

        Raises
        ------
        TypeError
            If `X` is no floating-point array of the library of K.
        ValueError
            If `X` has another shape.
        """
        require_array(X, "X", ndim=2, blocks=False, empty=True)
        require_rows(X, "X", self, "N")
        dtype = result_name(self.dtype_name, dtype_name(X.dtype))
        if not X.shape[-2]:  # of which FFTs of torch make an error
            return self.astype(dtype).map(namespace(X).zeros_like)
        with computing(self.leaves[0]):
            K = self.astype(dtype)
            return self._like(self.structure.project_inner(K.leaves, astype(X, dtype)))

    def project_gram(self) -> StructuredMatrix:
        """Return Pi(K^H K), at the cost of K @ L or half of it.

        Returns
        -------
        StructuredMatrix
        """
        return self._matrix(self.structure.project_gram)

    def project_congruence(self, S: Array) -> StructuredMatrix:
        """Return Pi(K^H S K); `project_inner` does not need the d x d array.

        Cost: that of 2 d columns of K^H @ V, and two arrays of the size of S.

        Parameters
        ----------
        S : array, shape (..., d, d)
            Hermitian.

        Returns
        -------
        StructuredMatrix

        Raises
        ------
        TypeError
            If `S` is no floating-point array of the library of K.
        ValueError
            If `S` has another shape.
        """
        require_array(S, "S", ndim=2, blocks=False)
        require_like(S, "S", self.leaves[0], "K")
        if tuple(S.shape) != self.shape:
            msg = f"`S` has shape {tuple(S.shape)}; for {self!r} it must be {self.shape}."
            raise ValueError(msg)
        congruent = self.rmatmul(self.H.matmul(S))
        with computing(congruent):
            return self._like(self.structure.project_dense(congruent))

    # ----------------------------------------------------------------------- solves

    def solve(self, V: Array) -> AnyArray:
        """Return K^-1 V, NaN or Inf where K is singular.

        Cost: that of K @ V, and of an inverse of the dense blocks and of Toeplitz matrices.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, n)

        Returns
        -------
        array, of the shape of V
        """
        return on_columns(self.structure.solve, self, V)

    def inverse(self) -> StructuredMatrix:
        """Return K^-1, of the same structure, of NaN or Inf where K is singular.

        Cost: that of one or two products K @ L; of 2 log2(d) convolutions for Toeplitz matrices.

        Returns
        -------
        StructuredMatrix
        """
        return self._matrix(self.structure.inverse)

    def expm(self) -> StructuredMatrix:
        """Return exp(K), of the same structure; NaN where |K|_F is beyond 1 / u.

        Cost: 14 products K @ L and log2 |K|_F squarings; `expm` of dense matrices and blocks.

        Returns
        -------
        StructuredMatrix
        """
        return self._matrix(self.structure.expm)

    def inv_sqrtm(self) -> StructuredMatrix:
        """Return the principal K^(-1/2), of the same structure.

        K must have positive eigenvalues, and Hermitian diagonal blocks, as projections have.
        Cost: eigenvectors of dense matrices and blocks, 3 log2(d) convolutions for Toeplitz
        matrices, otherwise 20 inverses.

        Returns
        -------
        StructuredMatrix
        """
        return self._matrix(self.structure.inv_sqrtm)

    def logabsdet(self) -> AnyArray:
        """Return log |det K|, -inf where K is singular.

        Cost: 2 b^3 / 3 flops for each dense block of size b, and one pass over the diagonal.

        Returns
        -------
        array, shape (...), real
        """
        return self._number(self.structure.logabsdet)

    def trace(self) -> AnyArray:
        """Return the real part of the trace.

        Returns
        -------
        array, shape (...), real
        """
        return self._number(self.structure.trace)

    def frobenius_norm(self) -> AnyArray:
        """Return |K|_F.

        Returns
        -------
        array, shape (...), real
        """
        return self._number(self.structure.frobenius_norm)

    def max_abs(self) -> AnyArray:
        """Return the largest modulus of an entry.

        Returns
        -------
        array, shape (...), real
        """
        K = self.computed()
        with computing(K.leaves[0]):
            return self.structure.max_abs(K.leaves, K.dimension)

    def spectral_bound(self, *, sufficient: Any = None) -> AnyArray:
        """Return a bound on the modulus of all eigenvalues, |D^8|_F^(1/8) of diagonal blocks D.

        Cost: 6 b^2 flops for each row of blocks of size b.

        Parameters
        ----------
        sufficient : float or array, shape () or (...), optional
            A bound that is good enough: then the first one below it may be returned. It saves up to
            three products of dense matrices.

        Returns
        -------
        array, shape (...), real
            For projections, whose diagonal blocks of size b are Hermitian, at most b^(1/16) times
            the largest modulus, unless `sufficient` is reached; exact where b = 1.
        """
        enough = None if sufficient is None else real_number(sufficient, "sufficient", self)
        return self._number(lambda K, d: self.structure.spectral_bound(K, d, enough))

    def coarse_bound(self) -> AnyArray:
        """Return a bound on the modulus of all eigenvalues by one pass, where that is known how.

        Returns
        -------
        array, shape (...), real
            The largest Frobenius norm of a diagonal block, or more; exact for blocks of size 1.
        """
        return self._number(self.structure.coarse_bound)

    def _like(self, leaves: Leaves) -> StructuredMatrix:
        return StructuredMatrix(leaves, self.structure, self.dimension)

    def _matrix(self, kernel: Callable[[Leaves, int], Leaves]) -> StructuredMatrix:
        """Return the matrix that a kernel makes of this one."""
        K = self.computed()
        with computing(K.leaves[0]):
            return K._like(kernel(K.leaves, K.dimension))

    def _number(self, kernel: Callable[[Leaves, int], Array]) -> Array:
        """Return the number for each matrix of the batch that a kernel makes of it."""
        K = self.computed()
        with computing(K.leaves[0]):
            return as_array(kernel(K.leaves, K.dimension))


@part
@dataclasses.dataclass(frozen=True, eq=False)
class Adjoint:
    """The conjugate transpose of a structured matrix, for products with arrays."""

    matrix: StructuredMatrix

    __array_ufunc__ = None

    def matmul(self, V: Array) -> Array:
        """Return K^H V, of the shape of V: (..., d) or (..., d, n)."""
        return on_columns(self.matrix.structure.adjoint_matmul, self.matrix, V)

    __matmul__ = matmul

    def rmatmul(self, V: Array) -> Array:
        """Return V K^H, for V (..., n, d)."""
        return on_rows(self.matrix.structure.adjoint_rmatmul, self.matrix, V)

    __rmatmul__ = rmatmul

    @property
    def H(self) -> StructuredMatrix:
        """The matrix itself."""
        return self.matrix

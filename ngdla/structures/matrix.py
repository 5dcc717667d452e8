"""A matrix of a structure: its parameters, and what can be done with it."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from functools import reduce
from typing import Any

from ngdla._backend.checks import (
    DTYPES,
    require_array,
    require_choice,
    require_columns,
    require_like,
)
from ngdla._backend.dtypes import astype, conjugate, dtype_name, real_name, result_name
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.products import adjoint, preserved
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.scalars import real_values
from ngdla._backend.settings import library_settings
from ngdla._backend.shapes import as_given, expanded, in_common_dtype

from .kernels import Kernels

__all__ = ["Adjoint", "StructuredMatrix", "expanded_to"]


@register_pytree(static=("structure", "dimension"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StructuredMatrix:
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

    leaves: tuple[Array, ...]
    structure: Kernels
    dimension: int

    __array_ufunc__ = None  # so that NumPy leaves `array * K` to this class
    __array_priority__ = 1000.0

    # ------------------------------------------------------------------------- what it is

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading axes: how many matrices there are."""
        first = self.leaves[0]
        return tuple(first.shape[: first.ndim - len(self.structure.shapes(self.dimension)[0])])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense matrix, (..., d, d)."""
        return (*self.batch, self.dimension, self.dimension)

    @property
    def dtype(self) -> Any:
        """Dtype in which the parameters are stored."""
        return self.leaves[0].dtype

    @property
    def dtype_name(self) -> str:
        """Name of the dtype in which the parameters are stored."""
        return dtype_name(self.dtype)

    @property
    def size(self) -> int:
        """Number of stored numbers, of all matrices of the batch."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)

    @property
    def H(self) -> Adjoint:
        """The conjugate transpose, for products ``K.H @ V``."""
        return Adjoint(self)

    def __repr__(self) -> str:
        return f"<{self.structure} of shape {self.shape}, {self.dtype_name}>"

    def to_dense(self) -> Array:
        """Return the matrix itself.

        Returns
        -------
        array, shape (..., d, d)
            In the compute dtype, a copy.
        """
        K = self.computed().map(preserved)
        with library_settings(self._xp):
            return self.structure.to_dense(K.leaves, self.dimension)

    def astype(self, dtype: str) -> StructuredMatrix:
        """Return the same matrix, stored in another dtype.

        Parameters
        ----------
        dtype : str
            Such as "float32" or "bfloat16".

        Returns
        -------
        StructuredMatrix
            `self` where it has that dtype.
        """
        require_choice(dtype, "dtype", DTYPES)
        if self.dtype_name == dtype:
            return self
        return self.map(lambda leaf: astype(leaf, dtype))

    def computed(self) -> StructuredMatrix:
        """Return the same matrix in the dtype in which it is computed with.

        Returns
        -------
        StructuredMatrix
            In float32 where it is stored in half precision.
        """
        return self.astype(result_name(self.dtype_name))

    def map(self, function: Callable[..., Array], *others: StructuredMatrix) -> StructuredMatrix:
        """Return the matrix whose leaves are those of a function of the leaves.

        Parameters
        ----------
        function : callable
            Of one array, or of one from each matrix.
        *others : StructuredMatrix
            Of the same structure and dimension.

        Returns
        -------
        StructuredMatrix
            Of the same structure and dimension.
        """
        leaves = zip(self.leaves, *(other.leaves for other in others))
        return self._like(tuple(function(*group) for group in leaves))

    def where(self, flag: Array, other: StructuredMatrix) -> StructuredMatrix:
        """Return this matrix where a flag of the shape of the batch is set, else the other one.

        Parameters
        ----------
        flag : array, shape (...), bool
            For each matrix of the batch.
        other : StructuredMatrix
            Of the same structure and dimension.

        Returns
        -------
        StructuredMatrix
            Matrix by matrix one of the two, whatever NaN the other holds.
        """

        def chosen(a: Array, b: Array) -> Array:
            return namespace(a).where(expanded_to(flag, a), a, b)

        return self.map(chosen, other)

    # ---------------------------------------------------------------------------- sums

    def __add__(self, other: Any) -> StructuredMatrix:
        if not isinstance(other, StructuredMatrix):
            return NotImplemented
        K, L = self._together(other)
        return K.map(lambda a, b: a + b, L)

    def __sub__(self, other: Any) -> StructuredMatrix:
        return self + (-1.0) * other if isinstance(other, StructuredMatrix) else NotImplemented

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
        K = self.computed()
        factor = K._real(factor, "factor")
        return K.map(lambda leaf: leaf * expanded_to(factor, leaf))

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
        K = self.computed()
        shift = K._real(shift, "shift")
        leaves = tuple(map(preserved, K.leaves))
        return K._like(self.structure.add_identity(leaves, shift, self.dimension))

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
        if isinstance(other, StructuredMatrix):
            return self._product(other)
        return self._on_columns(self.structure.matmul, other)

    __matmul__ = matmul

    def square_matmul(self, V: Array) -> Array:
        """Return K K^H V, the preconditioner of which K is a factor.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, n)
            One or n columns.

        Returns
        -------
        array
            Of the shape of V.

        Notes
        -----
        Cost: that of two products, or less: of one for diagonal matrices, for blocks and, with
        n >= d, for dense ones, after K K^H.
        """
        return self._on_columns(self.structure.square_matmul, V)

    def square_rmatmul(self, V: Array) -> Array:
        """Return V K K^H.

        Parameters
        ----------
        V : array, shape (..., n, d)
            Rows of the length d.

        Returns
        -------
        array, shape (..., n, d)
            The product, at the cost of `square_matmul`.
        """
        return self._on_rows(self.structure.square_rmatmul, V)

    def rmatmul(self, V: Array) -> Array:
        """Return V K, which is ``V @ K`` where the library of V leaves that to K.

        Parameters
        ----------
        V : array, shape (..., n, d)
            Rows of the length d.

        Returns
        -------
        array, shape (..., n, d)
            The product.
        """
        return self._on_rows(self.structure.rmatmul, V)

    __rmatmul__ = rmatmul

    def project_inner(self, X: Array) -> StructuredMatrix:
        """Return the projection of K^H (X^T conj(X)) K, the curvature seen through K.

        Parameters
        ----------
        X : array, shape (..., N, d)
            Rows are samples. Not checked for NaN and Inf.

        Returns
        -------
        StructuredMatrix
            Pi(S S^H) with S = K^H X^T.

        Raises
        ------
        TypeError
            If `X` is no floating-point array of the library of K.
        ValueError
            If `X` has another shape.

        Notes
        -----
        Cost: that of N columns of K^H @ V, and of `project_samples`.
        """
        require_array(X, "X", ndim=2, blocks=False)
        self._require_rows(X, "X", "N")
        with library_settings(self._xp):
            dtype = result_name(self.dtype_name, dtype_name(X.dtype))
            K = self.astype(dtype)
            S = adjoint(self.structure.rmatmul(K.leaves, conjugate(astype(X, dtype))))
            return self._like(self.structure.project_columns(S))

    def project_gram(self) -> StructuredMatrix:
        """Return the projection of K^H K.

        Returns
        -------
        StructuredMatrix
            Pi(K^H K).
        """
        K = self.computed()
        with library_settings(self._xp):
            return K._like(self.structure.project_gram(K.leaves, self.dimension))

    def project_congruence(self, S: Array) -> StructuredMatrix:
        """Return the projection of K^H S K, for a curvature that is known as a matrix.

        Parameters
        ----------
        S : array, shape (..., d, d)
            Hermitian.

        Returns
        -------
        StructuredMatrix
            Pi(K^H S K). `project_inner` does not need the d x d array.

        Raises
        ------
        TypeError
            If `S` is no floating-point array of the library of K.
        ValueError
            If `S` has another shape.

        Notes
        -----
        Cost: that of 2 d columns of K^H @ V, and two arrays of the size of S.
        """
        require_array(S, "S", ndim=2, blocks=False)
        require_like(S, "S", self.leaves[0], "K")
        if tuple(S.shape) != self.shape:
            msg = f"`S` has shape {tuple(S.shape)}; for {self!r} it must be {self.shape}."
            raise ValueError(msg)
        half = self.H.matmul(S)
        with library_settings(self._xp):
            return self._like(self.structure.project_dense(self.rmatmul(half)))

    # ----------------------------------------------------------------------- solves

    def solve(self, V: Array) -> Array:
        """Return K^-1 V.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, n)
            One or n right-hand sides.

        Returns
        -------
        array
            Of the shape of V; NaN or Inf where K is singular.

        Notes
        -----
        Cost: that of K @ V, and of an inverse of the dense blocks and of Toeplitz matrices.
        """
        return self._on_columns(self.structure.solve, V)

    def inverse(self) -> StructuredMatrix:
        """Return K^-1, of the same structure.

        Returns
        -------
        StructuredMatrix
            Of NaN or Inf where K is singular.

        Notes
        -----
        Cost: that of one or two products K @ L; of 2 log2(d) convolutions for Toeplitz matrices.
        """
        K = self.computed()
        with library_settings(self._xp):
            return K._like(self.structure.inverse(K.leaves, self.dimension))

    def expm(self) -> StructuredMatrix:
        """Return exp(K), of the same structure.

        Returns
        -------
        StructuredMatrix
            For |K|_F up to 2^23.

        Notes
        -----
        Cost: 14 products K @ L and log2 |K|_F squarings; `expm` of dense matrices and blocks.
        """
        with library_settings(self._xp):
            K = self.computed()
            return K._like(self.structure.expm(K.leaves, self.dimension))

    def inv_sqrtm(self) -> StructuredMatrix:
        """Return K^(-1/2), of the same structure.

        Returns
        -------
        StructuredMatrix
            The principal one. K must have positive eigenvalues, and Hermitian diagonal blocks, as
            projections have.

        Notes
        -----
        Cost: eigenvectors of dense matrices and blocks, 3 log2(d) convolutions for Toeplitz
        matrices, otherwise 20 inverses.
        """
        with library_settings(self._xp):
            K = self.computed()
            return K._like(self.structure.inv_sqrtm(K.leaves, self.dimension))

    # ----------------------------------------------------------------------- numbers

    def logabsdet(self) -> Array:
        """Return log |det K|.

        Returns
        -------
        array, shape (...), real
            -inf where K is singular.

        Notes
        -----
        Cost: 2 b^3 / 3 flops for each dense block of size b, and one pass over the diagonal.
        """
        return self._number(self.structure.logabsdet)

    def trace(self) -> Array:
        """Return the real part of the trace.

        Returns
        -------
        array, shape (...), real
            Of each matrix of the batch.
        """
        return self._number(self.structure.trace)

    def frobenius_norm(self) -> Array:
        """Return |K|_F.

        Returns
        -------
        array, shape (...), real
            Of each matrix of the batch.
        """
        return self._number(self.structure.frobenius_norm)

    def max_abs(self) -> Array:
        """Return the largest modulus of an entry.

        Returns
        -------
        array, shape (...), real
            Of each matrix of the batch.
        """
        xp, shapes = self._xp, self.structure.shapes(self.dimension)
        largest = [
            as_array(xp.max(xp.abs(leaf), axis=tuple(range(-len(shape), 0))))
            for leaf, shape in zip(self.computed().leaves, shapes)
            if all(shape)
        ]
        return reduce(xp.maximum, largest)

    def spectral_bound(self, *, sufficient: Any = None) -> Array:
        """Return a bound on the modulus of all eigenvalues.

        Parameters
        ----------
        sufficient : float or array, shape () or (...), optional
            A bound that is good enough: then the first one below it may be returned. It saves three
            products of dense matrices.

        Returns
        -------
        array, shape (...), real
            For projections, whose diagonal blocks of size b are Hermitian, at most b^(1/16) times
            the largest modulus, unless `sufficient` is reached; exact where b = 1.

        Notes
        -----
        The Frobenius norm of the 8th power of the diagonal blocks. Cost: 6 b^2 flops for each row.
        """
        K = self.computed()
        if sufficient is not None:
            sufficient = K._real(sufficient, "sufficient")
        with library_settings(self._xp):
            return as_array(self.structure.spectral_bound(K.leaves, self.dimension, sufficient))

    # ----------------------------------------------------------------------- helpers

    @property
    def _xp(self) -> Any:
        return namespace(self.leaves[0])

    def _like(self, leaves: tuple[Array, ...]) -> StructuredMatrix:
        return StructuredMatrix(leaves, self.structure, self.dimension)

    def _number(self, function: Callable[..., Array]) -> Array:
        with library_settings(self._xp):
            return as_array(function(self.computed().leaves, self.dimension))

    def _real(self, value: Any, name: str) -> Any:
        """Return a real number as a float, or as an array of the shape of the batch."""
        if isinstance(value, numbers.Real):
            return float(value)
        dtype = real_name(result_name(self.dtype_name))
        values = real_values(value, name, self.leaves[0], "K", dtype, self.batch)
        return astype(values, dtype)

    def _require_rows(self, X: Array, name: str, count: str) -> None:
        require_like(X, name, self.leaves[0], "K")
        if (*X.shape[:-2], X.shape[-1]) != (*self.batch, self.dimension):
            expected = ", ".join(map(str, (*self.batch, count, self.dimension)))
            msg = f"`{name}` has shape {tuple(X.shape)}; for {self!r} it must be ({expected})."
            raise ValueError(msg)

    def _require_alike(self, other: StructuredMatrix) -> None:
        if (self.structure, self.shape) != (other.structure, other.shape):
            msg = (
                f"`K` is {self!r} and `L` is {other!r}; both must be of one structure and one "
                f"shape. Use to_dense() to mix structures."
            )
            raise ValueError(msg)
        require_like(other.leaves[0], "L", self.leaves[0], "K")

    def _together(self, other: StructuredMatrix) -> tuple[StructuredMatrix, StructuredMatrix]:
        """Return both matrices in the dtype that they promote to."""
        self._require_alike(other)
        dtype = result_name(self.dtype_name, other.dtype_name)
        return self.astype(dtype), other.astype(dtype)

    def _product(self, other: StructuredMatrix) -> StructuredMatrix:
        K, L = self._together(other)
        with library_settings(self._xp):
            return K._like(self.structure.product(K.leaves, L.leaves, self.dimension))

    def _on_rows(self, function: Callable[..., Array], V: Array) -> Array:
        """Return a function of the leaves and of rows (..., n, d)."""
        require_array(V, "V", ndim=2, blocks=False)
        self._require_rows(V, "V", "n")
        with library_settings(self._xp):
            return in_common_dtype(lambda *a: function(a[:-1], a[-1]), *self.leaves, V)

    def _on_columns(self, function: Callable[..., Array], V: Array) -> Array:
        """Return a function of the leaves and of columns, in the form in which V came."""
        expected = (*self.batch, self.dimension)
        columns, vector = require_columns(V, "V", expected, self.leaves[0], "K", self.shape)
        with library_settings(self._xp):
            X = in_common_dtype(lambda *a: function(a[:-1], a[-1]), *self.leaves, columns)
        return as_given(X, vector)


@part
@dataclasses.dataclass(frozen=True, eq=False)
class Adjoint:
    """The conjugate transpose of a structured matrix, for products with arrays.

    Attributes
    ----------
    matrix : StructuredMatrix
        K.
    """

    matrix: StructuredMatrix

    __array_ufunc__ = None

    def matmul(self, V: Array) -> Array:
        """Return K^H V.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, n)
            One or n columns.

        Returns
        -------
        array
            Of the shape of V.
        """
        return self.matrix._on_columns(self.matrix.structure.adjoint_matmul, V)

    __matmul__ = matmul

    def rmatmul(self, V: Array) -> Array:
        """Return V K^H.

        Parameters
        ----------
        V : array, shape (..., n, d)
            Rows of the length d.

        Returns
        -------
        array, shape (..., n, d)
            The product.
        """
        return self.matrix._on_rows(self.matrix.structure.adjoint_rmatmul, V)

    __rmatmul__ = rmatmul

    @property
    def H(self) -> StructuredMatrix:
        """The matrix itself."""
        return self.matrix


def expanded_to(value: Any, leaf: Array) -> Any:
    """Return a number, or an array of the shape of the batch, to be combined with a leaf."""
    return value if isinstance(value, float) else expanded(value, leaf.ndim - value.ndim)

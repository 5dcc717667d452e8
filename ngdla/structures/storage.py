"""How a structured matrix is kept: the arrays of its parameters, its dimension and structure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

from ngdla._backend.checks import DTYPES, require_choice, require_dense, require_like
from ngdla._backend.dtypes import astype, dtype_name, is_complex, result_name, where
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array
from ngdla._backend.settings import device_of
from ngdla._backend.shapes import expanded

from .kernels import Kernels

__all__ = ["StoredMatrix", "expanded_to"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StoredMatrix:
    """The parameters of a matrix, stored in any dtype."""

    leaves: tuple[Array, ...]
    structure: Kernels
    dimension: int

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

    def __repr__(self) -> str:
        return f"<{self.structure} of shape {self.shape}, {self.dtype_name}>"

    def astype(self, dtype: str) -> Self:
        """Return the same matrix, stored in another dtype.

        Parameters
        ----------
        dtype : str
            Such as "float32" or "bfloat16".

        Returns
        -------
        StructuredMatrix
            `self` where it has that dtype.

        Raises
        ------
        ValueError
            If there is no such dtype, or a complex matrix would lose its imaginary part.
        """
        require_choice(dtype, "dtype", DTYPES)
        if self.dtype_name == dtype:
            return self
        if is_complex(self.leaves[0]) and not dtype.startswith("complex"):
            msg = (
                f"`dtype` is {dtype!r}, but the matrix is {self.dtype_name}: its imaginary part "
                f"would be lost; it must be a complex dtype."
            )
            raise ValueError(msg)
        with device_of(self.leaves[0]):
            return self.map(lambda leaf: astype(leaf, dtype))

    def computed(self) -> Self:
        """Return the same matrix in the dtype in which it is computed with.

        Returns
        -------
        StructuredMatrix
            In float32 where it is stored in half precision.
        """
        name = self.dtype_name
        computed = result_name(name)
        return self if computed == name else self.astype(computed)

    def map(self, function: Callable[..., Array], *others: Self) -> Self:
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
        """
        leaves = zip(self.leaves, *(other.leaves for other in others))
        made = tuple(function(*group) for group in leaves)
        return type(self)(made, self.structure, self.dimension)

    def where(self, flag: Array, other: Self) -> Self:
        """Return this matrix where a flag is set, else the other one, whatever NaN that holds.

        Parameters
        ----------
        flag : array, shape (...), bool
            For each matrix of the batch.
        other : StructuredMatrix
            Of the same structure and dimension.

        Returns
        -------
        StructuredMatrix

        Raises
        ------
        TypeError, ValueError
            If `flag` is no such array, or `other` no such matrix.
        """
        _require_alternatives(self, flag, other)

        def chosen(a: Array, b: Array) -> Array:
            return where(expanded_to(flag, a), a, b)

        return self.map(chosen, other)


def _require_alternatives(K: StoredMatrix, flag: Any, other: Any) -> None:
    """Raise unless a flag can choose between K and the other matrix."""
    require_dense(flag, "flag", blocks=False)
    require_like(flag, "flag", K.leaves[0], "K")
    if dtype_name(flag.dtype) != "bool":
        msg = f"`flag` has dtype {dtype_name(flag.dtype)}; it must be bool."
        raise TypeError(msg)
    if tuple(flag.shape) not in ((), K.batch):
        msg = f"`flag` has shape {tuple(flag.shape)}; it must be {K.batch} or 0-d."
        raise ValueError(msg)
    if not isinstance(other, StoredMatrix):
        msg = f"`other` is {shown(other)}; it must be a matrix like {K!r}."
        raise TypeError(msg)
    if (other.structure, other.dimension) != (K.structure, K.dimension):
        msg = f"`other` is {other!r}; it must be of the structure and dimension of {K!r}."
        raise ValueError(msg)


def expanded_to(value: Any, leaf: Array) -> Any:
    """Return a number, or an array of the shape of the batch, to be combined with a leaf."""
    return value if isinstance(value, float) else expanded(value, leaf.ndim - value.ndim)

"""The conjugate transpose of a structured matrix."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ngdla._backend.namespace import Array

if TYPE_CHECKING:
    from .matrix import StructuredMatrix

__all__ = ["Adjoint"]


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
        return self.matrix._on_columns(self.matrix.structure._adjoint_matmul, V)

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
        return self.matrix._on_rows(self.matrix.structure._right_adjoint_matmul, V)

    __rmatmul__ = rmatmul

    @property
    def H(self) -> StructuredMatrix:
        """The matrix itself."""
        return self.matrix

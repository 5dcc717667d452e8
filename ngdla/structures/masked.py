"""Matrices of any closed pattern of zeros, stored densely."""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import Any

from ngdla._backend import general
from ngdla._backend.creation import host_array, identity_like
from ngdla._backend.gram import gram
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, adjoint_product, hermitian_part, preserved
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.matrix_functions.hermitian import inverse_square_root

from .block_diagonal import bound_of_blocks, coarse_bound_of_blocks
from .dense import StoredDensely, inverse_cholesky
from .indices import inverse_permutation, taken
from .kernels import Leaves, real_constant
from .preorder import Preorder

__all__ = ["Masked"]


class Masked(StoredDensely):
    """Matrices of a pattern of zeros that products keep. Leaves: (K,), of shape (..., d, d).

    The general case of all structures here but Toeplitz, and their reference in tests: it saves
    neither memory nor flops. Projections keep entries of pairs that are related both ways, double
    those related one way, and drop the others.

    Parameters
    ----------
    mask : array or nested sequences, shape (d, d), bool
        True where an entry may differ from zero. It must be reflexive and transitive: hold the
        diagonal, and (i, j) wherever it holds (i, m) and (m, j). Members have the dimension d.

    Raises
    ------
    ValueError
        If the mask is not square or not closed; the first pair that is missing is named.
    """

    def __init__(self, mask: Any) -> None:
        preorder = mask if isinstance(mask, Preorder) else Preorder.of(mask)
        self.preorder = preorder
        self._is_total = preorder.is_total
        self._pattern = host_array(preorder.pattern, "bool")
        self._weights = host_array(preorder.weights, "float64")
        # flat indices of the entries of all groups of one size, group by group
        d = preorder.size
        by_size: dict[int, list[int]] = defaultdict(list)
        for group in preorder.groups:
            by_size[len(group)] += [i * d + j for i in group for j in group]
        self._groups_by_size = {size: host_array(ij, "int32") for size, ij in by_size.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masked) and self.preorder == other.preorder

    def __reduce__(self) -> tuple[Any, ...]:
        return Masked, (self.preorder,)  # a state loads without arrays of NumPy in its pickle

    def __hash__(self) -> int:
        return hash(self.preorder)

    def __repr__(self) -> str:
        rows, d = self.preorder.rows, self.preorder.size
        count, checksum = sum(row.bit_count() for row in rows), zlib.crc32(repr(rows).encode())
        return f"Masked({count} entries of {d} x {d}, checksum {checksum:08x})"

    def shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        if d != self.preorder.size:
            msg = f"`mask` is for dimension {self.preorder.size}; the matrix must have it, not {d}."
            raise ValueError(msg)
        return ((d, d),)

    def embed(self, K: Array) -> Leaves:
        self.shapes(K.shape[-1])
        return (real_constant(self._pattern, K) * K,)

    def project_dense(self, N: Array) -> Leaves:
        self.shapes(N.shape[-1])
        return (real_constant(self._weights, N) * hermitian_part(N),)

    def project_columns(self, S: Array) -> Leaves:
        return self.project_dense(gram(S))

    def project_gram(self, K: Leaves, d: int) -> Leaves:
        return self.project_dense(gram(adjoint(K[0])))

    def inverse(self, K: Leaves, d: int) -> Leaves:
        return (real_constant(self._pattern, K[0]) * general.inverse(K[0]),)

    def spectral_bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        """Return the largest bound of the blocks of pairs related both ways: the others are 0."""
        return bound_of_blocks(self._diagonal_blocks(K[0]), sufficient)

    def coarse_bound(self, K: Leaves, d: int) -> Array:
        return coarse_bound_of_blocks(self._diagonal_blocks(K[0]))

    def _diagonal_blocks(self, K: Array) -> Leaves:
        """Return the blocks of pairs related both ways, those of one size in one array."""
        xp, flat = namespace(K), _flat(K)
        return tuple(
            xp.reshape(taken(flat, groups, -1), (*flat.shape[:-1], -1, size, size))
            for size, groups in self._groups_by_size.items()
        )

    # ------------------------------------------------------------------------ optimum

    def is_complete(self, d: int) -> bool:
        return self._is_total

    def is_local(self, d: int) -> bool:
        return self._is_total

    def local_optimum(self, N: Leaves, d: int) -> Leaves:
        return self.optimum(hermitian_part(N[0]))  # herm Pi(S) = S, as all pairs are related

    def optimum(self, S: Array) -> Leaves:
        """Return it column group by column group, or of a total relation all at once.

        With s the rows in which the columns J may differ from zero and E_J the columns of the
        identity, K_sJ = S_ss^-1 E_J (E_J^T S_ss^-1 E_J)^(-1/2).
        """
        if self._is_total:
            order = self.preorder.order
            K = inverse_cholesky(_selected(S, order, order))  # in that order, an upper triangle
            back = inverse_permutation(order)
            return (_selected(K, back, back),)
        return (self._by_columns(S),)

    def _by_columns(self, S: Array) -> Array:
        xp, d = namespace(S), self.preorder.size
        one = xp.zeros_like(S) + identity_like(S, d)
        columns: list[Any] = [None] * d
        for group in self.preorder.groups:
            support = self.preorder.support(group[0])
            L, _ = cholesky(preserved(_selected(S, support, support)))
            E = _selected(one, support, group)
            X = cho_solve(L, E)  # S_ss^-1 E
            X = xp.matmul(X, inverse_square_root(adjoint_product(E, X)))  # K_sJ
            full = xp.matmul(_selected(one, range(d), support), X)
            for i, j in enumerate(group):
                columns[j] = full[..., :, i]
        return xp.stack(columns, axis=-1)


def _flat(A: Array) -> Array:
    return namespace(A).reshape(A, (*A.shape[:-2], A.shape[-2] * A.shape[-1]))


def _selected(A: Array, rows: Any, columns: Any) -> Array:
    return taken(taken(A, rows, -2), columns, -1)

"""What a structure is: a pattern without a size, and the operations on its parameters."""

from __future__ import annotations

import abc
import math
from typing import Any

from ngdla._backend.checks import (
    DTYPES,
    ValueChecks,
    all_finite,
    require_array,
    require_choice,
    require_count,
    square_matrix,
)
from ngdla._backend.chunks import unchunked
from ngdla._backend.creation import zeros
from ngdla._backend.namespace import (
    Array,
    as_array,
    astype,
    dtype_name,
    is_complex,
    namespace,
    real_part,
    result_name,
)
from ngdla._backend.products import adjoint, preserved
from ngdla._backend.settings import computing
from ngdla._backend.sums import add_multiple

from .functions import expm_by_squaring, inv_sqrtm_by_inverses
from .matrix import StructuredMatrix

__all__ = ["Leaves", "Structure", "hermitian_part", "realified"]

Leaves = tuple[Array, ...]


class Structure(abc.ABC):
    """A set of square matrices that is closed under sums, products and inverses.

    A structure is a value without arrays: it can be compared, hashed and passed to `jax.jit` as a
    static argument. One structure has members of every dimension.

    Notes
    -----
    Every matrix N is projected on the member M whose Hermitian part is closest, in the Frobenius
    norm, to the Hermitian part of N among those of all members that are Hermitian in their
    diagonal blocks: entries of these blocks are kept, entries that stand on one side of the
    diagonal are doubled, and the others dropped. The trace is kept.

    References
    ----------
    W. Lin, F. Dangel, R. Eschenhagen, K. Neklyudov, A. Kristiadi, R. E. Turner, A. Makhzani,
    "Structured inverse-free natural gradient descent", arXiv:2312.05705, section 3.2.
    """

    # ------------------------------------------------------------------- making matrices

    def zeros(
        self, d: int, *, like: Array, dtype: str | None = None, batch: tuple[int, ...] = ()
    ) -> StructuredMatrix:
        """Return the zero matrix.

        Parameters
        ----------
        d : int
            Its dimension, 1 or more.
        like : array
            Gives the library and the device.
        dtype : str, optional
            Such as "float32" or "bfloat16"; that of `like` by default.
        batch : tuple of int
            Leading axes: that many matrices.

        Returns
        -------
        StructuredMatrix
            Of d x d zeros.
        """
        require_count(d, "d", least=1)
        require_array(like, "like", blocks=False)
        name = dtype_name(like.dtype) if dtype is None else dtype
        require_choice(name, "dtype", DTYPES)
        leaves = tuple(zeros((*batch, *shape), like, name) for shape in self._shapes(int(d)))
        return StructuredMatrix(leaves, self, int(d))

    def identity(
        self, d: int, *, like: Array, dtype: str | None = None, batch: tuple[int, ...] = ()
    ) -> StructuredMatrix:
        """Return the identity.

        Parameters
        ----------
        d : int
            Its dimension, 1 or more.
        like : array
            Gives the library and the device.
        dtype : str, optional
            Such as "float32" or "bfloat16"; that of `like` by default.
        batch : tuple of int
            Leading axes: that many matrices.

        Returns
        -------
        StructuredMatrix
            Of ones on the diagonal.
        """
        zeros = self.zeros(d, like=like, dtype=dtype, batch=batch)
        return zeros.add_identity(1.0).astype(zeros.dtype_name)

    def project(self, N: Array, *, check: bool = True) -> StructuredMatrix:
        """Return the member that stands for the Hermitian part of a dense matrix.

        Parameters
        ----------
        N : array, shape (..., d, d), real or complex
            Replaced by (N + N^H) / 2.
        check : bool, default True
            Refuse NaN and Inf in the entries that are used: reads one flag on the host.

        Returns
        -------
        StructuredMatrix
            Pi(N), in the dtype of N, half precision in float32.

        Raises
        ------
        TypeError
            If `N` is no floating-point array.
        ValueError
            If `N` is not square, or NaN or Inf is found.

        Notes
        -----
        Cost: one pass over the entries of the pattern; over all diagonals for Toeplitz.
        """
        N = square_matrix(N, "N")
        checks = ValueChecks(enabled=check)
        with computing(namespace(N)):
            M = StructuredMatrix(_own(self._project(N)), self, N.shape[-1])
            checks.require(lambda: all_finite(*M.leaves), lambda: _not_finite("N"))
            checks.raise_on_failure()
        return M

    def project_samples(self, X: Array, *, check: bool = True) -> StructuredMatrix:
        """Return the projection of X^T conj(X), which is not formed.

        Parameters
        ----------
        X : array, shape (..., N, d), real or complex
            Rows are samples. The caller scales them.
        check : bool, default True
            Refuse NaN and Inf: reads one flag on the host.

        Returns
        -------
        StructuredMatrix
            Pi(X^T conj(X)).

        Raises
        ------
        TypeError
            If `X` is no floating-point array.
        ValueError
            If NaN or Inf is found.

        Notes
        -----
        Cost: 2 N flops for each stored number, or 2 N transforms of length 2 d for Toeplitz.
        """
        require_array(X, "X", ndim=2, blocks=False)
        xp = namespace(X)
        checks = ValueChecks(enabled=check)
        with computing(xp):
            S = xp.matrix_transpose(astype(X, result_name(dtype_name(X.dtype))))
            M = StructuredMatrix(self._project_columns(S), self, X.shape[-1])
            checks.require(lambda: all_finite(*M.leaves), lambda: _not_finite("X"))
            checks.raise_on_failure()
        return M

    def from_dense(self, K: Array, *, check: bool = True) -> StructuredMatrix:
        """Return a dense member of the structure as what it is.

        Parameters
        ----------
        K : array, shape (..., d, d), real or complex
            A matrix of this pattern, not Hermitian in general.
        check : bool, default True
            Refuse NaN, Inf and what is no member: reads one flag on the host, and one pass over K.

        Returns
        -------
        StructuredMatrix
            Whose `to_dense` is `K`.

        Raises
        ------
        TypeError
            If `K` is no floating-point array.
        ValueError
            If `K` is not square, is no member of the structure, or contains NaN or Inf.
        """
        K = square_matrix(K, "K")
        checks = ValueChecks(enabled=check)
        with computing(namespace(K)):
            M = StructuredMatrix(_own(self._embed(K)), self, K.shape[-1])
            checks.require(lambda: all_finite(*M.leaves), lambda: _not_finite("K"))
            checks.require(lambda: M.to_dense() == K, lambda: _not_a_member(K, M.to_dense(), self))
            checks.raise_on_failure()
        return M

    # -------------------------------------------- what each structure says of itself
    # Leaves are in one dtype, float32 or wider, X and S have it too. d is that of the matrix.

    @abc.abstractmethod
    def _shapes(self, d: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the stored arrays of a member of dimension d, without batch axes."""

    @abc.abstractmethod
    def _embed(self, K: Array) -> Leaves:
        """Return the parameters of a dense member."""

    @abc.abstractmethod
    def _project(self, N: Array) -> Leaves:
        """Return Pi(N) of a dense matrix."""

    @abc.abstractmethod
    def _project_columns(self, S: Array) -> Leaves:
        """Return Pi(S S^H) for S (..., d, n)."""

    @abc.abstractmethod
    def _project_gram(self, K: Leaves, d: int) -> Leaves:
        """Return Pi(K^H K)."""

    @abc.abstractmethod
    def _dense(self, K: Leaves, d: int) -> Array:
        """Return the matrix itself."""

    @abc.abstractmethod
    def _plus_identity(self, K: Leaves, shift: Array, d: int) -> Leaves:
        """Return K + shift I, for a number or a real array of the batch. K is used up."""

    @abc.abstractmethod
    def _matmul(self, K: Leaves, X: Array) -> Array:
        """Return K X, for X (..., d, n)."""

    @abc.abstractmethod
    def _adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        """Return K^H X, for X (..., d, n)."""

    def _square_matmul(self, K: Leaves, X: Array) -> Array:
        """Return K K^H X, for X (..., d, n)."""
        return self._matmul(K, self._adjoint_matmul(K, X))

    def _right_square_matmul(self, K: Leaves, X: Array) -> Array:
        """Return X K K^H, for X (..., n, d)."""
        return adjoint(self._square_matmul(K, adjoint(X)))

    def _plus_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + K X. `total` is used up."""
        return add_multiple(total, 1.0, self._matmul(K, X))

    def _plus_adjoint_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + K^H X. `total` is used up."""
        return add_multiple(total, 1.0, self._adjoint_matmul(K, X))

    def _right_matmul(self, K: Leaves, X: Array) -> Array:
        """Return X K, for X (..., n, d)."""
        return adjoint(self._adjoint_matmul(K, adjoint(X)))

    def _right_adjoint_matmul(self, K: Leaves, X: Array) -> Array:
        """Return X K^H, for X (..., n, d)."""
        return adjoint(self._matmul(K, adjoint(X)))

    def _plus_right_matmul(self, total: Array, K: Leaves, X: Array) -> Array:
        """Return total + X K. `total` is used up."""
        return add_multiple(total, 1.0, self._right_matmul(K, X))

    @abc.abstractmethod
    def _product(self, K: Leaves, L: Leaves, d: int) -> Leaves:
        """Return K L."""

    @abc.abstractmethod
    def _solve(self, K: Leaves, V: Array) -> Array:
        """Return K^-1 V, for V (..., d, n)."""

    @abc.abstractmethod
    def _inverse(self, K: Leaves, d: int) -> Leaves:
        """Return K^-1."""

    @abc.abstractmethod
    def _logabsdet(self, K: Leaves, d: int) -> Array:
        """Return log |det K|, (...)."""

    @abc.abstractmethod
    def _trace(self, K: Leaves, d: int) -> Array:
        """Return the real part of the trace, (...)."""

    @abc.abstractmethod
    def _bound(self, K: Leaves, d: int, sufficient: Any) -> Array:
        """Return a bound on the modulus of all eigenvalues, (...), not sharp if `sufficient`."""

    def _is_complete(self, d: int) -> bool:
        """Tell whether every Hermitian positive definite matrix is K K^H of a member K."""
        return d <= 1

    def _is_local(self, d: int) -> bool:
        """Tell whether the optimum below depends on Pi(S) alone; then `_local_optimum` gives it."""
        return True

    def _optimum(self, S: Array) -> Leaves:
        """Return the member K that minimises tr(K^H S K) - 2 log |det K| for a dense S."""
        return self._local_optimum(self._project(S), S.shape[-1])

    def _local_optimum(self, N: Leaves, d: int) -> Leaves:
        """Return the optimum from N = Pi(S)."""
        raise NotImplementedError

    def _norm(self, K: Leaves, d: int) -> Array:
        """Return |K|_F, (...)."""
        shapes = self._shapes(d)
        if len(K) == 1:
            axes = tuple(range(-len(shapes[0]), 0))
            return as_array(namespace(K[0]).linalg.vector_norm(K[0], axis=axes))
        return as_array(namespace(K[0]).linalg.vector_norm(_in_a_row(K, shapes), axis=-1))

    def _expm(self, K: StructuredMatrix) -> StructuredMatrix:
        """Return exp(K)."""
        return expm_by_squaring(K)

    def _inv_sqrtm(self, K: StructuredMatrix) -> StructuredMatrix:
        """Return K^(-1/2), of a K with positive eigenvalues and Hermitian diagonal blocks."""
        return inv_sqrtm_by_inverses(K)


def _in_a_row(leaves: Leaves, shapes: tuple[tuple[int, ...], ...]) -> Array:
    """Return all parameters in one array, (..., n)."""
    xp = namespace(leaves[0])
    rows = [
        xp.reshape(unchunked(leaf), (*leaf.shape[: leaf.ndim - len(shape)], math.prod(shape)))
        for leaf, shape in zip(leaves, shapes)
        if all(shape)
    ]
    return rows[0] if len(rows) == 1 else xp.concat(rows, axis=-1)


def _own(leaves: Leaves) -> Leaves:
    """Return leaves that share no memory with what a caller may write into."""
    return tuple(map(preserved, leaves))


def hermitian_part(N: Array) -> Array:
    """Return (N + N^H) / 2."""
    return 0.5 * (N + adjoint(N))


def realified(x: Array) -> Array:
    """Return Re x in the dtype of x."""
    return real_part(x) + 0 * x if is_complex(x) else x


def _not_finite(name: str) -> Exception:
    return ValueError(f"`{name}` contains NaN or Inf; pass finite values.")


def _not_a_member(K: Array, member: Array, structure: Structure) -> Exception:
    xp = namespace(K)
    off = xp.abs(K - member)
    largest = int(xp.argmax(xp.reshape(off, (-1,))))
    d = K.shape[-1]
    i, j = largest // d % d, largest % d
    msg = (
        f"`K` is no member of {structure}: entry ({i}, {j}) differs by {float(xp.max(off)):.2e} "
        f"from what the structure can hold. Pass a member, or use `project` on a Hermitian matrix."
    )
    return ValueError(msg)

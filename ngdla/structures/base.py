"""What a structure is: a pattern without a size, which makes matrices."""

from __future__ import annotations

from ngdla._backend.calls import opened
from ngdla._backend.checks import (
    DTYPES,
    require_array,
    require_batch,
    require_choice,
    require_count,
    square_matrix,
)
from ngdla._backend.creation import zeros
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import preserved
from ngdla._backend.settings import device_of

from .functions import expm_by_squaring, inv_sqrtm_by_inverses
from .kernels import Kernels, Leaves
from .matrix import StructuredMatrix

__all__ = ["Structure"]


class Structure(Kernels):
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
        require_batch(batch)
        require_array(like, "like", blocks=False)
        name = dtype_name(like.dtype) if dtype is None else dtype
        require_choice(name, "dtype", DTYPES)
        leaves = tuple(zeros((*batch, *shape), like, name) for shape in self.shapes(int(d)))
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
        with device_of(like):
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
        self.shapes(N.shape[-1])  # raises where the structure has no member of that dimension
        with opened(N, check) as checks:
            M = StructuredMatrix(self.project_dense(N), self, N.shape[-1]).map(preserved)
            checks.finite("N", *M.leaves, batch=N.ndim - 2)
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
        self.shapes(X.shape[-1])
        with opened(X, check) as checks:
            S = namespace(X).matrix_transpose(astype(X, result_name(dtype_name(X.dtype))))
            M = StructuredMatrix(self.project_columns(S), self, X.shape[-1])
            checks.finite("X", *M.leaves, batch=X.ndim - 2)
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
        self.shapes(K.shape[-1])
        with opened(K, check) as checks:
            M = StructuredMatrix(self.embed(K), self, K.shape[-1]).map(preserved)
            checks.finite("K", *M.leaves, batch=K.ndim - 2)
            checks.require(lambda: M.to_dense() == K, lambda: _not_a_member(K, M.to_dense(), self))
        return M

    # ------------------------------------------------------- functions, if no other way is known

    def expm(self, K: Leaves, d: int) -> Leaves:
        """Return exp(K), by products."""
        return expm_by_squaring(StructuredMatrix(K, self, d)).leaves

    def inv_sqrtm(self, K: Leaves, d: int) -> Leaves:
        """Return K^(-1/2), by inverses."""
        return inv_sqrtm_by_inverses(StructuredMatrix(K, self, d)).leaves


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

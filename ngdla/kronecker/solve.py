"""Kronecker factors: their exponential averages, and damped solves with their products (KFAC)."""

from __future__ import annotations

from typing import Any

from ngdla._backend.checks import (
    ValueChecks,
    all_finite,
    require_array,
    require_choice,
    require_like,
)
from ngdla._backend.dtypes import astype, dtype_name, result_name
from ngdla._backend.gram import weighted_sum_with_gram
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.products import add_to_diagonal, adjoint, preserved, rmatvec, trace
from ngdla._backend.scalars import fraction_values
from ngdla._backend.settings import library_settings
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.sums import add_multiple
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.low_rank.low_rank_eigh import LowRankEigh, checked_damping
from ngdla.matrix_functions.positive import not_finite, require_hermitian, require_positive_values

from .factor import eigenbasis, kronecker_factor

__all__ = ["ema", "kronecker_solve"]

COUPLINGS = ("joint", "factored")


def ema(A: Array, X: Array, *, decay: Any, check: bool = True) -> Array:
    """Return the average decay A + (1 - decay) X^T conj(X), as of a Kronecker factor.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        The average so far, Hermitian; zeros to start with, where the caller divides by
        1 - decay^t afterwards.
    X : array, shape (..., N, d)
        Rows are samples. The caller scales them, for example by 1 / sqrt(N).
    decay : float or array, shape () or (...)
        The weight of the past, in [0, 1).
    check : bool, default True
        Refuse NaN and Inf, read off the diagonal, and decays in arrays that are out of range:
        reads one flag on the host.

    Returns
    -------
    array, shape (..., d, d)
        A new array, Hermitian to rounding, of the dtype that `A` and `X` promote to.

    Raises
    ------
    TypeError
        If `A` and `X` are not arrays of one library of a floating-point dtype.
    ValueError
        If shapes do not fit, `decay` is outside of [0, 1), or NaN or Inf is found.

    Notes
    -----
    Cost: N d^2 flops by syrk and herk in NumPy, by blocks of a triangle in torch, 2 N d^2
    elsewhere, and one pass over `A`; d^2 numbers for the result. In NumPy, from d = 256, only the
    upper triangle of `A` is read.

    References
    ----------
    J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML 2015, arXiv:1503.05671, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2.0], [0.0, 1.0]])
    >>> ema(np.eye(2), X, decay=0.75)
    array([[1. , 0.5],
           [0.5, 2. ]])
    """
    require_array(A, "A", ndim=2, blocks=False)
    require_array(X, "X", ndim=2, blocks=False)
    require_like(X, "X", A, "A")
    if tuple(A.shape) != (*X.shape[:-2], X.shape[-1], X.shape[-1]):
        msg = (
            f"`A` has shape {tuple(A.shape)} and `X` {tuple(X.shape)}; with rows of `X` as "
            f"samples they must be (..., d, d) and (..., N, d)."
        )
        raise ValueError(msg)
    dtype = result_name(dtype_name(A.dtype), dtype_name(X.dtype))
    checks = ValueChecks(enabled=check)
    decay = fraction_values(decay, "decay", A, "A", tuple(A.shape[:-2]), checks)
    with library_settings(namespace(A)):
        A, X = astype(A, dtype), astype(X, dtype)
        average = weighted_sum_with_gram(A, expanded(decay, 2), X, expanded(1 - decay, 2))
        diagonal = namespace(A).linalg.diagonal(average)
        checks.require(lambda: all_finite(diagonal), lambda: not_finite("X", "A"))
        checks.read()
    return average


def kronecker_solve(
    A: Any, G: Any, V: Array, damping: Any, *, coupling: str = "joint", check: bool = True
) -> Array:
    """Return X with G X A + damping X = V, the solve of KFAC with (A kron G + damping)^-1.

    Parameters
    ----------
    A : array, shape (..., d_in, d_in); pair of arrays; or LowRankEigh
        Hermitian positive semi-definite factor of the inputs. A pair holds eigenvalues,
        (..., r), in any order, and orthonormal eigenvectors, (..., d_in, r); with r < d_in all
        other eigenvalues are 0.
    G : array, shape (..., d_out, d_out); pair of arrays; or LowRankEigh
        The same for the output gradients.
    V : array, shape (..., d_out, d_in), real or complex
        Right-hand sides, as gradients of weights.
    damping : float or array, shape () or (...)
        Positive, in units of products of an eigenvalue of `A` and one of `G`.
    coupling : {"joint", "factored"}
        "joint": that equation. "factored": the solution of
        (G + sqrt(damping) / pi) X (A + pi sqrt(damping)) = V, where pi^2 is the ratio of the mean
        eigenvalues of `A` and `G`; it needs no eigenvectors.
    check : bool, default True
        Refuse NaN, Inf and factors that are not positive: reads one flag on the host.

    Returns
    -------
    array, shape (..., d_out, d_in)
        X, of the dtype that all arrays promote to.

    Raises
    ------
    TypeError
        If a factor is neither an array, nor a pair, nor a LowRankEigh; for mixed libraries.
    ValueError
        If shapes do not fit, `damping` is not positive, a dense factor is not Hermitian, a factor
        has negative eigenvalues beyond rounding (a dense one with coupling "factored": if it is
        not positive definite together with its damping), or NaN or Inf is found.

    Notes
    -----
    Method: with eigenvalues alpha, gamma, tails a, g and f(x, y) = 1 / (x y + damping), the part
    of V in the span of both bases is multiplied by f(alpha, gamma), that in the span of one by
    f(alpha, g) or f(a, gamma), the rest by f(a, g). That is exact for the matrices with their
    tails, without the d_in d_out x d_in d_out matrix.
    Cost: 4 d_in d_out (r_A + r_G) flops, for "factored" as well, and about 9 d^3 for the
    eigenvectors of a dense factor, or d^3 / 3 + 2 d^2 d' for its Cholesky factor when "factored":
    factor once, and pass pairs, where several solves share a factor. Memory: some copies of V.
    Precision: relative errors of a few u max(alpha gamma) / damping in the stiffest directions of
    truncated factors; where nothing is truncated, nothing is subtracted.

    References
    ----------
    J. Martens, R. Grosse, ICML 2015, arXiv:1503.05671, section 6.3 (factored damping) and
    appendix B (exact inverse).
    C. O. Puiu, "Randomized K-FACs", arXiv:2206.15397 (truncated factors).

    Examples
    --------
    >>> import numpy as np
    >>> A, G = np.diag([3.0, 1.0]), np.diag([2.0, 0.5, 0.0])
    >>> kronecker_solve(A, G, np.ones((3, 2)), 0.5)
    array([[0.15384615, 0.4       ],
           [0.5       , 1.        ],
           [2.        , 2.        ]])
    """
    require_choice(coupling, "coupling", COUPLINGS)
    require_array(V, "V", ndim=2, blocks=False)
    *batch, d_out, d_in = V.shape
    checks = ValueChecks(enabled=check)
    with library_settings(namespace(V)):
        damping = checked_damping(damping, V, tuple(batch), name="kron(A, G)", check=check)
        A, G = kronecker_factor(A, V, "A", d_in), kronecker_factor(G, V, "G", d_out)
        if coupling == "factored":
            X = _factored(A, G, V, damping, checks)
        else:
            X = _joint(eigenbasis(A, "A", checks), eigenbasis(G, "G", checks), V, damping)
        checks.require(lambda: all_finite(X), lambda: not_finite("V", "A", "G"))
        checks.read()
    return X


# ---------------------------------------------------------------------------------- solves


def _factored(
    A: Array | LowRankEigh, G: Array | LowRankEigh, V: Array, damping: Any, checks: ValueChecks
) -> Array:
    """Return (G + root / pi)^-1 V (A + pi root)^-1 with root = sqrt(damping).

    pi^2 is the ratio of the mean eigenvalues of A and G: J. Martens, R. Grosse (2015), section 6.3.
    """
    xp = namespace(V)
    d_out, d_in = V.shape[-2:]
    mean_A, mean_G = _trace(A) / d_in, _trace(G) / d_out
    usual = (mean_A > 0) & (mean_G > 0)
    one = xp.ones_like(mean_G)
    pi = xp.sqrt(xp.where(usual, mean_A / xp.where(usual, mean_G, one), one))
    root = damping**0.5
    Y = _solved(G, V, root / pi, "G", checks)
    return adjoint(_solved(A, adjoint(Y), root * pi, "A", checks))


def _trace(F: Array | LowRankEigh) -> Array:
    return as_array(F.trace if isinstance(F, LowRankEigh) else trace(F))


def _solved(
    F: Array | LowRankEigh, V: Array, shift: Array, name: str, checks: ValueChecks
) -> Array:
    if isinstance(F, LowRankEigh):
        require_positive_values(F.eigenvalues, name, checks)
        return F.solve(V, shift, check=False)
    require_hermitian(F, name, checks)
    L, ok = cholesky(add_to_diagonal(preserved(F), shift))
    msg = (
        f"`{name}` is not positive definite with its damping, or it contains NaN or Inf; pass "
        f"finite, positive semi-definite factors."
    )
    checks.require(lambda: ok, lambda: ValueError(msg))
    return in_common_dtype(cho_solve, L, V)


def _joint(A: LowRankEigh, G: LowRankEigh, V: Array, damping: Any) -> Array:
    """Return X with G X A + damping X = V.

    With f(x, y) = 1 / (x y + damping), what lies in the span of both bases is multiplied by
    f(alpha, gamma), what lies in one of them by f(alpha, tail) or f(tail, gamma), the rest by
    f(tail, tail). Where a basis is complete nothing is outside of it, and nothing is subtracted.
    """
    if G.complete and not A.complete:
        X = _joint(G, A, adjoint(V), damping)
        return adjoint(X)
    xp = namespace(V)
    alpha, gamma = xp.expand_dims(A.eigenvalues, axis=-2), xp.expand_dims(G.eigenvalues, axis=-1)
    a, g, shift = expanded(A.tail, 2), expanded(G.tail, 2), expanded(damping, 2)
    both, in_A, in_G, neither = (
        1 / (x * y + shift) for x, y in ((alpha, gamma), (alpha, g), (a, gamma), (a, g))
    )

    def complete(U: Array, W: Array, V: Array) -> Array:
        """Return the solution where U, of A, and W, of G, leave nothing outside."""
        return xp.matmul(xp.matmul(W, both * xp.matmul(rmatvec(W, V), U)), adjoint(U))

    def one_sided(U: Array, W: Array, V: Array) -> Array:
        """Return the solution where U leaves nothing outside."""
        Q = xp.matmul(V, U)
        inside = xp.matmul(W, (g - gamma) * both * (alpha * in_A * rmatvec(W, Q)))
        return xp.matmul(in_A * Q + inside, adjoint(U))

    def truncated(U: Array, W: Array, V: Array) -> Array:
        P, Q = rmatvec(W, V), xp.matmul(V, U)
        weights = (g - gamma) * both * (alpha * in_A) - (g - gamma) * in_G * (a * neither)
        right = (a - alpha) * in_A * (g * neither) * Q + xp.matmul(W, weights * xp.matmul(P, U))
        left = (g - gamma) * in_G * (a * neither) * P
        inside = xp.matmul(xp.concat([right, W], axis=-1), xp.concat([adjoint(U), left], axis=-2))
        return add_multiple(inside, neither, V)

    solution = truncated
    if A.complete:
        solution = complete if G.complete else one_sided
    return in_common_dtype(solution, A.eigenvectors, G.eigenvectors, V)

"""Kronecker factors: their exponential averages, and damped solves with their products (KFAC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, all_finite, opened, place_in_batch
from ngdla._backend.checks import require_array, require_choice, require_flag, require_like
from ngdla._backend.dtypes import astype, dtype_name, normal_range, result_name
from ngdla._backend.fused import all_of, filled, finite_along, largest_along
from ngdla._backend.gram import weighted_sum_with_gram
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.products import (
    add_to_diagonal,
    adjoint,
    conjugated,
    preserved,
    real_diagonal,
    trace,
)
from ngdla._backend.scalars import eigenvalue_damping, fraction_values, is_nan
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.tracing import choose_if_free, is_traced, number_if_free, without_graph
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.low_rank.low_rank_eigh import LowRankEigh
from ngdla.matrix_functions.positive import (
    not_finite,
    not_positive_with_damping,
    positive_values,
    require_hermitian,
)

from .factor import in_working_dtype, kronecker_factor
from .joint import solve_jointly

__all__ = ["COUPLINGS", "Coupling", "ema", "kronecker_solve"]

Coupling = Literal["joint", "factored"]


@overload
def ema(
    A: Array, X: Array, *, decay: Any, check: Check = True, full_output: Literal[True]
) -> tuple[AnyArray, AnyArray]: ...
@overload
def ema(
    A: Array, X: Array, *, decay: Any, check: Check = True, full_output: bool = False
) -> AnyArray: ...
def ema(A: Array, X: Array, *, decay: Any, check: Check = True, full_output: bool = False) -> Any:
    """Return the exponential average decay A + (1 - decay) X^T conj(X) of a Kronecker factor.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        The current average, Hermitian positive semi-definite. If it starts from zeros, divide the
        average by 1 - decay^t after t updates.
    X : array, shape (..., N, d)
        One row per sample, scaled by the caller, for example by 1 / sqrt(N). Of T positions per
        sample, inputs are scaled by 1 / sqrt(N) with N = M T, and output gradients of per-sample
        losses by 1 / sqrt(M): G is a mean over samples of sums over positions.
    decay : float or array, shape () or (...)
        The weight of the current average, in [0, 1).
    check : bool or "nan", default True
        Refuse NaN and Inf, read off the diagonal, and decays in arrays that are out of range:
        reads one flag on the host. If False or "nan", and if values cannot be read (compiled and
        mapped code, Dask), the average stays as it was for such a batch.
    full_output : bool, default False
        Also return whether the batch was skipped.

    Returns
    -------
    average : array, shape (..., d, d)
        A new array, Hermitian to rounding, of the dtype that `A` and `X` promote to.
    skipped : array, shape (...), bool
        Only with ``full_output=True``: whether the average is `A`, because `X` holds NaN or Inf or
        numbers whose squares are beyond the dtype, as with loss scaling.

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
    If `decay` times the largest entry of the diagonal of `A` is below the smallest normal number,
    the past counts as exactly 0. An average over zeros would be stuck at subnormal numbers.

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
    require_array(X, "X", ndim=2, blocks=False, empty=True)
    require_like(X, "X", A, "A")
    if tuple(A.shape) != (*X.shape[:-2], X.shape[-1], X.shape[-1]):
        msg = (
            f"`A` has shape {tuple(A.shape)} and `X` {tuple(X.shape)}; with rows of `X` as "
            f"samples they must be (..., d, d) and (..., N, d)."
        )
        raise ValueError(msg)
    require_flag(full_output, "full_output")
    dtype = result_name(dtype_name(A.dtype), dtype_name(X.dtype))
    with opened(A, check, nan=True) as checks:
        decay = fraction_values(decay, "decay", A, "A", tuple(A.shape[:-2]), checks)
        A, X = (without_graph(astype(x, dtype), A) for x in (A, X))
        old = _unless_vanished(decay, A)
        # decay A + (1 - decay) X^T conj(X)
        average = weighted_sum_with_gram(A, expanded(old, 2), X, expanded(1 - decay, 2))
        diagonal = namespace(A).linalg.diagonal(average)
        finite = finite_along(diagonal, -1)
        checks.require(
            lambda: finite,
            lambda: not_finite("X", "A", place=place_in_batch(finite.ndim, diagonal)),
        )
        if (illegal := is_nan(decay, finite)) is not False:
            finite = finite | illegal  # an illegal decay is no bad batch
        if check is not True or is_traced(finite):
            average = _unless_skipped(average, A, finite)
        average = without_graph(average, A)
        return (average, ~finite) if full_output else average


def _unless_vanished(decay: Any, A: Array) -> Any:
    """Return the weight of the past, (...), or 0 where that is below the normal range of A.

    The largest entry is one of the diagonal. Numbers below that range are stuck: 0.95 times the
    least one rounds to itself.
    """
    xp = namespace(A)
    largest = as_array(largest_along(real_diagonal(A), -1))
    least, _ = normal_range(dtype_name(largest.dtype))
    if isinstance(decay, float):
        smallest = number_if_free(xp.min(largest) if largest.ndim else largest)
        if smallest is not None and decay * smallest >= least:
            return decay
    weight = xp.ones_like(largest) * decay
    return filled(weight, weight * largest < least, 0.0)  # NaN stays


def _unless_skipped(average: Array, A: Array, made: Array) -> Array:
    """Return the average where it was made, (...), and A elsewhere."""
    xp = namespace(A)
    return choose_if_free(
        all_of(made), lambda: average, lambda: xp.where(expanded(made, 2), average, A)
    )


def kronecker_solve(
    A: Any, G: Any, V: Array, damping: Any, *, coupling: Coupling = "joint", check: Check = True
) -> AnyArray:
    """Return X with G X A + damping X = V, the solve of KFAC with (A kron G + damping)^-1.

    Parameters
    ----------
    A : array, shape (..., d_in, d_in); pair of arrays; or LowRankEigh
        Hermitian positive semi-definite factor of the inputs. A pair holds eigenvalues,
        (..., r), in any order, and orthonormal eigenvectors, (..., d_in, r); with r < d_in all
        other eigenvalues are 0.
    G : array, shape (..., d_out, d_out); pair of arrays; or LowRankEigh
        Hermitian positive semi-definite factor of the output gradients, given in the same ways.
    V : array, shape (..., d_out, d_in), real or complex
        Right-hand sides, such as gradients of weights.
    damping : float or array, shape () or (...)
        Positive, in units of products of an eigenvalue of `A` and one of `G`.
    coupling : {"joint", "factored"}
        "joint": that equation. "factored": the solution of
        (G + sqrt(damping) / pi) X (A + pi sqrt(damping)) = V, where pi^2 is the ratio of the mean
        eigenvalues of `A` and `G`; it needs no eigenvectors.
    check : {True, "nan", False}
        Refuse NaN, Inf and factors that are not positive: reads one flag on the host. "nan", and
        True where values cannot be read: what is refused is NaN.

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
    eigenvectors of a dense factor, or d^3 / 3 + 2 d^2 d' for its Cholesky factor when "factored".
    If several solves share a factor, decompose it once and pass pairs. Memory: some copies of V.
    Precision: relative errors of a few u max(alpha gamma) / damping in the stiffest directions of
    truncated factors; with complete factors, nothing is subtracted. Eigenvalues down to
    -4 u |A|_F count as 0, for the roundoff u of the dtype in which the factor came. Derivatives by
    dense factors are right at any eigenvalues.

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
    require_choice(coupling, "coupling", tuple(COUPLINGS))
    require_array(V, "V", ndim=2, blocks=False)
    *batch, d_out, d_in = V.shape
    with opened(V, check, nan=True) as checks:
        damping = eigenvalue_damping(damping, V, "kron(A, G)", tuple(batch), checks)
        A, G = kronecker_factor(A, V, "A", d_in), kronecker_factor(G, V, "G", d_out)
        X = conjugated(COUPLINGS[coupling](A, G, V, damping, checks))
        checks.require(
            lambda: all_finite(X),
            lambda: not_finite("V", "A", "G", place=place_in_batch(len(batch), X)),
        )
        return X


# ------------------------------------------------------------------------- coupling "factored"


def _solve_factored(
    A: Array | LowRankEigh, G: Array | LowRankEigh, V: Array, damping: Any, checks: ValueChecks
) -> Array:
    """Return (G + root / pi)^-1 V (A + pi root)^-1 with root = sqrt(damping).

    pi^2 is the ratio of the mean eigenvalues of A and G: J. Martens, R. Grosse (2015), section 6.3.
    """
    xp = namespace(V)
    d_out, d_in = V.shape[-2:]
    mean_A, mean_G = _trace(A) / d_in, _trace(G) / d_out
    odd = ~((mean_A > 0) & (mean_G > 0))
    pi = xp.sqrt(filled(mean_A / filled(mean_G, odd, 1.0), odd, 1.0))
    root = damping**0.5
    Y = _solve_shifted(G, V, root / pi, "G", checks)
    return adjoint(_solve_shifted(A, adjoint(Y), root * pi, "A", checks))


def _trace(F: Array | LowRankEigh) -> Array:
    """Return the trace of a factor, its tail included."""
    return as_array(F.trace if isinstance(F, LowRankEigh) else trace(F))


def _solve_shifted(
    F: Array | LowRankEigh, V: Array, shift: Array, name: str, checks: ValueChecks
) -> Array:
    """Return (F + shift)^-1 V."""
    if isinstance(F, LowRankEigh):
        dtype = dtype_name(F.eigenvalues.dtype)
        values = positive_values(F.eigenvalues, name, dtype, checks)
        clean = dataclasses.replace(F, eigenvalues=values)
        return clean.solve(V, shift, check=False)
    F = in_working_dtype(F)
    hermitian = require_hermitian(F, name, checks)
    L, ok = cholesky(add_to_diagonal(preserved(F), shift))
    L = checks.or_nan(hermitian, L)
    checks.require(lambda: ok, lambda: not_positive_with_damping(name))
    return in_common_dtype(cho_solve, L, V)


COUPLINGS: dict[Coupling, Callable[..., Array]] = {
    "joint": solve_jointly,
    "factored": _solve_factored,
}

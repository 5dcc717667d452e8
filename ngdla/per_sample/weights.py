"""Per-sample weights: the natural gradient as a weighted sum of per-sample gradients (FNGD)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, all_finite, opened
from ngdla._backend.checks import require_flag, require_like, square_matrix
from ngdla._backend.dtypes import astype, dtype_name, real_part, result_name
from ngdla._backend.fused import bounded, filled, not_negative
from ngdla._backend.namespace import Array, as_array, namespace
from ngdla._backend.norms import frobenius_norm, largest_entry
from ngdla._backend.products import add_to_diagonal, real_diagonal, rmatvec
from ngdla._backend.scalars import EIGENVALUES, eigenvalue_damping
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import concrete
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.matrix_functions.positive import not_positive_with_damping, require_hermitian

from .layer_samples import require_per_sample

__all__ = ["cosine", "sample_weights", "solve_weights", "weighted_cosine"]

RELATIVE = "a fraction of |{0}|_F: the smaller, the more weights differ"


@overload
def sample_weights(
    K: Array,
    damping: Any,
    *,
    relative: bool = True,
    normalized: bool = False,
    check: bool = True,
    full_output: Literal[True],
) -> tuple[AnyArray, AnyArray]: ...
@overload
def sample_weights(
    K: Array,
    damping: Any,
    *,
    relative: bool = True,
    normalized: bool = False,
    check: bool = True,
    full_output: Literal[False] = False,
) -> AnyArray: ...
@overload
def sample_weights(
    K: Array,
    damping: Any,
    *,
    relative: bool = True,
    normalized: bool = False,
    check: bool = True,
    full_output: bool = False,
) -> Any: ...


def sample_weights(
    K: Array,
    damping: Any,
    *,
    relative: bool = True,
    normalized: bool = False,
    check: bool = True,
    full_output: bool = False,
) -> Any:
    """Return c = (K + M lambda)^-1 1, with which U c is the natural gradient (FNGD).

    With the gradients of M samples as columns of U, K = U^H U, the empirical Fisher matrix
    F = U U^H / M and the mean gradient U 1 / M, U c = (F + lambda)^-1 U 1 / M.

    Parameters
    ----------
    K : array, shape (..., M, M), real or complex
        Hermitian positive semi-definite, as `sample_gram`. A sum of those of several layers gives
        one set of weights, and the natural gradient of these layers together. M may be 0.
    damping : float or array, shape () or (...)
        Positive. In units of |K|_F if `relative`: lambda = damping |K|_F, from 0.001 to 0.01 in the
        paper. Otherwise lambda itself, in units of eigenvalues of the Fisher matrix.
    relative : bool, default True
        If True, lambda = damping |K|_F; if False, lambda = damping. With True the normalized
        weights do not depend on the scale of the gradients. Pass gradients of per-sample losses: if
        the loss is a mean over M samples, multiply them by M.
    normalized : bool, default False
        Return v = lambda c, the weights of the paper. They sum to at most 1, and tend to 1 / M as
        lambda grows; U v has the length of a gradient.
    check : bool, default True
        Refuse NaN, Inf, and a K that is not Hermitian, or has negative eigenvalues beyond what the
        damping adds: reads one flag on the host. Where it is not read, under tracing, only a failed
        Cholesky factorisation shows, by weights of NaN; those of a K of zeros are finite, so that
        U c is zero.
    full_output : bool, default False
        Also return lambda, for a step size over lambda, or to log it.

    Returns
    -------
    c : array, shape (..., M)
        The weights, for `weighted_gradient`. Where K is zero, v is 1 / M.
    lambda : array, shape (...), real
        Only with `full_output`: the damping that was used, in units of eigenvalues of the Fisher
        matrix. If `relative`, it is 0 where K is zero or there are no samples.

    Raises
    ------
    TypeError
        If `K` is no floating-point array.
    ValueError
        If `K` is not square, `damping` not positive, or a value is refused. A K of zeros is
        refused if lambda is relative and weights are not `normalized`: they would be infinite.

    Notes
    -----
    Method: one Cholesky factor, nothing is subtracted. Equation (9) of the paper, v = 1 / M -
    (K + M lambda)^-1 K 1 / M, is the same and loses digits where damping is small.
    Cost: M^3 / 3 flops, and some five M x M matrices.
    Precision: relative errors of a few u (1 + |K|_2 / (M lambda)), at most u (1 + 1 / (M damping))
    if `relative`. K is divided by its largest diagonal entry first: the scale of the gradients does
    not matter as long as their squares are normal numbers.

    References
    ----------
    FNGD, arXiv:2403.03473, equations (8), (9) and (14).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> U = rng.standard_normal((50, 8))
    >>> F, gradient = U @ U.T / 8, U @ np.ones(8) / 8
    >>> c = sample_weights(U.T @ U, 0.1, relative=False)
    >>> bool(np.allclose(U @ c, np.linalg.solve(F + 0.1 * np.eye(50), gradient)))
    True
    """
    K = _gram_matrix(K)
    for flag, name in ((relative, "relative"), (normalized, "normalized")):
        require_flag(flag, name)
    require_flag(full_output, "full_output")
    with opened(K, check) as checks:
        if K.shape[-1]:
            require_hermitian(K, "K", checks)
        c, used = solve_weights(K, damping, checks, relative=relative, normalized=normalized)
        return (c, as_array(used())) if full_output else c


def weighted_cosine(K: Array, c: Array, d: Array, *, check: bool = True) -> AnyArray:
    """Return the cosine of the angle between U c and U d, from K = U^H U alone.

    Parameters
    ----------
    K : array, shape (..., M, M), real or complex
        As from `sample_gram`. Not checked to be Hermitian.
    c, d : array, shape (..., M)
        Two sets of weights: exact and shared ones, or exact ones and 1 / M, of the mean gradient.
    check : bool, default True
        Refuse NaN and Inf: reads one flag on the host.

    Returns
    -------
    array, shape (...), real
        Re(c^H K d) / sqrt(c^H K c d^H K d), from -1 to 1; NaN where one of both is zero, or there
        are no samples.

    Raises
    ------
    TypeError
        If arguments are no floating-point arrays of one library.
    ValueError
        If shapes do not fit, or NaN or Inf is found.

    Notes
    -----
    Cost: 4 M^2 flops, and two copies of K.

    Examples
    --------
    >>> import numpy as np
    >>> float(weighted_cosine(np.eye(2), np.array([1.0, 0.0]), np.array([1.0, 1.0])).round(4))
    0.7071
    """
    K = _gram_matrix(K)
    expected = tuple(K.shape[:-1])
    for x, name in ((c, "c"), (d, "d")):
        require_per_sample(x, name)
        require_like(x, name, K, "K")
        if tuple(x.shape) != expected:
            msg = f"`{name}` has shape {tuple(x.shape)}; for this `K` it must be {expected}."
            raise ValueError(msg)
    with opened(K, check) as checks:
        dtype = result_name(*(dtype_name(x.dtype) for x in (K, c, d)))
        K, c, d = (astype(x, dtype) for x in (K, c, d))
        checks.finite("K", K, batch=K.ndim - 2)
        for name, x in (("c", c), ("d", d)):
            checks.finite(name, x, batch=K.ndim - 2, kind="vector")
        return cosine(K, c, d)


def _gram_matrix(K: Any) -> Array:
    """Return a checked K, (..., M, M), where M may be 0; half precision in float32."""
    require_per_sample(K, "K", ndim=2)
    if 0 not in K.shape or K.shape[-1] != K.shape[-2]:
        return square_matrix(K, "K")
    return astype(K, result_name(dtype_name(K.dtype)))


def cosine(K: Array, c: Array, d: Array) -> Array:
    """Return the cosine of the angle between U c and U d."""
    xp = namespace(K)
    if 0 in K.shape:
        return xp.nan * real_part(xp.sum(K, axis=(-2, -1)))
    columns = xp.stack([c, d], axis=-1)
    columns, K = columns / largest_entry(columns, -2), K / largest_entry(K, (-2, -1))
    products = real_part(rmatvec(columns, xp.matmul(K, columns)))
    lengths = xp.sqrt(xp.abs(xp.linalg.diagonal(products)))
    product = lengths[..., 0] * lengths[..., 1]
    ratio = products[..., 0, 1] / filled(product, product <= 0, math.nan)
    return bounded(ratio, -1.0, 1.0)


def solve_weights(
    K: Array, damping: Any, checks: ValueChecks, *, relative: bool, normalized: bool
) -> tuple[Array, Callable[[], Array]]:
    """Return the weights of a checked K, and require that they exist; and a function for lambda.

    With K and lambda over a scale: c = y / scale and v = shift y, y = (K / scale + M shift)^-1 1.
    """
    xp, M = namespace(K), K.shape[-1]
    unit = RELATIVE if relative else EIGENVALUES
    damping = eigenvalue_damping(damping, K, "K", tuple(K.shape[:-2]), checks, unit)
    if 0 in K.shape:
        nothing = real_part(xp.sum(K, axis=(-2, -1)))
        return xp.sum(K, axis=-1), lambda: nothing if relative else nothing + damping
    if relative:
        problem = _relative(K, damping, checks, normalized=normalized)
    else:
        problem = _absolute(K, damping)
    K, scale, shift, used = problem
    L, ok = cholesky(add_to_diagonal(K, M * shift))
    # y times the shift, by the right-hand side; 1 over a tiny scale would be beyond the range
    right = astype(expanded(shift if normalized else xp.ones_like(scale), 2), dtype_name(K.dtype))
    y = cho_solve(L, xp.broadcast_to(right, (*K.shape[:-1], 1)))[..., 0]
    weights = y if normalized else y / expanded(scale, 1)

    def error() -> Exception:  # where there is no factor, weights are NaN
        exists = concrete(xp.all(ok)) and concrete(all_finite(shift))
        return _too_large(dtype_name(K.dtype)) if exists else _indefinite()

    checks.require(lambda: all_finite(weights), error)
    return weights, used


class _Problem(NamedTuple):
    """K over a scale, (...), lambda over it, and lambda, only if it is asked for."""

    K: Array
    scale: Array
    shift: Array
    used: Callable[[], Array]


def _relative(K: Array, damping: Any, checks: ValueChecks, *, normalized: bool) -> _Problem:
    """Return the problem with lambda = damping |K|_F, and that of damping 1 where K is zero."""
    xp = namespace(K)
    largest = xp.max(real_diagonal(K), axis=-1)
    absent = largest <= 0
    scale = filled(largest, absent, 1.0)
    K = K / expanded(scale, 2)
    norm = frobenius_norm(K)
    zero = norm == 0
    shift = damping * filled(filled(norm, absent, math.nan), zero, 1.0)

    def error() -> Exception:  # of a matrix of a stack without any positive entry
        return _zero() if concrete(xp.all(zero | ~absent)) else _indefinite()

    if not normalized:
        checks.require(lambda: ~absent, error)
    return _Problem(K, scale, shift, lambda: filled(shift * scale, zero, 0.0))


def _absolute(K: Array, damping: Any) -> _Problem:
    """Return the problem with lambda = damping."""
    xp = namespace(K)
    largest = xp.max(real_diagonal(K), axis=-1)
    scale = not_negative(largest) + K.shape[-1] * damping
    K, shift = K / expanded(scale, 2), damping / scale
    return _Problem(K, scale, shift, lambda: xp.zeros_like(largest) + damping)


def _indefinite() -> Exception:
    """Return the error of a K that has no Cholesky factor."""
    return not_positive_with_damping("K", example=", as from `sample_gram`")


def _too_large(dtype: str) -> Exception:
    """Return the error of weights that overflow."""
    msg = (
        f"the weights for this `K` are beyond the range of {dtype}; scale the gradients, or pass "
        f"normalized=True."
    )
    return ValueError(msg)


def _zero() -> Exception:
    """Return the error of a K of zeros, which has no norm to be relative to."""
    msg = (
        "`K` is zero, so that weights relative to its norm are infinite. Pass normalized=True, "
        "which gives 1 / M, or an absolute damping with relative=False; or scale gradients whose "
        "squares underflow."
    )
    return ValueError(msg)

"""Fits of one right-hand side with many dampings, compared without solving for any of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, opened
from ngdla._backend.checks import require_array, require_like
from ngdla._backend.dtypes import astype, dtype_name, is_complex, normal_range, real_name
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array, namespace
from ngdla._backend.products import rmatvec
from ngdla._backend.scalars import as_float, known_or_array, positive_values
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.tracing import largest_number, nan_unless
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.score_matrices.sample_rows import is_stacked
from ngdla.score_matrices.score_matrix import Scores

from .factorisation import Factorisation
from .ladder import Outcome, climb
from .leave_one_out import DiagonalFit, dampings_first, left_out
from .methods import Eigenvectors, FirstPass
from .null_vectors import lift_height, lifted_dimension, without_null
from .problem import Options, damped_problem
from .right_hand_side import Layout, LeastSquares
from .step_length import damping_at_length, known_coefficients

__all__ = ["DampingPath", "damping_path"]


class DampingPath(NamedTuple):
    """Fits x of S x = f with L dampings.

    Attributes
    ----------
    dampings : array, shape (L,)
    residual_norm : array, shape (..., L) or (..., L, k)
        |f - S x|: grows with the damping.
    solution_norm : array, shape (..., L) or (..., L, k)
        |x|: falls with the damping. Against the residual norm it is the L-curve.
    effective_dimension : array, shape (..., L)
        tr G (G + damping)^-1 for G = S S^H: the number of directions that are fitted.
    leave_one_out : array, shape (..., L) or (..., L, k)
        Norm of the residuals of all samples, each from the fit without it. An estimate of the
        residual norm on new samples.
    eigenvalues : array, shape (..., d)
        Those g of the smaller Gram matrix, d = min(n, m), in ascending order; with n < m those of
        null vectors are tr G / n. With `ColumnShards` d = n.
    coefficients : array, shape (..., d) or (..., d, k)
        Sizes |c| of c = U^H f for the left singular vectors U of S, with which S x is
        U diag(g / (g + damping)) c. They are 0 where S x does not reach: along null vectors, and
        where g is a rounding error.
    """

    dampings: AnyArray
    residual_norm: AnyArray
    solution_norm: AnyArray
    effective_dimension: AnyArray
    leave_one_out: AnyArray
    eigenvalues: AnyArray
    coefficients: AnyArray

    @on_automatic_axes()
    def at_step(self, delta: float | Array) -> AnyArray:
        r"""Return the damping with which the step has the length |S x| = delta: a trust region.

        .. math:: |S x|^2 = \sum_k \frac{g_k^2 |c_k|^2}{(g_k + \lambda)^2} = \delta^2 .

        Parameters
        ----------
        delta : float or array, shape () or that of |f|, (...) or (..., k)
            Positive, and less than |S x| without damping, which is |c|. In units of `f`.

        Returns
        -------
        array, shape (...) or (..., k)
            Falls as delta grows. NaN where delta is not legal and values cannot be read.

        Raises
        ------
        TypeError, ValueError
            If delta is no real number or has another shape, is not positive, or is not less than
            |S x| without damping.

        Notes
        -----
        Method: Newton's on 1 / |S x|, which is nearly linear in the damping, from below the root
        and in a bracket; 20 iterations of about 10 d k operations. Nothing is solved.
        Precision: |S x| of the damping is delta to a few roundings, times what the eigenvalues err
        by over the damping. Derivatives, of any order, are those of the implicit function.

        References
        ----------
        J. J. More, The Levenberg-Marquardt algorithm, LNM 630, 105 (1978), section 5.

        Examples
        --------
        >>> import ngdla
        >>> import numpy as np
        >>> S, f = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), np.array([1.0, 2.0])
        >>> damping = ngdla.damping_path(S, f, [1.0]).at_step(0.5)
        >>> float(np.linalg.norm(S @ ngdla.damped_lstsq(S, f, damping)).round(12))
        0.5
        """
        with opened(self.coefficients) as checks:
            return _damping_at_step(self, delta, checks)


@on_automatic_axes(exchange="longer")
def damping_path(
    S: Scores,
    f: Array,
    dampings: Sequence[float] | Array,
    *,
    null: Array | None = None,
    stacked: bool | None = None,
) -> DampingPath:
    r"""Return residual, solution and leave-one-out norms of damped fits for many dampings.

    For each damping, of x = argmin |S x - f|^2 + damping |x|^2. With G = S S^H = U diag(s) U^H and
    c = U^H f, all of them are sums such as

    .. math:: |f - S x|^2 = \sum_k \left| \frac{\lambda c_k}{s_k + \lambda} \right|^2 .

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree; real or complex
        As in `damped_lstsq`.
    f : array, shape (..., n) or (..., n, k)
        Right-hand side, or k of them. For real `S` complex `f` is allowed.
    dampings : sequence of numbers, or array, shape (L,)
        Positive, in units of squared singular values of `S`; the same for all of a batch.
    null : array, shape (..., n) or (..., n, p), optional
        Orthonormal columns N with S^H N = 0, such as sqrt(p) for scores centred with
        probabilities p. **Name it for centred scores**: without it the leave-one-out norm falls to
        0 with the damping, whatever the data.
    stacked : bool, optional
        Rows i and i + n / 2 belong to one sample, as those of scores of mode "complex" do, and are
        left out together. By default where `null` has two columns.

    Returns
    -------
    DampingPath

    Raises
    ------
    TypeError, ValueError
        As `damped_lstsq`; dampings that are none, not positive, or not one axis of real numbers;
        an odd number of stacked rows.

    Notes
    -----
    Method: eigenvectors of the smaller Gram matrix; negative eigenvalues, which are roundings, are
    set to 0. The residual of a left-out sample is that of a fit of all others, with the same
    damping and, where `null` is sqrt(p), a mean that is fitted without it too. It follows from the
    diagonal of the inverse, without a second fit. Samples of weight 0 have residual 0. Correlated
    samples, as those of a Markov chain, make it too small.
    Cost: n^2 m + 9 n^3 flops for the eigenvectors with n < m, and 2 n^2 (1 + k) for each damping;
    with n >= m exchange n and m, and 2 n m (m + L k) for the rows. One pass over S, or two with
    n >= m, and one more to test `null`. Memory: 4 n^2 + 2 n L k numbers; no copy of S.
    Precision: that of `S` and `f`. Relative errors are about u sigma_1^2 / damping, so that
    dampings below u sigma_1^2 tell nothing.

    References
    ----------
    D. M. Allen, Technometrics 16, 125 (1974) (leave-one-out residuals of a linear fit).
    P. C. Hansen, SIAM Review 34, 561 (1992) (the L-curve).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S = rng.standard_normal((50, 200))
    >>> f = S @ rng.standard_normal(200) / 10 + rng.standard_normal(50)
    >>> path = damping_path(S, f, [1.0, 10.0, 100.0, 1000.0])
    >>> path.residual_norm.round(1)
    array([ 0.1,  0.8,  4.7, 10.1])
    >>> best = path.dampings[np.argmin(path.leave_one_out)]
    """
    scores = score_matrix(S)
    options = Options(method=Eigenvectors(), precision="native", refine=0, null=null)
    with opened(scores.like, ranks=scores.ranks) as checks:
        rhs = LeastSquares.checked(scores, f, None)
        layout = rhs.layout(scores)
        any_damping = 1.0  # what is used of the factor is its spectrum
        problem = damped_problem(scores, any_damping, options, layout.working)
        paired = is_stacked(stacked, problem.null, scores)
        values = _dampings(dampings, rhs.f, real_name(layout.working), checks)
        scores.ranks.note(damping=values)
        checks.finite("f", rhs.f, batch=len(scores.batch), kind="vector")
        right = layout.to_columns(rhs.f)
        inside = without_null(right, problem.null)

        def compare(factor: Factorisation, first: FirstPass, _: bool) -> Outcome:
            fit = _fit(factor, first, inside, values, stacked=paired)
            return Outcome(_path(fit, factor, right, values, layout))

        path: DampingPath = climb(problem, checks, compare, start=(inside, None), keep=True)
        return path


def _dampings(dampings: Any, like: Array, real: str, checks: ValueChecks) -> Array:
    """Return the checked dampings, (L,); NaN for illegal ones that cannot raise."""
    xp = namespace(like)
    if is_array(dampings):
        require_array(dampings, "dampings")
        require_like(dampings, "dampings", like, "f")
        if is_complex(dampings) or dampings.ndim != 1:
            raise _shape_error(f"has dtype {dampings.dtype} and shape {tuple(dampings.shape)}")
        values = astype(dampings, real)
    else:
        zero = astype(xp.real(xp.sum(like)) if is_complex(like) else xp.sum(like), real)
        each = _numbers(dampings, like)
        values = xp.stack(
            [xp.full_like(zero, d) if isinstance(d, float) else astype(d, real) for d in each]
        )
    checks.positive("dampings", values)
    return values * nan_unless(values > 0, values)


def _numbers(dampings: Any, like: Array) -> list[float | Array]:
    """Return checked numbers, as floats or, where torch.compile holds symbols, as 0-d arrays."""
    if not isinstance(dampings, (list, tuple, range)) or not dampings:
        raise _shape_error(f"is {shown(dampings)}")
    for value in dampings:
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise _shape_error(f"holds {shown(value)}")
    return [_number(value, like) for value in dampings]


def _number(value: Any, like: Array) -> float | Array:
    value = known_or_array(value, like)
    if not isinstance(value, numbers.Real):
        array: Array = value
        return array
    if not 0 < as_float(value) < math.inf:
        msg = f"`dampings` holds {shown(value)}; each must be positive and finite."
        raise ValueError(msg)
    return float(value)


def _shape_error(found: str) -> Exception:
    return ValueError(
        f"`dampings` {found}; it must be a list of positive numbers, or a real array of one axis."
    )


def _fit(
    factor: Factorisation, first: FirstPass, f: Array, dampings: Array, *, stacked: bool
) -> DiagonalFit:
    """Return the fits with weights damping / (s + damping), or 1 / (s + damping) with n >= m."""
    xp, scores, null = namespace(f), factor.scores, factor.problem.null
    values, U = factor.small.matrix.values, factor.small.matrix.U
    shifted = xp.expand_dims(values, axis=-1) + dampings
    if scores.wide:
        X, right, weights = without_null(U, null), f, dampings / shifted
    else:
        assert first.gradient is not None
        X, right, weights = U, joined(list(first.gradient), axis=-2), 1 / shifted
    return DiagonalFit(scores, f, null, stacked, X, weights, rmatvec(X, right))


def _path(
    fit: DiagonalFit, factor: Factorisation, f: Array, dampings: Array, layout: Layout
) -> DampingPath:
    """Return the path for f, (..., n, k), in the dtype of the work."""
    xp, null = namespace(f), fit.null
    residual, left = _residual_norms(fit, layout)
    if null is not None:  # no fit reaches it
        outside = layout.norm(xp.expand_dims(rmatvec(null, f), axis=-3))
        residual = xp.hypot(residual, outside)
    return DampingPath(
        dampings=astype(dampings, real_name(layout.dtype)),
        residual_norm=residual,
        solution_norm=_solution_norm(fit, factor, dampings, layout),
        effective_dimension=_effective_dimension(factor, dampings),
        leave_one_out=left,
        eigenvalues=astype(factor.small.matrix.values, real_name(layout.dtype)),
        coefficients=_coefficients(fit, factor, layout),
    )


def _coefficients(fit: DiagonalFit, factor: Factorisation, layout: Layout) -> Array:
    """Return |U^H f|, (..., d) or (..., d, k), for the left singular vectors that are known."""
    xp, values, c = namespace(fit.f), factor.small.matrix.values, fit.coefficients
    if not fit.scores.wide:  # U^H = diag(g)^(-1/2) X^H S^H
        g = xp.where(values > 0, values, xp.ones_like(values))
        c = c / xp.expand_dims(xp.sqrt(g), axis=-1)
    sizes = layout.merged(xp.abs(c), xp.hypot)
    return layout.without_k(known_coefficients(values, sizes, factor.small.squared_norm))


def _residual_norms(fit: DiagonalFit, layout: Layout) -> tuple[Array, Array]:
    """Return the norms of P f - S x and of the left-out residuals, (..., L) or (..., L, k)."""
    hypot = namespace(fit.f).hypot
    chunks = [[reduce(hypot, map(layout.norm, rows)) for rows in both] for both in left_out(fit)]
    norms = (reduce(hypot, of_chunks) for of_chunks in zip(*chunks))
    residual, left = (fit.scores.across_rows.merged(norm, hypot) for norm in norms)
    return residual, left


def _solution_norm(
    fit: DiagonalFit, factor: Factorisation, dampings: Array, layout: Layout
) -> Array:
    """Return |S^H W^-1 f|, or |A^-1 S^H f| with n >= m."""
    xp = namespace(fit.f)
    steps = fit.steps()
    if fit.scores.wide:
        root = xp.sqrt(factor.small.matrix.values)[..., None, None]
        steps = root * steps / xp.expand_dims(dampings, axis=-1)
    return layout.norm(dampings_first(steps))


def _effective_dimension(factor: Factorisation, dampings: Array) -> Array:
    """Return tr G (G + damping)^-1 without the directions that were lifted, (..., L)."""
    xp, null = namespace(dampings), factor.problem.null
    values = xp.expand_dims(factor.small.matrix.values, axis=-1)
    dimension = xp.sum(values / (values + dampings), axis=-2)
    if null is None or not factor.scores.wide:
        return dimension
    height = expanded(lift_height(factor.small.squared_norm, factor.scores), 1)
    return dimension - lifted_dimension(null, height, dampings)


def _damping_at_step(path: DampingPath, delta: Any, checks: ValueChecks) -> Array:
    """Return the damping for |S x| = delta, of the shape of |f|."""
    values, coefficients = path.eigenvalues, path.coefficients
    xp, vector = namespace(values), coefficients.ndim == values.ndim
    columns = xp.expand_dims(coefficients, axis=-1) if vector else coefficients
    zero = xp.sum(xp.zeros_like(columns), axis=-2, keepdims=True)  # (..., 1, k)
    shape = tuple(zero.shape[:-2]) if vector else (*zero.shape[:-2], zero.shape[-1])
    given = positive_values(delta, "delta", values, "f", shape, checks)
    if isinstance(given, float):  # one beyond the range of the dtype is beyond any length
        given = min(given, normal_range(dtype_name(zero.dtype))[1])
    else:
        given = xp.reshape(given, tuple(zero.shape))
    given = zero + given
    checks.positive("delta", given)
    damping, undamped, legal = damping_at_length(xp.expand_dims(values, axis=-1), columns, given)
    checks.require(lambda: legal, lambda: _too_long(given, undamped, legal))
    return xp.reshape(damping, shape)


def _too_long(delta: Array, undamped: Array, legal: Array) -> Exception:
    """Return the error of a step that is not less than the one without damping."""
    xp = namespace(delta)
    excess = xp.where(legal, xp.zeros_like(delta), delta)
    least = -largest_number(xp.where(legal, xp.full_like(undamped, -xp.inf), -undamped))
    return ValueError(
        f"`delta` is {largest_number(excess):.4g}, but |S x| is {least:.4g} without damping and "
        f"less with any. Pass less, or solve with the smallest damping that you would use."
    )

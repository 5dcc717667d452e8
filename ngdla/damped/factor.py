"""Factor S S^H + damping (or S^H S + damping) once, solve often."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ngdla._backend.checks import ValueChecks
from ngdla._backend.dtypes import astype, dtype_name, real_name, unit_roundoff
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.scalars import damping_values
from ngdla._backend.settings import library_settings
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.score_matrices.sample_rows import is_stacked

from .factorisation import Factorisation, below, climb, factored, preconditioning, redamped
from .inverses import Inverse, Undamped
from .leave_one_out import left_out_residuals
from .precision import LIFT
from .problem import RightHandSide, Setup, setup
from .refinement import First
from .solving import inverse_in, solution, worked_in
from .spectral_sums import effective_dimension, log_determinant

__all__ = ["DampedFactor", "damped_factor"]


def damped_factor(
    S: Any,
    damping: float | Array,
    *,
    method: str = "auto",
    precision: str = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: bool = True,
) -> DampedFactor:
    """Return a factor of S^H S + damping D that solves for many right-hand sides.

    Parameters
    ----------
    S, damping, method, precision, refine, metric, null, check
        As in `damped_solve`.

    Returns
    -------
    DampedFactor
        With the methods ``solve(v)``, ``lstsq(f, x0)``, ``with_damping(damping)``, ``logdet()``,
        ``effective_dimension()`` and ``leave_one_out(f)``. It refers to `S`, which must not be
        changed while the factor is in use. A pytree of JAX and torch; ``dask.persist(factor)``
        keeps that of Dask arrays, which each computation would form anew.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `damped_solve`.

    Notes
    -----
    Cost: n^2 m flops and one pass over S for the Gram matrix, n^3 / 3 for "cholesky", about 9 n^3
    for "eigh"; about 6 n^2 m for "svd" and 2 n^2 m for "qr". Memory 2 n^2 ("eigh", "svd" and "qr":
    up to 3 n^2), while factoring also copies of S: one or two for "qr", several for "svd". A
    right-hand side then costs 4 n m flops a sweep.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> factor = damped_factor(S, 0.5)
    >>> x = factor.solve(np.array([1.0, 0.0, 1.0]))
    >>> np.allclose(S.T @ (S @ x) + 0.5 * x, [1.0, 0.0, 1.0])
    True
    """
    scores = score_matrix(S)
    with library_settings(namespace(scores.like)):
        given = setup(scores, damping, method, precision, refine, metric, null, scores.dtype)
        factor = _factorised(given, check=check)
    return DampedFactor(**vars(factor))


@register_pytree(static=("plan", "refine", "check"))
@dataclasses.dataclass(frozen=True, eq=False)
class DampedFactor(Factorisation):
    """A factored damped problem; made by `damped_factor`.

    Attributes
    ----------
    scores : ScoreMatrix
        S and the scaling by the metric.
    inverse : CholeskyInverse or SpectralInverse
        The inverse of the small damped matrix, as a function of (..., n or m, k).
    undamped : GramMatrix or Spectrum, or None
        The matrix without its damping, for other dampings.
    damping : float or array, shape (...)
    squared_norm : array, shape (...)
        |S|_F^2, the trace of the Gram matrix.
    null : array, shape (..., n, p), or None
    leak : array, shape (...), or None
        |S^H N|_F, which should be a rounding error.
    ok : array of bool, shape (...)
        The factorisation succeeded.
    plan : Plan
        What is computed in which precision.
    refine : int
    check : bool
    """

    def solve(self, v: Any, full_output: bool = False) -> Any:
        """Return x with (S^H S + damping D) x = v; see `damped_solve`.

        Parameters
        ----------
        v : array, shape (..., m) or (..., m, k), or sequence of pieces
        full_output : bool
            Also return a `SolveInfo`.

        Returns
        -------
        x : array or sequence, of the shape of `v`; or (x, info)
        """
        return self._solved(RightHandSide.of_solve(self.scores, v), full_output)

    def lstsq(self, f: Array, x0: Any = None, full_output: bool = False) -> Any:
        """Return argmin |S x - f|^2 + damping |x - x0|_D^2; see `damped_lstsq`.

        Parameters
        ----------
        f : array, shape (..., n) or (..., n, k)
        x0 : array, shape (..., m) or (..., m, k), or sequence of pieces, optional
        full_output : bool
            Also return a `SolveInfo`.

        Returns
        -------
        x : array or sequence, shape (..., m) or (..., m, k); or (x, info)
        """
        return self._solved(RightHandSide.of_lstsq(self.scores, f, x0), full_output)

    def with_damping(self, damping: float | Array) -> DampedFactor:
        """Return a factor for another damping, without a pass over S.

        Parameters
        ----------
        damping : float or array, shape () or (...)

        Returns
        -------
        DampedFactor
            With the Gram matrix, the precision and the options of this one.

        Raises
        ------
        TypeError, ValueError, numpy.linalg.LinAlgError
            As `damped_factor`.

        Notes
        -----
        Cost: n^3 / 3 flops for "cholesky", n for "eigh", "svd" and "qr". Where `precision="auto"`
        would compute the Gram matrix anew for so small a damping, a factor cannot: it warns with a
        `PrecisionWarning`, and solves by conjugate gradients that the factor preconditions.

        Examples
        --------
        >>> import numpy as np
        >>> S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
        >>> factor = damped_factor(S, 0.5).with_damping(2.0)
        >>> x = factor.solve(np.array([1.0, 0.0, 1.0]))
        >>> np.allclose(S.T @ (S @ x) + 2.0 * x, [1.0, 0.0, 1.0])
        True
        """
        scores, checks = self.scores, ValueChecks(enabled=self.check)
        with library_settings(namespace(self.squared_norm)):
            real = real_name(scores.dtype)
            damping = damping_values(damping, scores.like, scores.name, real, scores.batch)
            factor = redamped(self, damping, checks)
            if not checks.read():
                factor = preconditioning(factor)
        return factor

    def logdet(self) -> Array:
        """Return log det(S^H S + damping D) of the m x m matrix.

        Returns
        -------
        array, shape (...), real

        Raises
        ------
        ValueError
            If the method is "cg", or the damping below the rounding errors of the Gram matrix.

        Notes
        -----
        From the small factor: log det W + (m - n) log damping + log det D, with n < m; null vectors
        count as the eigenvalue damping of W. Errs by about n u sigma_1^2 / damping, with the unit
        roundoff u of the factor.
        """
        scores = self.scores
        with library_settings(namespace(self.squared_norm)):
            _require_exact(self)
            xp, arguments = namespace(self.squared_norm), _spectral(self)
            value = log_determinant(*arguments)
            if scores.wide:
                value = value + (scores.columns - scores.rows) * xp.log(arguments.damping)
            for scale in scores.scales or ():
                logs = xp.log(astype(scale, dtype_name(value.dtype)))
                value = value - 2 * xp.sum(logs, axis=(-2, -1))
            return astype(value, real_name(scores.dtype))

    def effective_dimension(self) -> Array:
        """Return tr G (G + damping)^-1 for G = S D^-1 S^H: how many directions are fitted.

        Returns
        -------
        array, shape (...), real
            Between 0 and min(n, m), without the directions of `null`.

        Raises
        ------
        ValueError
            If the method is "cg", or the damping below the rounding errors of the Gram matrix.

        Notes
        -----
        A sum of positive terms, exact to rounding for large dampings. 2 n^3 flops for "cholesky", n
        for the others. For small dampings see `logdet`.
        """
        with library_settings(namespace(self.squared_norm)):
            _require_exact(self)
            value = effective_dimension(*_spectral(self))
            return astype(value, real_name(self.scores.dtype))

    def leave_one_out(self, f: Array, *, stacked: bool | None = None) -> Array:
        """Return the residual of each sample, from the fit of `lstsq` without that sample.

        Parameters
        ----------
        f : array, shape (..., n) or (..., n, k)
        stacked : bool, optional
            Rows i and i + n / 2 belong to one sample, as those of scores of mode "complex" do, and
            are left out together. By default where `null` has two columns.

        Returns
        -------
        array, of the shape of `f`
            f_i - S_i x with the x of all other samples. Where `null` is sqrt(p) of centred scores,
            also the mean is fitted without the sample. A sample of weight 0 has 0.

        Raises
        ------
        TypeError, ValueError
            As `lstsq`; an odd number of stacked rows; method "cg".

        Notes
        -----
        Name `null` for centred scores: without it these residuals fall to 0 with the damping,
        whatever the data. With n < m 2 n^3 flops and no pass over S; with n >= m two passes and 2 n
        m^2 flops. Memory n^2 (m^2), no copy of S. Not refined: errs by u sigma_1^2 / damping. See
        `damping_path` for many dampings.

        Examples
        --------
        >>> import numpy as np
        >>> S, f = np.array([[1.0], [1.0], [2.0]]), np.array([1.0, 2.0, 3.0])
        >>> damped_factor(S, 1.0).leave_one_out(f)
        array([-0.33333333,  0.83333333,  1.        ])
        """
        rhs = RightHandSide.of_lstsq(self.scores, f, None)
        layout = dataclasses.replace(worked_in(rhs.layout(self.scores), self.plan), sequence=None)
        paired = is_stacked(stacked, self.null, self.scores)
        checks = ValueChecks(enabled=self.check)
        with library_settings(namespace(self.squared_norm)):
            _require_exact(self)
            checks.finite("f", rhs.f)
            inverse = inverse_in(self, layout.working)
            null = None if self.null is None else astype(self.null, layout.working)
            right = layout.enter(rhs.f)
            e = left_out_residuals(self.scores, inverse, right, null, stacked=paired)
            checks.read()
            return layout.leave((astype(e, layout.rounded),))

    def _solved(self, rhs: RightHandSide, full_output: bool) -> Any:
        checks = ValueChecks(enabled=self.check)
        with library_settings(namespace(self.squared_norm)):
            result = solution(self, rhs, rhs.layout(self.scores), checks, First(), full_output)
            checks.read()
        return result


def _factorised(given: Setup, *, check: bool) -> Factorisation:
    """Return the factor of a checked problem, of a higher precision where "auto" has to climb."""
    checks = ValueChecks(enabled=check)
    factor, _ = factored(given, checks, (None, None), keep=True, check=check)
    if checks.read():
        return factor
    given, kept = climb(given, factor)
    return kept or _factorised(given, check=check)


def _require_exact(factor: DampedFactor) -> None:
    """Raise unless the factor is that of the damped matrix itself."""
    plan, checks = factor.plan, ValueChecks(enabled=factor.check)
    if plan.method == "cg":
        msg = (
            "method 'cg' has only an approximation of the Gram matrix; logdet, effective_dimension "
            "and leave_one_out need another `method`, and scores with a Gram matrix."
        )
        raise ValueError(msg)
    if plan.lifted:
        least = LIFT * unit_roundoff(plan.factor)
        lifted = below(factor, least)
        msg = (
            f"`damping` is below {least:.0e} |S|_F^2, the rounding errors of this {plan.factor} "
            f"Gram matrix, which solves refine, but logdet, effective_dimension and leave_one_out "
            f"do not. Raise it, or factor with precision='float64' or method='qr'."
        )
        checks.require(lambda: ~lifted, lambda: ValueError(msg))
    checks.read()


class _SpectralArguments(NamedTuple):
    inverse: Inverse
    undamped: Undamped
    damping: Array
    lift: tuple[Array, int] | None


def _spectral(factor: DampedFactor) -> _SpectralArguments:
    """Return the arguments of the sums over the eigenvalues."""
    assert factor.undamped is not None
    squared_norm, damping, lift = factor.squared_norm, factor.damping, None
    if not isinstance(damping, float):
        damping = astype(damping, dtype_name(squared_norm.dtype))
    if factor.null is not None and factor.scores.wide and factor.plan.method not in ("svd", "qr"):
        lift = squared_norm / factor.scores.rows, int(factor.null.shape[-1])
    damping = namespace(squared_norm).zeros_like(squared_norm) + damping
    return _SpectralArguments(factor.inverse, factor.undamped, damping, lift)

"""Factor S S^H + damping (or S^H S + damping) once, solve often."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from operator import add
from typing import Any, Literal, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened
from ngdla._backend.checks import require_flag
from ngdla._backend.dtypes import astype, dtype_name, real_name, unit_roundoff
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pytrees import register_pytree
from ngdla._backend.scalars import damping_values, rounded_up
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.score_matrices.parameter_forms import ONE_ARRAY
from ngdla.score_matrices.sample_rows import is_stacked
from ngdla.score_matrices.score_matrix import ParameterVector, Scores

from .certificate import SolveInfo
from .factorisation import Factorisation, damping_below, damping_of
from .inverses import cast_inverse
from .ladder import Outcome, climb, reuse, with_damping
from .leave_one_out import left_out_residuals
from .methods import MethodName
from .null_vectors import lift_height, lifted_dimension, lifted_log_determinant
from .overlap import Projection, overlap_of
from .precision import LIFT, Precision
from .problem import Options, damped_problem
from .right_hand_side import LeastSquares, RightHandSide, Solve
from .row_space import require_row_space, solve_in_row_space
from .solution import solution

__all__ = ["DampedFactor", "damped_factor"]


@on_automatic_axes(exchange="longer")
def damped_factor(
    S: Scores,
    damping: float | Array,
    *,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: Check = True,
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
        ``effective_dimension()``, ``leave_one_out(f)`` and ``overlap(phi)``. It refers to `S`,
        which must not be changed while the factor is in use. A pytree of JAX and torch;
        ``dask.persist(factor)`` keeps that of Dask arrays, which each computation would form anew.

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
    options = Options(method, precision, refine, metric, null)
    with opened(scores.like, check, nan=True, ranks=scores.ranks) as checks:
        problem = damped_problem(scores, damping, options, scores.dtype)
        factor = climb(problem, checks, lambda factor, *_: Outcome(factor), keep=True)
    return DampedFactor(factor.problem, factor.small, check)


@register_pytree(static=("check",))
@dataclasses.dataclass(frozen=True, eq=False)
class DampedFactor(Factorisation):
    """A factored damped problem; made by `damped_factor`.

    Attributes
    ----------
    damping : float or array, shape (...)
        That of the factor.
    squared_norm : array, shape (...)
        |S|_F^2, the trace of the Gram matrix.
    null : array, shape (..., n, p), or None
        The null vectors that were named.
    leak : array, shape (...), or None
        |S^H N|_F, which should be a rounding error.
    ok : array of bool, shape (...)
        The factorisation succeeded.
    refine : int
        Number of sweeps of each solve.
    check : bool or "nan"
        Whether values are tested, as in `damped_solve`.
    """

    check: Check

    @property
    def damping(self) -> Any:  # noqa: D102, as the attributes above
        return self.problem.damping

    @property
    def squared_norm(self) -> AnyArray:  # noqa: D102
        return self.small.squared_norm

    @property
    def null(self) -> AnyArray | None:  # noqa: D102
        return self.problem.null

    @property
    def leak(self) -> AnyArray | None:  # noqa: D102
        return self.small.leak

    @property
    def ok(self) -> AnyArray:  # noqa: D102
        return self.small.ok

    @property
    def refine(self) -> int:  # noqa: D102
        return self.problem.refine

    @overload
    def solve(
        self, v: ParameterVector, full_output: Literal[True], *, row_space: bool = False
    ) -> tuple[Any, SolveInfo]: ...
    @overload
    def solve(
        self, v: ParameterVector, full_output: bool = False, *, row_space: bool = False
    ) -> Any: ...
    @on_automatic_axes()
    def solve(
        self, v: ParameterVector, full_output: bool = False, *, row_space: bool = False
    ) -> Any:
        """Return x with (S^H S + damping D) x = v; see `damped_solve`.

        Parameters
        ----------
        v : array, shape (..., m) or (..., m, k), or sequence of pieces
        full_output : bool
            Also return a `SolveInfo`.
        row_space : bool
            As in `damped_solve`; forms the Gram matrix in double precision anew.

        Returns
        -------
        x : array or sequence, of the shape of `v`; or (x, info)
        """
        with self._opened() as checks:
            rhs = Solve.checked(self.scores, v)
            require_flag(row_space, "row_space")
            if not row_space:
                return self._solved(rhs, checks, full_output)
            require_flag(full_output, "full_output")
            layout = rhs.layout(self.scores)
            require_row_space(self.scores, self.plan.method.name)
            return solve_in_row_space(self.problem, rhs, layout, checks, full_output=full_output)

    @overload
    def lstsq(
        self, f: Array, x0: ParameterVector | None = None, *, full_output: Literal[True]
    ) -> tuple[Any, SolveInfo]: ...
    @overload
    def lstsq(
        self, f: Array, x0: ParameterVector | None, full_output: Literal[True]
    ) -> tuple[Any, SolveInfo]: ...
    @overload
    def lstsq(
        self, f: Array, x0: ParameterVector | None = None, full_output: bool = False
    ) -> Any: ...
    @on_automatic_axes()
    def lstsq(self, f: Array, x0: ParameterVector | None = None, full_output: bool = False) -> Any:
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
        with self._opened() as checks:
            return self._solved(LeastSquares.checked(self.scores, f, x0), checks, full_output)

    @on_automatic_axes()
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
        scores = self.scores
        real = real_name(scores.dtype)
        with self._opened() as checks:
            damping = damping_values(damping, scores.like, scores.name, real, scores.batch)
            scores.ranks.note(damping=damping)
            return with_damping(self, damping, checks)

    @on_automatic_axes()
    def logdet(self) -> AnyArray:
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
        scores, small = self.scores, self.small
        with self._opened() as checks:
            _require_exact(self, checks)
            xp, damping = namespace(small.squared_norm), damping_of(self)
            value = _sum_without_lifted(self, small.matrix.log_determinant, lifted_log_determinant)
            if scores.wide:
                value = value + (scores.columns - scores.rows) * xp.log(damping)
            for scale in scores.scales or ():
                logs = xp.log(astype(scale, dtype_name(value.dtype)))
                sums = xp.sum(logs, axis=(-2, -1))
                value = value - 2 * scores.across_columns.merged(sums, add)
            return astype(value, real_name(scores.dtype))

    @on_automatic_axes()
    def effective_dimension(self) -> AnyArray:
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
        scores, small = self.scores, self.small
        with self._opened() as checks:
            _require_exact(self, checks)
            value = _sum_without_lifted(self, small.matrix.effective_dimension, lifted_dimension)
            return astype(value, real_name(scores.dtype))

    @on_automatic_axes()
    def leave_one_out(self, f: Array, *, stacked: bool | None = None) -> AnyArray:
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
        scores, null = self.scores, self.problem.null
        with self._opened() as checks:
            rhs = LeastSquares.checked(scores, f, None)
            layout = rhs.layout(scores)._replace(form=ONE_ARRAY)
            if self.plan.double:
                layout = layout.doubled(single=self.problem.metric is None)
            paired = is_stacked(stacked, null, scores)
            _require_exact(self, checks)
            checks.finite("f", rhs.f, batch=len(scores.batch), kind="vector")
            inverse = cast_inverse(self.small.inverse, layout.working)
            null = None if null is None else astype(null, layout.working)
            right = layout.to_columns(rhs.f)
            e = left_out_residuals(scores, inverse, right, null, stacked=paired)
            return layout.from_columns((astype(scores.given_back(e), layout.rounded),))

    @on_automatic_axes()
    def overlap(self, phi: ParameterVector) -> AnyArray:
        """Return (S phi)^H W^-1 (S phi) / |phi|^2: how much of phi the rows of S span.

        Parameters
        ----------
        phi : array, shape (..., m) or (..., m, k), or sequence of pieces
            Such as the last step, for SPRING.

        Returns
        -------
        array, shape (...) or (..., k), real
            Between 0 and, with D = 1, 1; 0 for phi = 0. W = S D^-1 S^H + damping.

        Raises
        ------
        TypeError, ValueError, numpy.linalg.LinAlgError
            As `lstsq`.

        Notes
        -----
        It is phi^H D x / |phi|^2 for the fit x = ``lstsq(S phi)``, also with n >= m, as
        D^-1 S^H W^-1 = (S^H S + damping D)^-1 S^H. Cost: that of `lstsq`, and a pass for S phi.
        Precision: errs by the relative error of x, and by roundings of 1.

        References
        ----------
        arXiv:2604.18357 (PRIME-SR, which chooses the momentum of SPRING by it).

        Examples
        --------
        >>> import numpy as np
        >>> factor = damped_factor(np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), 0.5)
        >>> float(factor.overlap(np.array([1.0, 2.0, 1.0])).round(3))
        0.889
        """
        with self._opened() as checks:
            rhs = Projection.checked(self.scores, phi)
            x = self._solved(rhs, checks, False)
            return overlap_of(rhs, self.problem, x)

    def _opened(self) -> opened:
        scores = self.scores
        return opened(scores.like, self.check, nan=True, ranks=scores.ranks)

    def _solved(
        self, rhs: RightHandSide | Projection, checks: ValueChecks, full_output: bool
    ) -> Any:
        require_flag(full_output, "full_output")
        layout = rhs.layout(self.scores)
        use = partial(solution, rhs=rhs, layout=layout, checks=checks, full_output=full_output)
        return reuse(self, checks, use, in_row_space=not isinstance(rhs, Solve))


def _require_exact(factor: DampedFactor, checks: ValueChecks) -> None:
    """Require that the factor is that of the damped matrix itself."""
    plan = factor.plan
    if not plan.method.exact:
        msg = (
            f"method {plan.method.name!r} has only an approximation of the Gram matrix; logdet, "
            f"effective_dimension and leave_one_out need another `method`, and scores with a Gram "
            f"matrix."
        )
        raise ValueError(msg)
    if plan.lifted:
        least = LIFT * unit_roundoff(plan.factor)
        msg = (
            f"`damping` is below {rounded_up(least)} |S|_F^2, the rounding errors of this "
            f"{plan.factor} Gram matrix, which solves refine, but logdet, effective_dimension and "
            f"leave_one_out do not. Raise it, or factor with precision='float64' or method='qr'."
        )
        checks.require(lambda: ~damping_below(factor, least), lambda: ValueError(msg))


def _sum_without_lifted(
    factor: DampedFactor,
    of_matrix: Callable[[Any, Array], Array],
    of_lifted: Callable[[Array, Array, Array], Array],
) -> Array:
    """Return a sum over the eigenvalues of the small matrix, (...), without those of null vectors.

    `of_matrix` gives the sum from inverse and damping, `of_lifted` what lifting added to it.
    """
    small, scores, damping = factor.small, factor.scores, damping_of(factor)
    value, null = of_matrix(small.inverse, damping), factor.problem.null
    if null is None or not scores.wide or not factor.plan.method.lifts_null:
        return value
    return value - of_lifted(null, lift_height(small.squared_norm, scores), damping)

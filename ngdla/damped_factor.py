"""Factor S S^H + damping (or S^H S + damping) once, solve often."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ._backend.checks import ValueChecks, all_finite, damping_values
from ._backend.namespace import (
    Array,
    LinAlgError,
    astype,
    computing,
    double_name,
    dtype_name,
    is_complex,
    namespace,
    real_name,
    register_pytree,
    unit_roundoff,
)
from ._backend.tracing import is_traced, number
from .certificates import SolveInfo, certificate
from .column_blocks import score_matrix
from .damped_problem import RightHandSide, Setup, setup
from .inverses import Inverse, Undamped, inverse_of, smallest_eigenvalue
from .precision import LIFT, Plan, climbed, warn_of_climbing
from .refinement import (
    First,
    ParameterSpace,
    Problem,
    SampleSpace,
    Space,
    converged,
    over_damping,
    refined,
)
from .score_matrix import ScoreMatrix, Vector
from .vectors import Layout

__all__ = ["DampedFactor", "damped_factor", "factorised", "solved"]


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
    with computing(namespace(scores.like)):
        given = setup(scores, damping, method, precision, refine, metric, null, scores.dtype)
        return factorised(given, check=check)


@register_pytree(static=("plan", "refine", "check"))
@dataclasses.dataclass(frozen=True, eq=False)
class DampedFactor:
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

    scores: ScoreMatrix
    inverse: Inverse
    undamped: Undamped | None
    damping: Any
    squared_norm: Array
    null: Array | None
    leak: Array | None
    ok: Array
    plan: Plan
    refine: int
    check: bool

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
        with computing(namespace(self.squared_norm)):
            real = real_name(scores.dtype)
            damping = damping_values(damping, scores.like, scores.name, real, scores.batch)
            factor = _redamped(self, damping, checks)
            try:
                checks.raise_on_failure()
            except _InsufficientPrecisionError:
                factor = _preconditioning(factor)
        return factor

    def logdet(self) -> Array:
        """Return log det(S^H S + damping D) of the m x m matrix.

        Returns
        -------
        array, shape (...), real

        Notes
        -----
        From the small factor: log det W + (m - n) log damping + log det D, with n < m; null vectors
        count as the eigenvalue damping of W. Errs by about n u sigma_1^2 / damping. Below 4 u
        |S|_F^2 a Cholesky factor is that of 4 u |S|_F^2, unless `precision="native"`.
        """
        scores = self.scores
        with computing(namespace(self.squared_norm)):
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

        Notes
        -----
        A sum of positive terms, exact to rounding for large dampings. 2 n^3 flops for "cholesky", n
        for the others. For small dampings see `logdet`.
        """
        with computing(namespace(self.squared_norm)):
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
            As `lstsq`; an odd number of stacked rows.

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
        layout = dataclasses.replace(_layout(self.scores, self.plan, rhs), sequence=None)
        paired = is_stacked(stacked, self.null, self.scores)
        checks = ValueChecks(enabled=self.check)
        with computing(namespace(self.squared_norm)):
            checks.finite("f", rhs.f)
            inverse = _inverse_in(self, layout.working)
            null = None if self.null is None else astype(self.null, layout.working)
            right = layout.enter(rhs.f)
            e = left_out_residuals(self.scores, inverse, right, null, stacked=paired)
            checks.raise_on_failure()
            return layout.leave((astype(e, layout.rounded),))

    def _solved(self, rhs: RightHandSide, full_output: bool) -> Any:
        checks = ValueChecks(enabled=self.check)
        with computing(namespace(self.squared_norm)):
            result = _solve(self, rhs, checks, First(), full_output)
            checks.raise_on_failure()
        return result


# -------------------------------------------------------------------------------- factors


class _InsufficientPrecisionError(Exception):
    """The damping is below what the plan is good for."""


def factorised(given: Setup, *, check: bool) -> DampedFactor:
    """Return the factor of a checked problem, of a higher precision where "auto" has to climb."""
    checks = ValueChecks(enabled=check)
    factor, _ = _factor(given, checks, (None, None), keep=True, check=check)
    try:
        checks.raise_on_failure()
    except _InsufficientPrecisionError:
        given, kept = _climb(given, factor)
        return kept or factorised(given, check=check)
    return factor


def _factor(
    given: Setup,
    checks: ValueChecks,
    start: tuple[Array | None, Vector | None],
    *,
    keep: bool,
    check: bool,
) -> tuple[DampedFactor, First]:
    """Return the factor of a checked problem, adding its value tests to `checks`."""
    if not isinstance(given.damping, float):
        checks.positive("damping", given.damping)
    checks.positive("metric", *(given.metric or ()))
    if given.null is not None:
        checks.finite("null", given.null)
    inverse, undamped, ok, squared_norm, leak, first = inverse_of(given, checks, start, keep=keep)
    factor = DampedFactor(
        scores=given.scores,
        inverse=inverse,
        undamped=undamped,
        damping=given.damping,
        squared_norm=squared_norm,
        null=given.null,
        leak=leak,
        ok=ok,
        plan=given.plan,
        refine=given.refine,
        check=check,
    )
    finite = namespace(squared_norm).isfinite
    checks.require(lambda: finite(squared_norm), lambda: given.scores.not_finite(given.plan.factor))
    if given.plan.least > 0:
        enough = ok & ~_below(factor)
        checks.require(lambda: enough, _InsufficientPrecisionError)
    else:
        checks.require(lambda: ok, lambda: _factor_error(factor))
    return factor, first


def _redamped(factor: DampedFactor, damping: Any, checks: ValueChecks) -> DampedFactor:
    """Return the factor for a checked damping, adding its value tests to `checks`."""
    assert factor.undamped is not None
    scores, plan, squared_norm = factor.scores, factor.plan, factor.squared_norm
    if not isinstance(damping, float):
        checks.positive("damping", damping)
    inverse, ok = inverted(factor.undamped.copy(), damping, squared_norm, lifted=plan.lifted)
    ok = ok & (damping > 0)
    if factor.leak is not None:
        given = Setup(scores, damping, plan, factor.refine, None, factor.null, False)
        ok = ok & is_null(given, factor.null, factor.leak, squared_norm)
    if plan.lifted and not plan.iterate:
        plan = plan._replace(least=max(plan.least, LIFT * unit_roundoff(plan.factor)))
    changed = dataclasses.replace(factor, inverse=inverse, damping=damping, ok=ok, plan=plan)
    checks.require(lambda: ok, lambda: _factor_error(changed))
    if plan.least > 0:
        checks.require(lambda: ~_below(changed), _InsufficientPrecisionError)
    return changed


def _preconditioning(factor: DampedFactor) -> DampedFactor:
    """Return the factor with a plan that goes on with the Gram matrix at hand."""
    plan, like = factor.plan, factor.scores.like
    ratio, smallest = _ratios(factor)
    higher, description = climbed(plan, ratio, smallest, like, dense=False)
    if higher.factor != plan.factor:
        higher = plan._replace(double=True, iterate=True, least=0.0)
        description = f"a factor keeps its Gram matrix of {plan.factor}, which only preconditions"
    if description:
        warn_of_climbing(
            f"`damping` is {ratio:.1e} of |{factor.scores.name}|_F^2, too small for {plan.factor} "
            f"alone: {description}. Raise `damping`, or factor anew with it by damped_factor."
        )
    return dataclasses.replace(factor, plan=higher)


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


def _below(factor: DampedFactor) -> Array:
    """Tell whether the damping is below what the plan is good for, (...)."""
    damping = factor.damping
    if not isinstance(damping, float):
        damping = astype(damping, real_name(factor.plan.factor))
    return damping < factor.plan.least * factor.squared_norm


def _climb(given: Setup, factor: DampedFactor) -> tuple[Setup, DampedFactor | None]:
    """Return the problem with a plan that its damping allows, and the factor if it serves on."""
    scores = given.scores
    ratio, smallest = _ratios(factor)
    plan, description = climbed(given.plan, ratio, smallest, scores.like, dense=scores.dense)
    if description:
        warn_of_climbing(
            f"`damping` is {ratio:.1e} of |{scores.name}|_F^2, too small for {given.plan.factor} "
            f"alone: {description}. Raise `damping`, or choose `precision` and `method` yourself "
            f"to be rid of this warning."
        )
    same = plan.factor == given.plan.factor and plan.method == given.plan.method
    kept = dataclasses.replace(factor, plan=plan) if same else None
    return given._replace(plan=plan), kept


def _ratios(factor: DampedFactor) -> tuple[float, float]:
    """Return damping and the smallest eigenvalue of the inverted matrix over |S|_F^2.

    The worst of a batch; the latter is 0 where the factorisation failed.
    """
    xp = namespace(factor.squared_norm)
    eigenvalue = smallest_eigenvalue(factor.inverse) / factor.squared_norm
    eigenvalue = xp.where(factor.ok, eigenvalue, xp.zeros_like(eigenvalue))
    ratio, smallest = (
        number(xp.min(x)) for x in (factor.damping / factor.squared_norm, eigenvalue)
    )
    assert ratio is not None
    assert smallest is not None
    return ratio, smallest


def _factor_error(factor: DampedFactor) -> Exception:
    xp = namespace(factor.squared_norm)
    ratio = factor.damping / factor.squared_norm
    worst = float(xp.min(xp.where(factor.ok, xp.full_like(ratio, xp.inf), ratio)))
    name, least = factor.scores.name, LIFT * unit_roundoff(factor.plan.factor)
    return LinAlgError(
        f"the damped Gram matrix of `{name}` is not positive definite in {factor.plan.factor}: "
        f"`damping` is {worst:.1e} of |S|_F^2, below the rounding errors of the Gram matrix. Raise "
        f"it to {least:.0e} |S|_F^2 or more, pass float64 arrays, name the null vectors of centred "
        f"scores by `null`, or use precision='auto' or method='qr'."
    )


# --------------------------------------------------------------------------------- solves


def solved(
    scores: ScoreMatrix,
    rhs: RightHandSide,
    damping: Any,
    *,
    method: str = "auto",
    precision: str = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: bool = True,
    full_output: bool = False,
    checks: ValueChecks | None = None,
    trusted: bool = False,
) -> Any:
    """Factor in the working dtype of the right-hand side, solve, and read all checks once.

    `trusted` null vectors are those of this library's own scores, and are not tested. Where the
    checks say that "auto" has to climb, everything but a factor that serves on is done again.
    """
    checks = checks or ValueChecks(enabled=check)
    with computing(namespace(scores.like)):
        options = (method, precision, refine, metric, null, rhs.layout(scores).working)
        given = setup(scores, damping, *options, trusted=trusted)
        attempt = checks.copy()
        start = _start(given, rhs)
        factor, first = _factor(given, attempt, start, keep=False, check=check)
        result = _solve(factor, rhs, attempt, first, full_output)
        try:
            attempt.raise_on_failure()
        except _InsufficientPrecisionError:
            given, kept = _climb(given, factor)
            factor = kept or _factor(given, checks, (None, None), keep=False, check=check)[0]
            result = _solve(factor, rhs, checks, First(), full_output)
            checks.raise_on_failure()
    return result


def _solve(
    factor: DampedFactor, rhs: RightHandSide, checks: ValueChecks, first: First, full_output: bool
) -> Any:
    """Return x, or (x, info), and add the tests of the right-hand side to `checks`."""
    scores, plan = factor.scores, factor.plan
    layout = _layout(scores, plan, rhs)
    problem = _problem(factor, rhs, layout)
    space: Space = SampleSpace(problem) if scores.wide else ParameterSpace(problem)
    inverse = _inverse_in(factor, layout.working)
    solution = space.first(first)
    low = unit_roundoff(plan.factor) > problem.u
    if (plan.iterate or low) and factor.check:
        solution = converged(space, inverse, solution, factor.refine, last_product=full_output)
    else:
        accelerate = plan.iterate or low or _accelerate(factor)
        solution = refined(
            space,
            inverse,
            solution,
            factor.refine,
            last_product=full_output,
            accelerate=accelerate,
        )
    x = solution.x
    assert x is not None
    x = tuple(astype(piece, layout.rounded) for piece in scores.scaled(x))
    checks.require(lambda: all_finite(*x), lambda: _solution_error(rhs, layout))
    if not full_output:
        return layout.leave(x)
    info: SolveInfo = certificate(space, solution, factor.ok, layout)
    return layout.leave(x), info


def _accelerate(factor: DampedFactor) -> Array | bool:
    """Tell whether "auto" needs conjugate gradients where it cannot read whether it has to climb.

    In double precision it never does: there the certificate may refuse the step.
    """
    plan = factor.plan
    if plan.least == 0.0 or plan.factor == double_name(plan.factor):
        return False
    if factor.check and not is_traced(factor.squared_norm):
        return False
    below = _below(factor)
    return namespace(below).any(below)


def _solution_error(rhs: RightHandSide, layout: Layout) -> Exception:
    """Return why x is not finite although S is and the factorisation succeeded."""
    arguments = rhs.named()
    for name, arrays in arguments:
        if not bool(all_finite(*arrays)):
            return ValueError(f"`{name}` contains NaN or Inf; pass finite values.")
    names = " and ".join(f"`{name}`" for name, _ in arguments)
    return ValueError(
        f"the solution exceeds the range of {layout.rounded}: {names} over `damping` is too large, "
        f"or refinement diverged as `damping` is below the rounding errors of the Gram matrix. "
        f"Scale {names} down, raise `damping`, or use float64."
    )


class _Vectors(NamedTuple):
    f: Array | None
    x0: Vector | None
    v: Vector | None


def _problem(factor: DampedFactor, rhs: RightHandSide, layout: Layout) -> Problem:
    """Return the problem in the working dtype and in the coordinates D^(1/2) x."""
    f, x0, v = _right_hand_side(factor.scores, rhs, layout)
    working = real_name(layout.working)
    null, leak = factor.null, factor.leak
    if null is not None:
        null, leak = astype(null, layout.working), astype(leak, working)
    return Problem(
        scores=factor.scores,
        damping=_damping_in(factor.damping, layout),
        squared_norm=astype(factor.squared_norm, working),
        null=null,
        leak=leak,
        f=f,
        x0=x0,
        v=v,
        accuracy=unit_roundoff(layout.dtype),
        u=unit_roundoff(layout.working),
    )


def _right_hand_side(scores: ScoreMatrix, rhs: RightHandSide, layout: Layout) -> _Vectors:
    f = None if rhs.f is None else layout.enter(rhs.f)
    x0 = v = None
    if rhs.v is not None:
        v = scores.scaled(tuple(layout.enter(piece) for piece in rhs.v))
    if rhs.x0 is not None:
        x0 = scores.unscaled(tuple(layout.enter(piece) for piece in rhs.x0))
    return _Vectors(f, x0, v)


def _start(given: Setup, rhs: RightHandSide) -> tuple[Array | None, Vector | None]:
    """Return f and the x from which the iteration starts, in the dtype of the work."""
    layout = _layout(given.scores, given.plan, rhs)
    f, x0, v = _right_hand_side(given.scores, rhs, layout)
    if v is not None and given.scores.wide:
        x0 = over_damping(v, _damping_in(given.damping, layout))
    return f, x0


def _damping_in(damping: Any, layout: Layout) -> Any:
    return damping if isinstance(damping, float) else astype(damping, real_name(layout.working))


def _layout(scores: ScoreMatrix, plan: Plan, rhs: RightHandSide) -> Layout:
    return dataclasses.replace(rhs.layout(scores), double=plan.double)


def _inverse_in(factor: DampedFactor, working: str) -> Any:
    """Return the inverse in the working dtype, whatever the factor was computed in.

    Applied in lower precision, it would not be one Hermitian matrix, on which sweeps rely.
    """
    inverse = factor.inverse
    if working == factor.plan.factor:
        return inverse
    dtypes = (real_name(working) if not is_complex(a) else working for a in inverse)
    return type(inverse)(*(astype(a, dtype) for a, dtype in zip(inverse, dtypes)))

"""Factor S S^H + damping (or S^H S + damping) once, solve often."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._backend.checks import ValueChecks, all_finite
from ._backend.namespace import (
    Array,
    LinAlgError,
    astype,
    computing,
    namespace,
    real_name,
    register_pytree,
    unit_roundoff,
)
from .damped_problem import RightHandSide, Setup, setup
from .inverses import Inverse, inverse_of
from .refinement import (
    Problem,
    SolveInfo,
    parameter_certificate,
    parameter_refinement,
    sample_certificate,
    sample_refinement,
)
from .streaming import ColumnBlocks, column_blocks
from .vectors import Layout

__all__ = ["DampedFactor", "damped_factor", "solved"]


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
        With the methods ``solve(v)`` and ``lstsq(f, x0)``. It refers to `S`, which must not be
        changed while the factor is in use. A pytree of JAX and torch; ``dask.persist(factor)``
        keeps that of Dask arrays, which each computation would form anew.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `damped_solve`.

    Notes
    -----
    Cost: n^2 m flops and one pass over S for the Gram matrix, n^3 / 3 for "cholesky", about 9 n^3
    for "eigh"; about 6 n^2 m for "svd" and 2 n^2 m for "qr". Memory n^2 ("eigh", "svd", "qr": up to
    3 n^2), while factoring also copies of S: one or two for "qr", several for "svd". A right-hand
    side then costs 4 n m flops a sweep.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> factor = damped_factor(S, 0.5)
    >>> x = factor.solve(np.array([1.0, 0.0, 1.0]))
    >>> np.allclose(S.T @ (S @ x) + 0.5 * x, [1.0, 0.0, 1.0])
    True
    """
    scores = column_blocks(S)
    checks = ValueChecks(enabled=check)
    with computing(namespace(scores.blocks[0])):
        given = setup(scores, damping, method, precision, refine, metric, null, scores.dtype)
        factor = _factorise(given, checks, check=check)
        checks.raise_on_failure()
    return factor


@register_pytree(static=("dtype", "refine", "check"))
@dataclasses.dataclass(frozen=True, eq=False)
class DampedFactor:
    """A factored damped problem; made by `damped_factor`.

    Attributes
    ----------
    scores : ColumnBlocks
        S and the scaling by the metric.
    inverse : CholeskyInverse or SpectralInverse
        The inverse of the small damped matrix, as a function of (..., n or m, k).
    damping : float or array, shape (...)
    squared_norm : array, shape (...)
        |S|_F^2, the trace of the Gram matrix.
    null : array, shape (..., n, p), or None
    leak : array, shape (...), or None
        |S^H N|_F, which should be a rounding error.
    ok : array of bool, shape (...)
        The factorisation succeeded.
    dtype : str
        Of the factor.
    refine : int
    check : bool
    """

    scores: ColumnBlocks
    inverse: Inverse
    damping: Any
    squared_norm: Array
    null: Array | None
    leak: Array | None
    ok: Array
    dtype: str
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

    def _solved(self, rhs: RightHandSide, full_output: bool) -> Any:
        checks = ValueChecks(enabled=self.check)
        with computing(namespace(self.squared_norm)):
            result = _solve(self, rhs, checks, full_output)
            checks.raise_on_failure()
        return result


# -------------------------------------------------------------------------------- factors


def _factorise(given: Setup, checks: ValueChecks, *, check: bool) -> DampedFactor:
    """Return the factor of a checked problem, adding its value tests to `checks`."""
    if not isinstance(given.damping, float):
        checks.positive("damping", given.damping)
    checks.positive("metric", *(given.metric or ()))
    if given.null is not None:
        checks.finite("null", given.null)
    inverse, ok, squared_norm, leak = inverse_of(given, checks)
    factor = DampedFactor(
        scores=given.scores,
        inverse=inverse,
        damping=given.damping,
        squared_norm=squared_norm,
        null=given.null,
        leak=leak,
        ok=ok,
        dtype=given.dtype,
        refine=given.refine,
        check=check,
    )
    finite = namespace(squared_norm).isfinite
    checks.require(lambda: finite(squared_norm), lambda: given.scores.not_finite(given.dtype))
    checks.require(lambda: ok, lambda: _factor_error(factor))
    return factor


def _factor_error(factor: DampedFactor) -> Exception:
    xp = namespace(factor.squared_norm)
    ratio = factor.damping / factor.squared_norm
    worst = float(xp.min(xp.where(factor.ok, xp.full_like(ratio, xp.inf), ratio)))
    name, least = factor.scores.name, 4 * unit_roundoff(factor.dtype)
    return LinAlgError(
        f"the damped Gram matrix of `{name}` is not positive definite in {factor.dtype}: `damping` "
        f"is {worst:.1e} of |S|_F^2, below the rounding errors of the Gram matrix. Raise "
        f"it to {least:.0e} |S|_F^2 or more, pass float64 arrays, name the null vectors of centred "
        f"scores by `null`, or use method='qr'."
    )


# --------------------------------------------------------------------------------- solves


def solved(
    scores: ColumnBlocks,
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

    `trusted` null vectors are those of this library's own scores, and are not tested.
    """
    working = rhs.layout(scores).working
    checks = checks or ValueChecks(enabled=check)
    with computing(namespace(scores.blocks[0])):
        options = (method, precision, refine, metric, null, working)
        given = setup(scores, damping, *options, trusted=trusted)
        factor = _factorise(given, checks, check=check)
        result = _solve(factor, rhs, checks, full_output)
        checks.raise_on_failure()
    return result


def _solve(factor: DampedFactor, rhs: RightHandSide, checks: ValueChecks, full_output: bool) -> Any:
    """Return x, or (x, info), and add the tests of the right-hand side to `checks`."""
    scores = factor.scores
    layout = rhs.layout(scores)
    problem = _problem(factor, rhs, layout)
    inverse = _inverse_in(factor, layout.working)
    wide = scores.rows < scores.columns
    refined = (sample_refinement if wide else parameter_refinement)(problem, inverse, factor.refine)
    checks.require(lambda: all_finite(*refined.x), lambda: _solution_error(rhs, layout))
    x = layout.leave(scores.scaled(refined.x))
    if not full_output:
        return x
    certificate = sample_certificate if wide else parameter_certificate
    info: SolveInfo = certificate(problem, refined, factor.ok, layout)
    return x, info


def _solution_error(rhs: RightHandSide, layout: Layout) -> Exception:
    """Return why x is not finite although S is and the factorisation succeeded."""
    arguments = rhs.named()
    for name, arrays in arguments:
        if not bool(all_finite(*arrays)):
            return ValueError(f"`{name}` contains NaN or Inf; pass finite values.")
    names = " and ".join(f"`{name}`" for name, _ in arguments)
    return ValueError(
        f"the solution exceeds the range of {layout.working}: {names} over `damping` is too large, "
        f"or refinement diverged as `damping` is below the rounding errors of the Gram matrix. "
        f"Scale {names} down, raise `damping`, or use float64."
    )


def _problem(factor: DampedFactor, rhs: RightHandSide, layout: Layout) -> Problem:
    """Return the problem in the working dtype and in the coordinates D^(1/2) x."""
    scores = factor.scores
    v = x0 = None
    if rhs.v is not None:
        v = scores.scaled(tuple(layout.enter(piece) for piece in rhs.v))
    if rhs.x0 is not None:
        x0 = scores.unscaled(tuple(layout.enter(piece) for piece in rhs.x0))
    f = None if rhs.f is None else layout.enter(rhs.f)
    working = real_name(layout.working)
    damping, null, leak = factor.damping, factor.null, factor.leak
    if not isinstance(damping, float):
        damping = astype(damping, working)
    if null is not None:
        null, leak = astype(null, layout.working), astype(leak, working)
    return Problem(scores, damping, astype(factor.squared_norm, working), null, leak, f, x0, v)


def _inverse_in(factor: DampedFactor, working: str) -> Any:
    """Return the inverse as a function in the working dtype, whatever the factor's is."""
    if working == factor.dtype:
        return factor.inverse
    return lambda r: astype(factor.inverse(astype(r, factor.dtype)), working)

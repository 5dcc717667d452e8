"""Factor S S^H + damping (or S^H S + damping) once, solve often.

Every method leads to the inverse of one small Hermitian matrix: W = S D^-1 S^H + damping with
n < m, A = D^-1/2 S^H S D^-1/2 + damping with n >= m. A Cholesky factor, or eigenvectors with
shifted eigenvalues, which come from the Gram matrix, from S by SVD, or from R of a QR of S^H.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ._backend.checks import ValueChecks, all_finite
from ._backend.namespace import (
    Array,
    LinAlgError,
    astype,
    computing,
    dtype_name,
    is_complex,
    namespace,
    real_name,
    register_pytree,
    unit_roundoff,
)
from ._backend.products import add_to_diagonal, adjoint, rmatvec, trace
from ._backend.spectral import eigh, left_singular, qr_r
from ._backend.triangular import cho_solve, cholesky
from .damped_problem import RightHandSide, Setup, setup
from .refinement import (
    Problem,
    SolveInfo,
    expanded,
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
        changed while the factor is in use. A pytree of JAX and torch.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `damped_solve`.

    Notes
    -----
    Cost: n^2 m flops and one pass over S for the Gram matrix, n^3 / 3 for "cholesky", about 9 n^3
    for "eigh"; about 6 n^2 m for "svd" and 2 n^2 m for "qr", which copy S. Memory n^2 ("eigh",
    "svd", "qr": up to 3 n^2). A right-hand side then costs 4 n m flops a sweep.

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
    given = setup(scores, damping, method, precision, refine, metric, null, scores.dtype)
    checks = ValueChecks(enabled=check)
    with computing(namespace(scores.blocks[0])):
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
    ok : array of bool, shape (...)
        The factorisation succeeded.
    dtype : str
        Of the factor.
    refine : int
    check : bool
    """

    scores: ColumnBlocks
    inverse: CholeskyInverse | SpectralInverse
    damping: Any
    squared_norm: Array
    null: Array | None
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
        x, of the shape of `v`, or (x, info)
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
        x, of the shape of `x0`, or (x, info)
        """
        return self._solved(RightHandSide.of_lstsq(self.scores, f, x0), full_output)

    def _solved(self, rhs: RightHandSide, full_output: bool) -> Any:
        checks = ValueChecks(enabled=self.check)
        with computing(namespace(self.squared_norm)):
            result = _solve(self, rhs, checks, full_output)
            checks.raise_on_failure()
        return result


# ------------------------------------------------------------------------------- inverses


class CholeskyInverse(NamedTuple):
    """(L L^H)^-1."""

    L: Array

    def __call__(self, r: Array) -> Array:
        return cho_solve(self.L, r)


class SpectralInverse(NamedTuple):
    """U diag(1 / shifted) U^H, with shifted = eigenvalues + damping, (..., n, 1)."""

    shifted: Array
    U: Array

    def __call__(self, r: Array) -> Array:
        return namespace(r).matmul(self.U, rmatvec(self.U, r) / self.shifted)


# ------------------------------------------------------------------------------- factors


def _factorise(given: Setup, checks: ValueChecks, *, check: bool) -> DampedFactor:
    """Return the factor of a checked problem, adding its value tests to `checks`."""
    scores, damping, dtype = given.scores, given.damping, given.dtype
    if given.method in ("svd", "qr"):
        values, U = _singular(given)
        squared_norm = namespace(values).sum(values, axis=-1)
        inverse, ok = _spectral(values, U, damping)
    else:
        wide = scores.rows < scores.columns
        K = scores.gram(dtype) if wide else scores.parameter_gram(dtype)
        squared_norm = trace(K)
        if wide and given.null is not None:
            K = _with_null(K, squared_norm, given.null, checks)
        if given.method == "eigh":
            values, U = eigh(K)
            inverse, ok = _spectral(namespace(K).clip(values, min=0.0), U, damping)
        else:
            L, ok = cholesky(add_to_diagonal(K, damping))
            inverse = CholeskyInverse(L)
    factor = DampedFactor(
        scores, inverse, damping, squared_norm, given.null, ok, dtype, given.refine, check
    )
    _require_values(given, factor, checks)
    return factor


def _singular(given: Setup) -> tuple[Array, Array]:
    """Return the eigenvalues sigma^2 and eigenvectors of the small matrix from S itself."""
    S = given.scores.dense(given.dtype)
    xp = namespace(S)
    wide = given.scores.rows < given.scores.columns
    if given.method == "svd":
        s, U = left_singular(S if wide else xp.matrix_transpose(S))
        if not wide and is_complex(U):
            U = xp.conj(U)  # S^T has the conjugates of the right singular vectors of S
    elif wide:
        s, U = left_singular(xp.matrix_transpose(qr_r(xp.matrix_transpose(S))))
    else:
        s, U = left_singular(adjoint(qr_r(S)))
    return s * s, U


def _spectral(values: Array, U: Array, damping: Any) -> tuple[SpectralInverse, Array]:
    xp = namespace(values)
    shifted = values + expanded(damping, 1)
    return SpectralInverse(xp.expand_dims(shifted, axis=-1), U), xp.all(
        xp.isfinite(shifted), axis=-1
    )


def _with_null(K: Array, squared_norm: Array, null: Array, checks: ValueChecks) -> Array:
    """Return K + (tr K / n) N N^H, which lifts the exact null vectors of centred scores."""
    xp = namespace(K)
    checks.require(lambda: _is_null(K, squared_norm, null), _null_error)
    lift = expanded(squared_norm, 2) / K.shape[-1]
    return K + lift * xp.matmul(null, adjoint(null))


def _is_null(K: Array, squared_norm: Array, null: Array) -> Array:
    """Tell whether N^H N = 1 and |S^H N|^2 = N^H K N is small against |S|^2."""
    xp = namespace(K)
    u = unit_roundoff(dtype_name(K.dtype))
    N_H = adjoint(null)
    identity = xp.matmul(N_H, null)
    skew = xp.abs(identity - xp.tril(xp.triu(xp.ones_like(identity))))
    inside = xp.abs(xp.matmul(N_H, xp.matmul(K, null)))
    orthonormal = xp.all(skew <= 8 * K.shape[-1] * u)
    # NaN in S is reported as such: it must not fail here
    return orthonormal & ~xp.any(inside > u**0.5 * expanded(squared_norm, 2))


def _null_error() -> Exception:
    return ValueError(
        "`null` must have orthonormal columns N with S^H N = 0, such as sqrt(p) for scores "
        "centred with probabilities p; centre the scores, or leave `null` out."
    )


def _require_values(given: Setup, factor: DampedFactor, checks: ValueChecks) -> None:
    """Add the tests of S, damping, metric, null and of the factorisation, in this order."""
    xp = namespace(factor.squared_norm)
    damping = factor.damping
    if not isinstance(damping, float):
        checks.require(lambda: (damping > 0) & xp.isfinite(damping), _damping_error)
    if given.metric is not None:
        weights = given.metric
        for w in weights:
            checks.require(lambda w=w: (w > 0) & xp.isfinite(w), _metric_error)  # type: ignore[misc]
    if given.null is not None:
        checks.require(lambda: all_finite(given.null), _null_error)
    checks.require(lambda: xp.isfinite(factor.squared_norm), lambda: _scores_error(given))
    checks.require(lambda: factor.ok, lambda: _factor_error(factor))


def _damping_error() -> Exception:
    return ValueError(
        "`damping` holds values that are not positive and finite; every one must be > 0, in units "
        "of squared singular values of `S`."
    )


def _metric_error() -> Exception:
    return ValueError("`metric` holds values that are not positive and finite; every one must be > 0.")


def _scores_error(given: Setup) -> Exception:
    name = given.scores.name
    if not all(bool(all_finite(block)) for block in given.scores.blocks):
        return ValueError(f"`{name}` contains NaN or Inf. Drop or mask the samples they belong to.")
    return ValueError(
        f"the squared row norms of `{name}` exceed the range of {real_name(given.dtype)}. "
        f"Scale `{name}` (and `damping` by the square), or pass it as float64."
    )


def _factor_error(factor: DampedFactor) -> Exception:
    xp = namespace(factor.squared_norm)
    failed = ~factor.ok
    ratio = factor.damping / factor.squared_norm
    worst = float(xp.min(xp.where(failed, ratio, xp.full_like(ratio, xp.inf))))
    u = unit_roundoff(factor.dtype)
    size = factor.scores.rows if factor.null is None else factor.scores.rows - 1
    least = 4 * u * min(max(size, 1), factor.scores.columns) ** 0.5
    return LinAlgError(
        f"the damped Gram matrix of `{factor.scores.name}` is not positive definite in {factor.dtype}: damping is "
        f"{worst:.1e} of |S|_F^2, below the rounding of the Gram matrix. Raise `damping` above "
        f"about {least:.0e} |S|_F^2, pass float64 arrays, name the null vectors of centred "
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
) -> Any:
    """Factor in the working dtype of the right-hand side, solve, and read all checks once."""
    working = rhs.layout(scores).working
    given = setup(scores, damping, method, precision, refine, metric, null, working)
    checks = checks or ValueChecks(enabled=check)
    with computing(namespace(scores.blocks[0])):
        factor = _factorise(given, checks, check=check)
        result = _solve(factor, rhs, checks, full_output)
        checks.raise_on_failure()
    return result


def _solve(
    factor: DampedFactor, rhs: RightHandSide, checks: ValueChecks, full_output: bool
) -> Any:
    """Return x, or (x, info), and add the tests of the right-hand side to `checks`."""
    scores = factor.scores
    layout = rhs.layout(scores)
    for name, arrays in zip(rhs.names, (rhs.v, rhs.f, rhs.x0)):
        if arrays is not None:
            checks.require(
                lambda a=arrays: all_finite(*(a if isinstance(a, tuple) else (a,))),  # type: ignore[misc]
                lambda name=name: ValueError(f"`{name}` contains NaN or Inf."),  # type: ignore[misc]
            )
    problem = _problem(factor, rhs, layout)
    inverse = _inverse_in(factor, layout.working)
    wide = scores.rows < scores.columns
    refined = (sample_refinement if wide else parameter_refinement)(problem, inverse, factor.refine)
    x = layout.leave(scores.scaled(refined.x))
    if not full_output:
        return x
    certificate = sample_certificate if wide else parameter_certificate
    info: SolveInfo = certificate(problem, refined, factor.ok, layout)
    return x, info


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
    damping, null = factor.damping, factor.null
    if not isinstance(damping, float):
        damping = astype(damping, working)
    if null is not None:
        null = astype(null, layout.working)
    return Problem(scores, damping, astype(factor.squared_norm, working), null, f, x0, v)


def _inverse_in(factor: DampedFactor, working: str) -> Any:
    """Return the inverse as a function in the working dtype, whatever the factor's is."""
    if working == factor.dtype:
        return factor.inverse
    return lambda r: astype(factor.inverse(astype(r, factor.dtype)), working)

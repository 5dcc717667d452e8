"""Solves with a damped Gram matrix that somebody else has formed, and what is known of them.

Where only W = G + damping is given, nothing tells how large the damping is. A step is certified by
the smallest eigenvalue of W, in units of the trace, which rounding errors of W are proportional to.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened, warn_caller
from ngdla._backend.checks import (
    not_hermitian,
    require_array,
    require_columns,
    require_like,
    square_matrix,
)
from ngdla._backend.chunks import unchunked
from ngdla._backend.dtypes import (
    astype,
    double_name,
    dtype_name,
    has_double,
    is_complex,
    real_name,
    result_name,
    unit_roundoff,
)
from ngdla._backend.namespace import Array, LinAlgError, as_array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.powers import power_of_two
from ngdla._backend.products import add_to_diagonal, adjoint, preserved, rmatvec
from ngdla._backend.products import trace as trace_of
from ngdla._backend.random import gaussian
from ngdla._backend.shapes import expanded
from ngdla._backend.tracing import (
    choose_if_free,
    concrete,
    derivative_where,
    detached,
    is_traced,
    largest_number,
    nan_unless,
)
from ngdla._backend.triangular import cho_solve, cholesky
from ngdla.score_matrices.parameter_forms import ONE_ARRAY

from .inverses import CholeskyInverse, smallest_by_iterations
from .null_vectors import are_null, lift, null_error, without_null
from .precision import PrecisionWarning
from .right_hand_side import Layout
from .roundings import rounding

__all__ = ["HermitianInfo", "hermitian_solve"]

_LEAST = 16.0  # of smallest eigenvalues, in units of u tr W
_LIFT = 4.0  # what is added where they are smaller
_SWEEPS = 2


class HermitianInfo(NamedTuple):
    """What is known of a solution, one value for each right-hand side, or for each matrix.

    Attributes
    ----------
    residual_norm : array
        |b - W y|, without what b has along null vectors; where W was lifted, of that matrix.
    backward_error : array
        Residual norm over |W| |y| + |b|.
    smallest : array, shape (...)
        An estimate from above, by inverse iterations, of the smallest eigenvalue of the matrix that
        was solved with, null vectors left out. 0 without a factor.
    lifted : array of bool, shape (...)
        W + 4 u tr W was solved instead of W.
    converged : array of bool
        W itself was factored and not lifted, and the error is at most |y| / 2 by the residual.
    """

    residual_norm: AnyArray
    backward_error: AnyArray
    smallest: AnyArray
    lifted: AnyArray
    converged: AnyArray


@overload
def hermitian_solve(
    W: Array,
    b: Array,
    *,
    null: Array | None = None,
    trace: float | Array | None = None,
    check: Check = True,
    full_output: Literal[False] = False,
) -> AnyArray: ...
@overload
def hermitian_solve(
    W: Array,
    b: Array,
    *,
    null: Array | None = None,
    trace: float | Array | None = None,
    check: Check = True,
    full_output: Literal[True],
) -> tuple[AnyArray, HermitianInfo]: ...
def hermitian_solve(
    W: Array,
    b: Array,
    *,
    null: Array | None = None,
    trace: float | Array | None = None,
    check: Check = True,
    full_output: bool = False,
) -> AnyArray | tuple[AnyArray, HermitianInfo]:
    """Return y with W y = b, for a Gram matrix W that has its damping inside.

    Parameters
    ----------
    W : array, shape (..., n, n), real or complex
        Hermitian positive semi-definite, such as S S^H + damping or S^H S + damping; (W + W^H) / 2
        is used. It is not written to.
    b : array, shape (..., n) or (..., n, k)
        Right-hand sides.
    null : array, shape (..., n) or (..., n, p), optional
        Orthonormal null vectors N of the undamped matrix, such as sqrt(weights / sum(weights)) for
        the Gram matrix of centred scores; what b has along them is left out. Without them the
        smallest eigenvalue of such a W is the damping itself, by which it is judged.
    trace : float or array, shape () or (...), optional
        tr W, where it is known.
    check : bool or "nan", default True
        True: warn, and refuse what cannot be solved, which reads one flag on the host; where values
        cannot be read (`jax.jit`, `vmap`, `torch.compile`, Dask), y is NaN where it did not
        converge. "nan": the same NaN everywhere, and nothing is read. False: nothing is tested or
        refused; a flag of a GPU may be read where the other way is twice the work.
    full_output : bool, default False
        Also return a `HermitianInfo`.

    Returns
    -------
    y : array, shape of b
        In the dtype that `W` and `b` promote to, float32 at least. With ``full_output=True`` a pair
        (y, HermitianInfo).

    Raises
    ------
    TypeError
        If arguments are no dense floating-point arrays of one library, or `null` is complex for a
        real `W`.
    ValueError
        If shapes do not fit, `W` is not Hermitian beyond rounding, `null` not orthonormal or no
        null vectors, or there is NaN or Inf.
    numpy.linalg.LinAlgError
        If W + 4 u tr W has no Cholesky factor.

    Warns
    -----
    PrecisionWarning
        Where a solution did not converge.

    Notes
    -----
    Method: a Cholesky factor and two sweeps of refinement, in double precision where there is one.
    Entries of W err by about u tr W for the unit roundoff u of its dtype. Where the factorisation
    fails, or the smallest eigenvalue is below 16 u tr W, W + 4 u tr W is solved instead: such a
    step is not the one that was asked for, but no longer than it. Refining it on W itself would
    lead to steps that rounding errors of W make far too long.
    Cost: n^3 / 3 flops and some three n x n matrices in double precision; the factorisation twice
    where W is lifted, and where that cannot be told.
    Precision: that of W, relative errors of u tr W over the smallest eigenvalue. `damped_solve` and
    `damped_lstsq`, from S instead of W, do not lose these digits.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002: (10.7) for
    when a Cholesky factor exists, chapter 12 for refinement, 15.1 for inverse iterations.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, b = rng.standard_normal((6, 40)), rng.standard_normal(6)
    >>> W = S @ S.T + 1e-3 * np.eye(6)
    >>> y, info = hermitian_solve(W, b, full_output=True)
    >>> bool(np.allclose(W @ y, b)), bool(info.converged)
    (True, True)
    """
    given, W = W, unchunked(square_matrix(W, "W"))
    u = unit_roundoff(dtype_name(given.dtype))
    columns, vector = require_columns(b, "b", tuple(W.shape[:-1]), W, "W", tuple(W.shape))
    layout = _layout(W, columns, vector)
    N = None if null is None else _null(W, null)
    with opened(W, check, nan=True) as checks:
        tr = trace_of(W) if trace is None else _trace(W, trace)
        unit = power_of_two(tr)  # so that squares of entries stay in the range of their dtype
        W, tr = W / expanded(unit, 2), tr / unit
        _require_values(W, columns, N, tr, u, checks, unit)
        problem = _problem(W, unchunked(columns), N, tr, layout)
        y, info = _guarded(problem, astype(tr, real_name(layout.working)) * u, checks)
        y = y / expanded(unit, y.ndim - unit.ndim)
        right = namespace(y).reshape(~info.lifted, info.lifted.shape + (1,) * (y.ndim - unit.ndim))
        y = derivative_where(right, y)
        smallest = info.smallest * astype(unit, dtype_name(info.smallest.dtype))
    return (y, info._replace(smallest=smallest)) if full_output else y


# ----------------------------------------------------------------------------- arguments


def _layout(W: Array, b: Array, vector: bool) -> Layout:
    """Return how to work: complex b for real W are two right-hand sides."""
    own = dtype_name(W.dtype)
    dtype = result_name(own, dtype_name(b.dtype))
    paired = is_complex(b) and not is_complex(W)
    rounded = real_name(dtype) if paired else dtype
    return Layout(vector, paired, ONE_ARRAY, dtype, rounded, _working(rounded, W))


def _working(dtype: str, like: Array) -> str:
    return double_name(dtype) if has_double(like) else dtype


def _null(W: Array, null: Any) -> Array:
    N, _ = require_columns(null, "null", tuple(W.shape[:-1]), W, "W", tuple(W.shape))
    if is_complex(N) and not is_complex(W):
        msg = f"`null` is {dtype_name(N.dtype)} but `W` is real; pass a real one."
        raise TypeError(msg)
    return unchunked(N)


def _trace(W: Array, trace: Any) -> Array:
    """Return the trace of the caller's as a real array (...)."""
    xp, batch = namespace(W), tuple(W.shape[:-2])
    like = xp.zeros_like(trace_of(W))
    if isinstance(trace, (int, float)):
        return like + float(trace)
    require_array(trace, "trace")
    require_like(trace, "trace", W, "W")
    if tuple(trace.shape) not in ((), batch) or is_complex(trace):
        msg = f"`trace` has shape {tuple(trace.shape)}; it must be real, of shape {batch} or ()."
        raise ValueError(msg)
    return like + astype(trace, dtype_name(like.dtype))


def _require_values(
    W: Array, b: Array, N: Array | None, tr: Array, u: float, checks: ValueChecks, unit: Array
) -> None:
    """Add to the checks what W, which is over its unit, b and null vectors must be."""
    if is_traced(W):
        return
    xp, n = namespace(W), int(W.shape[-1])
    size = frobenius_norm(W)
    checks.finite("W", size, batch=size.ndim)
    checks.finite("b", b, batch=size.ndim, kind="vector")
    checks.finite("trace", tr, batch=tr.ndim)
    g = gaussian(0, (n, 1), W, dtype_name(W.dtype))

    def deviation() -> Array:
        return xp.linalg.matrix_norm(xp.matmul(W, g) - rmatvec(W, g))

    checks.require(
        lambda: deviation() <= 8 * u * n**0.5 * size,
        lambda: not_hermitian("W", largest_number(deviation() * unit), largest_number(size * unit)),
    )
    if N is not None:
        given = dtype_name(W.dtype)
        N = astype(N, given)
        WN = xp.matmul(W, N)
        leak = xp.linalg.matrix_norm(without_null(WN, N))
        checks.require(lambda: are_null(N, leak, size * size, given), null_error)


# ------------------------------------------------------------------------------- solution


class _Problem(NamedTuple):
    K: Array  # (..., n, n), lifted along null vectors
    r: Array  # (..., n, k), without what is along them
    N: Array | None
    layout: Layout


def _problem(W: Array, b: Array, N: Array | None, tr: Array, layout: Layout) -> _Problem:
    W = astype(W, _working(dtype_name(W.dtype), W))
    K, r = (W + adjoint(W)) / 2, layout.to_columns(b)
    if N is None:
        return _Problem(K, r, None, layout)
    N = astype(N, layout.working)
    K = lift(K, N, astype(tr, real_name(layout.working)) / K.shape[-1])
    return _Problem(K, without_null(r, N), N, layout)


class _Factor(NamedTuple):
    L: Array
    ok: Array  # (...): there is one
    smallest: Array  # (...): an estimate of the smallest eigenvalue
    shift: Array  # (...)


def _factor(K: Array, shift: Array) -> _Factor:
    """Return the Cholesky factor of K + shift."""
    xp = namespace(K)
    L, ok = cholesky(add_to_diagonal(preserved(K), shift))
    constant = detached(L)
    smallest = as_array(smallest_by_iterations(CholeskyInverse(constant), constant))
    ok = ok & xp.isfinite(smallest)
    return _Factor(L, ok, xp.where(ok, smallest, xp.zeros_like(smallest)), shift)


def _guarded(problem: _Problem, error: Array, checks: ValueChecks) -> Any:
    """Return the solution and its certificate, of a matrix that is lifted where it has to be.

    `error` is u tr W.
    """
    K, xp = problem.K, namespace(error)
    zero = xp.zeros_like(error)
    first = _factor(K, zero)
    good = first.ok & (first.smallest >= _LEAST * error)
    every = xp.all(good)

    def lifted() -> _Factor:
        return _factor(K, xp.where(good, zero, _LIFT * error))

    if not checks.enabled or is_traced(every):
        factor = choose_if_free(every, lambda: first, lifted)
        y, info = _solution(problem, factor, good)
        return (_nan_where_lost(y, info, problem.layout) if checks.refuses else y), info
    y, info = _solution(problem, first, good)
    checks.ask(lambda: every)
    checks.require(lambda: info.converged, lambda: PrecisionWarning(_MESSAGE))
    if checks.read():
        return y, info
    second = lifted()
    if not concrete(xp.all(second.ok)):
        msg = "`W` is not positive semi-definite: W + 4 u tr W has no Cholesky factor."
        raise LinAlgError(msg)
    warn_caller(_MESSAGE, PrecisionWarning)
    return _solution(problem, second, good)


_MESSAGE = (
    "the smallest eigenvalue of `W` is at the level of its rounding errors, so that the step is "
    "not the one that was asked for; raise the damping, pass `null`, form W in float64, or use "
    "damped_solve or damped_lstsq with precision='auto'"
)


def _nan_where_lost(y: Array, info: HermitianInfo, layout: Layout) -> Array:
    factor = nan_unless(info.converged, info.residual_norm)
    return y * namespace(y).expand_dims(factor, axis=-1 if layout.vector else -2)


def _solution(problem: _Problem, factor: _Factor, good: Array) -> tuple[Array, HermitianInfo]:
    """Return y, refined on the matrix that was factored, and its certificate."""
    K, r, N, layout = problem
    xp, shift = namespace(K), expanded(factor.shift, 2)

    def residual(y: Array) -> Array:
        return r - xp.matmul(K, y) - shift * y

    y = cho_solve(factor.L, r)
    for _ in range(_SWEEPS):
        y = y + cho_solve(factor.L, residual(y))
    y = without_null(y, N)
    info = _certificate(problem, factor, good, y, residual(y))
    return layout.from_columns((astype(y, layout.rounded),)), info


def _certificate(
    problem: _Problem, factor: _Factor, good: Array, y: Array, residual: Array
) -> HermitianInfo:
    K, r, _, layout = problem
    xp, real = namespace(K), real_name(layout.dtype)
    size, y_norm, norm = frobenius_norm(K), layout.norm(y), layout.norm(residual)
    relative = rounding(unit_roundoff(layout.working), int(K.shape[-1]))
    scale = layout.per_column(size) * y_norm + layout.norm(r)
    room = layout.per_column(factor.smallest - relative * size)
    one = xp.ones_like(scale)
    error = (norm + relative * scale) / xp.where(room > 0, room, one)
    converged = layout.per_column(good) & (room > 0) & (error <= y_norm / 2)
    backward = norm / xp.where(scale > 0, scale, one)
    norm, backward, smallest = (
        astype(as_array(x), real) for x in (norm, backward, factor.smallest)
    )
    return HermitianInfo(norm, backward, smallest, as_array(~good), as_array(converged))

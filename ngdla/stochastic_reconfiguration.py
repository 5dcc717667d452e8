"""Stochastic reconfiguration (SR), minSR and SPRING for variational Monte Carlo.

From log-derivatives O_ij = d log psi(x_i) / d theta_j and local energies E_i to the step d, with
theta <- theta - lr * d. With probabilities p = weights / sum(weights) and q = sqrt(p),

    S_i = q_i (O_i - sum_j p_j O_j),    f_i = q_i (E_i - sum_j p_j E_j),

d solves (S^H S + damping) d = S^H f, where S^H S is the quantum geometric tensor and S^H f the
energy gradient, without factors of 2. The rows of S have the exact null vector q.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from ._backend.checks import ValueChecks, all_finite, require_array, require_choice, require_like
from ._backend.namespace import (
    Array,
    astype,
    computing,
    dtype_name,
    is_complex,
    namespace,
    real_name,
)
from ._backend.products import centred_rows, rmatvec
from .damped_factor import solved
from .damped_problem import RightHandSide
from .streaming import ColumnBlocks, Vector, column_blocks
from .vectors import parameter_vector, sample_vector

__all__ = ["residuals", "scores", "stochastic_reconfiguration"]

MODES = ("real", "complex", "holomorphic")
SOLVE_OPTIONS = ("method", "precision", "refine", "metric", "check", "full_output")


def scores(log_derivatives: Any, *, weights: Array | None = None, mode: str | None = None) -> Any:
    """Return the centred, weighted score matrix S of SR: q_i (O_i - sum_j p_j O_j).

    Parameters
    ----------
    log_derivatives : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k)
        Derivatives of log psi (or log p), one row a sample; a sequence holds column blocks.
    weights : array, shape (..., n), optional
        Not negative, not all zero, of any scale; by default equal. A sample of weight 0 changes
        nothing.
    mode : {"real", "complex", "holomorphic"}, optional
        "real" (default for real `log_derivatives`). "complex": real parameters of a complex
        amplitude; S = [Re; Im], 2n rows. "holomorphic": complex parameters, S complex.

    Returns
    -------
    array or sequence, shape (..., n, m), or (..., 2n, m) in mode "complex"
        A new array, the one copy of the log-derivatives that this library makes.

    Raises
    ------
    TypeError
        If an argument is not a floating-point array, or libraries are mixed.
    ValueError
        If shapes do not fit, `mode` is missing for complex `log_derivatives`, weights are negative,
        all zero or not finite.

    Notes
    -----
    Two passes over `log_derivatives`; memory m numbers beside the result.

    Examples
    --------
    >>> import numpy as np
    >>> O = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> scores(O, weights=np.array([1.0, 3.0])).round(3)
    array([[-0.75 , -1.5  ],
           [ 0.433,  0.866]])
    """
    blocks = column_blocks(log_derivatives, name="log_derivatives")
    mode = _mode(mode, blocks)
    checks = ValueChecks(enabled=True)
    with computing(namespace(blocks.blocks[0])):
        p = _probabilities(weights, blocks, checks)
        S = _scores(blocks, p, mode, checks)
        checks.raise_on_failure()
    return _returned(S, blocks)


def residuals(
    local_energies: Array, *, weights: Array | None = None, mode: str | None = None
) -> Array:
    """Return the centred, weighted local energies f of SR: q_i (E_i - sum_j p_j E_j).

    Parameters
    ----------
    local_energies : array, shape (..., n), real or complex
        For real time pass 1j * local_energies.
    weights : array, shape (..., n), optional
        As in `scores`.
    mode : {"real", "complex", "holomorphic"}, optional
        As in `scores`: "real" (default for real energies) takes the real part, "complex" stacks
        [Re; Im], "holomorphic" keeps complex energies.

    Returns
    -------
    array, shape (..., n), or (..., 2n) in mode "complex"

    Raises
    ------
    TypeError, ValueError
        As `scores`.

    Examples
    --------
    >>> import numpy as np
    >>> residuals(np.array([-1.0, -2.0, -3.0, -2.0]))
    array([ 0.5,  0. , -0.5,  0. ])
    """
    require_array(local_energies, "local_energies", ndim=1)
    if mode is None and is_complex(local_energies):
        raise ValueError(_mode_message("local_energies"))
    mode = "real" if mode is None else mode
    require_choice(mode, "mode", MODES)
    xp = namespace(local_energies)
    column = xp.expand_dims(local_energies, axis=-1)
    samples = column_blocks(column, name="local_energies")
    checks = ValueChecks(enabled=True)
    with computing(xp):
        p = _probabilities(weights, samples, checks)
        f = _residuals(column, p, mode, checks)
        checks.raise_on_failure()
    return xp.squeeze(f, axis=-1)


def stochastic_reconfiguration(
    log_derivatives: Any,
    local_energies: Array,
    damping: float | Array,
    *,
    weights: Array | None = None,
    mode: str | None = None,
    previous: Any = None,
    momentum: float = 0.0,
    **solve_options: Any,
) -> Any:
    """Return the SR (minSR, SPRING) step d; the update is theta <- theta - lr * d.

    d = argmin |S d - f|^2 + damping |d - momentum * previous|^2 with `scores` S and `residuals` f.

    Parameters
    ----------
    log_derivatives : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k)
        As in `scores`.
    local_energies : array, shape (..., n), real or complex
        As in `residuals`.
    damping : float or array, shape () or (...)
        Positive, in units of squared singular values of S (of eigenvalues of the quantum
        geometric tensor). 1e-3 is a common choice.
    weights : array, shape (..., n), optional
        As in `scores`.
    mode : {"real", "complex", "holomorphic"}, optional
        "real" and "complex" give a real step, "holomorphic" a complex one. Required for complex
        `log_derivatives`.
    previous : array, shape (..., m), or sequence, optional
        The last d (not lr * d), for SPRING.
    momentum : float
        SPRING's mu, 0 <= mu < 1.
    **solve_options
        Keywords of `damped_lstsq`: method, precision, refine, metric, check, full_output. The
        null vectors of S are passed on by this function.

    Returns
    -------
    d : array or sequence, shape (..., m)
        With ``full_output=True`` a pair (d, SolveInfo).

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `scores` and `damped_lstsq`.

    Notes
    -----
    Cost and precision of `damped_lstsq`, plus the passes of `scores`.

    References
    ----------
    S. Sorella, Phys. Rev. Lett. 80, 4558 (1998) (SR). A. Chen, M. Heyl, Nature Physics 20 (2024)
    (minSR). G. Goldshlager, N. Abrahamsen, L. Lin, arXiv:2401.10190 (2024) (SPRING).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> O, E = rng.standard_normal((64, 500)), rng.standard_normal(64)
    >>> d = stochastic_reconfiguration(O, E, 1e-3)
    >>> d = stochastic_reconfiguration(O, E, 1e-3, previous=d, momentum=0.9)
    >>> d.shape
    (500,)
    """
    blocks = column_blocks(log_derivatives, name="log_derivatives")
    mode = _mode(mode, blocks)
    energies = _energies(local_energies, blocks)
    _require_options(solve_options)
    checks = ValueChecks(enabled=solve_options.get("check", True))
    with computing(namespace(energies)):
        p = _probabilities(weights, blocks, checks)
        x0 = _prior(previous, momentum, blocks, mode, checks)
        S = dataclasses.replace(blocks, blocks=_scores(blocks, p, mode, checks))
        f = _residuals(energies, p, mode, checks)
        rhs = RightHandSide(None, f, x0, True, ("", "local_energies", "previous"))
        null = _null_vectors(p, S, mode)
    return solved(S, rhs, damping, null=null, checks=checks, **solve_options)


# -------------------------------------------------------------------------------- checks


def _mode(mode: Any, blocks: ColumnBlocks) -> str:
    complex_scores = blocks.dtype.startswith("complex")
    if mode is None:
        if complex_scores:
            raise ValueError(_mode_message("log_derivatives"))
        return "real"
    require_choice(mode, "mode", MODES)
    if mode == "real" and complex_scores:
        msg = (
            "`mode` is 'real' but `log_derivatives` is complex; pass its real part, or choose "
            "mode 'complex' (real parameters) or 'holomorphic' (complex parameters)."
        )
        raise ValueError(msg)
    if mode == "complex" and not complex_scores:
        msg = (
            "`mode` is 'complex' but `log_derivatives` is real, so that half of the rows would "
            "be zero; choose mode 'real'."
        )
        raise ValueError(msg)
    return str(mode)


def _mode_message(name: str) -> str:
    return (
        f"`{name}` is complex and `mode` is not given. Choose 'complex' for real parameters of a "
        f"complex amplitude, 'holomorphic' for complex parameters of a holomorphic one, or take "
        f"real parts for mode 'real'."
    )


def _energies(local_energies: Any, blocks: ColumnBlocks) -> Array:
    energies, vector = sample_vector(blocks, local_energies, "local_energies")
    if not vector:
        expected = (*blocks.batch, blocks.rows)
        msg = f"`local_energies` has shape {tuple(local_energies.shape)}; it must be {expected}."
        raise ValueError(msg)
    return energies


def _require_options(options: dict[str, Any]) -> None:
    for name in options:
        if name not in SOLVE_OPTIONS:
            msg = (
                f"stochastic_reconfiguration() got an unexpected keyword argument '{name}'; "
                f"solve options are {', '.join(SOLVE_OPTIONS)}."
            )
            raise TypeError(msg)


def _prior(
    previous: Any, momentum: Any, blocks: ColumnBlocks, mode: str, checks: ValueChecks
) -> Vector | None:
    """Return momentum * previous, or None where that is zero."""
    factor = _momentum(momentum, blocks, checks)
    if previous is None:
        return None
    pieces, vector = parameter_vector(blocks, previous, "previous")
    if not vector:
        msg = "`previous` must be one step d, without an axis of right-hand sides."
        raise ValueError(msg)
    if mode != "holomorphic" and any(is_complex(piece) for piece in pieces):
        msg = f"`previous` is complex, but steps are real in mode {mode!r}; pass a real one."
        raise TypeError(msg)
    if isinstance(factor, float) and factor == 0:
        return None
    return tuple(factor * piece for piece in pieces)


def _momentum(momentum: Any, blocks: ColumnBlocks, checks: ValueChecks) -> float | Array:
    """Return the momentum as a Python float or a real 0-d array."""
    if isinstance(momentum, numbers.Real) and not isinstance(momentum, bool):
        value = float(momentum)
        if not 0.0 <= value < 1.0:
            msg = f"`momentum` is {value}; it must satisfy 0 <= momentum < 1."
            raise ValueError(msg)
        return value
    if not hasattr(momentum, "dtype"):
        msg = f"`momentum` is {momentum!r}; it must be a real number."
        raise TypeError(msg)
    require_array(momentum, "momentum")
    require_like(momentum, "momentum", blocks.blocks[0], blocks.name)
    if is_complex(momentum):
        msg = f"`momentum` has dtype {dtype_name(momentum.dtype)}; it must be a real number."
        raise TypeError(msg)
    if momentum.ndim:
        msg = f"`momentum` has shape {tuple(momentum.shape)}; it must be a number or 0-d array."
        raise ValueError(msg)
    checks.require(
        lambda: (momentum >= 0) & (momentum < 1),
        lambda: ValueError("`momentum` must satisfy 0 <= momentum < 1."),
    )
    return astype(momentum, real_name(blocks.dtype))


def _probabilities(weights: Any, blocks: ColumnBlocks, checks: ValueChecks) -> Array | None:
    """Return p = weights / sum(weights), (..., n, 1), or None for equal weights."""
    if weights is None:
        return None
    column, vector = sample_vector(blocks, weights, "weights")
    if not vector or is_complex(column):
        msg = f"`weights` must be real, one for each row of `{blocks.name}`."
        raise ValueError(msg)
    xp = namespace(column)

    def legal() -> Array:
        largest = xp.max(column, axis=-2)
        return all_finite(column) & xp.all(column >= 0) & xp.all(largest > 0)

    checks.require(
        legal,
        lambda: ValueError("`weights` must be finite and not negative, and not all zero."),
    )
    column = astype(column, real_name(blocks.dtype))
    column = column / xp.max(column, axis=-2, keepdims=True)
    return column / xp.sum(column, axis=-2, keepdims=True)


# ------------------------------------------------------------------------------- formulas


def _scores(
    blocks: ColumnBlocks, p: Array | None, mode: str, checks: ValueChecks
) -> tuple[Array, ...]:
    stack = mode == "complex"
    return tuple(_centred(O, p, blocks.name, checks, stack=stack) for O in blocks.blocks)


def _residuals(energies: Array, p: Array | None, mode: str, checks: ValueChecks) -> Array:
    """Return f, (..., n or 2n, 1)."""
    xp = namespace(energies)
    if mode == "real" and is_complex(energies):
        energies = xp.real(energies)
    stack = mode == "complex" and is_complex(energies)
    f = _centred(energies, p, "local_energies", checks, stack=stack)
    if mode == "complex" and not stack:
        f = xp.concat([f, xp.zeros_like(f)], axis=-2)
    return f


def _centred(O: Array, p: Array | None, name: str, checks: ValueChecks, *, stack: bool) -> Array:
    """Return q_i (O_i - sum_j p_j O_j), with the imaginary parts below the real ones if `stack`.

    NaN and Inf are seen in the mean, which they reach from any row.
    """
    xp = namespace(O)
    scale: float | Array
    if p is None:
        mean, scale = xp.mean(O, axis=-2, keepdims=True), O.shape[-2] ** -0.5
    else:
        weights = astype(p, real_name(dtype_name(O.dtype)))
        mean = xp.matrix_transpose(rmatvec(O, astype(weights, dtype_name(O.dtype))))
        mean, scale = xp.conj(mean) if is_complex(O) else mean, xp.sqrt(weights)
    checks.finite(name, mean)
    return centred_rows(O, mean, scale, stack=stack)


def _null_vectors(p: Array | None, S: ColumnBlocks, mode: str) -> Array:
    """Return q as a column, for stacked scores [q, 0; 0, q]."""
    block = S.blocks[0]
    xp = namespace(block)
    if p is None:
        n = block.shape[-2] // (2 if mode == "complex" else 1)
        column = block[..., :n, :1]
        q = xp.full_like(xp.real(column) if is_complex(column) else column, n**-0.5)
    else:
        q = xp.sqrt(p)
    if mode != "complex":
        return xp.squeeze(q, axis=-1)
    zero = xp.zeros_like(q)
    left, right = xp.concat([q, zero], axis=-2), xp.concat([zero, q], axis=-2)
    return xp.concat([left, right], axis=-1)


def _returned(S: tuple[Array, ...], blocks: ColumnBlocks) -> Any:
    if blocks.sequence is None:
        return S[0]
    return list(S) if blocks.sequence == "list" else S

"""Stochastic reconfiguration (SR), minSR and SPRING for variational Monte Carlo.

The step d solves (S^H S + damping) d = S^H f for the scores S and residuals f of
`centred_scores.py`; with SPRING, damping pulls it to a multiple of the previous step. Then
theta <- theta - lr * d.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from ._backend.checks import ValueChecks, require_array, require_like
from ._backend.namespace import (
    Array,
    astype,
    computing,
    dtype_name,
    is_complex,
    namespace,
    real_name,
    result_name,
)
from .centred_scores import (
    centred_residuals,
    centred_scores,
    mode_of,
    null_vectors,
    probabilities,
)
from .column_blocks import ColumnBlocks, column_blocks
from .damped_factor import solved
from .damped_problem import RightHandSide
from .score_matrix import Vector
from .vectors import parameter_vector, sample_vector

__all__ = ["stochastic_reconfiguration"]

SOLVE_OPTIONS = ("method", "precision", "refine", "metric", "check", "full_output")


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
    mode = mode_of(mode, blocks)
    energies = _energies(local_energies, blocks)
    _require_options(solve_options)
    checks = ValueChecks(enabled=solve_options.get("check", True))
    with computing(namespace(energies)):
        dtype = real_name(result_name(blocks.dtype, dtype_name(energies.dtype)))
        p = probabilities(weights, blocks, checks, dtype)
        x0 = _prior(previous, momentum, blocks, mode, checks)
        S = dataclasses.replace(blocks, blocks=centred_scores(blocks, p, mode, checks))
        f = centred_residuals(energies, p, mode, checks)
        rhs = RightHandSide(None, f, x0, True, ("", "local_energies", "previous"))
        null = null_vectors(p, S, mode, dtype)
    return solved(S, rhs, damping, null=null, checks=checks, trusted=True, **solve_options)


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
    xp = namespace(momentum)
    legal = (momentum >= 0) & (momentum < 1)
    checks.require(lambda: legal, lambda: ValueError("`momentum` must satisfy 0 <= momentum < 1."))
    # a constant NaN: the gradient of what is not chosen must not be NaN
    value = xp.where(legal, momentum, xp.full_like(momentum, xp.nan))
    return astype(value, real_name(blocks.dtype))

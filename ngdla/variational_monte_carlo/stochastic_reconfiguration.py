"""Stochastic reconfiguration (SR), minSR and SPRING for variational Monte Carlo.

The step d solves (S^H S + damping) d = S^H f for the scores S and residuals f of
`centred_scores.py`; with SPRING, damping pulls it to a multiple of the previous step. Then
theta <- theta - lr * d.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal, overload

from ngdla._backend.calls import ValueChecks, opened
from ngdla._backend.checks import require_array, require_flag, require_like
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, is_array
from ngdla._backend.ranks import telling
from ngdla._backend.scalars import as_float, known_or_array
from ngdla._backend.tracing import nan_unless
from ngdla.damped.certificate import SolveInfo
from ngdla.damped.problem import Options
from ngdla.damped.right_hand_side import LeastSquares, parameter_vector, sample_vector
from ngdla.damped.solution import solve_problem
from ngdla.score_matrices.column_blocks import ColumnBlocks
from ngdla.score_matrices.score_matrix import ParameterVector, ScoreMatrix, Scores, Vector

from .centred_scores import (
    Mode,
    centred_residuals,
    mode_of,
    null_vectors,
)
from .filtered_step import Filters, filtered_step
from .log_derivatives import log_derivatives_of, scores_of
from .noise_filter import SNRInfo
from .weighting import require_flat, weighting

__all__ = ["stochastic_reconfiguration"]

SOLVE_OPTIONS = ("method", "precision", "refine", "metric", "check", "full_output")


@overload
def stochastic_reconfiguration(
    log_derivatives: Scores,
    local_energies: Array,
    damping: float | Array,
    *,
    weights: Array | None = None,
    mode: Mode | None = None,
    previous: ParameterVector | None = None,
    momentum: float | Array = 0.0,
    snr: None = None,
    cutoff: float | None = None,
    pack: bool = False,
    gathered: bool = True,
    full_output: Literal[True],
    **solve_options: Any,
) -> tuple[Any, SolveInfo]: ...
@overload
def stochastic_reconfiguration(
    log_derivatives: Scores,
    local_energies: Array,
    damping: float | Array,
    *,
    weights: Array | None = None,
    mode: Mode | None = None,
    previous: ParameterVector | None = None,
    momentum: float | Array = 0.0,
    snr: float,
    cutoff: float | None = None,
    pack: bool = False,
    gathered: bool = True,
    full_output: Literal[True],
    **solve_options: Any,
) -> tuple[Any, SNRInfo]: ...
@overload
def stochastic_reconfiguration(
    log_derivatives: Scores,
    local_energies: Array,
    damping: float | Array,
    *,
    weights: Array | None = None,
    mode: Mode | None = None,
    previous: ParameterVector | None = None,
    momentum: float | Array = 0.0,
    snr: float | None = None,
    cutoff: float | None = None,
    pack: bool = False,
    gathered: bool = True,
    **solve_options: Any,
) -> Any: ...
@on_automatic_axes(exchange="longer")
def stochastic_reconfiguration(
    log_derivatives: Scores,
    local_energies: Array,
    damping: float | Array,
    *,
    weights: Array | None = None,
    mode: Mode | None = None,
    previous: ParameterVector | None = None,
    momentum: float | Array = 0.0,
    snr: float | None = None,
    cutoff: float | None = None,
    pack: bool = False,
    gathered: bool = True,
    **solve_options: Any,
) -> Any:
    """Return the SR (minSR, SPRING) step d; the update is theta <- theta - lr * d.

    d = argmin |S d - f|^2 + damping |d - momentum * previous|^2 with `scores` S and `residuals` f.

    Parameters
    ----------
    log_derivatives : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree
        As in `scores`; also a `ColumnStream` or `RowStream` of log-derivatives, `ColumnShards` or
        `RowShards`, or a `ScoreOperator`, not in mode "complex". With `pack` (..., n, 2, m), and
        leaves of a tree ``(n, 2, *shape)``.
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
    previous : array, shape (..., m), or sequence, or tree, optional
        The last d (not lr * d), for SPRING.
    momentum : float
        SPRING's mu, 0 <= mu < 1.
    snr : float, optional
        Multiply the part of the step along each eigenvector of S S^H by 1 / (1 + (snr / SNR)^6),
        with the signal-to-noise ratio of this part over the samples. The method is then "eigh" (or
        "auto"), without refinement; RowStreams are refused. With precision "auto" eigenvectors are
        those of the Gram matrix in double precision, where there is one.
    cutoff : float, optional
        Multiply these parts by 1 / (1 + (cutoff g_max / g)^6) for the eigenvalues g of S S^H: a
        smooth pseudo-inverse for real-time evolution. `damping` may then be 0. Method and precision
        as with `snr`.
    pack : bool
        Complex parameters of a function that is not holomorphic: `log_derivatives` are pairs
        [d / d Re theta, d / d Im theta], `previous` and d are complex.
    gathered : bool
        With `RowShards` that are exchanged for columns, `previous`, `metric` and d are the whole
        vectors, equal on all ranks; False: those of this rank's columns. Else nothing.
    **solve_options
        Keywords of `damped_lstsq`: method, precision, refine, metric, check, full_output. The
        null vectors of S are passed on by this function.

    Returns
    -------
    d : array or sequence or tree, shape (..., m)
        With ``full_output=True`` a pair (d, SolveInfo), with `snr` a pair (d, SNRInfo). Error
        bounds with `cutoff` are Inf: they are not known.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `scores` and `damped_lstsq`.

    Notes
    -----
    Cost and precision of `damped_lstsq`, plus the passes of `scores`. A stream is centred and
    weighted as it arrives, without a pass of its own. So are the columns of log-derivatives under
    `jax.jit`, in chunks that enter a product, where a centred copy would exceed 64 MB. An operator
    is centred by what it returns, and so is its Gram matrix, which loses as many digits as the mean
    of log-derivatives is larger than their deviations from it, twice.
    Derivatives by `weights` are those of the smooth function of p that the step is, also where
    weights are 0; they are 0 for such samples whose data are not finite, or 2^32 times as large as
    all others. With `snr`, where the step is no smooth function of p, those by weights of 0 mean
    nothing. With `snr` and `cutoff` derivatives are NaN where eigenvalues are not apart.

    References
    ----------
    S. Sorella, Phys. Rev. Lett. 80, 4558 (1998) (SR). A. Chen, M. Heyl, Nature Physics 20 (2024)
    (minSR). G. Goldshlager, N. Abrahamsen, L. Lin, arXiv:2401.10190 (2024) (SPRING). M. Schmitt,
    M. Heyl, Phys. Rev. Lett. 125, 100503 (2020) (SNR).

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
    given = log_derivatives_of(log_derivatives, pack)
    with telling(given.ranks):
        mode = mode_of(mode, given)
        _require_pack(pack, mode)
        require_flag(gathered, "gathered")
        energies = _energies(local_energies, given)
        filters, filtered = Filters(snr, cutoff), snr is not None or cutoff is not None
        options, check, full_output = _options(solve_options, refine=0 if filtered else 1)
        given.ranks.note(options=(mode, filters, gathered, shown(momentum)))
        with opened(energies, check, nan=True, ranks=given.ranks) as checks:
            dtype = real_name(result_name(given.dtype, dtype_name(energies.dtype)))
            data = (energies, *(given.blocks if isinstance(given, ColumnBlocks) else ()))
            samples = weighting(weights, given, checks, dtype, *data)
            null = null_vectors(samples, energies, mode, dtype)
            S = scores_of(given, samples, null, mode, checks, gathered=gathered)
            x0 = _prior(previous, momentum, S, mode, checks)
            f = centred_residuals(energies, samples, mode, checks)
            rhs = LeastSquares(f, x0, True, ("local_energies", "previous"))
            if filtered:
                options = options._replace(null=null)
                return filtered_step(
                    S, rhs, damping, filters, options, checks, full_output=full_output
                )
            options = options._replace(null=null if S.wide else None)  # else nothing asks for it
            return solve_problem(S, rhs, damping, options, checks, full_output=full_output)


def _require_pack(pack: bool, mode: str) -> None:
    require_flag(pack, "pack")
    if pack and mode == "holomorphic":
        msg = (
            "`mode` is 'holomorphic', but `pack` is for parameters of a function that is not; "
            "choose mode 'complex', or leave out `pack`."
        )
        raise ValueError(msg)


def _energies(local_energies: Any, scores: ScoreMatrix) -> Array:
    if _holds_an_array(local_energies):
        msg = (
            f"`local_energies` is a {type(local_energies).__name__}; pass the array in it, one "
            f"number for each sample, such as `local_energies.data.reshape(-1)`."
        )
        raise TypeError(msg)
    require_array(local_energies, "local_energies", empty=False if scores.given_rows else "all")
    require_flat(scores, local_energies, "local_energies")
    _require_one_axis(local_energies, scores)
    energies, vector = sample_vector(scores, local_energies, "local_energies")
    if not vector:
        expected = (*scores.batch, scores.given_rows)
        msg = f"`local_energies` has shape {tuple(local_energies.shape)}; it must be {expected}."
        raise ValueError(msg)
    return energies


def _holds_an_array(x: Any) -> bool:
    """Tell whether x is an object with an array in it, such as local estimators of NetKet."""
    sparse = "sparse" in type(x).__module__
    return not sparse and not is_array(x) and is_array(getattr(x, "data", None))


def _require_one_axis(energies: Any, scores: ScoreMatrix) -> None:
    """Raise if as many energies as there are samples stand in several axes, as chains do."""
    shape = tuple(getattr(energies, "shape", ()))
    if not scores.batch and len(shape) > 1 and math.prod(shape) == scores.given_rows:
        msg = (
            f"`local_energies` has shape {shape}; it must be {(scores.given_rows,)}, one for each "
            f"row of `{scores.name}`: flatten chains and samples by local_energies.reshape(-1)."
        )
        raise ValueError(msg)


def _options(given: dict[str, Any], *, refine: int) -> tuple[Options, bool, bool]:
    """Return the options of a solve, `check` and `full_output`."""
    for name in given:
        if name not in SOLVE_OPTIONS:
            msg = (
                f"stochastic_reconfiguration() got an unexpected keyword argument '{name}'; "
                f"solve options are {', '.join(SOLVE_OPTIONS)}."
            )
            raise TypeError(msg)
    options = {"refine": refine, **given}
    check, full_output = options.pop("check", True), options.pop("full_output", False)
    require_flag(full_output, "full_output")
    return Options(**options, trusted=True), check, full_output


def _prior(
    previous: Any, momentum: Any, scores: ScoreMatrix, mode: str, checks: ValueChecks
) -> Vector | None:
    """Return momentum * previous, or None where that is zero."""
    factor = _momentum(momentum, scores, checks)
    if previous is None:
        return None
    pieces, vector = parameter_vector(scores, previous, "previous")
    if not vector:
        msg = "`previous` must be one step d, without an axis of right-hand sides."
        raise ValueError(msg)
    if mode != "holomorphic" and any(is_complex(piece) for piece in pieces):
        msg = f"`previous` is complex, but steps are real in mode {mode!r}; pass a real one."
        raise TypeError(msg)
    if isinstance(factor, float) and factor == 0:
        return None
    return tuple(factor * piece for piece in pieces)


def _momentum(momentum: Any, scores: ScoreMatrix, checks: ValueChecks) -> float | Array:
    """Return the momentum as a Python float or a real 0-d array."""
    momentum = known_or_array(momentum, scores.like)
    if isinstance(momentum, numbers.Real) and not isinstance(momentum, bool):
        value = as_float(momentum)
        if not 0.0 <= value < 1.0:
            msg = f"`momentum` is {value}; it must satisfy 0 <= momentum < 1."
            raise ValueError(msg)
        return value
    if not hasattr(momentum, "dtype"):
        msg = f"`momentum` is {shown(momentum)}; it must be a real number."
        raise TypeError(msg)
    require_array(momentum, "momentum")
    require_like(momentum, "momentum", scores.like, scores.name)
    if is_complex(momentum):
        msg = f"`momentum` has dtype {dtype_name(momentum.dtype)}; it must be a real number."
        raise TypeError(msg)
    if momentum.ndim:
        msg = f"`momentum` has shape {tuple(momentum.shape)}; it must be a number or 0-d array."
        raise ValueError(msg)
    legal = (momentum >= 0) & (momentum < 1)
    checks.require(lambda: legal, lambda: ValueError("`momentum` must satisfy 0 <= momentum < 1."))
    values = astype(momentum, real_name(scores.dtype))
    return values * nan_unless(legal, values)

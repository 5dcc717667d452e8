"""Centred and weighted scores and residuals, from log-derivatives and local energies.

With log-derivatives O_ij = d log psi(x_i) / d theta_j, local energies E_i, probabilities
p = weights / sum(weights) and q = sqrt(p),

    S_i = q_i (O_i - sum_j p_j O_j),    f_i = q_i (E_i - sum_j p_j E_j),

so that S^H S is the quantum geometric tensor and S^H f the energy gradient, without factors of 2.
The rows of S have the exact null vector q: q^T S = 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, cast

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, all_finite, opened
from ngdla._backend.checks import require_array, require_choice
from ngdla._backend.chunks import unchunked
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import centred_rows, rmatvec
from ngdla._backend.runs import LONG, long_mean
from ngdla.damped.right_hand_side import sample_vector
from ngdla.score_matrices.column_blocks import ColumnBlocks, column_blocks
from ngdla.score_matrices.score_matrix import ScoreMatrix

__all__ = [
    "MODES",
    "Centring",
    "Mode",
    "centred_residuals",
    "centred_scores",
    "mode_of",
    "null_vectors",
    "probabilities",
    "residuals",
    "scores",
]

Mode = Literal["real", "complex", "holomorphic"]
MODES: tuple[Mode, ...] = ("real", "complex", "holomorphic")


def scores(log_derivatives: Any, *, weights: Array | None = None, mode: Mode | None = None) -> Any:
    """Return the centred, weighted score matrix S of SR: q_i (O_i - sum_j p_j O_j).

    Parameters
    ----------
    log_derivatives : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k)
        Derivatives of log psi (or log p), one row per sample; a sequence holds column blocks.
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
        If an argument is not a floating-point array, or libraries are mixed; of a stream, which
        `stochastic_reconfiguration` takes itself.
    ValueError
        If shapes do not fit, `mode` is missing for complex `log_derivatives`, weights are negative,
        all zero or not finite.

    Notes
    -----
    Two passes over `log_derivatives`; memory m numbers beside the result. Half precision is first
    converted to float32, which the result has then.

    Examples
    --------
    >>> import numpy as np
    >>> O = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> scores(O, weights=np.array([1.0, 3.0])).round(3)
    array([[-0.75 , -1.5  ],
           [ 0.433,  0.866]])
    """
    if isinstance(log_derivatives, ScoreMatrix):
        msg = (
            f"`log_derivatives` is a {type(log_derivatives).__name__}, whose scores would be an "
            f"array in memory. Pass it to stochastic_reconfiguration, which centres it on the way."
        )
        raise TypeError(msg)
    blocks = column_blocks(log_derivatives, name="log_derivatives")
    chosen = mode_of(mode, blocks)
    with opened(blocks.blocks[0]) as checks:
        p = probabilities(weights, blocks, checks, real_name(blocks.dtype))
        S = centred_scores(blocks, p, chosen, checks)
        return _as_given(S, blocks)


def residuals(
    local_energies: Array, *, weights: Array | None = None, mode: Mode | None = None
) -> AnyArray:
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
    column = xp.expand_dims(unchunked(local_energies), axis=-1)
    samples = column_blocks(column, name="local_energies")
    with opened(column) as checks:
        p = probabilities(weights, samples, checks, real_name(samples.dtype))
        f = centred_residuals(column, p, mode, checks)
        return xp.squeeze(f, axis=-1)


# -------------------------------------------------------------------------------- checks


def mode_of(mode: Any, scores: ScoreMatrix) -> Mode:
    """Return the checked mode; "real" if none is given for real log-derivatives."""
    complex_scores = scores.dtype.startswith("complex")
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
    return cast(Mode, mode)


def _mode_message(name: str) -> str:
    """Return the message of complex numbers for which no mode is given."""
    return (
        f"`{name}` is complex and `mode` is not given. Choose 'complex' for real parameters of a "
        f"complex amplitude, 'holomorphic' for complex parameters of a holomorphic one, or take "
        f"real parts for mode 'real'."
    )


def probabilities(
    weights: Any, scores: ScoreMatrix, checks: ValueChecks, dtype: str
) -> Array | None:
    """Return p = weights / sum(weights), (..., n, 1), or None for equal weights.

    Under tracing, where they cannot raise, illegal weights give NaN.
    """
    if weights is None:
        return None
    column, vector = sample_vector(scores, weights, "weights")
    if not vector or is_complex(column):
        msg = f"`weights` must be real, one for each row of `{scores.name}`."
        raise ValueError(msg)
    xp = namespace(column)
    largest = xp.max(column, axis=-2, keepdims=True)
    every = xp.all(xp.isfinite(column) & (column >= 0), axis=-2, keepdims=True)
    legal = every & (largest > 0)
    checks.require(
        lambda: legal,
        lambda: ValueError("`weights` must be finite and not negative, and not all zero."),
    )
    # a constant NaN, not 0 / 0: the gradient of the branch that is not chosen must be finite
    p = astype(column / xp.where(legal, largest, xp.full_like(largest, xp.nan)), dtype)
    return p / xp.sum(p, axis=-2, keepdims=True)


# ------------------------------------------------------------------------------- formulas


def centred_scores(
    blocks: ColumnBlocks, p: Array | None, mode: str, checks: ValueChecks
) -> tuple[Array, ...]:
    """Return the blocks of S."""
    stack = mode == "complex"
    return tuple(_centre(O, p, blocks.name, checks, stack=stack) for O in blocks.blocks)


def centred_residuals(energies: Array, p: Array | None, mode: str, checks: ValueChecks) -> Array:
    """Return f, (..., n or 2n, 1)."""
    xp = namespace(energies)
    if mode == "real" and is_complex(energies):
        energies = xp.real(energies)
    stack = mode == "complex" and is_complex(energies)
    f = _centre(energies, p, "local_energies", checks, stack=stack)
    if mode == "complex" and not stack:
        f = xp.concat([f, xp.zeros_like(f)], axis=-2)
    return f


def _centre(O: Array, p: Array | None, name: str, checks: ValueChecks, *, stack: bool) -> Array:
    """Return q_i (O_i - sum_j p_j O_j), with the imaginary parts below the real ones if `stack`.

    NaN and Inf are seen in the mean, which they reach from any row.
    """
    msg = f"`{name}` contains NaN or Inf, or numbers whose mean overflows; pass finite values."
    O = astype(O, result_name(dtype_name(O.dtype)))  # differences of half precision lose too much
    mean = _mean(O, p)
    checks.require(lambda: all_finite(mean), lambda: ValueError(msg))
    return centred_rows(O, mean, _roots(O, p), stack=stack)


def _mean(O: Array, p: Array | None) -> Array:
    """Return sum_j p_j O_j, (..., 1, m)."""
    xp = namespace(O)
    if p is None:
        long = O.shape[-2] > LONG
        return long_mean(O) if long else xp.mean(O, axis=-2, keepdims=True)
    mean = xp.matrix_transpose(rmatvec(O, astype(p, dtype_name(O.dtype))))
    return xp.conj(mean) if is_complex(O) else mean


def _roots(O: Array, p: Array | None) -> float | Array:
    """Return q, (..., n, 1), or its one entry n^(-1/2) for equal weights."""
    if p is None:
        return O.shape[-2] ** -0.5
    return namespace(p).sqrt(astype(p, real_name(dtype_name(O.dtype))))


def null_vectors(p: Array | None, energies: Array, mode: str, dtype: str) -> Array:
    """Return q as a column, for stacked scores [q, 0; 0, q], in the real dtype of the solve.

    `energies`, (..., n, 1), give the library and the device.
    """
    xp = namespace(energies)
    if p is None:
        column = xp.real(energies) if is_complex(energies) else energies
        q = xp.full_like(column, energies.shape[-2] ** -0.5, dtype=getattr(xp, dtype))
    else:
        q = xp.sqrt(p)
    if mode != "complex":
        return q
    zero = xp.zeros_like(q)
    left, right = xp.concat([q, zero], axis=-2), xp.concat([zero, q], axis=-2)
    return xp.concat([left, right], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Centring:
    """Centring and weighting of log-derivatives that arrive in blocks, in `stack` mode or not."""

    p: Array | None  # (n, 1)
    null: Array  # of `null_vectors`
    stack: bool

    def centre_columns(self, O: Array) -> Array:
        """Return the scores of a block of columns, (n or 2n, m_k)."""
        return centred_rows(O, _mean(O, self.p), _roots(O, self.p), stack=self.stack)

    def shift(self, O: Array, span: slice) -> Array:
        """Return the mean of the rows `span`, (1, m), or 0 where none of them has a weight."""
        if self.p is None:
            return _mean(O, None)
        p = self.p[span, :]
        total = namespace(p).sum(p)
        return _mean(O, p / namespace(p).where(total > 0, total, namespace(p).ones_like(total)))

    def centre_rows(self, O: Array, span: slice, shift: Array) -> Array:
        """Return the rows `span` of diag(q) (O - shift), (r or 2r, m)."""
        q = self.null[span, :1]
        scale = astype(q, real_name(dtype_name(O.dtype)))
        return centred_rows(O, shift, scale, stack=self.stack)


def _as_given(S: tuple[Array, ...], blocks: ColumnBlocks) -> Any:
    """Return blocks of scores in the kind of sequence in which log-derivatives were given."""
    if blocks.sequence is None:
        return S[0]
    return list(S) if blocks.sequence == "list" else S

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
from ngdla._backend.calls import ValueChecks, all_finite, opened, place_in_batch
from ngdla._backend.checks import require_array, require_choice
from ngdla._backend.chunks import unchunked
from ngdla._backend.dtypes import astype, dtype_name, is_complex, real_name, result_name
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import centred_rows, weighted_mean
from ngdla._backend.runs import LONG, long_mean
from ngdla.score_matrices.column_blocks import ColumnBlocks, column_blocks
from ngdla.score_matrices.score_matrix import ScoreMatrix

from .weighting import Weighting, weighting

__all__ = [
    "MODES",
    "Centring",
    "Mode",
    "centred",
    "centred_residuals",
    "centred_scores",
    "mean_of",
    "mode_of",
    "null_vectors",
    "residuals",
]

Mode = Literal["real", "complex", "holomorphic"]
MODES: tuple[Mode, ...] = ("real", "complex", "holomorphic")


@on_automatic_axes()
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
    rows = column_blocks(column, name="local_energies")
    with opened(column) as checks:
        samples = weighting(weights, rows, checks, real_name(rows.dtype), column)
        f = centred_residuals(column, samples, mode, checks)
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


# ------------------------------------------------------------------------------- formulas


def centred_scores(
    blocks: ColumnBlocks, samples: Weighting | None, mode: str, checks: ValueChecks
) -> tuple[Array, ...]:
    """Return the blocks of S."""
    stack = mode == "complex"
    return tuple(_centre(O, samples, blocks.name, checks, stack=stack) for O in blocks.blocks)


def centred_residuals(
    energies: Array, samples: Weighting | None, mode: str, checks: ValueChecks
) -> Array:
    """Return f, (..., n or 2n, 1)."""
    xp = namespace(energies)
    if mode == "real" and is_complex(energies):
        energies = xp.real(energies)
    stack = mode == "complex" and is_complex(energies)
    f = _centre(energies, samples, "local_energies", checks, stack=stack)
    if mode == "complex" and not stack:
        f = xp.concat([f, xp.zeros_like(f)], axis=-2)
    return f


def _centre(
    O: Array, samples: Weighting | None, name: str, checks: ValueChecks, *, stack: bool
) -> Array:
    """Return q_i (O_i - sum_j p_j O_j), with the imaginary parts below the real ones if `stack`.

    NaN and Inf are seen in the mean, which they reach from any row that counts.
    """
    O = astype(O, result_name(dtype_name(O.dtype)))  # differences of half precision lose too much
    mean = mean_of(O, samples)

    def error() -> Exception:
        place = place_in_batch(mean.ndim - 2, mean)
        return ValueError(
            f"`{name}` contains NaN or Inf{place}, or numbers whose mean overflows; pass finite "
            f"values."
        )

    checks.require(lambda: all_finite(mean), error)
    return centred(O, mean, samples, stack=stack)


def mean_of(O: Array, samples: Weighting | None) -> Array:
    """Return sum_j p_j O_j, (..., 1, m)."""
    if samples is not None:
        return weighted_mean(O, samples.p, samples.kept)
    if O.shape[-2] > LONG:
        return long_mean(O)
    return namespace(O).mean(O, axis=-2, keepdims=True)


def centred(O: Array, mean: Array, samples: Weighting | None, *, stack: bool) -> Array:
    """Return the rows of O less their mean, times q."""
    if samples is None:
        return centred_rows(O, mean, O.shape[-2] ** -0.5, stack=stack)
    return centred_rows(O, mean, samples.roots(dtype_name(O.dtype)), stack=stack, kept=samples.kept)


def null_vectors(samples: Weighting | None, energies: Array, mode: str, dtype: str) -> Array:
    """Return q as a column, for stacked scores [q, 0; 0, q], in the real dtype of the solve.

    `energies`, (..., n, 1), give the library and the device.
    """
    xp = namespace(energies)
    if samples is None:
        column = xp.real(energies) if is_complex(energies) else energies
        q = xp.full_like(column, energies.shape[-2] ** -0.5, dtype=getattr(xp, dtype))
    else:
        q = samples.q
    if mode != "complex":
        return q
    zero = xp.zeros_like(q)
    left, right = xp.concat([q, zero], axis=-2), xp.concat([zero, q], axis=-2)
    return xp.concat([left, right], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Centring:
    """Centring and weighting of log-derivatives that arrive in blocks, in `stack` mode or not."""

    samples: Weighting | None
    null: Array  # of `null_vectors`
    stack: bool
    mean: Array | None = None  # (1, m), where it is known before the rows are read

    def centre_columns(self, O: Array) -> Array:
        """Return the scores of a block of columns, (n or 2n, m_k)."""
        samples = self._of(O, slice(None))
        return centred(O, mean_of(O, samples), samples, stack=self.stack)

    def shift(self, O: Array, span: slice) -> Array:
        """Return the mean of the rows `span`, (1, m), or 0 where none of them has a weight."""
        samples = self._of(O, span)
        if samples is None:
            return mean_of(O, None)
        xp, total = namespace(O), namespace(O).sum(samples.p)
        total = xp.where(total > 0, total, xp.ones_like(total))
        return mean_of(O, samples._replace(p=samples.p / total))

    def centre_rows(self, O: Array, span: slice, shift: Array) -> Array:
        """Return the rows `span` of diag(q) (O - shift), (r or 2r, m)."""
        samples, dtype = self._of(O, span), dtype_name(O.dtype)
        scale = astype(self.null[span, :1], real_name(dtype))
        kept = None if samples is None else samples.kept
        return centred_rows(O, shift, scale, stack=self.stack, kept=kept)

    def counting(self, O: Array, span: slice) -> Array:
        """Return the rows `span`, with 0 in those that change nothing."""
        samples = self._of(O, span)
        if samples is None or samples.kept is None:
            return O
        return namespace(O).where(samples.kept, O, namespace(O).zeros_like(O))

    def _of(self, O: Array, span: slice) -> Weighting | None:
        return None if self.samples is None else self.samples.rows(span).beside(O)

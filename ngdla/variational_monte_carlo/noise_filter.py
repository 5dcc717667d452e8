"""Steps without the directions whose force is lost in the noise of the samples.

In the eigenbasis G = S S^H = U diag(g) U^H a damped step is a sum over directions k, each with the
amplitude rho_k = u_k^H r of the residuals r = f - S x0. Sample i contributes z_ik = conj(u_ik) r_i
to it (stacked rows of one sample together), so that rho_k has the standard error

    se_k^2 = sum_i |z_ik - p_i rho_k|^2,

and the signal-to-noise ratio |rho_k| / se_k. These are the ratios of the forces v_k^H S^H r in the
eigenbasis of S^H S, which is never formed with n < m. With n >= m they are computed there.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.dtypes import is_complex
from ngdla._backend.namespace import Array, namespace
from ngdla.score_matrices.sample_rows import Rows, is_stacked, sample_rows
from ngdla.score_matrices.score_matrix import ScoreMatrix

__all__ = ["Amplitudes", "SNRInfo", "noise_filter"]


class SNRInfo(NamedTuple):
    """What a filtered step consists of, by directions k, d = min(rows of S, m) of them.

    Attributes
    ----------
    snr : array, shape (..., d)
        Signal-to-noise ratio of the amplitude; inf without noise, 0 without signal and for null
        vectors of `S`.
    eigenvalues : array, shape (..., d)
        Of the Gram matrix, ascending.
    kept : array, shape (..., d)
        The fraction of the damped step that is taken: 1 / (1 + (snr_0 / snr)^6) for the threshold
        snr_0, times what a `cutoff` keeps.
    step_norm : array, shape (...)
        |S x|, x0 included.
    """

    snr: AnyArray
    eigenvalues: AnyArray
    kept: AnyArray
    step_norm: AnyArray


class Amplitudes(NamedTuple):
    """Residuals in the eigenbasis X of the smaller Gram matrix."""

    values: Array  # (..., d), ascending; with n < m those of the null vectors first
    X: Array  # (..., d, d)
    residuals: Array  # r = f - S x0, (..., n, k)
    rho: Array  # (..., d, k): the amplitudes, with n >= m sqrt(g) times them


def noise_filter(
    scores: ScoreMatrix, null: Array, amplitudes: Amplitudes, snr: float | Array
) -> tuple[Array, Array]:
    """Return 1 / (1 + (snr / ratio)^6) and the ratio itself, (..., d) each."""
    ratio, kept = _kept(amplitudes, _variance(scores, null, amplitudes), snr)
    if scores.wide:
        count = int(null.shape[-1])
        ratio, kept = _zero_at_first(ratio, count), _zero_at_first(kept, count)
    return kept, ratio


def _variance(scores: ScoreMatrix, N: Array, amplitudes: Amplitudes) -> Array:
    """Return se^2, (..., d), from the contributions of all samples."""
    stacked = is_stacked(None, N, scores)
    vectors = (amplitudes.residuals, N)
    rows = sample_rows(scores, amplitudes.X, vectors, stacked=stacked)
    own = reduce(add, (_scatter(chunk, amplitudes.rho) for chunk in rows))
    return scores.across_rows.merged(own, add)


def _scatter(rows: tuple[Rows, ...], rho: Array) -> Array:
    """Return sum_i |z_i - p_i rho|^2 over some samples i, (..., d)."""
    (Z, r, N), xp = rows, namespace(rho)
    contributions = [
        xp.expand_dims(xp.conj(one), axis=-1) * xp.expand_dims(other, axis=-2)
        for one, other in zip(Z, r)
    ]
    p = xp.sum(_squares(N[0]), axis=-1)
    mean = xp.reshape(p, p.shape + (1, 1)) * xp.expand_dims(rho, axis=-3)
    return xp.sum(_squares(reduce(add, contributions) - mean), axis=(-3, -1))


def _squares(x: Array) -> Array:
    xp = namespace(x)
    return xp.real(x) ** 2 + xp.imag(x) ** 2 if is_complex(x) else x * x


def _kept(amplitudes: Amplitudes, variance: Array, snr: float | Array) -> tuple[Array, Array]:
    """Return signal-to-noise ratios and the filter, (..., d).

    What is not chosen is finite: its gradient would be NaN otherwise.
    """
    xp = namespace(variance)
    signal = xp.sum(_squares(amplitudes.rho), axis=-1)
    one, zero = xp.ones_like(signal), xp.zeros_like(signal)
    some, noisy = signal > 0, variance > 0
    finite = (xp.where(some, signal, one) / xp.where(noisy, variance, one)) ** 0.5
    kept = 1 / (1 + (snr / finite) ** 6)
    infinite = xp.full_like(signal, xp.inf)
    ratio = xp.where(some, xp.where(noisy, finite, infinite), zero)
    return ratio, xp.where(some, xp.where(noisy, kept, one), zero)


def _zero_at_first(x: Array, count: int) -> Array:
    xp = namespace(x)
    return xp.concat([xp.zeros_like(x[..., :count]), x[..., count:]], axis=-1)

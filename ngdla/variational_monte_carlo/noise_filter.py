"""Steps without the directions whose force is lost in the noise of the samples.

In the eigenbasis G = S S^H = U diag(s) U^H a damped step is a sum over directions k, each with the
amplitude rho_k = u_k^H r of the residuals r = f - S x0. Sample i contributes z_ik = conj(u_ik) r_i
to it (stacked rows of one sample together), so that rho_k has the standard error

    se_k^2 = sum_i |z_ik - p_i rho_k|^2,

and the signal-to-noise ratio |rho_k| / se_k. These are the ratios of the forces v_k^H S^H r in the
eigenbasis of S^H S, which is never formed with n < m. With n >= m they are computed there.
"""

from __future__ import annotations

import numbers
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.checks import ValueChecks
from ngdla._backend.dtypes import astype, is_complex, real_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, rmatvec, trace
from ngdla._backend.settings import library_settings
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.spectral import eigh
from ngdla.damped.problem import RightHandSide, Setup, setup
from ngdla.damped.refinement import without_null
from ngdla.damped.right_hand_side import Layout
from ngdla.score_matrices.sample_rows import Rows, is_stacked, sample_rows
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

__all__ = ["SNRInfo", "snr_filtered"]


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
        1 / (1 + (snr_0 / snr)^6) for the threshold snr_0: the fraction that the step keeps.
    step_norm : array, shape (...)
        |S (x - x0)|.
    """

    snr: Array
    eigenvalues: Array
    kept: Array
    step_norm: Array


def snr_filtered(
    scores: ScoreMatrix,
    rhs: RightHandSide,
    damping: Any,
    snr: Any,
    *,
    null: Array,
    method: str = "auto",
    precision: str = "auto",
    refine: int = 0,
    metric: Any = None,
    check: bool = True,
    full_output: bool = False,
    checks: ValueChecks | None = None,
) -> Any:
    """Return x0 + D^-1 S^H U diag(kept / (s + damping)) U^H (f - S x0), or the pair (x, SNRInfo).

    `rhs` is one f, with or without x0. The `null` vectors sqrt(p) of centred scores give the
    probabilities, and two of them tell that rows are stacked. Two passes over S; memory 4 n^2.
    """
    _require_options(snr, method, precision, refine)
    checks = checks or ValueChecks(enabled=check)
    layout = rhs.layout(scores)
    with library_settings(namespace(scores.like)):
        options = ("eigh", "native", 0, metric, null, layout.working)
        given = setup(scores, damping, *options, trusted=True)
        _require_values(given, rhs, checks)
        x, info = _filtered(given, rhs, layout, float(snr), checks)
        checks.read()
    x = layout.leave(given.scores.scaled(x))
    return (x, info) if full_output else x


def _require_options(snr: Any, method: str, precision: str, refine: int) -> None:
    if not isinstance(snr, numbers.Real) or isinstance(snr, bool):
        msg = f"`snr` is {snr!r}; it must be a number, not negative, or None for no filter."
        raise TypeError(msg)
    if not 0 <= float(snr) < float("inf"):
        msg = f"`snr` is {snr}; it must be finite and not negative; None is for no filter."
        raise ValueError(msg)
    for name, value, other in (("method", method, "eigh"), ("precision", precision, "native")):
        if value not in ("auto", other):
            msg = f"`{name}` is {value!r}; with `snr` it must be 'auto' or {other!r}."
            raise ValueError(msg)
    if refine:
        msg = f"`refine` is {refine}, but steps filtered by `snr` are not refined; leave it out."
        raise ValueError(msg)


def _require_values(given: Setup, rhs: RightHandSide, checks: ValueChecks) -> None:
    if not isinstance(given.damping, float):
        checks.positive("damping", astype(given.damping, real_name(given.plan.factor)))
    checks.positive("metric", *(given.metric or ()))
    for name, arrays in rhs.named():
        checks.finite(name, *arrays)


class _Spectrum(NamedTuple):
    """The problem in the eigenbasis X of the smaller Gram matrix."""

    values: Array  # (..., d), ascending; with n < m those of the null vectors first
    X: Array  # (..., d, d)
    residuals: Array  # r = f - S x0, (..., n, k)
    amplitudes: Array  # (..., d, k): rho, with n >= m sqrt(s) times it


def _filtered(
    given: Setup, rhs: RightHandSide, layout: Layout, snr: float, checks: ValueChecks
) -> tuple[Vector, SNRInfo]:
    """Return x in the coordinates D^(1/2) x."""
    scores, damping, null = given.scores, given.damping, given.null
    assert null is not None
    xp, x0 = namespace(null), None
    if rhs.x0 is not None:
        x0 = scores.unscaled(tuple(layout.enter(piece) for piece in rhs.x0))
    spectrum = _spectrum(given, layout.enter(rhs.f), x0, checks)
    ratio, kept = _kept(spectrum, _variance(given, spectrum), snr)
    if scores.wide:
        count = int(null.shape[-1])
        ratio, kept = _zero_at_first(ratio, count), _zero_at_first(kept, count)
    if not isinstance(damping, float):  # one that is illegal, where it cannot raise, gives NaN
        damping = xp.where(damping > 0, damping, xp.full_like(damping, xp.nan))
    weights = kept / (spectrum.values + expanded(damping, 1))
    step = xp.expand_dims(weights, axis=-1) * spectrum.amplitudes
    y = xp.matmul(spectrum.X, step)
    if scores.wide:
        x, _ = scores.add_rmatvec(x0, y, product=False)
    else:
        pieces = scores.split(y)
        x = pieces if x0 is None else tuple(a + b for a, b in zip(x0, pieces))
    lengths = spectrum.values if scores.wide else spectrum.values**0.5
    step_norm = layout.norm(xp.expand_dims(lengths, axis=-1) * step)
    return x, SNRInfo(ratio, spectrum.values, kept, step_norm)


def _spectrum(given: Setup, f: Array, x0: Vector | None, checks: ValueChecks) -> _Spectrum:
    """Return eigenvalues and eigenvectors, null vectors apart from all others."""
    scores, dtype, N = given.scores, given.plan.factor, given.null
    xp, wide = namespace(f), scores.wide
    if wide:
        K, Sx = scores.gram(dtype, x0)
    else:
        K, gradient, Sx = scores.parameter_gram(dtype, f, x0)
    squared_norm = trace(K)
    checks.require(lambda: xp.isfinite(squared_norm), lambda: scores.not_finite(dtype))
    r = without_null(f if Sx is None else f - Sx, N)
    if wide:
        K, right = K - expanded(squared_norm, 2) / scores.rows * (N @ adjoint(N)), r
    else:
        right = joined(list(gradient or ()), axis=-2)
    values, X = eigh(K)
    return _Spectrum(xp.clip(values, min=0.0), X, r, rmatvec(X, right))


def _variance(given: Setup, spectrum: _Spectrum) -> Array:
    """Return se^2, (..., d), from the contributions of all samples."""
    scores, N = given.scores, given.null
    stacked = is_stacked(None, N, scores)
    vectors = (spectrum.residuals, N)
    rows = sample_rows(scores, spectrum.X, vectors, stacked=stacked)
    return reduce(add, (_scatter(chunk, spectrum.amplitudes) for chunk in rows))


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


def _kept(spectrum: _Spectrum, variance: Array, snr: float) -> tuple[Array, Array]:
    """Return signal-to-noise ratios and the filter, (..., d).

    What is not chosen is finite: its gradient would be NaN otherwise.
    """
    xp = namespace(variance)
    signal = xp.sum(_squares(spectrum.amplitudes), axis=-1)
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

"""Steps without the directions whose force is lost in the noise of the samples.

In the eigenbasis G = S S^H = U diag(s) U^H a damped step is a sum over directions k, each with the
amplitude rho_k = u_k^H r of the residuals r = f - S x0. Sample i contributes z_ik = conj(u_ik) r_i
to it (stacked rows of one sample together), so that rho_k has the standard error

    se_k^2 = sum_i |z_ik - p_i rho_k|^2,

and the signal-to-noise ratio |rho_k| / se_k. These are the ratios of the forces v_k^H S^H r in the
eigenbasis of S^H S, which is never formed with n < m. With n >= m they are computed there.
"""

from __future__ import annotations

import math
import numbers
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_count
from ngdla._backend.dtypes import is_complex
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.products import rmatvec
from ngdla._backend.scalars import as_float, known_or_array
from ngdla._backend.shapes import expanded, joined
from ngdla._backend.tracing import nan_unless
from ngdla.damped.factorisation import Factorisation
from ngdla.damped.ladder import Outcome, climb
from ngdla.damped.methods import Eigenvectors, FirstPass
from ngdla.damped.null_vectors import lift, without_null
from ngdla.damped.problem import Options, damped_problem
from ngdla.damped.right_hand_side import Layout, LeastSquares
from ngdla.score_matrices.sample_rows import Rows, is_stacked, sample_rows
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

__all__ = ["SNRInfo", "filtered_step"]


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
        |S x|, x0 included.
    """

    snr: AnyArray
    eigenvalues: AnyArray
    kept: AnyArray
    step_norm: AnyArray


def filtered_step(
    scores: ScoreMatrix,
    rhs: LeastSquares,
    damping: Any,
    snr: Any,
    options: Options,
    checks: ValueChecks,
    *,
    full_output: bool,
) -> Any:
    """Return x0 + D^-1 S^H U diag(kept / (s + damping)) U^H (f - S x0), or the pair (x, SNRInfo).

    `rhs` is one f, with or without x0. The null vectors sqrt(p) of centred scores give the
    probabilities, and two of them tell that rows are stacked. Two passes over S; memory 4 n^2.
    """
    _require_options(snr, options)
    layout = rhs.layout(scores)
    native = options._replace(method=_NullVectorsFirst(), precision="native")
    problem = damped_problem(scores, damping, native, layout.working)
    for name, arrays in rhs.named():
        checks.finite(name, *arrays, batch=len(scores.batch), kind="vector")
    columns = rhs.to_columns(problem.scores, layout)
    use = partial(_filtered, rhs=columns, snr=_threshold(snr, scores.like), layout=layout)
    x, info = climb(problem, checks, use, start=(columns.f, columns.x0), keep=True)
    return (x, info) if full_output else x


def _require_options(snr: Any, options: Options) -> None:
    if not isinstance(snr, numbers.Real) or isinstance(snr, bool):
        msg = f"`snr` is {shown(snr)}; it must be a number, not negative, or None for no filter."
        raise TypeError(msg)
    method, precision = (options.method, Eigenvectors.name), (options.precision, "native")
    for name, (value, other) in (("method", method), ("precision", precision)):
        if not isinstance(value, str) or value not in ("auto", other):
            msg = f"`{name}` is {shown(value)}; with `snr` it must be 'auto' or {other!r}."
            raise ValueError(msg)
    require_count(options.refine, "refine")
    if options.refine:
        msg = (
            f"`refine` is {options.refine}, but steps filtered by `snr` are not refined; leave it "
            f"out."
        )
        raise ValueError(msg)


def _threshold(snr: Any, like: Array) -> float | Array:
    """Return a checked ratio as a float, or where torch.compile holds a symbol as an array."""
    snr = known_or_array(snr, like)
    if not isinstance(snr, numbers.Real):
        return snr * nan_unless((snr >= 0) & (snr < math.inf), snr)
    if not 0 <= as_float(snr) < math.inf:
        msg = f"`snr` is {shown(snr)}; it must be finite and not negative; None is for no filter."
        raise ValueError(msg)
    return float(snr)


@part
class _NullVectorsFirst(Eigenvectors):
    """Eigenvectors with null vectors below all others, so that they are the first ones."""

    def with_null_apart(self, G: Array, null: Array, height: Array) -> Array:
        """Return G with eigenvalues along null vectors that are below all others."""
        return lift(G, null, -height)


class _Spectrum(NamedTuple):
    """The problem in the eigenbasis X of the smaller Gram matrix."""

    values: Array  # (..., d), ascending; with n < m those of the null vectors first
    X: Array  # (..., d, d)
    residuals: Array  # r = f - S x0, (..., n, k)
    amplitudes: Array  # (..., d, k): rho, with n >= m sqrt(s) times it


def _filtered(
    factor: Factorisation,
    first: FirstPass,
    careful: bool,
    *,
    rhs: LeastSquares,
    snr: float | Array,
    layout: Layout,
) -> Outcome:
    """Return x and what it consists of."""
    scores, null = factor.scores, factor.problem.null
    damping = factor.problem.damping_in(factor.plan.factor)
    assert null is not None
    xp, x0 = namespace(null), rhs.x0
    spectrum = _spectrum(factor, first, rhs)
    ratio, kept = _kept(spectrum, _variance(scores, null, spectrum), snr)
    if scores.wide:
        count = int(null.shape[-1])
        ratio, kept = _zero_at_first(ratio, count), _zero_at_first(kept, count)
    if not isinstance(damping, float):  # one that is illegal, where it cannot raise, gives NaN
        damping = damping * nan_unless(damping > 0, damping)
    weights = kept / (spectrum.values + expanded(damping, 1))
    step = xp.expand_dims(weights, axis=-1) * spectrum.amplitudes
    y = xp.matmul(spectrum.X, step)
    if scores.wide:
        x, _ = scores.samples.add_rmatvec(x0, y, product=False)
    else:
        pieces = scores.split(y)
        x = pieces if x0 is None else tuple(a + b for a, b in zip(x0, pieces))
    step_norm = layout.norm(_moved_samples(factor, first, spectrum, step, x0))
    info = SNRInfo(ratio, spectrum.values, kept, step_norm)
    return Outcome((layout.from_columns(scores.scaled(x)), info))


def _moved_samples(
    factor: Factorisation, first: FirstPass, spectrum: _Spectrum, step: Array, x0: Vector | None
) -> Array:
    """Return S x in the eigenbasis, or with n < m as it is, (..., d, k)."""
    xp, values = namespace(step), spectrum.values
    if factor.scores.wide:
        moved = xp.matmul(spectrum.X, xp.expand_dims(values, axis=-1) * step)
        return moved if first.S_start is None else first.S_start + moved
    if x0 is not None:
        step = step + rmatvec(spectrum.X, joined(list(x0), axis=-2))
    return xp.expand_dims(xp.sqrt(values), axis=-1) * step


def _spectrum(factor: Factorisation, first: FirstPass, rhs: LeastSquares) -> _Spectrum:
    """Return the residuals and their amplitudes along the eigenvectors."""
    values, X = factor.small.matrix.values, factor.small.matrix.U
    r = without_null(rhs.misfit(first.S_start), factor.problem.null)
    right = r if factor.scores.wide else joined(list(first.gradient or ()), axis=-2)
    return _Spectrum(values, X, r, rmatvec(X, right))


def _variance(scores: ScoreMatrix, N: Array, spectrum: _Spectrum) -> Array:
    """Return se^2, (..., d), from the contributions of all samples."""
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


def _kept(spectrum: _Spectrum, variance: Array, snr: float | Array) -> tuple[Array, Array]:
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

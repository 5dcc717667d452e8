"""Convolutions and autocorrelations of columns, by fast Fourier transforms."""

from __future__ import annotations

from typing import Any

from scipy import fft as scipy_fft

from .chunks import unchunked
from .dtypes import is_complex
from .namespace import Array, is_numpy_namespace, namespace

__all__ = ["autocorrelation", "convolution"]


def convolution(c: Array, X: Array, *, adjoint: bool = False) -> Array:
    """Return T X, (..., d, n), or T^H X, for the lower triangular Toeplitz T_ij = c_(i - j).

    c has shape (..., d); c and X have one dtype. Cost: 2 n transforms of length 2 d.
    """
    d, c, X = X.shape[-2], unchunked(c), unchunked(X)
    transform, inverse, length = _transforms(X)
    spectrum = transform(c, length, -1)
    if adjoint:
        spectrum = namespace(c).conj(spectrum)
    return inverse(spectrum[..., None] * transform(X, length, -2), length, -2)[..., :d, :]


def autocorrelation(S: Array) -> Array:
    """Return r_l = sum over i and columns of S_(i + l) conj(S_i), (..., d), for S (..., d, n)."""
    xp, d, S = namespace(S), S.shape[-2], unchunked(S)
    transform, inverse, length = _transforms(S)
    spectrum = transform(S, length, -2)
    power = xp.sum(xp.real(spectrum) ** 2 + xp.imag(spectrum) ** 2, axis=-1)
    return inverse(power + 0j, length, -1)[..., :d]


def _transforms(X: Array) -> tuple[Any, Any, int]:
    """Return the transform of the kind of X, its inverse, and a length that nothing wraps around.

    Both take (array, length, axis).
    """
    xp = namespace(X)
    fft = scipy_fft if is_numpy_namespace(xp) else xp.fft  # SciPy's takes many columns at once
    real = not is_complex(X)
    length = _fast_length(2 * X.shape[-2] - 1, real)
    transform, inverse = (fft.rfft, fft.irfft) if real else (fft.fft, fft.ifft)
    return _with_arguments(transform), _with_arguments(inverse), length


def _fast_length(least: int, real: bool) -> int:
    return int(scipy_fft.next_fast_len(least, real=real))


# What torch.compiler.assume_constant_result sets, as torch.compile cannot trace it.
_fast_length._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _with_arguments(transform: Any) -> Any:
    return lambda x, length, axis: transform(x, n=length, axis=axis)

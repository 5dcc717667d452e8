"""Restricted Boltzmann machine: log amplitudes and their derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace


class Weights(NamedTuple):
    """Parameters by their roles: a, shape (N,), b, shape (h,), and W, shape (N, h)."""

    a: Any
    b: Any
    W: Any


@dataclass(frozen=True)
class RBM:
    """Amplitudes psi(s) = exp(a . s) prod_j 2 cosh(theta_j), with angles theta = b + s W.

    All parameters live in one flat vector (a, b, W), W by rows, of length m = N + h + N h.

    Parameters
    ----------
    visible, hidden : int
        N spins and h hidden units.
    holomorphic : bool
        Complex parameters (complex amplitudes) instead of real ones (positive amplitudes).
    """

    visible: int
    hidden: int
    holomorphic: bool = False

    @property
    def size(self) -> int:
        """Number of parameters m."""
        return self.visible + self.hidden + self.visible * self.hidden

    def initial(self, rng: np.random.Generator, scale: float) -> np.ndarray:
        """Draw parameters from a normal distribution of width `scale` on the host, shape (m,)."""
        if not self.holomorphic:
            return scale * rng.standard_normal(self.size)
        real, imaginary = rng.standard_normal((2, self.size))
        return scale * (real + 1j * imaginary)

    def unpack(self, parameters: Any) -> Weights:
        """Split the flat vector of shape (m,) into a, b and W."""
        N, h = self.visible, self.hidden
        xp = array_namespace(parameters)
        couplings = xp.reshape(parameters[N + h :], (N, h))
        return Weights(parameters[:N], parameters[N : N + h], couplings)

    def angles(self, weights: Weights, spins: Any) -> Any:
        """Hidden angles theta = b + s W, shape (n, h), for spins of shape (n, N)."""
        xp = array_namespace(weights.W)
        return weights.b + xp.astype(spins, weights.W.dtype) @ weights.W

    def log_psi(self, weights: Weights, spins: Any, angles: Any) -> Any:
        """Logarithms of the amplitudes, shape (n,)."""
        xp = array_namespace(weights.W)
        return xp.astype(spins, weights.W.dtype) @ weights.a + xp.sum(log_2cosh(angles), axis=-1)

    def log_modulus(self, weights: Weights, spins: Any, angles: Any) -> Any:
        """Real part of `log_psi`, shape (n,); cheaper than `log_psi` for complex parameters."""
        xp = array_namespace(weights.W)
        return spins @ real_part(weights.a) + xp.sum(log_abs_2cosh(angles), axis=-1)

    def ratios(self, weights: Weights, angles: Any, signs: Any, directions: Any) -> Any:
        """Ratios psi(s') / psi(s), shape (n, B), for s' = s - 2 sign D with each direction D.

        With t = tanh theta and shifts delta = 2 D W of the angles,

            cosh(theta - sign delta) / cosh theta = cosh delta - sign t sinh delta,

        so hyperbolic functions are evaluated for n + B rows of angles and not for n B.

        Parameters
        ----------
        weights : Weights
        angles : array, shape (n, h)
            Those of s.
        signs : array, shape (n, B), entries +1 and -1
            Where the sign is 0 the move does not exist, and the entry returned means nothing.
        directions : array, shape (B, N)
        """
        xp = array_namespace(weights.W)
        signs = xp.astype(signs, weights.W.dtype)
        directions = xp.astype(directions, weights.W.dtype)
        delta = 2 * (directions @ weights.W)
        cosh, sinh = xp.cosh(delta), xp.sinh(delta)
        t = xp.reshape(xp.tanh(angles), (-1, 1, self.hidden))
        factors = cosh - xp.expand_dims(signs, axis=-1) * (t * sinh)
        return xp.exp(-2 * signs * (directions @ weights.a)) * xp.prod(factors, axis=-1)

    def log_derivatives(self, spins: Any, angles: Any) -> Any:
        """Derivatives O = d log psi / d(a, b, W) = (s, tanh theta, s tanh theta), shape (n, m)."""
        xp = array_namespace(angles)
        n, N = spins.shape
        s = xp.astype(spins, angles.dtype)
        t = xp.tanh(angles)
        products = xp.reshape(s, (n, N, 1)) * xp.reshape(t, (n, 1, self.hidden))
        return xp.concat([s, t, xp.reshape(products, (n, N * self.hidden))], axis=1)


def log_2cosh(z: Any) -> Any:
    """Return log(2 cosh z) = w + log(1 + exp(-2 w)) with w = +-z, Re w >= 0: no overflow."""
    xp = array_namespace(z)
    if not is_complex(z):
        z = xp.abs(z)
        return z + xp.log1p(xp.exp(-2 * z))
    z = xp.where(xp.real(z) < 0, -z, z)
    return z + xp.log(1 + xp.exp(-2 * z))


def log_abs_2cosh(z: Any) -> Any:
    """Return log |2 cosh z| in real arithmetic.

    With z = x + i y and e = exp(-2 |x|): |2 cosh z|^2 = exp(2 |x|) ((1 - e)^2 + 4 e cos^2 y), a sum
    of squares that rounding cannot make negative.
    """
    if not is_complex(z):
        return log_2cosh(z)
    xp = array_namespace(z)
    x = xp.abs(xp.real(z))
    e = xp.exp(-2 * x)
    return x + 0.5 * xp.log((1 - e) ** 2 + 4 * e * xp.cos(xp.imag(z)) ** 2)


def is_complex(x: Any) -> bool:
    """Say whether an array is complex."""
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def real_part(x: Any) -> Any:
    """Return the real part of a real or complex array."""
    return array_namespace(x).real(x) if is_complex(x) else x

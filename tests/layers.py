"""Samples of layers, and what follows from their gradients by definition, formed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from references import H, narrow, random_array, wide

__all__ = [
    "LAYOUTS",
    "exact_gram",
    "exact_weights",
    "gradients",
    "layer",
    "natural_gradient",
    "permitted",
    "solved",
]

# Shapes of inputs, and d_out: fewer samples than parameters and more, positions of a sequence or of
# patches, stacks; one sample, one position, one number.
LAYOUTS: dict[str, tuple[tuple[int, ...], int]] = {
    "plain": ((6, 4), 5),
    "many samples": ((11, 3), 2),
    "narrow outputs": ((5, 6), 1),
    "one sample": ((1, 4), 3),
    "positions": ((5, 3, 4), 2),
    "one position": ((5, 1, 4), 3),
    "one sample, positions": ((1, 4, 3), 2),
    "stack": ((2, 5, 3, 4), 3),
    "stack, one position": ((2, 2, 4, 1, 3), 2),
}


def layer(
    rng: np.random.Generator, shape: tuple[int, ...], d_out: int, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs of this shape, and output gradients."""
    return random_array(rng, shape, dtype), random_array(rng, (*shape[:-1], d_out), dtype)


def gradients(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return U, (..., d_out d_in, M): gradients g_i a_i^H of the samples, in extended precision."""
    if a.ndim == 2:
        a, g = a[:, None, :], g[:, None, :]
    each = np.swapaxes(wide(g), -1, -2) @ np.conj(wide(a))
    return np.swapaxes(each.reshape(*each.shape[:-2], -1), -1, -2)


def exact_gram(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return U^H U in extended precision."""
    U = gradients(a, g)
    return H(U) @ U


def permitted(a: np.ndarray, g: np.ndarray, u: float) -> np.ndarray:
    """Return bounds on the errors of the entries of K: u terms s_i s_j, s_i = sum_t |g_it| |a_it|.

    A product of n terms loses n u of the product of the norms, and a sum over T as much again; both
    ways have d_in, d_out and 2 T of them at most, or their product. 4 is for complex products.
    """
    if a.ndim == 2:
        a, g = a[:, None, :], g[:, None, :]
    sizes = np.sum(np.linalg.norm(a, axis=-1) * np.linalg.norm(g, axis=-1), axis=-1)
    sizes = sizes.astype(np.float64)
    terms = a.shape[-1] * g.shape[-1] + 2 * a.shape[-2] + 2
    return 4 * terms * u * sizes[..., :, None] * sizes[..., None, :]


def solved(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return A^-1 b for one matrix, by refinement in extended precision."""
    inverse = np.linalg.inv(narrow(A))
    x = np.zeros_like(wide(b) + wide(A[0, :1]))
    for _ in range(20):
        x = x + inverse @ narrow(b - A @ x)
    return x


def exact_weights(
    K: np.ndarray, damping: Any, *, relative: bool = True, normalized: bool = False
) -> np.ndarray:
    """Return (K + M lambda)^-1 1, times lambda if normalized, in extended precision."""
    K = wide(K)
    if K.ndim > 2:
        dampings = np.broadcast_to(damping, K.shape[:-2])
        options = {"relative": relative, "normalized": normalized}
        return np.stack([exact_weights(*pair, **options) for pair in zip(K, dampings)])
    M = len(K)
    shift = wide(np.asarray(damping)) * (np.sqrt(np.sum(np.abs(K) ** 2)) if relative else 1)
    c = solved(K + M * shift * np.eye(M), np.ones(M, np.longdouble))
    return c * shift if normalized else c


def natural_gradient(U: np.ndarray, damping: Any) -> np.ndarray:
    """Return (F + damping)^-1 U 1 / M with the Fisher matrix F = U U^H / M formed."""
    M = U.shape[-1]
    F = U @ H(U) / M + damping * np.eye(len(U))
    return solved(F, np.sum(U, axis=-1) / M)

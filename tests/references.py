"""Definitions in plain NumPy, from dense matrices, in higher precision than what they test."""

from __future__ import annotations

from typing import Any

import numpy as np

U = {"float32": 2.0**-24, "float64": 2.0**-53, "complex64": 2.0**-24, "complex128": 2.0**-53}


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def wide(x: np.ndarray) -> np.ndarray:
    """Return `x` in extended precision."""
    return np.asarray(x).astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)


def H(A: np.ndarray) -> np.ndarray:
    return np.conj(np.swapaxes(A, -1, -2))


def scores_with_spectrum(
    rng: np.random.Generator, n: int, m: int, dtype: str, decades: float = 3.0
) -> np.ndarray:
    """Return (n, m) with singular values log-uniform over `decades`, the largest being 1."""
    k = min(n, m)
    U_, V = (
        np.linalg.qr(random_array(rng, (size, k), "complex128" if "complex" in dtype else "float64"))[0]
        for size in (n, m)
    )
    sigma = 10.0 ** (-decades * rng.random(k))
    sigma[0] = 1.0
    return ((U_ * sigma) @ H(V)).astype(dtype)


def exact_solve(
    S: np.ndarray, v: np.ndarray, damping: float, metric: np.ndarray | None = None
) -> np.ndarray:
    """Return x (m, k) with (S^H S + damping D) x = v, in extended precision.

    A float64 inverse refined with residuals in extended precision until it stops moving.
    """
    S, v = wide(S), wide(v)
    D = np.ones(S.shape[1]) if metric is None else metric.astype(np.float64)
    scale = wide(1 / np.sqrt(wide(D)))[:, None]
    T = S * scale[:, 0]
    right = v * scale
    small = np.asarray(T, dtype=np.complex128 if np.iscomplexobj(S) else np.float64)
    _, sigma, Vh = np.linalg.svd(small, full_matrices=False)
    lam = np.longdouble(damping)

    def inverse(r: np.ndarray) -> np.ndarray:
        coefficients = Vh @ r
        return (r - H(Vh) @ ((sigma**2 / (sigma**2 + damping))[:, None] * coefficients)) / damping

    x = np.zeros_like(right * T[0, 0])
    for _ in range(30):
        r = right - H(T) @ (T @ x) - lam * x
        size = np.max(np.abs(r), axis=0) + np.finfo(np.longdouble).tiny
        x = x + inverse((r / size).astype(small.dtype if np.iscomplexobj(r / size) else np.float64)) * size
    return x * scale


def exact_lstsq(
    S: np.ndarray,
    f: np.ndarray,
    damping: float,
    x0: np.ndarray | None = None,
    metric: np.ndarray | None = None,
) -> np.ndarray:
    """Return argmin |S x - f|^2 + damping |x - x0|_D^2 (m, k) in extended precision.

    As x0 + D^-1 S^H y with W y = f - S x0: rounding S^H f, even to extended precision, would lose
    sqrt(kappa) more.
    """
    S, right = wide(S), wide(f)
    scale = np.ones(S.shape[1]) if metric is None else wide(1 / np.sqrt(wide(metric)))
    T = S * scale
    if x0 is not None:
        right = right - S @ wide(x0)
    small = np.asarray(T, dtype=np.complex128 if np.iscomplexobj(S) else np.float64)
    left, sigma, _ = np.linalg.svd(small)
    shifted = np.concatenate([sigma**2, np.zeros(len(left) - len(sigma))])[:, None] + damping
    y = np.zeros_like(right * T[0, 0])
    for _ in range(30):
        r = right - T @ (H(T) @ y) - np.longdouble(damping) * y
        size = np.max(np.abs(r), axis=0) + np.finfo(np.longdouble).tiny
        r = r / size
        r = r.astype(np.complex128 if np.iscomplexobj(r) else np.float64)
        y = y + left @ ((H(left) @ r) / shifted) * size
    x = (H(T) @ y) * scale[:, None]
    return x if x0 is None else x + wide(x0)


def condition(S: np.ndarray, damping: float) -> float:
    """Return kappa = (sigma_1^2 + damping) / damping."""
    sigma = np.linalg.norm(S.astype(np.complex128), 2)
    return float((sigma**2 + damping) / damping)


def columns(x: Any) -> np.ndarray:
    """Return a vector as one column."""
    x = np.asarray(x)
    return x[:, None] if x.ndim == 1 else x

"""Definitions in plain NumPy, from dense matrices, in higher precision than what they test."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

import ngdla

U = {"float32": 2.0**-24, "float64": 2.0**-53, "complex64": 2.0**-24, "complex128": 2.0**-53}

DOUBLE = {"float64": "float32", "complex128": "complex64"}


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def wide(x: np.ndarray) -> np.ndarray:
    """Return `x` in extended precision."""
    return np.asarray(x).astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)


def narrow(x: np.ndarray) -> np.ndarray:
    """Return `x` in double precision."""
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def H(A: np.ndarray) -> np.ndarray:
    return np.conj(np.swapaxes(A, -1, -2))


def scores_with_spectrum(
    rng: np.random.Generator, n: int, m: int, dtype: str, decades: float = 3.0
) -> np.ndarray:
    """Return (n, m) with singular values log-uniform over `decades`, the largest being 1."""
    k = min(n, m)
    U_, V = (
        np.linalg.qr(
            random_array(rng, (size, k), "complex128" if "complex" in dtype else "float64")
        )[0]
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
    small = narrow(T)
    _, sigma, Vh = np.linalg.svd(small, full_matrices=False)
    lam = np.longdouble(damping)

    def inverse(r: np.ndarray) -> np.ndarray:
        coefficients = Vh @ r
        return (r - H(Vh) @ ((sigma**2 / (sigma**2 + damping))[:, None] * coefficients)) / damping

    x = np.zeros_like(right)
    for _ in range(30):
        r = right - H(T) @ (T @ x) - lam * x
        size = np.max(np.abs(r), axis=0) + np.finfo(np.longdouble).tiny
        x = x + inverse(narrow(r / size)) * size
    return x * scale


def exact_lstsq(
    S: np.ndarray,
    f: np.ndarray,
    damping: float,
    x0: np.ndarray | None = None,
    metric: np.ndarray | None = None,
) -> np.ndarray:
    """Return argmin |S x - f|^2 + damping |x - x0|_D^2 (m, k) in extended precision.

    With n < m as x0 + D^-1 S^H y with W y = f - S x0: rounding S^H f, even to extended precision,
    would lose sqrt(kappa) more. With n >= m y is f / damping where S does not reach.
    """
    S, right = wide(S), wide(f)
    scale = np.ones(S.shape[1]) if metric is None else wide(1 / np.sqrt(wide(metric)))
    T = S * scale
    if x0 is not None:
        right = right - S @ wide(x0)
    if T.shape[0] > T.shape[1]:
        x = _fit(T, right, np.longdouble(damping)) * scale[:, None]
        return x if x0 is None else x + wide(x0)
    left, sigma, _ = np.linalg.svd(narrow(T), full_matrices=False)
    shifted = (sigma**2 + damping)[:, None]
    y = np.zeros_like(right)
    for _ in range(30):
        r = right - T @ (H(T) @ y) - np.longdouble(damping) * y
        size = np.max(np.abs(r), axis=0) + np.finfo(np.longdouble).tiny
        y = y + left @ ((H(left) @ narrow(r / size)) / shifted) * size
    x = (H(T) @ y) * scale[:, None]
    return x if x0 is None else x + wide(x0)


def _fit(S: np.ndarray, f: np.ndarray, damping: np.longdouble) -> np.ndarray:
    """Return argmin |S x - f|^2 + damping |x|^2 for n > m by its gradients."""
    _, sigma, Vh = np.linalg.svd(narrow(S), full_matrices=False)
    x = np.zeros((S.shape[1], f.shape[1]), S.dtype)
    for _ in range(30):
        g = H(S) @ (f - S @ x) - damping * x
        size = np.max(np.abs(g), axis=0) + np.finfo(np.longdouble).tiny
        x = x + H(Vh) @ ((Vh @ narrow(g / size)) / (sigma**2 + float(damping))[:, None]) * size
    return x


def condition(S: np.ndarray, damping: float) -> float:
    """Return kappa = (sigma_1^2 + damping) / damping."""
    sigma = np.linalg.norm(S.astype(np.complex128), 2)
    return float((sigma**2 + damping) / damping)


def columns(x: Any) -> np.ndarray:
    """Return a vector as one column."""
    x = np.asarray(x)
    return x[:, None] if x.ndim == 1 else x


@dataclasses.dataclass
class RandomProblem:
    """A damped problem of random kind, shape, spectrum and scale."""

    S: np.ndarray
    damping: float
    v: np.ndarray | None
    f: np.ndarray | None
    x0: np.ndarray | None
    metric: np.ndarray | None
    options: dict[str, Any]

    @property
    def dtype(self) -> str:
        return str(self.S.dtype)

    def solve(self, **options: Any) -> Any:
        options = {**self.options, "metric": self.metric, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ngdla.PrecisionWarning)
            if self.v is not None:
                return ngdla.damped_solve(self.S, self.v, self.damping, **options)
            return ngdla.damped_lstsq(self.S, self.f, self.damping, x0=self.x0, **options)

    def exact(self) -> np.ndarray:
        if self.v is not None:
            return exact_solve(self.S, self.v, self.damping, self.metric)
        return exact_lstsq(self.S, self.f, self.damping, self.x0, self.metric)

    def norm(self, x: np.ndarray) -> np.ndarray:
        """Return |D^(1/2) x| of each column."""
        weight = 1.0 if self.metric is None else wide(self.metric)[:, None] ** 0.5
        return np.linalg.norm(narrow(wide(x) * weight), axis=0)


def random_problem(rng: np.random.Generator, dtype: str) -> RandomProblem:
    """Draw a problem; damping / sigma_1^2 goes down to 1e-12 in double, 3e-6 in single."""
    n, m = (int(size) for size in np.exp(rng.uniform(0, np.log(60), 2)))
    if rng.random() < 0.6 and n > m:
        n, m = m, n
    S = scores_with_spectrum(rng, n, m, dtype, rng.uniform(0, 4))
    S = (S * 10 ** rng.uniform(-3, 3)).astype(dtype)
    least = -12 if dtype in DOUBLE else -5.5
    damping = float(10 ** rng.uniform(least, 1) * np.linalg.norm(S.astype(complex), 2) ** 2)
    k = int(rng.integers(1, 4))
    kind = rng.choice(["given f", "v in the row space", "general v", "prior"])
    f = random_array(rng, (n, k), dtype)
    v = x0 = metric = None
    if kind == "v in the row space":
        v = (H(S) @ f).astype(dtype)
    elif kind == "general v":
        v = random_array(rng, (m, k), dtype)
    elif kind == "prior":
        x0 = random_array(rng, (m, k), dtype)
    if rng.random() < 0.3:
        metric = (10 ** rng.uniform(-2, 2, m)).astype(np.real(S).dtype)
    options = {
        "refine": int(rng.integers(0, 3)),
        "method": str(rng.choice(["cholesky", "eigh", "svd", "qr"])),
        "precision": str(rng.choice(["auto", "native", "mixed"])),
    }
    return RandomProblem(S, damping, v, None if v is not None else f, x0, metric, options)


def sr_data(
    rng: np.random.Generator, mode: str, dtype: str, n: int, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-derivatives with a common part, and local energies."""
    real = "float32" if U[dtype] > 1e-10 else "float64"
    O = random_array(rng, (n, m), real if mode == "real" else dtype)
    return O + O.dtype.type(2.0), random_array(rng, (n,), dtype)

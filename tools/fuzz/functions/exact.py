"""Exact eigenpairs, functions and derivatives, in long double: 64 bits, and the range of 1e4932."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["adjoint", "derivative", "eigen", "expm", "frobenius", "long", "of_eigen", "spectral"]

SWEEPS = 4
TERMS = 24
LONG = np.finfo(np.longdouble)


def long(x: Any) -> np.ndarray:
    """Return an array in long double."""
    x = np.asarray(x)
    return x.astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)


def adjoint(x: np.ndarray) -> np.ndarray:
    """Return x^H."""
    return np.conj(np.swapaxes(x, -1, -2))


def frobenius(x: np.ndarray) -> Any:
    """Return the norm of all entries, in long double."""
    return np.sqrt(np.sum(np.abs(long(x)) ** 2))


def spectral(w: np.ndarray) -> Any:
    """Return the largest absolute value, 0 of none."""
    return np.max(np.abs(w), initial=np.longdouble(0))


def eigen(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, ascending, and eigenvectors of a Hermitian matrix in long double."""
    A = long(A)
    A = (A + adjoint(A)) / 2
    size = spectral(A)
    if size == 0:
        return np.zeros(len(A), np.longdouble), np.eye(len(A), dtype=A.dtype)
    A = A / size
    double = np.complex128 if np.iscomplexobj(A) else np.float64
    U = long(np.linalg.eigh(A.astype(double))[1])
    for _ in range(2):  # orthonormal to long double
        U = U @ (3 * np.eye(len(U)) - adjoint(U) @ U) / 2
    T = adjoint(U) @ A @ U
    for _ in range(SWEEPS):
        if not _sweep(T, U):
            break
    w = np.real(np.diagonal(T))
    order = np.argsort(w)
    return w[order] * size, U[:, order]


def _sweep(T: np.ndarray, U: np.ndarray) -> bool:
    """Turn T and U by one sweep of Jacobi rotations, and tell whether there was one."""
    turned, d = False, len(T)
    for p in range(d):
        for q in range(p + 1, d):
            b = abs(T[p, q])
            if b <= LONG.eps / 4 * min(abs(T[p, p]), abs(T[q, q])) or b < 1e-40:
                continue
            turned = True
            phase = T[p, q] / b
            tau = (T[q, q] - T[p, p]).real / (2 * b)
            t = (1 if tau >= 0 else -1) / (abs(tau) + np.sqrt(1 + tau * tau))
            c = 1 / np.sqrt(1 + t * t)
            J = np.array([[c, t * c * phase], [-t * c * np.conj(phase), c]], dtype=T.dtype)
            pair = [p, q]
            T[:, pair] = T[:, pair] @ J
            T[pair, :] = adjoint(J) @ T[pair, :]
            U[:, pair] = U[:, pair] @ J
            T[p, q] = T[q, p] = 0
    return turned


def of_eigen(w: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Return U diag(w) U^H."""
    return (U * w) @ adjoint(U)


def expm(A: np.ndarray) -> np.ndarray:
    """Return exp(A) by squarings of a series."""
    A = long(A)
    size = frobenius(A)
    steps = max(0, int(np.ceil(np.log2(size))) + 3) if size > 0 else 0
    B = A / np.longdouble(2) ** steps
    term = np.eye(len(A), dtype=A.dtype)
    total = term.copy()
    for k in range(1, TERMS):
        term = term @ B / k
        total = total + term
    for _ in range(steps):
        total = total @ total
    return total


Slope = Callable[[Any, Any], Any]


def _slope_of_root(x: Any, y: Any) -> Any:
    return 1 / (np.sqrt(x) + np.sqrt(y))


def _slope_of_inverse_root(x: Any, y: Any) -> Any:
    return -_slope_of_root(x, y) / (np.sqrt(x) * np.sqrt(y))


def _slope_of_logarithm(x: Any, y: Any) -> Any:
    r = (x - y) / (x + y)
    small = np.abs(r) < 1e-9
    safe = np.where(small, np.longdouble(0.5), r)
    return np.where(small, 1 + r * r / 3, np.arctanh(safe) / safe) * 2 / (x + y)


SLOPES: dict[str, Slope] = {
    "sqrtm_psd": _slope_of_root,
    "inv_sqrtm_psd": _slope_of_inverse_root,
    "logm_psd": _slope_of_logarithm,
}


def derivative(function: str, arrays: dict[str, np.ndarray], damping: float, E: Any) -> np.ndarray:
    """Return the derivative of a function along E, by divided differences (Daleckii and Krein)."""
    A, E = long(arrays["A"]), long(E)
    if function == "expm":
        zero = np.zeros_like(A)
        return expm(np.block([[A, E], [zero, A]]))[: len(A), len(A) :]
    w, U = eigen(A)
    inner = adjoint(U) @ E @ U
    if function in SLOPES:
        return U @ (SLOPES[function](w[:, None], w) * inner) @ adjoint(U)
    V, shift = long(arrays["V"]), np.longdouble(damping)
    if function == "randomized_eigh":
        slope = -1 / ((w[:, None] + shift) * (w + shift))
        return U @ (slope * inner) @ (adjoint(U) @ V)
    g, P = eigen(arrays["G"])  # kronecker_solve: G dX A + damping dX = -G X E
    f = 1 / (g[:, None] * w + shift)
    X = f * (adjoint(P) @ V @ U)
    return P @ (f * -(g[:, None] * (X @ inner))) @ adjoint(U)

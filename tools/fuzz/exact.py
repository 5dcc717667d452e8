"""Exact solutions of damped problems: with fifty digits where that is cheap, else in long double.

In both, the smaller matrix is factored as L diag(d) L^H and the residual refined. Long doubles have
64 bits, and the range that NumPy's doubles lack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np

__all__ = ["Exact", "System", "exact_columns", "norm"]

DIGITS = 50
CHEAP = 400  # entries of S
SWEEPS = 4
LONG = np.finfo(np.longdouble)


class Exact(NamedTuple):
    """The solution of one right-hand side, (m,), in long double, and what that may err by."""

    x: np.ndarray
    error: float


def norm(x: np.ndarray, metric: np.ndarray | None) -> Any:
    """Return |D^1/2 x| of a vector in long double."""
    squares = np.abs(x) ** 2
    return np.sqrt(np.sum(squares if metric is None else squares * metric.astype(np.longdouble)))


class System(NamedTuple):
    """S, its damping and metric, and a right-hand side: f and x0, or v in the place of x0."""

    S: np.ndarray
    damping: float
    f: np.ndarray | None  # (n, k), None for a solve
    start: np.ndarray | None  # (m, k): x0 or v
    metric: np.ndarray | None  # (m,)
    null: np.ndarray | None = None  # (n, p): what S and f are to be freed of


def exact_columns(system: System) -> list[Exact]:
    """Return x0 + D^-1 S^H (S D^-1 S^H + damping)^-1 (f - S x0) for each column.

    A solve has f = 0 and x0 = D^-1 v / damping.
    """
    metric = system.metric
    if system.S.size <= CHEAP:
        with mpmath.workdps(DIGITS):
            x = np.vectorize(_long, otypes=[np.clongdouble])(_solve(_digits, system, 0))
        spare = np.zeros(x.shape[1])
    else:
        x, before = (_solve(_extended, system, sweeps) for sweeps in (SWEEPS, SWEEPS - 1))
        spare = [norm(d, metric) for d in (x - before).T] + 64 * LONG.eps * _start_norms(system)
    return [
        Exact(column, float(more + 64 * LONG.eps * norm(column, metric)))
        for column, more in zip(np.asarray(x).T, spare)
    ]


def _start_norms(system: System) -> Any:
    """Return |D^1/2 x0| of each column, from which the solution may cancel."""
    if system.start is None:
        return 0.0
    x = _extended(system.start)
    if system.f is None:
        x = x / np.longdouble(system.damping)
        x = x if system.metric is None else x / system.metric[:, None]
    return np.array([norm(column, system.metric) for column in x.T])


def _digits(x: Any) -> np.ndarray:
    """Return an array of mpmath numbers, each exactly that of NumPy."""
    if np.iscomplexobj(x):
        return np.vectorize(lambda entry: mpmath.mpc(complex(entry)), otypes=[object])(x)
    return np.vectorize(lambda entry: mpmath.mpf(float(entry)), otypes=[object])(np.asarray(x))


def _extended(x: Any) -> np.ndarray:
    kind = np.clongdouble if np.iscomplexobj(x) else np.longdouble
    return np.asarray(x).astype(kind)


def _long(x: Any) -> np.clongdouble:
    """Return a number of mpmath as a long double: the sum of three doubles of its own scale."""
    real, imag = (_long_real(mpmath.mpf(part)) for part in (mpmath.re(x), mpmath.im(x)))
    return real + np.clongdouble(1j) * imag


def _long_real(x: Any) -> np.longdouble:
    if x == 0:
        return np.longdouble(0)
    exponent = int(mpmath.floor(mpmath.log(abs(x), 2)))
    rest, total = mpmath.ldexp(x, -exponent), np.longdouble(0)
    for _ in range(3):
        part = float(rest)
        total, rest = total + np.longdouble(part), rest - part
    return np.ldexp(total, exponent)


def _solve(wide: Callable[[Any], np.ndarray], system: System, sweeps: int) -> np.ndarray:
    """Return x, (m, k), in the numbers that `wide` makes."""
    S, damping = wide(system.S), wide(system.damping)[()]
    D = None if system.metric is None else wide(system.metric)[:, None]
    N = None if system.null is None else wide(system.null)

    def freed(A: np.ndarray) -> np.ndarray:
        return A if N is None else A - N @ (np.conj(N.T) @ A)

    def unweighted(x: np.ndarray) -> np.ndarray:
        return x if D is None else x / D

    S, f, start = freed(S), system.f, system.start
    right = None if f is None else freed(wide(f))
    k = (start if f is None else f).shape[1]  # type: ignore[union-attr]
    x0 = wide(np.zeros((S.shape[1], k)) if start is None else start)
    if len(S) > S.shape[1]:
        return _by_gradients(S, damping, D, right, x0, sweeps)
    if right is None:
        x0, right = unweighted(x0 / damping), wide(np.zeros((len(S), k)))
    factor = _ldl(S @ unweighted(np.conj(S.T)) + damping * np.eye(len(S), dtype=int))
    x, y = x0, 0 * right
    for _ in range(1 + sweeps):
        w = _ldl_solve(*factor, right - S @ x - damping * y)
        x, y = x + unweighted(np.conj(S.T) @ w), y + w
    return x


def _by_gradients(S: Any, damping: Any, D: Any, f: Any, x0: Any, sweeps: int) -> np.ndarray:
    """Return x for more samples than parameters, from S^H S + damping D; x0 is v without an f."""
    D = np.ones_like(x0[:, :1]) if D is None else D
    factor = _ldl(np.conj(S.T) @ S + damping * D * np.eye(len(D), dtype=int))
    x = 0 * x0 if f is None else x0
    for _ in range(1 + sweeps):
        if f is None:
            r = x0 - np.conj(S.T) @ (S @ x) - damping * D * x
        else:
            r = np.conj(S.T) @ (f - S @ x) + damping * D * (x0 - x)
        x = x + _ldl_solve(*factor, r)
    return x


def _ldl(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit lower triangular L and the pivots d with W = L diag(d) L^H."""
    L, pivots = W.copy(), []
    for j in range(len(W)):
        pivots.append(L[j, j])
        L[j:, j] = L[j:, j] / pivots[j]
        for i in range(j + 1, len(W)):
            L[i:, i] = L[i:, i] - L[i:, j] * (np.conj(L[i, j]) * pivots[j])
    return L, np.array(pivots, dtype=W.dtype)


def _ldl_solve(L: np.ndarray, pivots: np.ndarray, r: np.ndarray) -> np.ndarray:
    w = r.copy()
    for j in range(len(L)):
        w[j + 1 :] = w[j + 1 :] - L[j + 1 :, j, None] * w[j]
    w = w / pivots[:, None]
    for j in reversed(range(len(L))):
        w[:j] = w[:j] - np.conj(L[j, :j])[:, None] * w[j]
    return w

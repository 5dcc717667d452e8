"""The ways to one damped natural-gradient step that are compared, and what the step has to cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from array_api_compat import device

import ngdla
from ngdla._backend.dtypes import astype, is_complex
from ngdla._backend.namespace import namespace
from ngdla._backend.products import adjoint, rmatvec

from .ceilings import ITEMSIZE
from .engines import Engine

__all__ = [
    "METHODS",
    "Case",
    "Method",
    "flops",
    "passes_in_bytes",
    "residual",
    "single_case",
]

Array = Any
Step = Callable[[Array, Array], Array]

# Against the largest squared singular value, which is about m for standard normal scores. In single
# precision `precision="auto"` takes the plain method from 256 u |S|_F^2 = 256 u n m on, which is
# below 0.1 m for n <= 4096; below that it climbs to double precision, and its time is that of both.
RELATIVE_DAMPING = 1e-3
SINGLE_RELATIVE_DAMPING = 0.1
_CHUNK = 2**24  # numbers that are converted to float64 at a time


class Case(NamedTuple):
    """A problem: n samples, m parameters, a dtype, and the damping over m."""

    n: int
    m: int
    dtype: str
    relative_damping: float = RELATIVE_DAMPING

    @property
    def damping(self) -> float:
        """In units of squared singular values."""
        return self.relative_damping * self.m

    @property
    def bytes(self) -> int:
        """Size of S."""
        return self.n * self.m * ITEMSIZE[self.dtype]


def single_case(n: int, m: int, dtype: str) -> Case:
    """Return a problem in single precision whose damping the plain method is enough for."""
    return Case(n, m, dtype, SINGLE_RELATIVE_DAMPING)


class Method(NamedTuple):
    """A step, the arrays of the size of S that it needs beside S, and what it is."""

    step: Callable[[Engine, float], Step]
    copies: int
    what: str


def _by_ngdla(**options: Any) -> Callable[[Engine, float], Step]:
    def bound(engine: Engine, damping: float) -> Step:
        return lambda S, v: ngdla.damped_solve(S, v, damping, **options)

    return bound


def _plain(engine: Engine, damping: float) -> Step:
    def step(S: Array, v: Array) -> Array:
        xp = namespace(S)
        W = xp.matmul(S, adjoint(S)) + damping * xp.eye(S.shape[0], dtype=S.dtype, device=device(S))
        y = xp.linalg.solve(W, xp.matmul(S, v))
        return (v - xp.matmul(adjoint(S), y)) / damping

    return step


def _svda(engine: Engine, damping: float) -> Step:
    def step(S: Array, v: Array) -> Array:
        """S^H = U diag(s) V^H, so that x = v / damping + U (1 / (s^2 + damping) - ...) U^H v."""
        xp = namespace(S)
        U, s = engine.tall_svd(adjoint(S))
        along = rmatvec(U, xp.expand_dims(v, axis=-1))
        weights = xp.expand_dims(s * s / ((s * s + damping) * damping), axis=-1)
        return v / damping - xp.squeeze(xp.matmul(U, weights * along), axis=-1)

    return step


# JAX is jitted, where nothing can be raised.
_READ = "its time includes the one host read of check=True for CuPy and torch, none for JAX"

METHODS = {
    "chol": Method(
        _by_ngdla(method="cholesky"), 1, f'ngdla.damped_solve(method="cholesky"); {_READ}'
    ),
    "native": Method(
        _by_ngdla(method="cholesky", precision="native"),
        1,
        f"chol in the dtype of S, at any damping; {_READ}",
    ),
    "unrefined": Method(
        _by_ngdla(method="cholesky", refine=0), 1, f"chol with refine=0, the bare formula; {_READ}"
    ),
    "plain": Method(_plain, 2, "(v - S^H solve(S S^H + damping I, S v)) / damping, by hand"),
    "eigh": Method(_by_ngdla(method="eigh"), 1, f'ngdla.damped_solve(method="eigh"); {_READ}'),
    "svda": Method(_svda, 5, "the same formula from the thin SVD of S^H, by hand"),
}


def flops(case: Case) -> float:
    """Return the least operations: the triangle of the Gram matrix, its factor, S v and S^H y."""
    real = case.n**2 * case.m + case.n**3 / 3 + 4 * case.n * case.m
    return real * (4 if case.dtype.startswith("complex") else 1)


def passes_in_bytes(case: Case) -> int:
    """Return the least traffic: S is read for the Gram matrix, for S v and for S^H y."""
    return 3 * case.bytes


def residual(S: Array, v: Array, x: Array, damping: float) -> float:
    """Return |S^H S x + damping x - v| / |v|, in double precision on the device."""
    xp = namespace(S)
    double = "complex128" if is_complex(S) else "float64"
    width = max(1, _CHUNK // S.shape[0])
    spans = [slice(i, i + width) for i in range(0, S.shape[1], width)]
    x = astype(x, double)
    y = sum(xp.matmul(astype(S[:, span], double), x[span]) for span in spans)
    column = xp.expand_dims(y, axis=-1)
    squares = 0.0
    for span in spans:
        back = xp.squeeze(rmatvec(astype(S[:, span], double), column), axis=-1)
        r = back + damping * x[span] - astype(v[span], double)
        squares += float(xp.sum(xp.abs(r) ** 2))
    size = float(xp.sum(xp.abs(astype(v, double)) ** 2))
    return (squares / size) ** 0.5

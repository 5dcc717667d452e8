"""Arrays that cases are made of: from a kind, a shape and a seed, equal on every library."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from .expressions import Array, ArrayKey

__all__ = ["Problem", "numbers"]


class Problem:
    """Arguments of damped problems and steps with n samples and m parameters, as expressions."""

    def __init__(self, n: int, m: int, batch: tuple[int, ...] = (), seed: int = 0) -> None:
        self.n, self.m = n, m
        self.S = Array("centred", (*batch, n, m), seed=seed)
        self.O = Array("normal", (*batch, n, m), seed=seed)
        self.f, self.F = (Array("normal", (*batch, n, *k), seed=seed) for k in ((), (3,)))
        self.v, self.V = (Array("normal", (*batch, m, *k), seed=seed + 1) for k in ((), (3,)))
        self.x0, self.X0 = (Array("normal", (*batch, m, *k), seed=seed + 2) for k in ((), (3,)))
        self.metric = Array("positive", (*batch, m), seed=seed)
        self.weights = Array("positive", (*batch, n), seed=seed)
        self.null = Array("constant", (*batch, n), seed=seed)
        self.damping = Array("positive", batch, seed=seed)

    def blocks(self, x: Any) -> list[Any]:
        """Return S or O in three blocks of columns, or vectors in three pieces."""
        first, second = self.m // 3, self.m // 2
        spans = slice(None, first), slice(first, second), slice(second, None)
        wide = x is self.S or x is self.O
        return [x[:, span] if wide else x[span] for span in spans]


# The dtypes of complex numbers in cases of real ones, and the other way round.
COUNTERPARTS = {
    "float16": "complex64",
    "bfloat16": "complex64",
    "float32": "complex64",
    "float64": "complex128",
    "complex64": "float32",
    "complex128": "float64",
}


def numbers(key: ArrayKey, dtype: str) -> np.ndarray:
    """Return the array of a key, in a dtype unless it has one of its own."""
    dtype = key.dtype or dtype
    rng = np.random.default_rng(zlib.crc32(repr((key.kind, key.shape, key.seed)).encode()))
    x = KINDS[key.kind](rng, key.shape, dtype.startswith("complex"))
    if np.iscomplexobj(x) != dtype.startswith("complex"):
        dtype = COUNTERPARTS[dtype]
    return np.array(x, dtype=_dtype(dtype), order="C")


def _dtype(dtype: str) -> Any:
    """Return a dtype of NumPy, or of ml_dtypes for bfloat16."""
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if is_complex else x


def _centred(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    x = _normal(rng, shape, is_complex)
    return x - np.mean(x, axis=-2, keepdims=True)


def _psd(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    """Return Hermitian matrices with eigenvalues 1, 1 / 2, 1 / 4, ..."""
    Q = np.linalg.qr(_normal(rng, shape, is_complex)).Q
    A = (Q * 0.5 ** np.arange(shape[-1])) @ np.conj(np.swapaxes(Q, -1, -2))
    return (A + np.conj(np.swapaxes(A, -1, -2))) / 2


def _orthonormal(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    return np.linalg.qr(_normal(rng, shape, is_complex)).Q


# Functions of a generator, a shape, and whether numbers are complex.
KINDS = {
    "normal": _normal,
    "centred": _centred,
    "psd": _psd,
    "orthonormal": _orthonormal,
    "real": lambda rng, shape, is_complex: rng.standard_normal(shape),
    "positive": lambda rng, shape, is_complex: 0.5 + rng.random(shape),
    "constant": lambda rng, shape, is_complex: np.full(shape, shape[-1] ** -0.5),
    "imaginary": lambda rng, shape, is_complex: _normal(rng, shape, True),
    "nan": lambda rng, shape, is_complex: np.full(shape, np.nan),
    "zero": lambda rng, shape, is_complex: np.zeros(shape),
}

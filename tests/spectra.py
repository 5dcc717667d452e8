"""Positive semi-definite matrices of known spectrum, and what is asked of decompositions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from backends import Backend, has_module
from references import H, random_array, wide

__all__ = [
    "REAL",
    "Operator",
    "bfloat16",
    "dense",
    "geometric",
    "model",
    "needs",
    "norm",
    "orthonormal",
    "power_law",
    "psd",
    "quick_compilation",
    "refused",
    "relative",
]

REAL = {
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    """Let XLA compile without optimising: most of the time would be spent on that."""
    if not has_module("jax"):
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def needs(backend: Backend, dtype: str) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")


# -------------------------------------------------------------------------------- matrices


def geometric(d: int, ratio: float = 0.5) -> np.ndarray:
    return ratio ** np.arange(d)


def power_law(d: int, exponent: float = 1.0) -> np.ndarray:
    return np.arange(1.0, d + 1) ** -exponent


def orthonormal(rng: np.random.Generator, d: int, k: int, dtype: str) -> np.ndarray:
    """Return (d, k) with orthonormal columns."""
    wider = "complex128" if dtype.startswith("complex") else "float64"
    return np.linalg.qr(random_array(rng, (d, k), wider))[0].astype(dtype)


def psd(rng: np.random.Generator, values: np.ndarray, dtype: str) -> np.ndarray:
    """Return an exactly Hermitian matrix with these eigenvalues, up to rounding."""
    wider = "complex128" if dtype.startswith("complex") else "float64"
    Q = orthonormal(rng, len(values), len(values), wider)
    A = (Q * values) @ H(Q)
    return ((A + H(A)) / 2).astype(dtype)


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Return float32 numbers rounded to the 8 bits of bfloat16, to even."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


@dataclasses.dataclass
class Operator:
    """A matrix that is known by its products, here of rounded factors."""

    A: Any
    round: Callable[[Any], Any] = lambda x: x

    def __matmul__(self, X: Any) -> Any:
        return self.round(self.A) @ self.round(X)

    @property
    def shape(self) -> Any:
        return self.A.shape

    @property
    def dtype(self) -> Any:
        return self.A.dtype


# ------------------------------------------------------------------------------ references


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x).astype(np.complex128))))


def relative(x: np.ndarray, reference: np.ndarray) -> float:
    """Return |x - reference|_F / |reference|_F."""
    return norm(wide(x) - wide(reference)) / norm(reference)


def dense(values: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Return U diag(values) U^H in extended precision."""
    return (wide(U) * wide(values)[..., None, :]) @ H(wide(U))


def model(values: np.ndarray, U: np.ndarray, tail: Any) -> np.ndarray:
    """Return U diag(values) U^H + tail (1 - U U^H) by its definition."""
    one = np.eye(U.shape[-2])
    tail = np.asarray(tail)[..., None, None]
    return dense(values, U) + tail * (one - wide(U) @ H(wide(U)))


# ---------------------------------------------------------------------------------- errors

REMEDY = re.compile(
    r"(?i)\b(must|pass|convert|move|needs?|leave it out|raise|choose|use|scale|is needed|start|"
    r"has nothing)\b"
)


def refused(kind: type[Exception], name: str, call: Callable[[], Any]) -> str:
    """Return the message of an error of exactly this type that names the argument and a remedy."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert caught.type is kind
    assert caught.value.__cause__ is None
    assert f"`{name}`" in text, text
    assert REMEDY.search(text), text
    return text

"""The Gram matrix against the product that each library offers for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from benchmarks.measuring import alternating, normal, optional

import ngdla

from .tracked import tracked

LARGE = (1024, 50_000)
SHAPES = (LARGE, (512, 20_000), (256, 4_096), (128, 100_000), (64, 1_000), (16, 200))


@tracked("complex128 NumPy Gram, n = 1024, m = 20,000, against S @ S.conj().T", at_least=1.6)
def track_numpy_complex() -> float:
    S = normal((1024, 20_000), "complex128")
    times = alternating({"ours": lambda: ngdla.gram(S), "plain": lambda: S @ S.conj().T}, 5)
    return times["plain"] / times["ours"]


@tracked("torch CPU float64 Gram, n = 1024, m = 50,000, against S @ S.mT", at_least=1.45)
def track_torch() -> float:
    torch = optional("torch")
    torch.set_num_threads(2)
    S = torch.from_numpy(normal(LARGE))
    times = alternating({"ours": lambda: ngdla.gram(S), "plain": lambda: S @ S.mT}, 7)
    return times["plain"] / times["ours"]


@tracked("torch CPU complex128 Gram, n = 512, m = 20,000, against S @ S.mH")
def track_torch_complex() -> float:
    torch = optional("torch")
    torch.set_num_threads(2)
    S = torch.from_numpy(normal((512, 20_000), "complex128"))
    times = alternating({"ours": lambda: ngdla.gram(S), "plain": lambda: S @ S.mH}, 7)
    return times["plain"] / times["ours"]


def _jax_ratios(
    shapes: tuple[tuple[int, int], ...], *, eager: bool, dtype: str = "float64"
) -> list[float]:
    jax = optional("jax")
    jax.config.update("jax_enable_x64", True)

    def plain(S: Any) -> Any:
        return S @ (S.conj().T if dtype.startswith("complex") else S.T)

    ours, other = (ngdla.gram, plain) if eager else (jax.jit(ngdla.gram), jax.jit(plain))
    ratios = []
    for shape in shapes:
        S = jax.numpy.asarray(normal(shape, dtype))
        functions = {
            "ours": lambda S=S: jax.block_until_ready(ours(S)),
            "plain": lambda S=S: jax.block_until_ready(other(S)),
        }
        times = alternating(functions, 7 if shape == LARGE else 31)
        ratios.append(times["plain"] / times["ours"])
    return ratios


@tracked("JAX CPU float64 Gram under jit, n = 1024, m = 50,000, against S @ S.T", at_least=1.1)
def track_jax_jit() -> float:
    return _jax_ratios((LARGE,), eager=False)[0]


@tracked("the same, eager", at_least=1.0)
def track_jax_eager() -> float:
    return _jax_ratios((LARGE,), eager=True)[0]


@tracked("JAX under jit, the slowest of six shapes, against S @ S.T", at_least=1.0)
def track_jax_jit_slowest() -> float:
    return min(_jax_ratios(SHAPES, eager=False))


@tracked("JAX eager, the slowest of six shapes, against S @ S.T", at_least=1.0)
def track_jax_eager_slowest() -> float:
    return min(_jax_ratios(SHAPES, eager=True))


@tracked("JAX CPU complex128 Gram under jit, n = 512, m = 20,000, against S @ S.conj().T")
def track_jax_complex() -> float:
    return _jax_ratios(((512, 20_000),), eager=False, dtype="complex128")[0]


@tracked("real float64 NumPy Gram, n = 1024, m = 50,000: time over n^2 m flops at the GEMM rate")
def track_numpy_real_over_floor() -> float:
    S = normal(LARGE)
    other = np.ascontiguousarray(S)[::-1].copy()
    times = alternating({"ours": lambda: ngdla.gram(S), "gemm": lambda: S @ other.T}, 7)
    return times["ours"] / (times["gemm"] / 2)

"""Weights of samples: what they cost beside a plain gradient, and how exact they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from benchmarks.measuring import alternating, normal, optional
from benchmarks.sample_weights import DAMPING, natural_gradient
from threads import limited

import ngdla
from ngdla.per_sample.gradients import gram_by_gradients, gram_by_pairs
from ngdla.per_sample.layer_samples import LayerSamples, layer_samples

from .tracked import tracked

M = 128
WIDTHS = (512, 1024, 2048, 4096)
LIBRARIES = ("numpy", "torch")


def converted(library: str, *arrays: np.ndarray) -> Any:
    """Return arrays of a library."""
    if library == "numpy":
        return arrays
    return tuple(optional("torch").from_numpy(x) for x in arrays)


# ------------------------------------------------------------------------------------- cost


@cache
def overheads() -> list[dict[str, Any]]:
    """Return times in ms of gradients of a layer with d inputs and outputs, M = 128, float32."""
    return [overhead(library, d) for library in LIBRARIES for d in WIDTHS]


def overhead(library: str, d: int) -> dict[str, Any]:
    a, g = converted(library, normal((M, d), "float32"), normal((M, d), "float32", seed=1))
    state = ngdla.weight_sharing_init("shared", M, period=1)
    _, state = ngdla.weight_sharing_step(state, a, g, DAMPING)

    def shared() -> Any:
        v, _ = ngdla.weight_sharing_step(state, a, g, DAMPING)
        return ngdla.weighted_gradient(a, g, v)

    ways = {"plain": lambda: g.T @ a, "exact": partial(natural_gradient, a, g), "shared": shared}
    with limited(1):
        times = alternating(ways, 61)
    extra = {f"{way} / plain - 1": times[way] / times["plain"] - 1 for way in ("exact", "shared")}
    return {"library": library, "d": d} | {way: 1e3 * t for way, t in times.items()} | extra


def extra_cost(way: str, library: str, d: int) -> float:
    rows = {(row["library"], row["d"]): row for row in overheads()}
    return float(rows[library, d][f"{way} / plain - 1"])


@tracked(
    "sample_gram, sample_weights and weighted_gradient, M = 128, d = 2048, float32, NumPy, one "
    "thread: time beyond that of one product for the plain gradient",
    unit="of it",
    at_most=0.15,
)
def track_exact_2048() -> float:
    return extra_cost("exact", "numpy", 2048)


@tracked("sample_weights, the same, d = 4096", unit="of it", at_most=0.08)
def track_exact_4096() -> float:
    return extra_cost("exact", "numpy", 4096)


@tracked("sample_weights, the same, shared weights, worse of both", unit="of it", at_most=0.03)
def track_shared() -> float:
    return max(extra_cost("shared", "numpy", d) for d in (2048, 4096))


@tracked("sample_weights, torch, d = 2048", unit="of it", at_most=0.15)
def track_exact_2048_torch() -> float:
    return extra_cost("exact", "torch", 2048)


@tracked("sample_weights, torch, d = 4096", unit="of it", at_most=0.08)
def track_exact_4096_torch() -> float:
    return extra_cost("exact", "torch", 4096)


@tracked("sample_weights, torch, shared weights, worse of both", unit="of it", at_most=0.03)
def track_shared_torch() -> float:
    return max(extra_cost("shared", "torch", d) for d in (2048, 4096))


# --------------------------------------------------------------------------------- positions

LAYERS = {  # samples, positions, inputs and outputs: convolutions 3 x 3 and sequences
    "convolution, 64 -> 64, 8 x 8": (64, 64, 576, 64),
    "convolution, 256 -> 256, 4 x 4": (64, 16, 2304, 256),
    "convolution, 512 -> 512, 2 x 2": (64, 4, 4608, 512),
    "convolution, 16 -> 16, 16 x 16": (32, 256, 144, 16),
    "sequence of 4, 512 -> 512": (64, 4, 512, 512),
    "sequence of 16, 512 -> 512": (64, 16, 512, 512),
    "sequence of 32, 512 -> 512": (32, 32, 512, 512),
    "sequence of 64, 512 -> 512": (32, 64, 512, 512),
    "sequence of 8, 128 -> 128": (64, 8, 128, 128),
    "sequence of 16, 128 -> 128": (64, 16, 128, 128),
    "sequence of 16, 256 -> 256": (64, 16, 256, 256),
    "sequence of 2, 30 -> 30": (1000, 2, 30, 30),
}


@cache
def ways() -> list[dict[str, Any]]:
    """Return times in ms of the two ways to K of layers with positions."""
    return [way(library, name) for library in LIBRARIES for name in LAYERS]


def way(library: str, name: str) -> dict[str, Any]:
    samples, T, d_in, d_out = LAYERS[name]
    a, g = normal((samples, T, d_in), "float32"), normal((samples, T, d_out), "float32", seed=1)
    a, g = converted(library, a, g)
    layer: LayerSamples = layer_samples(a, g, True)
    functions: dict[str, Callable[[], Any]] = {
        "sample_gram": partial(ngdla.sample_gram, a, g, positions=True),
        "pairs": partial(gram_by_pairs, layer),
        "gradients": partial(gram_by_gradients, layer),
    }
    with limited(1):
        times = alternating(functions, 5)
    row = {"library": library, "layer": name, "M": samples, "T": T, "d_in": d_in, "d_out": d_out}
    return row | {name: 1e3 * t for name, t in times.items()}


@tracked(
    "sample_gram, twelve layers with positions, NumPy and torch: time over that of the faster of "
    "pairs and gradients, geometric mean"
)
def track_ways() -> float:
    return float(np.exp(np.mean([np.log(row["sample_gram"] / best(row)) for row in ways()])))


def best(row: dict[str, Any]) -> float:
    return min(row["pairs"], row["gradients"])


# --------------------------------------------------------------------------------- accuracy

SHAPES = ((16, 1, 9, 7), (40, 1, 5, 4), (12, 6, 8, 5))  # M < d_in d_out, M > d_in d_out, positions


def gradients(samples: int, T: int, d_in: int, d_out: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return inputs, output gradients, and U."""
    a = normal((samples, T, d_in), seed=seed)
    g = normal((samples, T, d_out), seed=seed + 100)
    return a, g, np.einsum("ito,itd->odi", g, a).reshape(d_out * d_in, samples)


@tracked(
    "weighted_gradient with sample_weights, float64, damping from 1e-4 to 0.1 of |K|_F: error "
    "against the dense solve (U U^T / M + lambda) x = U 1 / M, worst of 120",
    unit="relative",
    at_most=1e-12,
)
def track_agreement() -> float:
    worst = 0.0
    for shape in SHAPES:
        for seed in range(10):
            a, g, U = gradients(*shape, seed)
            K = ngdla.sample_gram(a, g, positions=True)
            for damping in (1e-4, 1e-3, 1e-2, 1e-1):
                shift = damping * np.linalg.norm(U.T @ U)
                F = U @ U.T / len(a) + shift * np.eye(len(U))
                exact = np.linalg.solve(F, U.mean(axis=1))
                c = ngdla.sample_weights(K, damping)
                found = ngdla.weighted_gradient(a, g, c, positions=True).ravel()
                worst = max(worst, float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    return worst


@cache
def single_precision() -> list[dict[str, float]]:
    """Return errors of normalized weights in float32, M = 128, by damping over |K|_F / M."""
    a, g = normal((M, 64)), normal((M, 32), seed=1)
    K = (a @ a.T) * (g @ g.T)
    rows = []
    for fraction in (1e-1, 1e-3, 1e-5):
        shift = fraction * np.linalg.norm(K) / M
        exact = shift * np.linalg.solve(K + M * shift * np.eye(M), np.ones(M))
        single = K.astype("float32")
        solved = np.linalg.solve(single + np.float32(M * shift) * np.eye(M, dtype="f"), single)
        ways = {
            "sample_weights": ngdla.sample_weights(
                single, float(shift), relative=False, normalized=True
            ),
            "equation (9)": np.float32(1 / M) - solved.mean(axis=1),
        }
        errors = {
            name: float(np.linalg.norm(v - exact) / np.linalg.norm(exact))
            for name, v in ways.items()
        }
        rows.append({"damping": fraction} | errors)
    return rows


@tracked(
    "sample_weights, float32, M = 128, damping 1e-5 of |K|_F / M: error of the weights; that of "
    "the difference in equation (9) of the paper is in the table",
    unit="relative",
)
def track_single() -> float:
    return single_precision()[-1]["sample_weights"]


def details() -> dict[str, Any]:
    """Return the tables behind the numbers."""
    return {"overhead": overheads(), "ways": ways(), "single": single_precision()}

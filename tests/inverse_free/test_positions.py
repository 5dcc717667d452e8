"""Layers with positions: rows as the guide scales them, against definitions and curvlinops."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ngdla import ema, inverse_free_init, inverse_free_statistics

MEASURED = Path(__file__).parents[2] / "asv_benchmarks" / "measured" / "positions.json"
RECORDED: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))["details"]
EPS = np.finfo(float).eps
T = 5
SCALES = {  # of what a backward pass leaves, by the loss, for all positions as rows
    "sum": lambda M: T**0.5,
    "mean over samples": lambda M: M * T**0.5,
    "mean over samples and positions": lambda M: M * T,
}


def factors(a: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A and G of rows, (M T, d_in) and (M T, d_out), by `ema`, as statistics have them."""
    A, G = (ema(np.zeros((x.shape[1],) * 2), x / len(x) ** 0.5, decay=0.0) for x in (a, g))
    statistics = inverse_free_statistics(inverse_free_init(a.shape[1], g.shape[1], like=a), a, g)
    for H, M in ((statistics.H_K, A), (statistics.H_C, G)):
        np.testing.assert_allclose(
            H.to_dense() / len(a), M, atol=4 * len(a) * EPS * np.abs(M).max()
        )
    return A, G


@pytest.mark.parametrize("loss", list(SCALES))
def test_the_curvature_of_positions(loss: str) -> None:
    """Of gradients that are independent at different positions the product of factors is exact.

    Each position has one direction, and all patterns of signs occur once: the mean of products of
    two positions is zero. Inputs are equal, so that the curvature is a Kronecker product.
    """
    rng = np.random.default_rng(0)
    directions, a = rng.standard_normal((T, 3)), rng.standard_normal(4)
    signs = np.array(list(itertools.product((-1, 1), repeat=T)))
    M = len(signs)
    g = signs[..., None] * directions  # of the loss of a sample, a sum over positions
    gradients = np.einsum("mto,i->moi", g, a).reshape(M, -1)
    curvature = gradients.T @ gradients / M  # the mean over samples
    terms = {"sum": 1, "mean over samples": M, "mean over samples and positions": M * T}[loss]
    rows = SCALES[loss](M) * g.reshape(M * T, 3) / terms
    A, G = factors(np.broadcast_to(a, (M * T, 4)), rows)
    if loss == "mean over samples and positions":
        curvature /= T  # a mean over tokens
    np.testing.assert_allclose(np.kron(G, A), curvature, atol=M * T * EPS * np.abs(curvature).max())


def patches(x: np.ndarray, kernel: int) -> np.ndarray:
    """Return the patches of images (M, c, h, w) under a square kernel, (M, T, c kernel^2)."""
    M, _, height, width = x.shape
    corners = itertools.product(range(height - kernel + 1), range(width - kernel + 1))
    windows = [x[:, :, i : i + kernel, j : j + kernel].reshape(M, -1) for i, j in corners]
    return np.stack(windows, axis=1)


@pytest.mark.parametrize("name", list(RECORDED))
def test_factors_are_those_of_curvlinops(name: str) -> None:
    """Cross-entropy, averaged over its terms: one a sample, or one a position."""
    x, W, classes, A, G = (np.array(RECORDED[name][key]) for key in ("x", "W", "classes", "A", "G"))
    inputs = patches(x, W.shape[-1]) if W.ndim == 4 else x
    outputs = inputs @ W.reshape(len(W), -1).T
    logits = outputs.reshape(len(classes), -1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    g = (p - np.eye(logits.shape[1])[classes]) / len(classes)  # of the mean of -log p
    M = len(x)
    assert inputs.shape[1] == T
    loss = "mean over samples" if len(classes) == M else "mean over samples and positions"
    rows = SCALES[loss](M) * g.reshape(M * T, -1)
    found = factors(inputs.reshape(M * T, -1), rows)
    for one, other in zip(found, (A, G)):
        assert np.linalg.norm(one - other) <= 1e-12 * np.linalg.norm(other)

"""Layers with positions: rows as the guide scales them, against definitions and curvlinops."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import Backend

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


# --------------------------------------------------------------------- the option `positions`


def kinds(names: Any) -> tuple[Any, Any]:
    return names, "dense"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layers", [(), (2,)])
def test_positions_are_rows_times_the_root_of_their_number(
    backend: Backend, layers: tuple[int, ...], weighted: bool
) -> None:
    rng, M = np.random.default_rng(1), 4
    dtype = backend.dtypes[0]
    a, g = (rng.standard_normal((*layers, M, T, d)).astype(dtype) for d in (6, 3))
    w = rng.uniform(0.5, 2, (*layers, M)).astype(dtype) if weighted else None
    rows = (a.reshape(*layers, M * T, 6), g.reshape(*layers, M * T, 3) * T**0.5)
    repeated = None if w is None else np.repeat(w, T, axis=-1)

    def statistics(a: Any, g: Any, w: Any, positions: bool | None) -> Any:
        state = inverse_free_init(
            6, 3, structures=kinds(("hierarchical", {"k1": 1, "k2": 2})), like=a, batch=layers
        )
        return inverse_free_statistics(state, a, g, positions=positions, weights=w)

    found = backend.call(statistics, *backend.asarray((a, g, w)), positions=True)
    if not backend.has_values:
        return
    by_rows = statistics(*rows, repeated, positions=False if layers else None)
    eps = np.finfo(dtype).eps
    for name in ("H_K", "H_C"):
        x, y = (backend.numpy(getattr(found, name).to_dense()), getattr(by_rows, name).to_dense())
        np.testing.assert_allclose(x, y, atol=4 * M * T * eps * np.abs(y).max())
    np.testing.assert_allclose(backend.numpy(found.rows), by_rows.rows, rtol=M * eps)


def test_parts_with_positions_add_up() -> None:
    rng = np.random.default_rng(2)
    a, g = rng.standard_normal((6, T, 4)), rng.standard_normal((6, T, 3))
    state = inverse_free_init(4, 3, like=a)
    whole = inverse_free_statistics(state, a, g, positions=True)
    cuts = (slice(0, 2), slice(2, 2), slice(2, 6))
    parts = sum(inverse_free_statistics(state, a[i], g[i], positions=True) for i in cuts)
    np.testing.assert_allclose(parts.H_C.to_dense(), whole.H_C.to_dense(), rtol=1e-13)
    nothing = inverse_free_statistics(state, a[:, :0], g[:, :0], positions=True)
    assert (float(whole.rows), float(nothing.rows)) == (6 * T, 0)
    assert not np.any(nothing.H_C.to_dense())


A3, G3 = np.ones((2, 5, 4)), np.ones((2, 5, 3))
STACK = inverse_free_init(4, 3, like=A3, batch=(2,))
PLAIN = inverse_free_init(4, 3, like=A3)
WRONG = {
    "missing": (PLAIN, A3, G3, {}, TypeError, r"pass positions=True for 2 samples of 5 positions"),
    "missing, stack": (STACK, A3, G3, {}, TypeError, r"positions=False for a stack of 2 layers"),
    "without an axis": (
        PLAIN, A3[0], G3[0], {"positions": True}, ValueError, "without an axis of positions"
    ),
    "no flag": (PLAIN, A3, G3, {"positions": 1}, TypeError, "`positions` is 1"),
    "a stack": (PLAIN, A3, G3, {"positions": False}, ValueError, r"it must be \(N, 4\)"),
    "no stack": (STACK, A3, G3, {"positions": True}, ValueError, r"it must be \(2, M, T, 4\)"),
    "other positions": (
        PLAIN, A3, G3[:, :4], {"positions": True}, ValueError, "of the same samples, and positions"
    ),
    "other samples": (PLAIN, A3[0], G3[0, :4], {}, ValueError, "of the same samples"),
    "weights of positions": (
        PLAIN, A3, G3, {"positions": True, "weights": np.ones((2, 5))}, ValueError,
        r"must be \(2,\), one for each sample",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_positions_are_named(what: str) -> None:
    state, a, g, options, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        inverse_free_statistics(state, a, g, **options)

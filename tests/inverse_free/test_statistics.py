"""Statistics of a batch: sums over rows, weights and loss scales, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from array_api_strict import asarray as strict_array
from dense_updates import NAMES, with_members
from references import U
from spectra import refused, relative

from ngdla import (
    InverseFreeStatistics,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
)

IN, OUT, ROWS, DAMPING = 6, 5, 9, 0.1
EPS = U["float64"]


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and output gradients of half the size of standard normal ones."""
    return 0.5 * rng.standard_normal((ROWS, IN)), 0.5 * rng.standard_normal((ROWS, OUT))


def weights_of(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 2, ROWS)


def assert_same(one: InverseFreeStatistics, other: InverseFreeStatistics) -> None:
    for found, expected in ((one.H_K, other.H_K), (one.H_C, other.H_C)):
        assert relative(found.to_dense(), expected.to_dense()) <= 20 * ROWS * EPS
    assert one.rows == pytest.approx(other.rows, rel=ROWS * EPS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_parts_add_up(name: str, weighted: bool, rng: np.random.Generator) -> None:
    """Parts of 1, 3 and 5 rows, with weights: the step of IKFAC is that of the whole batch."""
    state, (a, g) = with_members(rng, name, IN, OUT), data(rng)
    w = weights_of(rng) if weighted else None

    def of(rows: slice) -> InverseFreeStatistics:
        weights = None if w is None else w[rows]
        return inverse_free_statistics(state, a[rows], g[rows], weights=weights)

    parts = of(slice(1)) + of(slice(1, 4)) + of(slice(4, ROWS))
    whole = of(slice(ROWS))
    assert_same(parts, whole)
    for rule in ("ingd", "ikfac"):
        one, other = (
            inverse_free_update(state, x, damping=DAMPING, step_size=0.1, rule=rule)
            for x in (parts, whole)
        )
        assert relative(one.K.to_dense(), other.K.to_dense()) <= 50 * ROWS * EPS
        assert relative(one.C.to_dense(), other.C.to_dense()) <= 50 * ROWS * EPS


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_zero_are_left_out(name: str, rng: np.random.Generator) -> None:
    state, (a, g) = with_members(rng, name, IN, OUT), data(rng)
    w, kept = weights_of(rng), np.arange(ROWS) % 3 > 0
    some = inverse_free_statistics(state, a[kept], g[kept], weights=w[kept])
    assert_same(inverse_free_statistics(state, a, g, weights=w * kept), some)


def test_rows_is_the_sum_of_the_weights(rng: np.random.Generator) -> None:
    state, (a, g), w = with_members(rng, "dense", IN, OUT), data(rng), np.arange(9.0)
    assert inverse_free_statistics(state, a, g).rows == ROWS
    assert inverse_free_statistics(state, a, g, weights=w).rows == 36
    assert inverse_free_statistics(state, a, g, weights=np.arange(ROWS)).rows == 36


def test_only_ratios_of_weights_matter(rng: np.random.Generator) -> None:
    """Equal ones are none; a common factor, here 4, is divided out exactly."""
    state, (a, g) = with_members(rng, "hierarchical", IN, OUT), data(rng)
    w = weights_of(rng)

    def stepped(weights: np.ndarray | None) -> np.ndarray:
        statistics = inverse_free_statistics(state, a, g, weights=weights)
        return inverse_free_update(state, statistics, damping=DAMPING, step_size=0.1).K.to_dense()

    np.testing.assert_array_equal(stepped(4 * w), stepped(w))
    assert relative(stepped(np.full(ROWS, 3.0)), stepped(None)) <= 20 * ROWS * EPS


@pytest.mark.parametrize("scale", [2.0**20, np.asarray(2.0**-20), 2**10], ids=str)
def test_loss_scales_are_divided_out(scale: Any, rng: np.random.Generator) -> None:
    """Of powers of 2 exactly; inputs are not scaled."""
    state, (a, g) = with_members(rng, "dense", IN, OUT), data(rng)
    plain = inverse_free_statistics(state, a, g)
    scaled = inverse_free_statistics(state, a, g * float(scale), loss_scale=scale)
    np.testing.assert_array_equal(scaled.H_C.to_dense(), plain.H_C.to_dense())
    np.testing.assert_array_equal(scaled.H_K.to_dense(), plain.H_K.to_dense())


def test_loss_scales_of_layers(rng: np.random.Generator) -> None:
    a, g = rng.standard_normal((2, ROWS, IN)), rng.standard_normal((2, ROWS, OUT))
    state = inverse_free_init(IN, OUT, like=a, batch=(2,))
    scale = np.array([8.0, 0.5])
    stack: dict[str, Any] = {"positions": False}
    scaled = inverse_free_statistics(state, a, g * scale[:, None, None], loss_scale=scale, **stack)
    plain = inverse_free_statistics(state, a, g, **stack)
    np.testing.assert_array_equal(scaled.H_C.to_dense(), plain.H_C.to_dense())


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_loss_scales_of_half_precision(size: float, rng: np.random.Generator) -> None:
    """Gradients, and their squares, that float16 cannot hold, scaled into its range."""
    a, g = data(rng)
    scale = 2.0 ** round(-np.log2(size))
    half = (g * size * scale).astype("float16")
    state = inverse_free_init(IN, OUT, like=np.zeros(1, "float32"))
    found = inverse_free_statistics(state, a.astype("float16"), half, loss_scale=scale)
    assert found.H_C.dtype_name == "float32"
    assert relative(found.H_C.to_dense(), size**2 * g.T @ g) <= 4 * 2.0**-11


# ------------------------------------------------------------------------------- refusals


X, Y = (np.random.default_rng(3).standard_normal((8, d)) for d in (IN, OUT))
STATE = inverse_free_init(IN, OUT, like=X)
STATISTICS = inverse_free_statistics(STATE, X, Y)

WRONG_BATCHES: dict[str, tuple[str, type[Exception], dict[str, Any]]] = {
    "state": ("state", TypeError, {"state": STATISTICS}),
    "width": ("inputs", ValueError, {"inputs": X[:, :3]}),
    "vector": ("inputs", ValueError, {"inputs": X[0]}),
    "batch": ("inputs", ValueError, {"inputs": X[None], "positions": False}),
    "list": ("inputs", TypeError, {"inputs": X.tolist()}),
    "sparse": ("inputs", TypeError, {"inputs": scipy.sparse.csr_array(X)}),
    "integers": ("inputs", TypeError, {"inputs": X.astype(int)}),
    "library": ("inputs", TypeError, {"inputs": strict_array(X)}),
    "width of gradients": ("output_gradients", ValueError, {"output_gradients": X}),
    "library of gradients": ("output_gradients", TypeError, {"output_gradients": strict_array(Y)}),
    "rows": ("output_gradients", ValueError, {"output_gradients": Y[:5]}),
    "negative weight": ("weights", ValueError, {"weights": np.array([1.0] * 7 + [-1.0])}),
    "NaN weight": ("weights", ValueError, {"weights": np.array([1.0] * 7 + [np.nan])}),
    "Inf weight": ("weights", ValueError, {"weights": np.array([1.0] * 7 + [np.inf])}),
    "number of weights": ("weights", ValueError, {"weights": np.ones(7)}),
    "list of weights": ("weights", TypeError, {"weights": [1.0] * 8}),
    "complex weights": ("weights", TypeError, {"weights": np.ones(8) + 0j}),
    "library of weights": ("weights", TypeError, {"weights": strict_array(np.ones(8))}),
    "scale 0": ("loss_scale", ValueError, {"loss_scale": 0}),
    "scale NaN": ("loss_scale", ValueError, {"loss_scale": np.nan}),
    "scale Inf": ("loss_scale", ValueError, {"loss_scale": np.inf}),
    "scale -1": ("loss_scale", ValueError, {"loss_scale": np.asarray(-1.0)}),
    "scale array NaN": ("loss_scale", ValueError, {"loss_scale": np.asarray(np.nan)}),
    "scale shape": ("loss_scale", ValueError, {"loss_scale": np.ones(8)}),
    "scale True": ("loss_scale", TypeError, {"loss_scale": True}),
    "scale string": ("loss_scale", TypeError, {"loss_scale": "1"}),
}


@pytest.mark.parametrize("wrong", list(WRONG_BATCHES))
def test_wrong_batches(wrong: str) -> None:
    name, kind, changes = WRONG_BATCHES[wrong]
    arguments: dict[str, Any] = {"state": STATE, "inputs": X, "output_gradients": Y, **changes}
    refused(kind, name, lambda: inverse_free_statistics(**arguments))


@pytest.mark.parametrize("name", ["inputs", "output_gradients"])
def test_complex_batches_of_real_states(name: str) -> None:
    arguments = {"inputs": X, "output_gradients": Y}
    arguments[name] = arguments[name] + 0j
    refused(TypeError, name, lambda: inverse_free_statistics(STATE, **arguments))

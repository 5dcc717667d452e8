"""Rows of a layer, against gradients of single samples and Kronecker factors by definition."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads, half_dtype
from layers import LAYOUTS, gradients, layer
from references import U, random_array, wide
from spectra import needs, quick_compilation, relative  # noqa: F401

from ngdla import (
    inverse_free_init,
    inverse_free_statistics,
    layer_rows,
    sample_gram,
    weighted_gradient,
)
from ngdla.per_sample.layer_rows import LOSSES, SHARINGS

STACKED = {"stack without positions": ((2, 3, 4), 5)}
STACKED |= {name: LAYOUTS[name] for name in ("plain", "positions", "one position", "stack")}


def has_positions(layout: str) -> bool | None:
    shape = STACKED[layout][0]
    return None if len(shape) == 2 else layout != "stack without positions"


def four_axes(x: np.ndarray, positions: bool | None) -> np.ndarray:
    """Return (..., M, T, d) in extended precision."""
    return wide(x if positions else x[..., None, :])


def left_by_backward(single: np.ndarray, loss: str, positions: bool | None) -> np.ndarray:
    """Return output gradients of the loss of a batch, from those of single samples or tokens."""
    *_, M, T, _ = four_axes(single, positions).shape
    terms = {"sum": 1, "mean": M, "token-mean": M * T}[loss]
    return (single / terms).astype(single.dtype)


def by_definition(
    a: np.ndarray, single: np.ndarray, sharing: str, loss: str, positions: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors A and G with a bias, written out with sums over samples and positions.

    `single` are gradients of the loss of each sample, or of each token where tokens are samples.
    """
    a, single = four_axes(a, positions), four_axes(single, positions)
    *_, M, T, _ = a.shape
    samples = M * T if loss == "token-mean" else M
    if sharing == "reduce":
        a, single = a.mean(axis=-2, keepdims=True), single.sum(axis=-2, keepdims=True)
    a = np.concatenate([a, np.ones_like(a[..., :1])], axis=-1)
    A = np.einsum("...mti,...mtj->...ij", a, a) / (M * a.shape[-2])
    return A, np.einsum("...mti,...mtj->...ij", single, single) / samples


# ------------------------------------------------------------------------------ definitions


@pytest.mark.thinned
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("layout", list(STACKED))
def test_factors_of_rows(
    backend: Backend, dtype: str, layout: str, sharing: str, loss: str, rng: np.random.Generator
) -> None:
    """A = a^T a / rows, G = g^T g / rows: rows alone, whatever positions there were."""
    needs(backend, dtype)
    positions = has_positions(layout)
    a, single = layer(rng, *STACKED[layout], dtype)
    g = left_by_backward(single, loss, positions)
    like = backend.asarray(a)
    options = {"sharing": sharing, "loss": loss, "positions": positions}
    found = backend.call(partial(layer_rows, **options), like, backend.asarray(g))
    *batch, M, T, d_in = four_axes(a, positions).shape
    rows = M * T if sharing == "expand" else M
    for x, d in zip(found, (d_in + 1, g.shape[-1])):
        backend.assert_kind(x, like=like, dtype=dtype, shape=(*batch, rows, d))
    if not backend.has_values:
        return
    factors, sizes = (
        by_definition(*pair, sharing, loss, positions)
        for pair in ((a, single), (np.abs(a), np.abs(single)))
    )
    for x, factor, size in zip(found, factors, sizes):
        x = wide(backend.numpy(x))
        product = np.einsum("...mi,...mj->...ij", x, x) / rows
        assert np.all(np.abs(product - factor) <= 8 * (T + 2) * U[dtype] * size)


@pytest.mark.thinned
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", list(STACKED))
def test_positions_that_stay_an_axis(
    backend: Backend, dtype: str, layout: str, loss: str, rng: np.random.Generator
) -> None:
    """Sums over them are gradients of samples; where tokens are samples, over sqrt(T)."""
    needs(backend, dtype)
    positions = has_positions(layout)
    a, single = layer(rng, *STACKED[layout], dtype)
    g = left_by_backward(single, loss, positions)
    like = backend.asarray(a)
    options = {"sharing": "none", "bias": False, "loss": loss, "positions": positions}
    found = backend.call(partial(layer_rows, **options), like, backend.asarray(g))
    T = four_axes(a, positions).shape[-2]
    expected = wide(single) / math.sqrt(T) if loss == "token-mean" else single
    backend.assert_matches(found[0], a, like=like, dtype=dtype, tolerance=0)
    backend.assert_matches(found[1], expected, like=like, dtype=dtype, tolerance=4 * U[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_ones_are_appended_last(sharing: str, loss: str, rng: np.random.Generator) -> None:
    """After the mean over positions; inputs are what they are without a bias."""
    a, g = layer(rng, (2, 5, 3, 4), 6, "float64")
    options: Any = {"sharing": sharing, "loss": loss, "positions": True}
    without, same = layer_rows(a, g, bias=False, **options)
    found, scaled = layer_rows(a, g, **options)
    np.testing.assert_array_equal(found[..., :-1], without)
    np.testing.assert_array_equal(found[..., -1], np.ones(without.shape[:-1]))
    np.testing.assert_array_equal(scaled, same)


def test_rows_keep_the_order_of_samples_and_positions(rng: np.random.Generator) -> None:
    a, g = layer(rng, (2, 5, 3, 4), 6, "float64")
    rows = layer_rows(a, g, bias=False, positions=True)
    np.testing.assert_array_equal(rows[0], a.reshape(2, 15, 4))
    np.testing.assert_allclose(rows[1], math.sqrt(3) * g.reshape(2, 15, 6), rtol=1e-15)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_one_position_is_none(sharing: Any, rng: np.random.Generator) -> None:
    """All ways agree where nothing is shared; "none" keeps the axis that was there."""
    a, g = layer(rng, (5, 4), 3, "float64")
    expected = layer_rows(a, g, sharing=sharing, loss="mean")
    found = layer_rows(a[:, None], g[:, None], sharing=sharing, loss="token-mean", positions=True)
    for x, y in zip(found, expected):
        np.testing.assert_array_equal(x.reshape(y.shape), y)
        assert x.ndim == (3 if sharing == "none" else 2)


# ------------------------------------------------------------------------- what takes the rows


@pytest.mark.parametrize("loss", LOSSES)
def test_statistics_of_positions_are_those_of_expanded_rows(
    loss: Any, rng: np.random.Generator
) -> None:
    a, g = layer(rng, (5, 3, 4), 6, "float64")
    state = inverse_free_init(5, 6, like=a)
    by_positions = inverse_free_statistics(
        state, *layer_rows(a, g, sharing="none", loss=loss, positions=True), positions=True
    )
    by_rows = inverse_free_statistics(state, *layer_rows(a, g, loss=loss, positions=True))
    for x, y in ((by_positions.H_K, by_rows.H_K), (by_positions.H_C, by_rows.H_C)):
        assert relative(x.to_dense(), y.to_dense()) <= 40 * U["float64"]


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_samples(loss: Any, bias: bool, rng: np.random.Generator) -> None:
    """K = U^T U, and U c / M for the mean gradient, with U written out from single samples."""
    a, single = layer(rng, (5, 3, 4), 6, "float64")
    g = left_by_backward(single, loss, True)
    rows = layer_rows(a, g, sharing="none", bias=bias, loss=loss, positions=True)
    inputs = np.concatenate([a, np.ones((5, 3, 1))], axis=-1) if bias else a
    each = gradients(inputs, single)
    K = sample_gram(*rows, positions=True)
    assert relative(K, each.T @ each) <= 40 * U["float64"]
    mean = weighted_gradient(*rows, np.full(5, 1 / 5), positions=True)
    assert relative(mean.ravel(), each.mean(axis=-1)) <= 40 * U["float64"]


def parts_of_a_sample(torch: Any, x: Any, y: Any) -> Any:
    """Return the losses of the positions of samples, (M, T)."""
    return torch.logsumexp(y, dim=-1) * torch.tanh(x[..., 0])


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_samples_by_torch(loss: Any) -> None:
    """Of each sample by itself, or of each token, weight and bias, from one backward pass."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    M, T = 4, 3
    linear = torch.nn.Linear(5, 2).double()
    x = torch.randn(M, T, 5, dtype=torch.float64)
    y = linear(x)
    y.retain_grad()
    each = parts_of_a_sample(torch, x, y)
    {"sum": each.sum(), "mean": each.sum(dim=1).mean(), "token-mean": each.mean()}[loss].backward()
    of_tokens = loss == "token-mean"
    sharing: Any = "expand" if of_tokens else "none"
    a, g = layer_rows(x, y.grad, sharing=sharing, loss=loss, positions=True)
    found = g[:, :, None] * a[:, None] if of_tokens else torch.einsum("mti,mtj->mij", g, a)
    again = parts_of_a_sample(torch, x, linear(x))
    for one, term in zip(found, again.flatten() if of_tokens else again.sum(dim=1)):
        linear.zero_grad()
        term.backward(retain_graph=True)
        expected = torch.cat([linear.weight.grad, linear.bias.grad[:, None]], dim=1)
        assert relative(one.numpy(), expected.numpy()) <= 40 * U["float64"]


# ------------------------------------------------------------------------ kinds of arrays


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_half_precision_becomes_float32(
    sharing: str, name: str, half: str, rng: np.random.Generator
) -> None:
    """Before it is scaled or summed."""
    backend: Any = BACKENDS[name]()
    stored: list[Any] = []
    for x in layer(rng, (4, 3, 5), 2, "float32"):
        if name == "numpy":
            stored.append(x.astype(half_dtype(half)))
        elif name == "torch":
            stored.append(backend.asarray(x).to(getattr(backend.torch, half)))
        else:
            stored.append(backend.asarray(x).astype(half))
    options: Any = {"sharing": sharing, "loss": "mean", "positions": True}
    found = layer_rows(*stored, **options)
    if name == "torch":
        single = [backend.numpy(x.to(backend.torch.float32)) for x in stored]
    else:
        single = [np.asarray(x).astype("float32") for x in stored]
    like = stored[0]
    expected = list(layer_rows(*single, **options))
    backend.assert_matches(
        list(found), expected, like=like, dtype="float32", tolerance=8 * U["float32"]
    )


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [("float32", "float64", "float64"), ("complex64", "float64", "complex128")],
)
def test_one_dtype(first: str, second: str, both: str, rng: np.random.Generator) -> None:
    a, g = random_array(rng, (3, 2), first), random_array(rng, (3, 4), second)
    for pair in ((a, g), (g, a)):
        assert [x.dtype for x in layer_rows(*pair)] == [both, both]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (2, 0, 3, 4), (0, 0, 4)])
def test_nothing(backend: Backend, shape: tuple[int, ...], sharing: str) -> None:
    """No samples make no rows; samples without positions have inputs and gradients of zero."""
    if backend.name == "jax" and len(shape) > 3:
        pytest.skip("compiled once more for a stack")
    rows, dtype = (np.ones(shape), np.ones((*shape[:-1], 2))), backend.dtypes[0]
    like, g = backend.asarray([x.astype(dtype) for x in rows])
    options = {"sharing": sharing, "bias": False, "loss": "token-mean", "positions": True}
    found = backend.call(partial(layer_rows, **options), like, g)
    *batch, M, T, d_in = shape
    rest = {"expand": (M * T,), "reduce": (M,), "none": (M, T)}[sharing]
    for x, d in zip(found, (d_in, 2)):
        backend.assert_kind(x, like=like, dtype=dtype, shape=(*batch, *rest, d))
        assert not backend.has_values or not np.any(backend.numpy(x))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_mapped_is_stacked(name: str, sharing: str, rng: np.random.Generator) -> None:
    backend: Any = BACKENDS[name]()
    a, g = backend.asarray(layer(rng, (2, 5, 3, 4), 6, "float64"))
    call = partial(layer_rows, sharing=sharing, loss="token-mean", positions=True)
    mapped = (backend.jax if name == "jax" else backend.torch).vmap(call)(a, g)
    for x, y in zip(mapped, call(a, g)):
        np.testing.assert_array_equal(backend.numpy(x), backend.numpy(y))


def test_what_does_not_change_is_not_copied(rng: np.random.Generator) -> None:
    a, g = layer(rng, (5, 3, 4), 6, "float64")
    same = layer_rows(a, g, sharing="none", bias=False, positions=True)
    assert same[0] is a
    assert same[1] is g
    assert np.shares_memory(layer_rows(a, g, bias=False, loss="mean", positions=True)[0], a)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_no_value_is_read(sharing: Any) -> None:
    """NaN and Inf go where they belong; the functions that take the rows refuse them."""
    a, g = strict_array(np.full((5, 3, 4), np.nan)), strict_array(np.full((5, 3, 2), np.inf))
    with counted_host_reads() as reads:
        rows = layer_rows(a, g, sharing=sharing, bias=False, loss="mean", positions=True)
    assert reads == []
    assert np.all(np.isnan(np.from_dlpack(rows[0])))
    assert np.all(np.isposinf(np.from_dlpack(rows[1])))


# -------------------------------------------------------------------------------- bad input

A, G = np.ones((5, 3, 4)), np.ones((5, 3, 2))

WRONG: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "sharing": (A, G, {"sharing": "mean"}, ValueError, r"`sharing` is 'mean'; it must be one of"),
    "no sharing": (A, G, {"sharing": None}, ValueError, r"`sharing` is None; .* 'reduce', 'none'"),
    "loss": (A, G, {"loss": "token_mean"}, ValueError, r"`loss` is 'token_mean'; .*'token-mean'"),
    "bias": (A, G, {"bias": np.ones(2)}, TypeError, r"`bias` is array.*must be True or False"),
    "positions": (A, G, {"positions": 1}, TypeError, r"`positions` is 1; it must be True or"),
    "positions, not said": (A, G, {"positions": None}, TypeError, r"`inputs` has .*positions=True"),
    "no positions": (A[0], G[0], {}, ValueError, r"without an axis of positions; leave"),
    "images": (A, G[:, :2], {}, ValueError, r"`output_gradients` \(5, 2, 2\).*same samples and"),
    "layers": (
        A,
        G[:4],
        {"positions": False},
        ValueError,
        r"`inputs` .* of the same samples: \(\.\.",
    ),
    "integers": (A.astype(int), G, {}, TypeError, r"`inputs` has dtype int64.*Convert it"),
    "list": (A, [G], {}, TypeError, r"`output_gradients` is a list; it must be one array"),
    "no outputs": (A, G[..., :0], {}, ValueError, r"`output_gradients` has shape .*empty"),
    "libraries": (A, strict_array(G), {}, TypeError, r"`output_gradients` is a array_api_strict"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(wrong: str) -> None:
    a, g, options, kind, says = WRONG[wrong]
    with pytest.raises(kind, match=says) as caught:
        layer_rows(a, g, **{"positions": True, **options})
    assert caught.type is kind

"""Patches of convolutions, pixel by pixel, and against the convolutions of the libraries."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads, half_dtype
from hypothesis import given
from hypothesis import strategies as st
from references import U, random_array
from spectra import needs, norm, quick_compilation, relative  # noqa: F401

from ngdla import layer_rows, patch_means, patches

Pairs = tuple[tuple[int, int], ...]


class Convolution(NamedTuple):
    """Samples, channels and sizes of x, and what a convolution does to them."""

    x: tuple[int, ...]  # (M, c, *space)
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int = 1

    def of(self, function: Any, x: Any, channels: str = "first", **options: Any) -> Any:
        """Return `patches` or `patch_means` of x."""
        given = {name: value for name, value in self._asdict().items() if name != "x"}
        return function(x, **{**given, "channels": channels, **options})

    def positions(self) -> tuple[int, ...]:
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel)]
        return tuple(
            (size + sum(pad) - r) // s + 1
            for size, pad, r, s in zip(self.x[2:], self.padding, reach, self.stride)
        )


# Sequences, images and volumes; what is uneven in every axis; a place of the kernel that sees
# nothing but zeros; strides that pass over pixels; groups, one channel each too.
CASES = {
    "sequence": Convolution((2, 3, 9), (4,), (1,), ((0, 0),), (1,)),
    "image": Convolution((2, 3, 5, 4), (3, 2), (2, 1), ((1, 1), (0, 2)), (1, 2)),
    "volume": Convolution((2, 2, 3, 4, 3), (2, 2, 1), (1, 2, 1), ((1, 0),) * 3, (1, 1, 1)),
    "point": Convolution((2, 3, 3, 2), (1, 1), (1, 1), ((0, 0),) * 2, (1, 1)),
    "much padding": Convolution((2, 2, 2, 3), (2, 3), (3, 1), ((4, 5), (3, 0)), (1, 2)),
    "few positions": Convolution((1, 2, 7), (2,), (5,), ((0, 0),), (1,)),
    "groups": Convolution((2, 6, 4, 5), (2, 3), (1, 2), ((0, 1),) * 2, (1, 1), 3),
    "depthwise": Convolution((2, 3, 6), (3,), (2,), ((1, 1),), (1,), 3),
    "no samples": Convolution((0, 3, 4, 4), (2, 2), (1, 1), ((1, 1),) * 2, (1, 1)),
    "no samples, groups": Convolution((0, 4, 5), (2,), (1,), ((0, 0),), (1,), 2),
}


def placed(x: np.ndarray, channels: str) -> np.ndarray:
    """Return (M, c, *space) with its channels where they are to be."""
    return x if channels == "first" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


def by_pixels(case: Convolution, x: np.ndarray, channels: str) -> np.ndarray:
    """Return the patches of x, (M, c, *space), one pixel after the other."""
    M, c, *space = x.shape
    per_group = c // case.groups
    found = np.zeros((case.groups, M, *case.positions(), per_group, *case.kernel), x.dtype)
    for t in itertools.product(*map(range, case.positions())):
        for k in itertools.product(*map(range, case.kernel)):
            steps = zip(t, k, case.stride, case.dilation, case.padding)
            pixel = tuple(i * s + j * d - pad[0] for i, j, s, d, pad in steps)
            if all(0 <= p < size for p, size in zip(pixel, space)):
                values = x[(slice(None), slice(None), *pixel)].reshape(M, case.groups, per_group)
                found[(slice(None), slice(None), *t, slice(None), *k)] = values.swapaxes(0, 1)
    if channels == "last":
        found = np.moveaxis(found, 2 + len(space), -1)
    shape = math.prod(case.positions()), per_group * math.prod(case.kernel)
    found = found.reshape(case.groups, M, *shape)
    return found if case.groups > 1 else found[0]


def allowed(case: Convolution, expected: np.ndarray, dtype: str) -> np.ndarray:
    """Return bounds on the errors of means over positions: u for each term, of the mean of |x|."""
    terms = sum(case.positions()) + 2 * len(case.kernel)
    return terms * U[dtype] * np.mean(np.abs(expected), axis=-2)


# ------------------------------------------------------------------------------ definition


@pytest.mark.thinned
@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("name", list(CASES))
def test_patches_and_their_means(
    backend: Backend, dtype: str, name: str, channels: str, rng: np.random.Generator
) -> None:
    needs(backend, dtype)
    case = CASES[name]
    x = random_array(rng, case.x, dtype)
    expected = by_pixels(case, x, channels)
    like = backend.asarray(placed(x, channels))

    def both(x: Any) -> Any:
        return case.of(patches, x, channels), case.of(patch_means, x, channels)

    found, means = backend.call(both, like)
    backend.assert_matches(found, expected, like=like, dtype=dtype, tolerance=0)
    shape = (*expected.shape[:-2], expected.shape[-1])
    backend.assert_kind(means, like=like, dtype=dtype, shape=shape)
    if backend.has_values:
        error = np.abs(backend.numpy(means) - expected.mean(axis=-2))
        assert np.all(error <= allowed(case, expected, dtype))


@st.composite
def convolutions(draw: st.DrawFn, *, symmetric: bool = False) -> Convolution:
    axes = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes)))

    kernel, stride, dilation, before = each(1, 3), each(1, 3), each(1, 2), each(0, 3)
    after = before if symmetric else each(0, 3)
    more, groups = each(0, 3), draw(st.integers(1, 3))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    padding = tuple(zip(before, after))
    space = (max(r - sum(pad), 1) + extra for r, pad, extra in zip(reach, padding, more))
    c = groups * draw(st.integers(1, 2))
    x = draw(st.integers(1, 2)), c, *space
    return Convolution(x, kernel, stride, padding, dilation, groups)


@given(convolutions(), st.sampled_from(["first", "last"]))
def test_any_convolution(case: Convolution, channels: str) -> None:
    x = np.random.default_rng(0).standard_normal(case.x)
    expected = by_pixels(case, x, channels)
    at = placed(x, channels)
    np.testing.assert_array_equal(case.of(patches, at, channels), expected)
    error = np.abs(case.of(patch_means, at, channels) - expected.mean(axis=-2))
    assert np.all(error <= allowed(case, expected, "float64"))


# --------------------------------------------------------------------- other libraries


def assert_convolves(rows: Any, W: np.ndarray, y: Any, groups: int = 1) -> None:
    """Patches (M, T, d_in) times weights (d_out, ...) are outputs (M, T, d_out), in each group."""
    x = np.asarray(rows).reshape(groups, *rows.shape[-3:])
    each = np.einsum("gmti,goi->gmto", x, W.reshape(groups, len(W) // groups, -1))
    found, expected = np.concatenate(list(each), axis=-1), np.asarray(y)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 2 * x.shape[-1] * U["float64"] * norm(x) * norm(W)


@given(convolutions(symmetric=True))
def test_convolutions_of_torch(case: Convolution) -> None:
    torch = pytest.importorskip("torch")
    rng, axes = np.random.default_rng(0), len(case.kernel)
    W = rng.standard_normal((2 * case.groups, case.x[1] // case.groups, *case.kernel))
    x, pads = torch.asarray(rng.standard_normal(case.x)), tuple(pad for pad, _ in case.padding)
    convolution = getattr(torch.nn.functional, f"conv{axes}d")
    settings = case.stride, pads, case.dilation, case.groups
    rows = case.of(patches, x, padding=pads)
    y = convolution(x, torch.asarray(W), None, *settings)
    assert_convolves(rows, W, y.flatten(2).mT, case.groups)
    if axes == 2 and case.groups == 1:
        unfold = torch.nn.functional.unfold
        assert torch.equal(rows, unfold(x, case.kernel, case.dilation, pads, case.stride).mT)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_gradients_of_a_convolution(channels: Any, groups: int) -> None:
    """Of weight and bias, from rows of patches and the gradients of its outputs."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    M, c, d_out = 3, 4, 6
    module = torch.nn.Conv2d(c, d_out, (2, 3), (1, 2), (1, 0), groups=groups).double()
    x = torch.randn(M, c, 5, 6, dtype=torch.float64)
    y = module(x)
    y.retain_grad()
    y.sin().sum(dim=(1, 2, 3)).mean().backward()
    if channels == "last":
        x = x.permute(0, 2, 3, 1)
    options: Any = {"stride": (1, 2), "padding": (1, 0), "groups": groups, "channels": channels}
    rows = patches(x, (2, 3), **options)
    g = y.grad.reshape(M, groups, d_out // groups, -1).permute(1, 0, 3, 2)
    a, g = layer_rows(rows.reshape(g.shape[:-1] + (-1,)), g, sharing="none", positions=True)
    found = torch.einsum("gmti,gmtj->gij", g, a).reshape(d_out, -1)
    weight = module.weight.grad if channels == "first" else module.weight.grad.permute(0, 2, 3, 1)
    expected = torch.cat([weight.flatten(1), module.bias.grad[:, None]], dim=1)
    assert relative(found.numpy(), expected.numpy()) <= 100 * U["float64"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "dilation"), [((3, 5), 1), ((3, 2), (1, 2)), ((4, 1), 2)])
def test_paddings_of_torch(padding: Any, kernel: Any, dilation: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((2, 3, 7, 8)), rng.standard_normal((4, 3, *kernel))
    y = torch.nn.functional.conv2d(
        torch.asarray(x), torch.asarray(W), padding=padding, dilation=dilation
    )
    rows = patches(x, kernel, padding=padding, dilation=dilation)
    assert_convolves(rows, W, y.flatten(2).mT)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "groups", "padding"),
    [
        ((7, 8), (3, 2), (2, 3), (1, 1), 1, "SAME"),
        ((5, 6), (2, 2), (1, 2), (2, 1), 3, "SAME"),
        ((6, 4), (1, 3), (4, 1), (1, 1), 1, "VALID"),
        ((5, 6), (2, 3), (2, 1), (2, 1), 1, ((2, 0), (0, 3))),
    ],
)
def test_convolutions_of_jax(
    size: Any, kernel: Any, stride: Any, dilation: Any, groups: int, padding: Any
) -> None:
    """Channels and features last, as in flax; weights (*kernel, c / groups, d_out)."""
    backend: Any = BACKENDS["jax"]()
    rng, c = np.random.default_rng(0), 2 * groups
    x = backend.asarray(rng.standard_normal((2, *size, c)))
    W = rng.standard_normal((*kernel, c // groups, 4 * groups))
    settings: Any = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def both(x: Any) -> Any:
        y = backend.jax.lax.conv_general_dilated(
            x, W, stride, padding, rhs_dilation=dilation, **settings
        )
        return y, patches(x, kernel, channels="last", **options)

    y, rows = backend.call(both, x)
    weights = W.reshape(-1, W.shape[-1]).T
    assert_convolves(rows, weights, y.reshape(2, -1, 4 * groups), groups)


# ----------------------------------------------------------------------------- arguments


def test_one_size_is_that_of_all_axes(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 6, 7))
    expected = patches(x, (2, 2), stride=(3, 3), padding=((1, 1), (1, 1)), dilation=(2, 2))
    for one in (lambda n: n, lambda n: [n], lambda n: (np.int64(n),) * 2):
        found = patches(x, one(2), stride=one(3), padding=one(1), dilation=one(2))
        np.testing.assert_array_equal(found, expected)


@given(*(st.integers(1, n) for n in (9, 4, 5, 3)))
def test_same_has_as_many_positions_as_strides(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    """And as many zeros before as after, or one less; none more than are needed."""
    x = np.arange(1.0, size + 1).reshape(1, 1, size)
    rows = patches(x, kernel, stride=stride, padding="same", dilation=dilation)
    assert rows.shape == (1, math.ceil(size / stride), kernel)
    reach = dilation * (kernel - 1) + 1
    zeros = max((len(rows[0]) - 1) * stride + reach - size, 0)
    pads = ((zeros // 2, zeros - zeros // 2),)
    expected = patches(x, kernel, stride=stride, padding=pads, dilation=dilation)
    np.testing.assert_array_equal(rows, expected)


def test_groups_are_parts_of_the_channels(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 5, 4))
    for channels in ("first", "last"):
        for function in (patches, patch_means):
            found = function(placed(x, channels), 2, groups=3, channels=channels)
            parts = [
                function(placed(part, channels), 2, channels=channels)
                for part in np.split(x, 3, axis=1)
            ]
            np.testing.assert_array_equal(found, np.stack(parts))


# ------------------------------------------------------------------------ kinds of arrays


@pytest.mark.parametrize(
    ("name", "half"),
    [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("jax", "bfloat16")],
)
def test_half_precision(name: str, half: str, rng: np.random.Generator) -> None:
    """Patches are copies; means are taken in float32."""
    backend: Any = BACKENDS[name]()
    case = CASES["image"]
    x = rng.standard_normal(case.x).astype(half_dtype(half)).astype("float32")
    if name == "numpy":
        stored: Any = x.astype(half_dtype(half))
    elif name == "torch":
        stored = backend.asarray(x).to(getattr(backend.torch, half))
    else:
        stored = backend.asarray(x).astype(half)
    expected = by_pixels(case, x, "first")
    calls = [partial(case.of, function) for function in (patches, patch_means)]
    found, means = ((backend.jax.jit(f) if name == "jax" else f)(stored) for f in calls)
    backend.assert_kind(found, like=stored, dtype=half, shape=expected.shape)
    single = found.to(backend.torch.float32) if name == "torch" else found.astype("float32")
    np.testing.assert_array_equal(backend.numpy(single), expected)
    backend.assert_kind(means, like=stored, dtype="float32", shape=means.shape)
    error = np.abs(backend.numpy(means) - expected.mean(axis=-2))
    assert np.all(error <= allowed(case, expected, "float32"))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_mapped_is_looped(name: str, rng: np.random.Generator) -> None:
    backend: Any = BACKENDS[name]()
    case = CASES["groups"]
    x = backend.asarray(rng.standard_normal((3, *case.x)))
    mapping = (backend.jax if name == "jax" else backend.torch).vmap
    for function in (patches, patch_means):
        found = backend.numpy(backend.call(mapping(partial(case.of, function)), x))
        for one, each in zip(found, x):
            np.testing.assert_allclose(one, case.of(function, backend.numpy(each)), rtol=1e-14)


def test_views_of_other_arrays(rng: np.random.Generator) -> None:
    """Of any strides; the result shares memory with none."""
    case, whole = CASES["point"], rng.standard_normal((2, 3, 6, 6))
    x = whole.transpose(3, 1, 2, 0)[::3, :, ::-2]
    assert x.shape == case.x
    found = patches(x, 1)
    np.testing.assert_array_equal(found, by_pixels(case, x, "first"))
    assert not np.shares_memory(found, whole)


# ------------------------------------------------------------------------ values and memory


def test_infinite_pixels_stay_where_they_are_seen() -> None:
    """A mean is infinite for the places of the kernel that see one, and for no others."""
    x = np.arange(8.0).reshape(1, 1, 8)
    x[..., 3] = np.inf
    found = patch_means(x, 3, stride=2)
    np.testing.assert_array_equal(found, patches(x, 3, stride=2).mean(axis=1))
    assert np.isfinite(found).tolist() == [[True, False, True]]


def test_no_value_is_read() -> None:
    x = strict_array(np.full((2, 3, 5, 5), np.nan))
    with counted_host_reads() as reads:
        patches(x, 2, padding=1)
        patch_means(x, 2, padding=1)
    assert reads == []


@pytest.mark.parametrize("channels", ["first", "last"])
def test_means_form_no_patches(channels: str, rng: np.random.Generator) -> None:
    """No more memory than a small part of x, which nine patches of its size would be."""
    x = placed(rng.standard_normal((4, 8, 48, 40)), channels)
    tracemalloc.start()
    patch_means(x, 3, padding=1, channels=channels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 4


def test_compiled_means_form_no_patches() -> None:
    """Whatever is laid out in memory: no array is larger than x."""
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones((4, 8, 24, 20))
    traced = jax.make_jaxpr(partial(patch_means, kernel=3, padding=1))(x)
    sizes = [math.prod(y.aval.shape) for line in traced.eqns for y in line.outvars]
    assert max(sizes) <= x.size


# -------------------------------------------------------------------------------- bad input

X = np.ones((2, 3, 5, 6))

WRONG: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "an image": (X[0, 0], {}, ValueError, r"`x` has shape \(5, 6\); it needs at least 3 axes"),
    "bytes": (X.astype("uint8"), {}, TypeError, r"`x` has dtype uint8.*Convert it"),
    "list": (X.tolist(), {}, TypeError, r"`x` is a list; it must be one array"),
    "blocks": ([X], {}, TypeError, r"`x` is a list; it must be one array"),
    "kernel, text": (X, {"kernel": "3"}, TypeError, r"`kernel` is '3'; it must be an integer"),
    "kernel, array": (X, {"kernel": X[0, 0, 0]}, TypeError, r"`kernel` is array.* an integer"),
    "kernel, number": (X, {"kernel": 2.0}, TypeError, r"`kernel` is 2.0; it must be an integer"),
    "kernel, flag": (X, {"kernel": (2, True)}, TypeError, r"`kernel` is True; it must be an int"),
    "kernel, zero": (X, {"kernel": (2, 0)}, ValueError, r"`kernel` is 0; it must be 1 or more"),
    "kernel, axes": (
        X,
        {"kernel": (2,) * 3},
        ValueError,
        r"`kernel` is \(2, 2, 2\).* has \(5, 6\) beside",
    ),
    "kernel, none": (X, {"kernel": ()}, ValueError, r"`kernel` is \(\).* pass one int for all"),
    "kernel, large": (X, {"kernel": 6}, ValueError, r"`kernel` \(6, 6\).* does not fit into `x`"),
    "kernel, huge": (X, {"kernel": 10**400}, ValueError, r"`kernel` is 1000.* less than 2\^63"),
    "dilated": (
        X,
        {"dilation": 5},
        ValueError,
        r"`kernel` .*dilation \(5, 5\) does not .* padding",
    ),
    "no pixels": (X[..., :0], {"kernel": 1}, ValueError, r"`x` of shape \(2, 3, 5, 0\).* padding"),
    "stride, zero": (X, {"stride": 0}, ValueError, r"`stride` is 0; it must be 1 or more"),
    "stride, negative": (X, {"stride": (1, -1)}, ValueError, r"`stride` is -1; it must be 1"),
    "dilation, zero": (X, {"dilation": 0}, ValueError, r"`dilation` is 0; it must be 1 or more"),
    "dilation, axes": (
        X,
        {"dilation": [1] * 3},
        ValueError,
        r"`dilation` is \[1, 1, 1\].* for each",
    ),
    "padding, word": (
        X,
        {"padding": "full"},
        ValueError,
        r"`padding` is 'full'; .*'valid', 'same'",
    ),
    "padding, negative": (X, {"padding": -1}, ValueError, r"`padding` is -1; .* not be negative"),
    "padding, number": (X, {"padding": 0.5}, TypeError, r"`padding` is 0.5; it must be an integer"),
    "padding, one pair": (X, {"padding": ((1, 1),)}, ValueError, r"`padding` is .* 2 pairs"),
    "padding, mixed": (X, {"padding": ((1, 1), 2)}, ValueError, r"`padding` is .* or 2 pairs"),
    "padding, triples": (X, {"padding": ((1, 1, 1),) * 2}, ValueError, r"`padding` is .* 2 pairs"),
    "padding, words": (X, {"padding": ("same",) * 2}, TypeError, r"`padding` is 'same'.* integer"),
    "padding, in a pair": (X, {"padding": ((0, 1), (-2, 0))}, ValueError, r"`padding` is -2;"),
    "groups, zero": (X, {"groups": 0}, ValueError, r"`groups` is 0; it must be 1 or more"),
    "groups, uneven": (X, {"groups": 2}, ValueError, r"`groups` is 2; it must divide the 3 chann"),
    "groups, number": (X, {"groups": 1.0}, TypeError, r"`groups` is 1.0; it must be an integer"),
    "channels": (X, {"channels": 1}, ValueError, r"`channels` is 1; .* 'first', 'last'"),
}


@pytest.mark.parametrize("function", [patches, patch_means])
@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(wrong: str, function: Any) -> None:
    x, options, kind, says = WRONG[wrong]
    with pytest.raises(kind, match=says) as caught:
        function(x, **{"kernel": 2, **options})
    assert caught.type is kind

"""Trees of parameters give what their leaves give side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from backends import Backend, map_arrays
from references import random_array
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla._backend.trees import tree_leaves
from ngdla.score_matrices.column_blocks import column_blocks

N = 6
SHAPES = {"b": (), "rest": [(4,), ((1, 2),)], "w": (2, 3)}  # sorted, as JAX does it
M = 6 + 1 + 4 + 2


def of_shapes(make: Any, shapes: Any = None) -> Any:
    """Return a tree with make(shape) in the place of each shape."""
    shapes = SHAPES if shapes is None else shapes
    if isinstance(shapes, dict):
        return {key: of_shapes(make, value) for key, value in shapes.items()}
    if isinstance(shapes, list) or (shapes and isinstance(shapes[0], tuple)):
        return type(shapes)(of_shapes(make, shape) for shape in shapes)
    return make(shapes)


def side_by_side(tree: Any, axes: int = 0) -> np.ndarray:
    """Return the leaves of a tree of NumPy arrays as one array, behind so many leading axes."""
    leaves, _ = tree_leaves(tree)
    return np.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)


def data(rng: np.random.Generator, dtype: str) -> tuple[Any, Any, np.ndarray]:
    S = of_shapes(lambda shape: random_array(rng, (N, *shape), dtype))
    v = of_shapes(lambda shape: np.asarray(random_array(rng, shape, dtype)))
    return S, v, random_array(rng, (N,), dtype)


def with_whole_rows(backend: Backend, S: Any) -> Any:
    """Return a tree of the library, whose samples are one chunk where there are chunks."""
    return map_arrays(
        lambda x: x.rechunk({0: -1}) if hasattr(x, "rechunk") else x, backend.asarray(S)
    )


def matches(backend: Backend, tree: Any, reference: np.ndarray, tolerance: float) -> None:
    assert tree["w"].shape[:2] == (2, 3)
    assert tuple(tree["rest"][1][0].shape[:2]) == (1, 2)
    if backend.has_values:
        found = side_by_side(map_arrays(backend.numpy, tree))
        assert np.linalg.norm(found - reference) <= tolerance * np.linalg.norm(reference)


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_solves_of_a_tree(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no double precision")
    S, v, f = data(rng, dtype)
    flat, flat_v = side_by_side(S, 1), side_by_side(v)
    S, v, f_there = with_whole_rows(backend, S), backend.asarray(v), backend.asarray(f)
    metric = of_shapes(lambda shape: rng.uniform(1, 2, shape))
    D = side_by_side(metric)
    metric = map_arrays(lambda x: backend.asarray(np.asarray(x)), metric)
    u = np.finfo(dtype).eps

    x = backend.call(lambda S, v, D: ngdla.damped_solve(S, v, 0.5, metric=D), S, v, metric)
    matches(backend, x, np.linalg.solve(flat.conj().T @ flat + np.diag(0.5 * D), flat_v), 1e4 * u)
    x = backend.call(lambda S, f, v: ngdla.damped_lstsq(S, f, 0.5, x0=v), S, f_there, v)
    reference = ngdla.damped_lstsq(flat, f, 0.5, x0=flat_v)
    matches(backend, x, reference, 1e3 * u)
    d = backend.call(
        lambda S, f, v: ngdla.stochastic_reconfiguration(
            S, f, 0.5, previous=v, momentum=0.9, mode="holomorphic"
        ),
        *(S, f_there, v),
    )
    reference = ngdla.stochastic_reconfiguration(
        flat, f, 0.5, previous=flat_v, momentum=0.9, mode="holomorphic"
    )
    matches(backend, d, reference, 1e3 * u)


def test_scores_of_a_tree_are_a_tree(backend: Backend, rng: np.random.Generator) -> None:
    O, _, _ = data(rng, backend.dtypes[-1])
    complex_ = backend.dtypes[-1].startswith("complex")
    mode = "complex" if complex_ else "real"
    S = backend.call(lambda O: ngdla.scores(O, mode=mode), with_whole_rows(backend, O))
    assert tuple(S["w"].shape) == ((2 * N if complex_ else N), 2, 3)
    if backend.has_values:
        reference = ngdla.scores(side_by_side(O, 1), mode=mode)
        found = side_by_side(map_arrays(backend.numpy, S), 1)
        np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-5)


def test_columns_come_last(rng: np.random.Generator) -> None:
    S, _, f = data(rng, "float64")
    F = np.stack([f, 2 * f], axis=-1)
    x = ngdla.damped_lstsq(S, F, 0.5)
    assert x["w"].shape == (2, 3, 2)
    assert x["b"].shape == (2,)
    one = ngdla.damped_lstsq(S, f, 0.5)
    np.testing.assert_allclose(x["w"][..., 1], 2 * one["w"], rtol=1e-12)
    back = ngdla.damped_solve(S, x, 0.5)
    assert back["rest"][1][0].shape == (1, 2, 2)


def test_a_factor_of_a_tree(rng: np.random.Generator) -> None:
    S, v, f = data(rng, "float64")
    flat = side_by_side(S, 1)
    factor, reference = ngdla.damped_factor(S, 0.5), ngdla.damped_factor(flat, 0.5)
    x = factor.with_damping(0.7).solve(v)
    again = reference.with_damping(0.7).solve(side_by_side(v))
    np.testing.assert_allclose(side_by_side(x), again, rtol=1e-10, atol=1e-12)
    assert factor.leave_one_out(f).shape == (N,)
    np.testing.assert_allclose(ngdla.gram(S), flat @ flat.T, rtol=1e-12)


def test_numbers_stand_for_leaves_of_a_metric(rng: np.random.Generator) -> None:
    S, v, _ = data(rng, "float64")
    numbers = {"w": 2.0, "b": 1.0, "rest": [3, (1.5,)]}
    threes, last = np.full(4, 3.0), np.full((1, 2), 1.5)
    filled = {"w": np.full((2, 3), 2.0), "b": np.asarray(1.0), "rest": [threes, (last,)]}
    one, other = (ngdla.damped_solve(S, v, 0.5, metric=D) for D in (numbers, filled))
    np.testing.assert_array_equal(side_by_side(one), side_by_side(other))


def test_leaves_are_not_copied() -> None:
    S = {"w": np.ones((4, 30, 10)), "b": np.ones((4, 5))}
    blocks = column_blocks(S).blocks
    assert np.shares_memory(blocks[1], S["w"])
    assert np.shares_memory(blocks[0], S["b"])


def test_trees_that_are_none_are_named(rng: np.random.Generator) -> None:
    f = rng.standard_normal(N)
    endless: dict[str, Any] = {"a": rng.standard_normal((N, 2))}
    endless["b"] = endless
    cases: tuple[tuple[Any, type[Exception], str], ...] = (
        ({}, ValueError, r"`log_derivatives` is a dict without arrays"),
        ({"a": {}}, ValueError, r"`log_derivatives` is a dict without arrays"),
        ({"a": [1.0]}, TypeError, r"`log_derivatives\['a'\]\[0\]` is a builtins.float"),
        (endless, ValueError, r"`log_derivatives` is a dict that is nested too deeply, or holds"),
    )
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            ngdla.stochastic_reconfiguration(given, f, 0.1)


def test_samples_of_a_leaf_are_one_chunk(rng: np.random.Generator) -> None:
    da = pytest.importorskip("dask.array")
    S = rng.standard_normal((N, 2, 3, 2))
    f = da.from_array(rng.standard_normal(N))
    with pytest.raises(ValueError, match=r"2 x 1 x 3 x 1 chunks.*S\['w'\]\.rechunk\(\{0: -1\}\)"):
        ngdla.damped_lstsq({"w": da.from_array(S, chunks=(3, 2, 1, 2))}, f, 0.1)
    x = ngdla.damped_lstsq({"w": da.from_array(S, chunks=(N, 2, 1, 2))}, f, 0.1)
    assert x["w"].shape == (2, 3, 2)


def test_a_dict_of_modules_is_a_tree(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Module:
        weight: Any
        bias: Any

    S = jax.numpy.asarray(rng.standard_normal((N, 12)))
    f = jax.numpy.asarray(rng.standard_normal(N))
    module = Module(S[:, :11], S[:, 11])
    x = ngdla.damped_lstsq(S, f, 0.1)
    for tree in ({"net": module}, [module]):
        d = ngdla.damped_lstsq(tree, f, 0.1)
        net = d["net"] if isinstance(d, dict) else d[0]
        assert isinstance(net, Module)
        found = np.append(np.asarray(net.weight), float(net.bias))
        tolerance = 1e-5 * float(np.linalg.norm(x))
        assert np.linalg.norm(found - np.asarray(x)) <= tolerance


def test_arrays_without_axes_stand_for_leaves_of_a_metric(
    backend: Backend, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[0]
    left, right, f = (random_array(rng, shape, dtype) for shape in ((N, 4), (N, 3), (N,)))
    two, one = (np.asarray(x, dtype) for x in (2.0, 1.0))
    reference = (
        np.linalg.lstsq(
            np.vstack([np.hstack([left, right]) / np.r_[[2**0.5] * 4, [1.0] * 3], np.eye(7)]),
            np.r_[f, np.zeros(7)],
            rcond=None,
        )[0]
        / np.r_[[2**0.5] * 4, [1.0] * 3]
    )
    for S, metric in (([left, right], [two, one]), ({"a": left, "b": right}, {"a": two, "b": one})):
        x = backend.call(
            lambda S, f, metric: ngdla.damped_lstsq(S, f, 1.0, metric=metric),
            *map(backend.asarray, (S, f, metric)),
        )
        if backend.has_values:
            pieces = [backend.numpy(piece) for piece in (x.values() if isinstance(x, dict) else x)]
            tolerance = 1e2 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(np.concatenate(pieces), reference, rtol=0, atol=tolerance)

"""Complex parameters of functions that are not holomorphic are pairs of real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import random_array
from spectra import quick_compilation  # noqa: F401

import ngdla

N, M = 8, 5


def data(rng: np.random.Generator, dtype: str = "complex128") -> tuple[np.ndarray, ...]:
    return tuple(random_array(rng, shape, dtype) for shape in ((N, 2, M), (N,), (M,)))


def by_hand(O: np.ndarray, E: np.ndarray, previous: np.ndarray, damping: float) -> np.ndarray:
    columns = np.concatenate([O[:, 0], O[:, 1]], axis=1)
    before = np.concatenate([previous.real, previous.imag])
    d = ngdla.stochastic_reconfiguration(
        columns, E, damping, mode="complex", previous=before, momentum=0.5
    )
    return d[:M] + 1j * d[M:]


def test_definition(backend: Backend, rng: np.random.Generator) -> None:
    dtype = backend.dtypes[-1]
    if not dtype.startswith("complex"):
        pytest.skip("no complex numbers")
    O, E, previous = data(rng, dtype)
    d = backend.call(
        lambda O, E, previous: ngdla.stochastic_reconfiguration(
            O, E, 0.1, mode="complex", pack=True, previous=previous, momentum=0.5
        ),
        *map(backend.asarray, (O, E, previous)),
    )
    tolerance = 1e3 * float(np.finfo(dtype).eps)
    reference = by_hand(O, E, previous, 0.1)
    backend.assert_matches(d, reference, like=backend.asarray(O), dtype=dtype, tolerance=tolerance)


def test_of_a_holomorphic_function_the_step_is_the_holomorphic_one(
    rng: np.random.Generator,
) -> None:
    """With d/dIm = 1j d/dRe both metrics are one where S^H S is real, as with one parameter."""
    O, E = random_array(rng, (N, 1), "complex128"), random_array(rng, (N,), "complex128")
    pairs = np.stack([O, 1j * O], axis=1)
    packed = ngdla.stochastic_reconfiguration(pairs, E, 0.1, mode="complex", pack=True)
    holomorphic = ngdla.stochastic_reconfiguration(O, E, 0.1, mode="holomorphic")
    np.testing.assert_allclose(packed, holomorphic, rtol=1e-12)


def test_trees_lists_and_metrics(rng: np.random.Generator) -> None:
    O, E, previous = data(rng)
    options = {"mode": "complex", "pack": True, "momentum": 0.5}
    reference = ngdla.stochastic_reconfiguration(
        O, E, 0.1, previous=previous, metric=np.array([2.0, 2, 2, 2, 3]), **options
    )
    tree = {"w": O[..., :4].reshape(N, 2, 2, 2), "b": O[..., 4]}
    before = {"w": previous[:4].reshape(2, 2), "b": previous[4]}
    d = ngdla.stochastic_reconfiguration(
        tree, E, 0.1, previous=before, metric={"w": 2.0, "b": 3.0}, **options
    )
    np.testing.assert_allclose(d["w"].ravel(), reference[:4], rtol=1e-12)
    np.testing.assert_allclose(d["b"], reference[4], rtol=1e-12)
    d = ngdla.stochastic_reconfiguration(
        [O[..., :4], O[..., 4:]],
        E,
        0.1,
        previous=[previous[:4], previous[4:]],
        metric=[2.0, 3.0],
        **options,
    )
    np.testing.assert_allclose(np.concatenate(d), reference, rtol=1e-12)


def test_a_stack_of_problems(rng: np.random.Generator) -> None:
    O, E = random_array(rng, (3, N, 2, M), "complex128"), random_array(rng, (3, N), "complex128")
    d = ngdla.stochastic_reconfiguration(O, E, 0.1, mode="complex", pack=True)
    for one, o, e in zip(d, O, E, strict=True):
        alone = ngdla.stochastic_reconfiguration(o, e, 0.1, mode="complex", pack=True)
        np.testing.assert_allclose(one, alone, rtol=1e-11)


def test_what_has_no_pairs_is_refused(rng: np.random.Generator) -> None:
    O, E, _ = data(rng)
    sr = ngdla.stochastic_reconfiguration
    with pytest.raises(ValueError, match=r"`log_derivatives` must have axes \(n, 2, ...\)"):
        sr(O[:, :1], E, 0.1, mode="complex", pack=True)
    with pytest.raises(ValueError, match=r"`log_derivatives` has shape .* at least 3 axes"):
        sr(O[:, 0], E, 0.1, mode="complex", pack=True)
    with pytest.raises(ValueError, match=r"`log_derivatives\['w'\]` must have axes"):
        sr({"w": O[:, 0]}, E, 0.1, mode="complex", pack=True)
    with pytest.raises(ValueError, match=r"`pack` is for .*choose mode 'complex'"):
        sr(O, E, 0.1, mode="holomorphic", pack=True)
    with pytest.raises(TypeError, match=r"`pack` is 'yes'; it must be True or False"):
        sr(O, E, 0.1, mode="complex", pack="yes")
    stream = ngdla.ColumnStream([O[:, 0]], (N, M), dtype="complex128")
    with pytest.raises(TypeError, match=r"`log_derivatives` is a ColumnStream; with `pack`"):
        sr(stream, E, 0.1, mode="complex", pack=True)


def test_messages_show_the_shapes_that_came(rng: np.random.Generator) -> None:
    O, E, previous = data(rng)
    tree = {"w": O[..., :4].reshape(N, 2, 2, 2), "b": O[..., 4]}
    before = {"w": previous[:4].reshape(2, 2), "b": previous[4]}
    columns = {"w": np.stack([before["w"]] * 3, axis=-1), "b": np.ones(3)}
    pairs = np.stack([previous.real, previous.imag])
    long = np.concatenate([pairs[0], pairs[1]])
    cases: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (O, {"previous": pairs}, r"`previous` has shape \(2, 5\) but .* of shape \(5,\)"),
        (O, {"previous": long}, r"`previous` has shape \(10,\) but .* of shape \(5,\)"),
        (O, {"metric": np.ones(2 * M)}, r"`metric` has shape \(10,\) but .* of shape \(5,\)"),
        (tree, {"previous": columns}, r"`previous` has one axis more"),
        ({"w": np.moveaxis(tree["w"], 1, 3)[:, :1]}, {}, r"its shape is \(8, 1, 2, 2\)"),
        ({"b": E}, {}, r"its shape is \(8,\)"),
    )
    for given, options, message in cases:
        with pytest.raises(ValueError, match=message):
            ngdla.stochastic_reconfiguration(given, E, 0.1, mode="complex", pack=True, **options)

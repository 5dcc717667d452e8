"""Test matrices: orthonormal, and equal on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U
from spectra import refused

from ngdla._backend.random import gaussian, generator, orthonormal_columns, require_generator


def test_orthonormal_columns(backend: Backend, dtype: str) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    like = backend.asarray(np.zeros(2, dtype))

    def drawn(like: Any) -> Any:
        return orthonormal_columns(5, (2, 9, 4), like, dtype)

    Q = backend.call(drawn, like)
    reference = orthonormal_columns(5, (2, 9, 4), np.zeros(1), dtype)
    backend.assert_matches(Q, reference, like=like, dtype=dtype, tolerance=0.0)
    gram = H(reference.astype("complex128")) @ reference
    assert np.abs(gram - np.eye(4)).max() <= 20 * U[dtype]
    assert np.linalg.norm(reference - orthonormal_columns(6, (2, 9, 4), np.zeros(1), dtype)) > 1


def test_gaussian_numbers(backend: Backend, dtype: str) -> None:
    """Equal on all libraries, of mean square 1, real and imaginary parts alike."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    like = backend.asarray(np.zeros(2, dtype))

    def drawn(like: Any) -> Any:
        return gaussian(5, (300, 40), like, dtype)

    reference = gaussian(np.random.default_rng(5), (300, 40), np.zeros(1), dtype)
    result = backend.call(drawn, like)
    backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=0.0)
    spread = 5 / reference.size**0.5  # five standard deviations of a mean
    assert abs(np.mean(reference)) <= spread
    assert abs(np.mean(np.abs(reference) ** 2) - 1) <= 2**0.5 * spread
    if dtype.startswith("complex"):
        assert abs(np.mean(reference**2)) <= 2 * spread


def test_a_generator_goes_on() -> None:
    rng, like = generator(3), np.zeros(1)
    one, other = (gaussian(rng, (4,), like, "float64") for _ in range(2))
    assert generator(rng) is rng
    np.testing.assert_array_equal(one, gaussian(3, (4,), like, "float64"))
    assert np.all(one != other)


@pytest.mark.parametrize("rng", [0, 7, np.int32(7), np.random.default_rng(0)])
def test_what_a_generator_is_made_from(rng: Any) -> None:
    require_generator(rng)


@pytest.mark.parametrize(
    ("rng", "kind"),
    [(-1, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError), (None, TypeError)],
)
def test_what_no_generator_is_made_from(rng: Any, kind: type[Exception]) -> None:
    refused(kind, "rng", lambda: require_generator(rng))

"""Powers of two, exact on every library."""

from __future__ import annotations

import numpy as np
import pytest
from backends import BACKENDS, Backend

from ngdla._backend.powers import power_of_two


@pytest.fixture(params=["numpy", "torch", "jax", "strict"])
def library(request: pytest.FixtureRequest) -> Backend:
    if request.param not in BACKENDS:
        pytest.skip(f"{request.param} is not installed")
    return BACKENDS[request.param]()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_two(dtype: str, library: Backend) -> None:
    limits = np.finfo(dtype)
    x = np.array([1, 3, 1e-30, 1e30, limits.tiny, limits.max], dtype=dtype)
    powers = library.numpy(power_of_two(library.asarray(x)))
    assert np.all(np.frexp(powers)[0] == 0.5)
    assert np.all((powers[:4] <= x[:4]) & (x[:4] < 2 * powers[:4]))
    assert np.all(np.isfinite(1 / powers))
    odd = power_of_two(library.asarray(np.array([0, np.inf, np.nan], dtype=dtype)))
    np.testing.assert_array_equal(library.numpy(odd)[1:], 1.0)
    assert library.numpy(odd)[0] > 0

"""The rule by which diagonal shifts follow the energy, on numbers."""

import pytest

pytest.importorskip("jax")

import jax.numpy as jnp
import numpy as np

# ngdla.adapters.automatic_shift needs JAX alone
from ngdla.adapters.automatic_shift import LARGEST, SMALLEST, next_shift, require_start


@pytest.mark.parametrize(
    ("predicted", "actual", "factor"),
    [
        (1.0, 0.24, 1.5),
        (1.0, -3.0, 1.5),
        (-1.0, -1.0, 1.5),
        (0.0, 1.0, 1.5),
        (float("nan"), 1.0, 1.5),
        (1.0, float("nan"), 1.5),
        (1.0, 0.25, 1.0),
        (1.0, 0.5, 1.0),
        (1.0, 0.75, 1.0),
        (1.0, 0.76, 1 / 1.5),
        (2.0, 3.0, 1 / 1.5),
    ],
)
def test_the_shift_grows_with_the_error_of_the_model(predicted, actual, factor):
    shift, rho = next_shift(jnp.asarray(1e-3), jnp.asarray(predicted), jnp.asarray(actual))
    np.testing.assert_allclose(shift, 1e-3 * factor, rtol=1e-6)
    np.testing.assert_allclose(rho, actual / predicted if predicted > 0 else np.nan, rtol=1e-6)


def test_the_shift_stays_in_its_range():
    for start, actual in ((SMALLEST, 1.0), (LARGEST, 0.0)):
        shift, _ = next_shift(jnp.asarray(start), jnp.asarray(1.0), jnp.asarray(actual))
        np.testing.assert_allclose(shift, start, rtol=1e-6)


def test_where_it_can_start():
    require_start(1e-3)
    with pytest.raises(TypeError, match="`diag_shift` is a schedule"):
        require_start(lambda step: 1e-3)
    with pytest.raises(ValueError, match=r"`diag_shift` is 0\.5; .* inside of \[1e-09, 0\.1\]"):
        require_start(0.5)

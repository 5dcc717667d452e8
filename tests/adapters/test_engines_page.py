"""The programs of docs/guide/engines.md for NetKet and quantax, on two devices."""

import numpy as np
import pytest
from page_programs import printed

EXACT = -10.251661791  # of the Ising chain with 8 sites and h = 1


@pytest.mark.slow
@pytest.mark.parametrize("code", ["netket", "quantax"])
def test_samples_on_two_devices(code, tmp_path):
    pytest.importorskip(code)
    devices, energy = printed(f"{code}_chain.py", tmp_path).split()
    assert devices == "2"
    np.testing.assert_allclose(float(energy), EXACT, rtol=1e-2)

"""States that are saved, and restored by another process: the same bits as without a break."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from backends import BACKENDS
from spectra import quick_compilation  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(
            name,
            dtype,
            marks=[pytest.mark.slow]
            if name == "jax" or (name, dtype) == ("torch", "float64")
            else [],
        )
        for name in ("numpy", "torch", "jax")
        for dtype in ("float32", "float64", "bfloat16")
    ],
)
def test_a_restored_state_goes_on_as_if_nothing_had_been(
    name: str, dtype: str, tmp_path: Path
) -> None:
    library, file = BACKENDS[name](), tmp_path / "states.npz"
    if name == "numpy" and dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    steps = checkpoints.STEPS
    states = checkpoints.start(library, dtype)
    states = checkpoints.advanced(library, states, dtype, range(steps))
    checkpoints.save(library, states, file)
    states = checkpoints.advanced(library, states, dtype, range(steps, 2 * steps))
    checkpoints.save(library, states, whole := tmp_path / "whole.npz")
    program = [sys.executable, checkpoints.__file__, name, dtype, str(file)]
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=quick, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(whole) as expected, np.load(file.with_suffix(".later.npz")) as found:
        assert set(found) == set(expected)
        for key in expected:
            assert found[key].dtype == expected[key].dtype
            assert found[key].tobytes() == expected[key].tobytes(), key

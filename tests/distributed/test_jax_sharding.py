"""Sharded arrays of JAX, on four devices in a process of their own: see `sharded_jax.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.parametrize("part", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_sharded_arrays(part):
    done = subprocess.run(
        [sys.executable, HERE / "sharded_jax.py", part],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout={"short": 240, "long": 1800}[part],
    )
    assert done.returncode == 0, done.stderr[-4000:]

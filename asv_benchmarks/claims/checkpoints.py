"""States that go on from a file in another process, by the loop of tests/checkpoints.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .tracked import tracked

TESTS = Path(__file__).resolve().parents[2] / "tests"
LIBRARIES = ("numpy", "torch", "jax")
DTYPES = ("float32", "float64", "bfloat16")


@cache
def differences() -> dict[str, dict[str, int]]:
    """Return how many arrays there are after three more steps, and how many have other bits."""
    return {f"{name}, {dtype}": _compared(name, dtype) for name in LIBRARIES for dtype in DTYPES}


def _compared(name: str, dtype: str) -> dict[str, int]:
    sys.path.insert(0, str(TESTS))
    import checkpoints
    from backends import BACKENDS

    library, steps = BACKENDS[name](), checkpoints.STEPS
    with tempfile.TemporaryDirectory() as folder:
        file, whole = Path(folder) / "states.npz", Path(folder) / "whole.npz"
        states = checkpoints.start(library, dtype)
        states = checkpoints.advanced(library, states, dtype, range(steps))
        checkpoints.save(library, states, file)
        states = checkpoints.advanced(library, states, dtype, range(steps, 2 * steps))
        checkpoints.save(library, states, whole)
        program = [sys.executable, checkpoints.__file__, name, dtype, str(file)]
        subprocess.run(program, check=True, cwd=TESTS.parent)
        with np.load(whole) as expected, np.load(file.with_suffix(".later.npz")) as found:
            other = [key for key in expected if expected[key].tobytes() != found[key].tobytes()]
            return {"states": len(states), "arrays": len(expected), "of other bits": len(other)}


@tracked(
    "arrays of other bits, three steps after a state was restored in a new process; every state, "
    "NumPy, torch and JAX, float32, float64 and bfloat16",
    unit="count",
    at_most=0,
)
def track_other_bits() -> int:
    return sum(found["of other bits"] for found in differences().values())


@tracked("the same: arrays that were compared", unit="count")
def track_arrays() -> int:
    return sum(found["arrays"] for found in differences().values())


def details() -> dict[str, Any]:
    """Return the counts of each library and dtype."""
    return dict(differences())

"""What XLA makes of jitted steps: memory, time of compilation, and words sent between devices.

Nothing is computed: all is read off compiled programs of arrays that do not exist. jax_enable_x64
is set, so that float32 and complex64 may be worked on in double precision where they have to be.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import ngdla

from .compilations import jax
from .tracked import tracked

FOLDER = Path(__file__).resolve().parents[1]
ROWS, COLUMNS = 1024, 320_000
SHARDED_ROWS, DEVICES = 128, 4  # fewer rows, so that n^2 is less than the m of a vector
ROUNDS = 5
FOUR_DEVICES = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)

Step = Callable[..., Any]


# ------------------------------------------------------------------------------- the steps


def lstsq(S: Any, damping: Any, f: Any, **_: Any) -> Any:
    return ngdla.damped_lstsq(S, f, damping)


def native(S: Any, damping: Any, f: Any, **_: Any) -> Any:
    return ngdla.damped_lstsq(S, f, damping, precision="native")


def solve(S: Any, damping: Any, v: Any, **_: Any) -> Any:
    return ngdla.damped_solve(S, v, damping)


def reconfiguration(S: Any, damping: Any, f: Any, *, mode: str, **_: Any) -> Any:
    return ngdla.stochastic_reconfiguration(S, f, damping, mode=mode)


def spring(S: Any, damping: Any, f: Any, *, mode: str, previous: Any, **_: Any) -> Any:
    return ngdla.stochastic_reconfiguration(
        S, f, damping, mode=mode, previous=previous, momentum=0.9, full_output=True
    )


def weighted_spring(
    S: Any, damping: Any, f: Any, *, mode: str, previous: Any, weights: Any, **_: Any
) -> Any:
    return ngdla.stochastic_reconfiguration(
        S,
        f,
        damping,
        mode=mode,
        previous=previous,
        momentum=0.9,
        weights=weights,
        full_output=True,
    )


def by_hand(S: Any, damping: Any, f: Any, **_: Any) -> Any:
    """Return a damped least-squares step as a user writes it: Gram matrix, Cholesky, one sweep."""
    linalg, numpy = jax().scipy.linalg, jax().numpy
    factor = linalg.cho_factor(S @ S.conj().T + damping * numpy.eye(len(S), dtype=S.dtype))
    y = linalg.cho_solve(factor, f)
    x = (y.conj() @ S).conj()
    w = linalg.cho_solve(factor, f - S @ x - damping * y)
    return x + (w.conj() @ S).conj()


def derivative(S: Any, damping: Any, f: Any, **_: Any) -> Any:
    """Return the gradient of |x|^2 of least squares by S, in reverse mode."""
    return jax().grad(lambda S: (ngdla.damped_lstsq(S, f, damping) ** 2).sum())(S)


# Name, step, dtype of S, and mode.
STEPS: dict[str, tuple[Step, str, str]] = {
    "damped_lstsq, float32": (lstsq, "float32", "real"),
    "damped_lstsq, complex64": (lstsq, "complex64", "holomorphic"),
    "damped_solve, float32": (solve, "float32", "real"),
    "damped_solve, complex64": (solve, "complex64", "holomorphic"),
    "SR, real": (reconfiguration, "float32", "real"),
    "SR, real, weights, previous, full_output": (weighted_spring, "float32", "real"),
    "SR, holomorphic": (reconfiguration, "complex64", "holomorphic"),
    "SR, holomorphic, weights, previous, full_output": (
        weighted_spring,
        "complex64",
        "holomorphic",
    ),
    "SR, complex": (reconfiguration, "complex64", "complex"),
    "SR, complex, weights, previous, full_output": (weighted_spring, "complex64", "complex"),
}
ALGEBRA = [name for name in STEPS if name.startswith("damped")]
IN_PLACE = [name for name in STEPS if name.startswith("SR") and ", complex" not in name]
STACKED = [name for name in STEPS if name.startswith("SR, complex")]


def lowered(step: Step, dtype: str, mode: str, n: int, m: int, shardings: Any = None) -> Any:
    """Return a step lowered for shapes alone, S and vectors of m entries sharded by columns."""
    rows, columns, along = shardings or (None, None, None)
    struct, real = jax().ShapeDtypeStruct, np.zeros(0, dtype).real.dtype
    S = struct((n, m), dtype, sharding=columns)
    f = struct((n,), dtype, sharding=rows)
    vector = partial(struct, (m,), sharding=along)
    given = {
        "f": f,
        "v": vector(dtype),
        "previous": vector(real if mode == "complex" else dtype),
        "weights": struct((n,), real, sharding=rows),
    }

    def call(S: Any, damping: Any, given: dict[str, Any]) -> Any:
        return step(S, damping, mode=mode, **given)

    return jax().jit(call).lower(S, struct((), real, sharding=rows), given)


# ---------------------------------------------------------------------------------- memory


@cache
def memory(name: str) -> float:
    """Return what XLA reserves besides arguments and results, over the memory of S."""
    plan = lowered(*STEPS[name], ROWS, COLUMNS).compile().memory_analysis()
    return plan.temp_size_in_bytes / (ROWS * COLUMNS * np.dtype(STEPS[name][1]).itemsize)


def memory_claim(what: str, names: list[str], at_most: float) -> Any:
    claim = f"temporary memory of a jitted step over that of S, {ROWS} x {COLUMNS}, largest: {what}"
    return tracked(claim, at_most=at_most)(lambda: max(map(memory, names)))


track_memory_of_solves = memory_claim("damped_lstsq and damped_solve", ALGEBRA, 0.3)
track_memory_in_place = memory_claim("SR, real and holomorphic", IN_PLACE, 0.3)
track_memory_stacked = memory_claim("SR, complex", STACKED, 1.1)


@tracked(
    f"the same of the gradient of damped_lstsq by S, reverse mode, {ROWS} x {COLUMNS}, float32"
)
def track_memory_of_derivatives() -> float:
    program = lowered(derivative, "float32", "real", ROWS, COLUMNS).compile()
    return program.memory_analysis().temp_size_in_bytes / (4 * ROWS * COLUMNS)


# ----------------------------------------------------------------------- on several devices


def words_sent(names: list[str]) -> dict[str, int]:
    """Return the real numbers of the largest collective of steps, S sharded over columns."""
    sharding = jax().sharding
    mesh = sharding.Mesh(np.array(jax().devices()), ("parameters",))
    shardings = [
        sharding.NamedSharding(mesh, sharding.PartitionSpec(*axes))
        for axes in ((), (None, "parameters"), ("parameters",))
    ]
    sent = {}
    for name in names:
        program = lowered(*STEPS[name], SHARDED_ROWS, COLUMNS, shardings).compile().as_text()
        sent[name] = largest_collective(program)
    return sent


def largest_collective(program: str) -> int:
    """Return the real numbers of the largest collective of a compiled program."""
    arrays = [
        array
        for results in COLLECTIVE.findall(program)
        for array in re.findall(r"(\w)\w+\[([\d,]*)\]", results)
    ]
    return max(
        (2 if kind == "c" else 1) * math.prod(int(d) for d in shape.split(",") if d)
        for kind, shape in arrays
    )


@cache
def words_on_four_devices(*names: str) -> dict[str, int]:
    """Return the same of a new process, as the number of devices is fixed where JAX starts."""
    jax()
    command = [sys.executable, "-m", "claims.compiled_steps", *names]
    done = subprocess.run(
        command, cwd=FOLDER, env=os.environ | FOUR_DEVICES, check=True, capture_output=True
    )
    return json.loads(done.stdout)


@tracked(
    f"numbers in the largest collective of a step over those of its Gram matrix, largest of all "
    f"steps, S {SHARDED_ROWS} x {COLUMNS} sharded over columns on {DEVICES} devices",
    at_most=1.0,
)
def track_words() -> float:
    return max(words / gram_words(name) for name, words in words_on_four_devices(*STEPS).items())


def gram_words(name: str) -> int:
    """Return the real numbers in the Gram matrix of a step."""
    _, dtype, mode = STEPS[name]
    n = (2 if mode == "complex" else 1) * SHARDED_ROWS
    return (2 if dtype == "complex64" and mode != "complex" else 1) * n * n


# ------------------------------------------------------------------------------ compilation

TIMED = {
    "damped_lstsq": lstsq,
    "damped_lstsq, native": native,
    "SR": reconfiguration,
    "SPRING with full_output": spring,
}


@cache
def seconds() -> dict[str, float]:
    """Return the median seconds of lowering and compiling each step, one after the other."""
    steps = {"by hand": by_hand, **TIMED}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            jax().clear_caches()
            start = time.perf_counter()
            lowered(step, "float32", "real", ROWS, COLUMNS).compile()
            found[name].append(time.perf_counter() - start)
    return {name: float(np.median(each)) for name, each in found.items()}


def compilation_claim(name: str, at_most: float) -> Any:
    claim = f"float32, {name}: seconds to compile over those of the formula by hand with one sweep"
    return tracked(claim, at_most=at_most)(lambda: seconds()[name] / seconds()["by hand"])


track_compiling_lstsq = compilation_claim("damped_lstsq", 6.0)
track_compiling_reconfiguration = compilation_claim("SR", 8.0)
track_compiling_spring = compilation_claim("SPRING with full_output", 10.0)


def details() -> dict[str, Any]:
    """Return a row for each step."""
    sent = words_on_four_devices(*STEPS)
    rows = [
        {"step": name, "temporary memory / memory of S": memory(name), "words sent": sent[name]}
        for name in STEPS
    ]
    compiled = [{"step": name, "seconds": value} for name, value in seconds().items()]
    return {"steps": rows, "compilation": compiled}


if __name__ == "__main__":
    print(json.dumps(words_sent(sys.argv[1:])))

"""Calls in company: after other work of the process, with one thread and with all of them.

NumPy and SciPy bring one BLAS each. The threads of one are still waiting for more work when the
other one is called, and take its cores. What a call costs beside that is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import scipy.linalg

import ngdla

from .call_list import CALLS, prepared
from .counting import hlo_operations, torch_count, values_away
from .libraries import tracks
from .measuring import normal, optional

__all__ = ["COMPANY", "Compiled", "InCompany", "Launches", "company"]


def company() -> dict[str, Callable[[], Any]]:
    """Return the other work of the process, by name."""
    A, B, X = (normal((d, d), seed=seed) for seed, d in enumerate((512, 512, 300)))
    H = X + X.T
    return {
        "nothing": lambda: None,
        "a NumPy product": lambda: A @ B,
        "a SciPy eigh": lambda: scipy.linalg.eigh(H),
    }


COMPANY = tuple(company())


class InCompany:
    """The first call after other work of the process."""

    params = (tuple(CALLS), COMPANY, ("one thread", "all threads"))
    param_names = ("call", "after", "threads")
    timeout = 300
    number = 1  # so that `setup` precedes every call
    warmup_time = 0.0
    repeat = (5, 30, 1.0)

    def setup(self, call: str, after: str, threads: str) -> None:
        """Prepare the call and do the other work; a process has one number of threads only."""
        limits = 1 if threads == "one thread" else None
        self.held = optional("threadpoolctl").threadpool_limits(limits)
        self.call = prepared(call)
        company()[after]()

    def teardown(self, *_: str) -> None:
        """Let the threads go."""
        self.held.restore_original_limits()

    def time_call(self, *_: str) -> None:
        self.call()


class Launches:
    """What torch is asked for, as on an accelerator; counted, so that it needs none."""

    params = (tuple(CALLS),)
    param_names = ("call",)
    timeout = 300

    def setup_cache(self) -> dict[str, tuple[int, int]]:
        """Count all calls in one process; without torch there is nothing to count."""
        try:
            torch = optional("torch")
        except NotImplementedError:
            return {}
        with values_away():
            return {name: tuple(torch_count(prepared(name, torch.asarray))) for name in CALLS}

    def counted(self, found: dict[str, tuple[int, int]], call: str) -> tuple[int, int]:
        """Return kernels and reads of a call, or skip."""
        if not found:
            optional("torch")
        return found[call]

    @tracks("kernels")
    def track_kernels(self, found: dict[str, tuple[int, int]], call: str) -> int:
        return self.counted(found, call)[0]

    @tracks("host reads")
    def track_reads(self, found: dict[str, tuple[int, int]], call: str) -> int:
        return self.counted(found, call)[1]


ROWS, COLUMNS = 1024, 32_000
JITTED: dict[str, tuple[Callable[[Any, Any], Any], int]] = {  # with the length of what comes second
    "damped_solve": (lambda S, v: ngdla.damped_solve(S, v, 1e-2 * COLUMNS), COLUMNS),
    "damped_lstsq": (lambda S, f: ngdla.damped_lstsq(S, f, 1e-2 * COLUMNS), ROWS),
    "stochastic_reconfiguration": (
        lambda O, E: ngdla.stochastic_reconfiguration(O, E, 1e-2),
        ROWS,
    ),
}


class Compiled:
    """What XLA makes of a jitted step of 1024 x 32,000 numbers in float32, which do not exist."""

    params = (tuple(JITTED), ("without float64", "with jax_enable_x64"))
    param_names = ("function", "precisions")
    timeout = 300

    def setup_cache(self) -> dict[tuple[str, str], dict[str, float]]:
        """Compile all functions in one process; without JAX there is nothing to compile."""
        try:
            jax = optional("jax")
        except NotImplementedError:
            return {}
        before, found = jax.config.jax_enable_x64, {}
        for x64, precisions in enumerate(self.params[1]):
            jax.config.update("jax_enable_x64", bool(x64))
            for name, entry in JITTED.items():
                found[name, precisions] = self.compiled(jax, *entry)
        jax.config.update("jax_enable_x64", before)
        return found

    def compiled(self, jax: Any, function: Callable[..., Any], length: int) -> dict[str, float]:
        """Return memory, seconds and operations of a compiled function."""
        shapes = (ROWS, COLUMNS), (length,)
        arguments = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
        start = time.perf_counter()
        plan = jax.jit(function).lower(*arguments).compile().memory_analysis()
        return {
            "seconds": time.perf_counter() - start,
            "memory": plan.temp_size_in_bytes / (4 * ROWS * COLUMNS),
            "operations": hlo_operations(function, *arguments),
        }

    def found(self, found: Any, function: str, precisions: str, name: str) -> float:
        """Return what was found of a function, or skip."""
        if not found:
            optional("jax")
        return found[function, precisions][name]

    @tracks("temporary memory / memory of S")
    def track_temporary_memory(self, found: Any, function: str, precisions: str) -> float:
        return self.found(found, function, precisions, "memory")

    @tracks("seconds")
    def track_compilation(self, found: Any, function: str, precisions: str) -> float:
        return self.found(found, function, precisions, "seconds")

    @tracks("operations of StableHLO")
    def track_operations(self, found: Any, function: str, precisions: str) -> float:
        return self.found(found, function, precisions, "operations")

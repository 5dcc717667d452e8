"""What is compiled by JAX in eager calls and by torch.compile, how long that takes, and memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ngdla

from .tracked import tracked

DAMPINGS = 20
CALLS = 2000
WARM = 50  # calls, after which memory is to stay as it is
LAYERS = ((512, 256), (256, 128))  # inputs and outputs of each
RANK, ROWS = 32, 128
COMPILED = "/jax/core/compile/backend_compile_duration"

Call = Callable[[float], Any]  # of a damping or a decay in (0, 1)


@functools.cache
def jax() -> Any:
    try:
        import jax
    except ImportError:
        raise NotImplementedError("JAX is not installed") from None
    jax.config.update("jax_enable_x64", True)
    return jax


@functools.cache
def torch() -> Any:
    try:
        import torch
    except ImportError:
        raise NotImplementedError("PyTorch is not installed") from None
    return torch


def resident() -> float:
    """Return the memory of this process in MB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        raise NotImplementedError("no /proc/self/status here") from None
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# ----------------------------------------------------------------------------- eager JAX


@functools.cache
def eager_calls() -> dict[str, Call]:
    """Return calls of JAX that once compiled something each time, on 64 x 256 float32 scores."""
    asarray, rng = jax().numpy.asarray, np.random.default_rng(0)
    # dampings stay on one side of 256 u |S|_F^2, where another way is taken
    S, v = (asarray(0.1 * rng.standard_normal(d), "float32") for d in ((64, 256), (256,)))
    a, g = (asarray(rng.standard_normal((32, d)), "float32") for d in (16, 12))
    A, wide, online = S @ S.T, S.astype("float64"), ngdla.online_eigh_init(S, 8)
    state = ngdla.inverse_free_init(16, 12, like=a)
    statistics = ngdla.inverse_free_statistics(state, a, g)
    unread: dict[str, Any] = {"check": False}
    return {
        "damped_solve": lambda x: ngdla.damped_solve(S, v, x, **unread),
        "damped_solve by cg": lambda x: ngdla.damped_solve(S, v, x, method="cg", **unread),
        "damped_solve, mixed": lambda x: ngdla.damped_solve(
            wide, v, x, precision="mixed", **unread
        ),
        "randomized_eigh": lambda x: ngdla.randomized_eigh(A, 8, **unread),
        "online_eigh_update": lambda x: ngdla.online_eigh_update(online, S, decay=x, **unread),
        "inverse_free_update": lambda x: ngdla.inverse_free_update(
            state, statistics, damping=x, step_size=0.1, **unread
        ),
    }


@functools.cache
def eager(name: str) -> dict[str, float]:
    """Return what many calls of one function compile and take, each with another number."""
    call, seen = eager_calls()[name], []

    def listen(event: str, _: float, **__: Any) -> None:
        if event == COMPILED:
            seen.append(event)

    def milliseconds(number: float) -> float:
        start = time.perf_counter()
        jax().block_until_ready(call(number))
        return 1e3 * (time.perf_counter() - start)

    jax().monitoring.register_event_duration_secs_listener(listen)
    numbers = np.linspace(0.2, 0.8, WARM + CALLS).tolist()
    first, second = milliseconds(numbers[0]), milliseconds(numbers[1])
    compiled = len(seen)
    for number in numbers[2:WARM]:
        milliseconds(number)
    memory = resident()
    later = [milliseconds(number) for number in numbers[WARM:]]
    grown = resident() - memory
    jax().monitoring.unregister_event_duration_listener(listen)
    return {
        "ms of the 1st call": first,
        "ms of the 2nd call": second,
        "ms of a later call": float(np.median(later)),
        "compilations of the first two calls": float(compiled),
        "compilations of later calls": float(len(seen) - compiled),
        "MB": grown,
    }


@tracked(
    f"eager JAX, check=False, {CALLS} calls with {CALLS} dampings or decays of each of six "
    f"functions: compilations after the second call",
    unit="compilations",
    at_most=0,
)
def track_compilations() -> float:
    return sum(eager(name)["compilations of later calls"] for name in eager_calls())


@tracked(
    f"the most by which {CALLS} such calls of one function let memory grow, after {WARM} calls",
    unit="MB",
    at_most=5,
)
def track_memory() -> float:
    return max(eager(name)["MB"] for name in eager_calls())


@tracked("the longest of their second calls over the median of later ones")
def track_second_call() -> float:
    rows = [eager(name) for name in eager_calls()]
    return max(row["ms of the 2nd call"] / row["ms of a later call"] for row in rows)


# -------------------------------------------------------------------------- torch.compile


@tracked(
    f"torch.compile, {DAMPINGS} dampings as Python numbers: graphs of damped_solve",
    unit="graphs",
    at_most=2,
)
def track_graphs() -> float:
    compiler, graphs = torch(), []
    rng = np.random.default_rng(0)
    S, v = (compiler.asarray(rng.standard_normal(shape)) for shape in ((16, 64), (64,)))

    def count(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    ngdla.gram(S)
    compiler._dynamo.reset()
    solve = compiler.compile(ngdla.damped_solve, backend=count, fullgraph=True)
    for damping in np.linspace(0.1, 2.0, DAMPINGS).tolist():
        solve(S, v, damping)
    return float(len(graphs))


# ------------------------------------------------------------------- one compiled KFAC step


def kfac_step(averages: Any, bases: Any, samples: Any, gradients: Any, damping: Any) -> Any:
    """Return the steps of all layers, with new averages and their eigenvectors."""
    steps, new, vectors = [], [], []
    for A, U, X, V in zip(averages, bases, samples, gradients):
        A = [ngdla.ema(M, x, decay=0.95, check=False) for M, x in zip(A, X)]
        pairs = [
            ngdla.randomized_eigh(M, RANK, passes=1, basis=basis, check=False)
            for M, basis in zip(A, U)
        ]
        steps.append(ngdla.kronecker_solve(pairs[0], pairs[1], V, damping, check=False))
        new.append(A)
        vectors.append([pair.eigenvectors for pair in pairs])
    return steps, new, vectors


def kfac_arguments(asarray: Callable[[Any], Any]) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype("float32")

    samples = [
        [drawn(ROWS, d) / np.arange(1, d + 1, dtype="float32") for d in layer] for layer in LAYERS
    ]
    averages = [[X.T @ X for X in pair] for pair in samples]
    bases = [[np.linalg.qr(drawn(d, RANK)).Q for d in layer] for layer in LAYERS]
    gradients = [drawn(outputs, inputs) for inputs, outputs in LAYERS]
    pairs = ([[asarray(x) for x in pair] for pair in xs] for xs in (averages, bases, samples))
    return (*pairs, [asarray(x) for x in gradients], asarray(np.float32(0.1)))


def ratio_of(compiled: Callable[[], Any], eager: Callable[[], Any], *, rounds: int = 20) -> float:
    """Return the median seconds of two calls, alternating, one over the other."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for i in range(2 * rounds + 4):
        start = time.perf_counter()
        (compiled, eager)[i % 2]()
        if i > 3:  # warm
            times[i % 2].append(time.perf_counter() - start)
    return float(np.median(times[0]) / np.median(times[1]))


def compiled_by_torch(backend: str) -> float:
    arguments = kfac_arguments(torch().asarray)
    torch()._dynamo.reset()
    step = torch().compile(kfac_step, backend=backend, fullgraph=True)
    with torch().no_grad():
        return ratio_of(lambda: step(*arguments), lambda: kfac_step(*arguments))


SIZES = " and ".join(f"{inputs} x {outputs}" for inputs, outputs in LAYERS)
STEP = f"a KFAC step of layers of {SIZES}, rank {RANK}: seconds compiled over eager, "


@tracked(STEP + "torch, aot_eager")
def track_aot_eager() -> float:
    return compiled_by_torch("aot_eager")


@tracked(STEP + "torch, inductor")
def track_inductor() -> float:
    return compiled_by_torch("inductor")


@tracked(STEP + "JAX")
def track_jit() -> float:
    arguments, step = kfac_arguments(jax().numpy.asarray), jax().jit(kfac_step)
    wait = jax().block_until_ready
    return ratio_of(lambda: wait(step(*arguments)), lambda: wait(kfac_step(*arguments)))


def details() -> dict[str, Any]:
    return {"eager JAX": {name: eager(name) for name in eager_calls()}}

"""Whole runs in NetKet to ground states: its driver VMC_SR beside VMC_SPRING of ngdla.

The Ising chain with N = 20 and h = 1 has a real RBM, alpha = 1, and Metropolis flips; its energy is
-2 / sin(pi / 2N). The square lattice of 4 x 4 spins with J2 = J1 / 2 has a complex RBM, alpha = 4,
and exchanges at zero magnetisation; its energy is that of the sparse matrix of this sector. Each
run has 300 steps of 1,008 samples in float64, and the learning rate and shift of the other driver.
With momentum 0, VMC_SPRING is minSR. On the Ising chain SPRING follows its shift, or keeps it.

An energy is the median of the last 20 steps, with the standard error that they give it. A relative
error is reached at the first step where the median of the 20 steps before it has it.

All runs are some 20 minutes; each can be made by itself, and is then read from a file:

    cd asv_benchmarks && python -m claims.full_runs "Ising chain" 0 minSR
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import optional

from .tracked import tracked

RUNS = Path(__file__).resolve().parents[1] / "full_runs.jsonl"
SEEDS = (0, 1, 2)
STEPS, SAMPLES, CHAINS, LAST = 300, 1008, 112, 20
SHIFTS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
START = 1e-2  # of a shift that is followed
MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median over that of a mean


class System(NamedTuple):
    """What both drivers are given."""

    hamiltonian: Any
    state: Any
    exact: float


class Settings(NamedTuple):
    """Numbers of a model that are the same for all methods."""

    learning_rate: float
    shift: float
    goal: float  # a relative error


# --------------------------------------------------------------------------------- models


def ising_chain(seed: int) -> System:
    nk = optional("netket")
    sites = 20
    spins = nk.hilbert.Spin(0.5, sites)
    hamiltonian = nk.operator.IsingJax(spins, nk.graph.Chain(sites), h=1.0, J=-1.0)
    sampler = nk.sampler.MetropolisLocal(spins, n_chains=CHAINS)
    state = sampled(sampler, nk.models.RBM(alpha=1, param_dtype=float), seed)
    return System(hamiltonian, state, -2 / math.sin(math.pi / (2 * sites)))


def square_lattice(seed: int) -> System:
    nk = optional("netket")
    graph = nk.graph.Grid([4, 4], max_neighbor_order=2)
    spins = nk.hilbert.Spin(0.5, graph.n_nodes, total_sz=0)
    couplings = {"J": [1.0, 0.5], "sign_rule": [True, False]}
    hamiltonian = nk.operator.Heisenberg(spins, graph, **couplings).to_jax_operator()
    sampler = nk.sampler.MetropolisExchange(spins, graph=graph, d_max=2, n_chains=CHAINS)
    state = sampled(sampler, nk.models.RBM(alpha=4, param_dtype=complex), seed)
    return System(hamiltonian, state, lowest(hamiltonian))


def sampled(sampler: Any, model: Any, seed: int) -> Any:
    """Return a state whose parameters and samples are those of the seed."""
    nk = optional("netket")
    return nk.vqs.MCState(sampler, model, n_samples=SAMPLES, seed=seed, sampler_seed=seed)


def lowest(hamiltonian: Any) -> float:
    """Return the smallest eigenvalue of the sparse matrix."""
    linalg = optional("scipy.sparse.linalg")
    return float(linalg.eigsh(hamiltonian.to_sparse(), k=1, which="SA")[0][0])


MODELS: dict[str, Callable[[int], System]] = {
    "Ising chain": ising_chain,
    "4 x 4 lattice": square_lattice,
}
SETTINGS = {
    "Ising chain": Settings(learning_rate=0.02, shift=1e-3, goal=1e-4),
    "4 x 4 lattice": Settings(learning_rate=0.02, shift=1e-3, goal=1e-3),
}


# -------------------------------------------------------------------------------- methods


def netket_driver(system: System, settings: Settings) -> Any:
    nk = optional("netket")
    return nk.driver.VMC_SR(
        system.hamiltonian,
        optimizer(settings),
        variational_state=system.state,
        diag_shift=settings.shift,
    )


def ngdla_driver(system: System, settings: Settings, **options: Any) -> Any:
    return optional("ngdla.adapters.netket").VMC_SPRING(
        system.hamiltonian,
        optimizer(settings),
        variational_state=system.state,
        **({"diag_shift": settings.shift} | options),
    )


def optimizer(settings: Settings) -> Any:
    return optional("optax").sgd(settings.learning_rate)


def constant(shift: float) -> Callable[[System, Settings], Any]:
    return lambda system, settings: ngdla_driver(system, settings, diag_shift=shift)


NETKET, MINSR, AUTOMATIC = "VMC_SR", "minSR", "SPRING, automatic shift"
CONSTANT = {f"SPRING, shift {shift:.0e}": constant(shift) for shift in SHIFTS}
METHODS: dict[str, Callable[[System, Settings], Any]] = {
    NETKET: netket_driver,
    MINSR: lambda system, settings: ngdla_driver(system, settings, momentum=0.0),
    AUTOMATIC: lambda system, settings: ngdla_driver(
        system, settings, automatic=True, diag_shift=START
    ),
    **CONSTANT,
}
CASES = [
    (model, seed, method)
    for model in MODELS
    for method in (METHODS if model == "Ising chain" else (NETKET, MINSR))
    for seed in SEEDS
]


# ----------------------------------------------------------------------------------- runs


def run(model: str, seed: int, method: str, steps: int = STEPS) -> dict[str, Any]:
    """Make one run; what it did, as one line of the file."""
    nk, settings = optional("netket"), SETTINGS[model]
    system = MODELS[model](seed)
    driver, log = METHODS[method](system, settings), nk.logging.RuntimeLog()
    start = time.perf_counter()
    driver.run(steps, out=log, show_progress=False)
    seconds = time.perf_counter() - start
    energies = np.asarray(log.data["Energy"]["Mean"]).real
    row = {"model": model, "seed": seed, "method": method, "steps": steps, "seconds": seconds}
    row |= settings._asdict() | {"exact": system.exact, "parameters": system.state.n_parameters}
    return row | outcome(energies, system.exact, settings.goal)


def outcome(energies: np.ndarray, exact: float, goal: float) -> dict[str, Any]:
    """Return energy, standard error, relative error, and the step that reached the goal."""
    last = energies[-LAST:]
    if not np.all(np.isfinite(last)):
        return {"energy": None, "standard error": None, "error": None, "reached": None}
    windows = np.lib.stride_tricks.sliding_window_view(energies, min(LAST, len(energies)))
    errors = np.median(windows, axis=1) / exact
    reached = np.flatnonzero(1 - errors <= goal)
    return {
        "energy": float(np.median(last)),
        "standard error": float(MEDIAN * np.std(last, ddof=1) / math.sqrt(len(last))),
        "error": float(1 - np.median(last) / exact),
        "reached": int(reached[0]) + windows.shape[1] if len(reached) else None,
    }


def recorded() -> dict[tuple[str, int, str], dict[str, Any]]:
    """Return the runs in the file that are made as they would be now."""
    lines = RUNS.read_text(encoding="utf-8").splitlines() if RUNS.exists() else []
    rows = [json.loads(line) for line in lines]
    return {
        (row["model"], row["seed"], row["method"]): row
        for row in rows
        if row["steps"] == STEPS and SETTINGS[row["model"]]._asdict().items() <= row.items()
    }


def record(model: str, seed: int, method: str) -> dict[str, Any]:
    """Make a run and add it to the file."""
    row = run(model, seed, method)
    with RUNS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return all runs; those that are not in the file are made."""
    found = recorded()
    return tuple(found.get(case) or record(*case) for case in CASES)


# -------------------------------------------------------------------------------- measured


def rows_of(model: str, method: str) -> list[dict[str, Any]]:
    return [row for row in table() if (row["model"], row["method"]) == (model, method)]


def mean_energy(model: str, method: str) -> tuple[float, float]:
    """Return the mean over the seeds, infinite where a run diverged, and its standard error."""
    rows = rows_of(model, method)
    if any(row["energy"] is None for row in rows):
        return math.inf, 0.0
    energies, errors = ([row[key] for row in rows] for key in ("energy", "standard error"))
    return float(np.mean(energies)), float(np.linalg.norm(errors) / len(rows))


def standard_errors(model: str, method: str, other: str) -> float:
    """Return how far an energy is above another one, in standard errors."""
    (ours, e), (theirs, f) = (mean_energy(model, name) for name in (method, other))
    return (ours - theirs) / math.hypot(e, f)


def goals_reached(model: str, method: str) -> float:
    return float(sum(row["reached"] is not None for row in rows_of(model, method)))


@tracked(
    "NetKet runs, Ising chain, N = 20, 300 steps, three seeds: mean energy of VMC_SPRING with "
    "momentum 0 less that of VMC_SR",
    unit="standard errors",
    at_most=2.0,
)
def track_ising_chain() -> float:
    return standard_errors("Ising chain", MINSR, NETKET)


@tracked("the same, 4 x 4 lattice, J2 = J1 / 2", unit="standard errors", at_most=2.0)
def track_square_lattice() -> float:
    return standard_errors("4 x 4 lattice", MINSR, NETKET)


@tracked("Ising chain: runs of VMC_SPRING with momentum 0 that reach 1e-4, of three", unit="runs")
def track_ising_chain_reached() -> float:
    return goals_reached("Ising chain", MINSR)


@tracked("the same of VMC_SR", unit="runs")
def track_ising_chain_reached_by_netket() -> float:
    return goals_reached("Ising chain", NETKET)


@tracked("4 x 4 lattice: runs of VMC_SPRING with momentum 0 that reach 1e-3, of three", unit="runs")
def track_square_lattice_reached() -> float:
    return goals_reached("4 x 4 lattice", MINSR)


@tracked("the same lattice, of VMC_SR", unit="runs")
def track_square_lattice_reached_by_netket() -> float:
    return goals_reached("4 x 4 lattice", NETKET)


@tracked(
    "Ising chain: mean energy of SPRING with automatic shift less that of the best of five "
    "constant shifts, 1e-1 to 1e-5",
    unit="standard errors",
    at_most=2.0,
)
def track_automatic_shift() -> float:
    best = min(CONSTANT, key=lambda method: mean_energy("Ising chain", method)[0])
    return standard_errors("Ising chain", AUTOMATIC, best)


def summary(model: str, method: str) -> dict[str, str]:
    """Return what the three runs of a method reached, seed by seed."""
    goal, rows = SETTINGS[model].goal, rows_of(model, method)
    errors = ["diverged" if row["error"] is None else f"{row['error']:.1e}" for row in rows]
    steps = ["not reached" if row["reached"] is None else str(row["reached"]) for row in rows]
    return {
        "model": model,
        "method": method,
        "relative error of the energy": ", ".join(errors),
        "reached within": f"{goal:.0e}",
        "at step": ", ".join(steps),
    }


def details() -> dict[str, Any]:
    """Return all runs, and what they reached; where a goal was not reached, its step is null."""
    methods = dict.fromkeys((model, method) for model, _, method in CASES)
    return {"methods": [summary(*key) for key in methods], "runs": list(table())}


if __name__ == "__main__":
    print(json.dumps(record(sys.argv[1], int(sys.argv[2]), sys.argv[3])))

"""The demo's energies and times: both systems, three seeds on NumPy, one on torch and JAX."""

from __future__ import annotations

from functools import cache
from typing import Any

from ngdla._backend.inventory import UnavailableLibraryError, load_namespace, one_thread
from ngdla.demo.exact import reference_energy
from ngdla.demo.problems import make_problem
from ngdla.demo.vmc import last_mean, optimise

from .tracked import tracked

SEEDS = {"numpy": (0, 1, 2), "torch": (0,), "jax": (0,)}


@cache
def run(library: str, system: str, seed: int) -> dict[str, float]:
    """Return relative error of the mean of the last 20 steps, and the seconds."""
    try:
        loaded = load_namespace(library)
    except UnavailableLibraryError as error:
        raise NotImplementedError(str(error)) from None
    problem = make_problem(system)
    with one_thread():
        exact = reference_energy(problem.chain).energy
        steps = list(optimise(problem, loaded.xp, loaded.device, seed))
    energy, error = last_mean(steps)
    return {
        "energy": energy,
        "standard error": error,
        "relative error": abs(energy - exact) / abs(exact),
        "seconds": sum(step.seconds for step in steps),
        "seconds in the solve": sum(step.solve_seconds for step in steps),
    }


def _worst(library: str, system: str) -> float:
    return max(run(library, system, seed)["relative error"] for seed in SEEDS[library])


@tracked(
    "demo, critical Ising chain N = 16, NumPy, worst of three seeds: relative error", at_most=2e-4
)
def track_tfim_numpy() -> float:
    return _worst("numpy", "tfim")


@tracked(
    "demo, Majumdar-Ghosh chain N = 12, NumPy, worst of three seeds: relative error", at_most=1e-3
)
def track_mg_numpy() -> float:
    return _worst("numpy", "mg")


@tracked("demo, both systems on NumPy, median of three seeds", unit="seconds", at_most=120)
def track_seconds_numpy() -> float:
    totals = [
        sum(run("numpy", system, seed)["seconds"] for system in ("tfim", "mg"))
        for seed in SEEDS["numpy"]
    ]
    return sorted(totals)[1]


@tracked("demo on torch, Ising chain: relative error", at_most=2e-4)
def track_tfim_torch() -> float:
    return _worst("torch", "tfim")


@tracked("demo on torch, Majumdar-Ghosh chain: relative error", at_most=1e-3)
def track_mg_torch() -> float:
    return _worst("torch", "mg")


@tracked("demo on JAX (eager), Ising chain: relative error", at_most=2e-4)
def track_tfim_jax() -> float:
    return _worst("jax", "tfim")


@tracked("demo on JAX (eager), Majumdar-Ghosh chain: relative error", at_most=1e-3)
def track_mg_jax() -> float:
    return _worst("jax", "mg")


def details() -> dict[str, Any]:
    """Return every run."""
    found = {}
    for library, seeds in SEEDS.items():
        for system in ("tfim", "mg"):
            for seed in seeds:
                try:
                    found[f"{library}, {system}, seed {seed}"] = run(library, system, seed)
                except NotImplementedError:
                    continue
    return found

"""Variational Monte Carlo: sample, measure, precondition, step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

import ngdla
from ngdla.demo.hamiltonians import local_energies
from ngdla.demo.metropolis import place, random_spins, sweep
from ngdla.demo.problems import Problem
from ngdla.demo.rbm import real_part

LAST = 20


class Step(NamedTuple):
    """What one optimisation step measured, as Python floats.

    energy : mean of the local energies of the n samples (real part)
    error : its standard error, sqrt(sum_i |E_i - mean|^2 / n) / sqrt(n)
    certified : whether the error bound of the step d is at most half its length
    solve_seconds : time in `ngdla.stochastic_reconfiguration`
    seconds : time in the whole step
    """

    energy: float
    error: float
    certified: bool
    solve_seconds: float
    seconds: float


class DivergedError(ArithmeticError):
    """The energy or the parameters are no longer finite."""


def optimise(problem: Problem, xp: Any, on: Any = None, seed: int = 0) -> Iterator[Step]:
    """Yield the measurements of each step of a variational Monte Carlo run.

    A step samples n configurations from |psi|^2, computes their local energies E and the
    derivatives O of log psi, and moves the parameters by

        theta <- theta - learning_rate * d,
        d = argmin_d |S d - f|^2 + damping |d - momentum d_previous|^2,

    with S and f the centred O and E over sqrt(n): `ngdla.stochastic_reconfiguration`.

    Parameters
    ----------
    problem : Problem
    xp : array namespace
        Library that computes, from array-api-compat where it wraps the library.
    on : device or None
        Device of that library; None is its default.
    seed : int
        Seeds the initial parameters, the initial spins and all moves.

    Yields
    ------
    Step
        One a step, after the parameters moved; the energy is that of the parameters before.
    """
    rng = np.random.default_rng(seed)
    chain, model = problem.chain, problem.model
    parameters = xp.asarray(model.initial(rng, problem.scale), device=on)
    spins = xp.asarray(random_spins(chain, problem.walkers, rng), device=on)
    direction = None
    for step in range(problem.steps):
        start = time.perf_counter()
        weights = model.unpack(parameters)
        walkers = place(model, weights, spins)
        for _ in range(problem.sweeps if step else problem.warm_up):
            walkers = sweep(chain, model, weights, walkers, rng)
        spins = walkers.spins
        energies = local_energies(chain, model, weights, walkers)
        derivatives = model.log_derivatives(spins, walkers.angles)
        energy, error = mean_and_error(energies)
        wait_for(derivatives)
        before_solve = time.perf_counter()
        direction, info = ngdla.stochastic_reconfiguration(
            derivatives,
            energies,
            problem.damping,
            mode="holomorphic" if model.holomorphic else "real",
            previous=direction,
            momentum=problem.momentum,
            full_output=True,
        )
        certified = bool(info.converged)
        wait_for(direction)
        after_solve = time.perf_counter()
        parameters = parameters - problem.learning_rate * direction
        solve_seconds = after_solve - before_solve
        yield Step(energy, error, certified, solve_seconds, time.perf_counter() - start)


def mean_and_error(energies: Any) -> tuple[float, float]:
    """Mean (real part) and standard error of n independent local energies, as Python floats."""
    xp = array_namespace(energies)
    mean = xp.mean(energies)
    variance = xp.mean(xp.abs(energies - mean) ** 2)
    energy = float(real_part(mean))
    if not math.isfinite(energy):
        msg = "the energy is no longer finite; try another --seed"
        raise DivergedError(msg)
    return energy, math.sqrt(float(variance) / energies.shape[0])


def wait_for(array: Any) -> None:
    """Read one number of an array, so that a library that computes in the background is done."""
    float(abs(array[(-1,) * array.ndim]))


def last_mean(steps: list[Step]) -> tuple[float, float]:
    """Mean energy of the last 20 steps and its standard error, from the errors of the steps."""
    tail = steps[-LAST:]
    energy = sum(step.energy for step in tail) / len(tail)
    error = math.sqrt(sum(step.error**2 for step in tail)) / len(tail)
    return energy, error

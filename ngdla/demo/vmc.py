"""Variational Monte Carlo: sample, measure, precondition, step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

import ngdla
from ngdla._backend.communicator import Communicator
from ngdla.demo.hamiltonians import local_energies
from ngdla.demo.metropolis import Walkers, place, random_spins, sweep
from ngdla.demo.problems import Problem
from ngdla.demo.rbm import Weights, is_complex
from ngdla.demo.streams import Streams
from ngdla.distributed import SerialCommunicator

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


class State(NamedTuple):
    """What a run goes on with after some steps.

    step : number of steps done
    parameters : array, shape (m,)
    spins : array, shape (walkers of this rank, N)
    direction : array, shape (m,), the last step; None before the first
    rng : random numbers of the walkers of this rank
    """

    step: int
    parameters: Any
    spins: Any
    direction: Any
    rng: Streams


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
    state = started(problem, xp, on, seed, range(problem.walkers))
    for _, step in trajectory(problem, state, SerialCommunicator()):
        yield step


def started(problem: Problem, xp: Any, on: Any, seed: int, walkers: range) -> State:
    """Return the state before the first step, with the walkers of these numbers."""
    parameters = problem.model.initial(np.random.default_rng(seed), problem.scale)
    rng = Streams(seed, walkers)
    spins = random_spins(problem.chain, len(walkers), rng)
    return State(0, xp.asarray(parameters, device=on), xp.asarray(spins, device=on), None, rng)


def trajectory(problem: Problem, state: State, comm: Communicator) -> Iterator[tuple[State, Step]]:
    """Yield the states that follow on a state, and what their steps measured, up to the last step.

    Every rank samples with its walkers, and all move the same parameters.
    """
    model = problem.model
    while state.step < problem.steps:
        start = time.perf_counter()
        weights = model.unpack(state.parameters)
        walkers = moved(problem, weights, state)
        energies = local_energies(problem.chain, model, weights, walkers)
        derivatives = model.log_derivatives(walkers.spins, walkers.angles)
        energy, error = mean_and_error(energies, problem.walkers, comm)
        wait_for(derivatives)
        before_solve = time.perf_counter()
        direction, info = ngdla.stochastic_reconfiguration(
            derivatives if comm.size == 1 else ngdla.RowShards(derivatives, comm),
            energies,
            problem.damping,
            mode="holomorphic" if model.holomorphic else "real",
            previous=state.direction,
            momentum=problem.momentum,
            full_output=True,
        )
        certified = bool(info.converged)
        wait_for(direction)
        after_solve = time.perf_counter()
        parameters = state.parameters - problem.learning_rate * direction
        state = State(state.step + 1, parameters, walkers.spins, direction, state.rng)
        solve_seconds = after_solve - before_solve
        yield state, Step(energy, error, certified, solve_seconds, time.perf_counter() - start)


def moved(problem: Problem, weights: Weights, state: State) -> Walkers:
    """Return the walkers after the sweeps before a step."""
    walkers = place(problem.model, weights, state.spins)
    for _ in range(problem.sweeps if state.step else problem.warm_up):
        walkers = sweep(problem.chain, problem.model, weights, walkers, state.rng)
    return walkers


def mean_and_error(energies: Any, n: int, comm: Communicator) -> tuple[float, float]:
    """Mean (real part) and standard error of n independent local energies, as Python floats.

    Both are sums over ranks of sums over the energies of each.
    """
    xp = array_namespace(energies)
    mean = summed(xp.sum(energies), comm) / n
    if not math.isfinite(mean.real):
        msg = "the energy is no longer finite; try another --seed"
        raise DivergedError(msg)
    centred = energies - (mean if is_complex(energies) else mean.real)
    variance = summed(xp.sum(xp.abs(centred) ** 2), comm).real / n
    return mean.real, math.sqrt(variance / n)


def summed(x: Any, comm: Communicator) -> complex:
    """Return the sum of a number over ranks, on the host."""
    return complex(comm.all_reduce_sum(np.array([complex(x)]))[0])


def wait_for(array: Any) -> None:
    """Read one number of an array, so that a library that computes in the background is done."""
    float(abs(array[(-1,) * array.ndim]))


def last_mean(steps: list[Step]) -> tuple[float, float]:
    """Mean energy of the last 20 steps and its standard error, from the errors of the steps."""
    tail = steps[-LAST:]
    energy = sum(step.energy for step in tail) / len(tail)
    error = math.sqrt(sum(step.error**2 for step in tail)) / len(tail)
    return energy, error

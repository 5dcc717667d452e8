"""The two problems of the demo and the settings that solve them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ngdla.demo.hamiltonians import Chain, HeisenbergChain, IsingChain
from ngdla.demo.rbm import RBM

SYSTEMS = ("tfim", "mg")
FEWEST_SITES = 4
MOST_SITES = 64
QUICK_STEPS = {"tfim": 100, "mg": 200}


@dataclass(frozen=True)
class Problem:
    """A chain, its ansatz and the settings of the optimisation.

    Parameters
    ----------
    name, title : str
        Short name for the command line, name of the chain for table and picture.
    chain : IsingChain or HeisenbergChain
    model : RBM
    walkers : int
        Samples per step n.
    steps : int
        Optimisation steps.
    learning_rate, damping, momentum : float
        theta <- theta - learning_rate * d; damping in units of squared singular values of the
        centred scores; momentum of SPRING (0: minSR).
    sweeps : int
        Metropolis sweeps between two steps.
    warm_up : int
        Metropolis sweeps before the first step.
    scale : float
        Width of the initial parameters.
    """

    name: str
    title: str
    chain: Chain
    model: RBM
    walkers: int
    steps: int
    learning_rate: float
    damping: float = 1e-3
    momentum: float = 0.0
    sweeps: int = 2
    warm_up: int = 20
    scale: float = 0.01

    def with_steps(self, steps: int) -> Problem:
        """Return the same problem with another number of steps."""
        return replace(self, steps=steps)


def ising(sites: int = 16) -> Problem:
    """Critical transverse-field Ising chain with a real, positive RBM and minSR steps."""
    return Problem(
        name="tfim",
        title="critical Ising chain",
        chain=IsingChain(sites),
        model=RBM(sites, 8 * sites),
        walkers=512,
        steps=300,
        learning_rate=0.05,
    )


def majumdar_ghosh(sites: int = 12) -> Problem:
    """Heisenberg chain at the Majumdar-Ghosh point with a complex RBM and SPRING steps."""
    return Problem(
        name="mg",
        title="Majumdar-Ghosh chain",
        chain=HeisenbergChain(sites),
        model=RBM(sites, 6 * sites, holomorphic=True),
        walkers=256,
        steps=500,
        learning_rate=0.1,
        momentum=0.8,
    )


def make_problem(name: str, sites: int | None = None) -> Problem:
    """Return the problem called `name`, of 16 (tfim) or 12 (mg) sites where `sites` is None."""
    make = {"tfim": ising, "mg": majumdar_ghosh}[name]
    return make() if sites is None else make(sites)


def quick(problem: Problem) -> Problem:
    """Return a smaller version for a first look: a narrower ansatz, fewer samples and steps."""
    narrow = replace(problem.model, hidden=problem.model.hidden // 2)
    return replace(
        problem,
        model=narrow,
        walkers=problem.walkers // 2,
        steps=QUICK_STEPS[problem.name],
        sweeps=1,
    )

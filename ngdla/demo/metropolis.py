"""Metropolis sampling of |psi(s)|^2 by many independent chains."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from array_api_compat import array_namespace

from ngdla.demo.hamiltonians import Chain, like
from ngdla.demo.rbm import RBM, Weights


class Random(Protocol):
    """What moves are drawn with: `Streams`, or one `numpy.random.Generator` for all walkers."""

    def random(self, shape: tuple[int, ...], /) -> np.ndarray:
        """Draw uniform numbers in [0, 1) of a shape whose last axis is that of the walkers."""


class Walkers(NamedTuple):
    """Where the n chains of the sampler stand.

    spins : array, shape (n, N), entries +1 and -1
    angles : array, shape (n, h), theta = b + s W, kept up to date move by move
    log_modulus : array, shape (n,), log |psi(s)|
    """

    spins: Any
    angles: Any
    log_modulus: Any


def random_spins(chain: Chain, n: int, rng: Random) -> np.ndarray:
    """Draw n configurations uniformly, shape (n, N), at zero magnetisation if it is conserved."""
    uniforms = np.ascontiguousarray(rng.random((chain.sites, n)).T)
    if not chain.conserves_magnetisation:
        return np.where(uniforms < 0.5, 1.0, -1.0)
    ranks = np.argsort(np.argsort(uniforms, axis=1), axis=1)
    return np.where(2 * ranks < chain.sites, 1.0, -1.0)


def place(model: RBM, weights: Weights, spins: Any) -> Walkers:
    """Return walkers at `spins`, shape (n, N), with angles and log |psi| computed afresh."""
    angles = model.angles(weights, spins)
    return Walkers(spins, angles, model.log_modulus(weights, spins, angles))


def sweep(chain: Chain, model: RBM, weights: Weights, walkers: Walkers, rng: Random) -> Walkers:
    """Return the walkers after one sweep: N proposals for each of them.

    Parameters
    ----------
    chain : IsingChain or HeisenbergChain
        Gives the table of proposals.
    model : RBM
    weights : Weights
    walkers : Walkers
    rng : Streams or numpy.random.Generator
        Draws 2 N n numbers on the host; they move to the device in one piece, so that every array
        library walks the same way.

    Notes
    -----
    A proposal is a row of `chain.proposals`, drawn uniformly, hence symmetric, and is accepted with
    probability min(1, |psi(s') / psi(s)|^2).  Cost: N n h (N + 1) multiplications and N n h
    evaluations of log cosh.
    """
    proposals = like(chain.proposals, walkers.spins)
    drawn = like(rng.random((2, chain.sites, walkers.spins.shape[0])), walkers.spins)
    xp = array_namespace(drawn)
    choices, uniforms = xp.unstack(drawn)
    rows = xp.astype(xp.floor(choices * proposals.shape[0]), xp.int64)
    for row, uniform in zip(xp.unstack(rows), xp.unstack(uniforms), strict=True):
        directions = xp.take(proposals, row, axis=0)
        walkers = propose(model, weights, walkers, directions, uniform)
    return walkers


def propose(
    model: RBM, weights: Weights, walkers: Walkers, directions: Any, uniform: Any
) -> Walkers:
    """Return the walkers after one proposal each.

    Parameters
    ----------
    directions : array, shape (n, N)
        The move of each walker.
    uniform : array, shape (n,)
        Random numbers in [0, 1).
    """
    spins, angles, log_modulus = walkers
    xp = array_namespace(spins)
    signs = xp.vecdot(spins, directions) / xp.vecdot(directions, directions)
    steps = -2 * xp.expand_dims(signs, axis=-1) * directions
    new_spins = spins + steps
    new_angles = angles + xp.astype(steps, weights.W.dtype) @ weights.W
    new_log_modulus = model.log_modulus(weights, new_spins, new_angles)
    gain = 2 * (new_log_modulus - log_modulus)
    accept = uniform < xp.exp(xp.where(gain < 0, gain, xp.zeros_like(gain)))
    column = xp.expand_dims(accept, axis=-1)
    return Walkers(
        xp.where(column, new_spins, spins),
        xp.where(column, new_angles, angles),
        xp.where(accept, new_log_modulus, log_modulus),
    )

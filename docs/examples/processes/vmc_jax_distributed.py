"""Variational Monte Carlo with JAX on several processes, each with some of the walkers.

Two processes of one machine, of which the first is the one that others report to:

    python vmc_jax_distributed.py localhost:12321 2 0 &
    python vmc_jax_distributed.py localhost:12321 2 1

On Slurm, and wherever else JAX finds out by itself, nothing is to be given. The ground state of a
critical Ising chain, short enough to draw walkers from all 2^N states. The energies do not depend
on the number of processes, of which each may have several devices.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import ngdla
from ngdla.distributed import JaxAxis

SITES, HIDDEN, WALKERS, STEPS = 8, 16, 128, 30
DAMPING, LEARNING_RATE = 1e-3, 0.05


def log_psi(theta, spins):
    """Return log psi of a restricted Boltzmann machine, for spins of shape (..., sites)."""
    weights, bias = theta[:-HIDDEN].reshape(SITES, HIDDEN), theta[-HIDDEN:]
    return jnp.log(jnp.cosh(spins @ weights + bias)).sum(-1)


def local_energies(log_amplitudes, spins, states):
    """Return those of H = - sum_i Z_i Z_(i+1) - sum_i X_i on a ring."""
    flipped = states[:, None] ^ (1 << jnp.arange(SITES))
    ratios = jnp.exp(log_amplitudes[flipped] - log_amplitudes[states][:, None])
    return -(spins * jnp.roll(spins, 1, -1)).sum(-1) - ratios.sum(-1)


def step(theta, number):
    """Return the parameters after a step, and the mean energy before, from walkers of all ranks."""
    comm = JaxAxis("walkers")
    share = WALKERS // comm.size
    # Random numbers belong to walkers, so that they are the same wherever a walker is.
    walkers = comm.rank * share + jnp.arange(share)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(number)))(walkers)
    basis = 1.0 - 2.0 * ((jnp.arange(2**SITES)[:, None] >> jnp.arange(SITES)) & 1)
    log_amplitudes = log_psi(theta, basis)
    states = jax.vmap(lambda key: jax.random.categorical(key, 2 * log_amplitudes))(keys)
    local = local_energies(log_amplitudes, basis[states], states)
    derivatives = jax.vmap(jax.grad(log_psi), (None, 0))(theta, basis[states])
    shards = ngdla.RowShards(derivatives, comm)
    direction = ngdla.stochastic_reconfiguration(shards, local, DAMPING)
    return theta - LEARNING_RATE * direction, comm.all_reduce_sum(local.sum()) / WALKERS


def energies():
    """Yield the energy before each step, on all devices of all processes."""
    mesh = jax.make_mesh((jax.device_count(),), ("walkers",))
    # What comes in and goes out is the same everywhere; the walkers are inside.
    on_all = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))
    theta = 0.1 * jax.random.normal(jax.random.key(STEPS), (SITES * HIDDEN + HIDDEN,))
    for number in range(STEPS):
        theta, mean = on_all(theta, number)
        yield float(mean)


def main(address=None, processes=None, rank=None):
    """Meet the other processes, and print the energies on the first."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for processes without GPUs
    jax.distributed.initialize(address, processes and int(processes), rank and int(rank))
    for number, energy in enumerate(energies()):
        if jax.process_index() == 0:
            print(number, energy)


if __name__ == "__main__":
    main(*sys.argv[1:])

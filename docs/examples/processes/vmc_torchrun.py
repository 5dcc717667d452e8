"""Variational Monte Carlo with PyTorch on several processes, each with some of the walkers.

Two processes of one machine:

    torchrun --standalone --nproc-per-node 2 vmc_torchrun.py

The ground state of a critical Ising chain, short enough to draw walkers from all 2^N states. The
energies do not depend on the number of processes. On GPUs the group is of "nccl", and each process
puts `basis` and `theta` on its own device.
"""

import torch
import torch.distributed as dist

import ngdla
from ngdla.distributed import TorchCommunicator

SITES, HIDDEN, WALKERS, STEPS = 8, 16, 128, 30
DAMPING, LEARNING_RATE = 1e-3, 0.05


def log_psi(theta, spins):
    """Return log psi of a restricted Boltzmann machine, for spins of shape (..., sites)."""
    weights, bias = theta[:-HIDDEN].reshape(SITES, HIDDEN), theta[-HIDDEN:]
    return torch.log(torch.cosh(spins @ weights + bias)).sum(-1)


def drawn(log_amplitudes, generators):
    """Return the numbers of basis states, one for each walker, drawn from |psi|^2."""
    probabilities = torch.softmax(2 * log_amplitudes, 0)
    uniform = torch.stack([torch.rand((), generator=own) for own in generators])
    states = torch.searchsorted(torch.cumsum(probabilities, 0), uniform)
    return torch.clamp(states, max=len(probabilities) - 1)


def local_energies(log_amplitudes, spins, states):
    """Return those of H = - sum_i Z_i Z_(i+1) - sum_i X_i on a ring."""
    flipped = states[:, None] ^ (1 << torch.arange(SITES))
    ratios = torch.exp(log_amplitudes[flipped] - log_amplitudes[states][:, None])
    return -(spins * torch.roll(spins, 1, -1)).sum(-1) - ratios.sum(-1)


def energies(comm):
    """Yield the energy before each step, on every rank of a communicator."""
    # Random numbers belong to walkers, so that they are the same wherever a walker is.
    walkers = range(comm.rank * WALKERS // comm.size, (comm.rank + 1) * WALKERS // comm.size)
    generators = [torch.Generator().manual_seed(1000 + walker) for walker in walkers]
    basis = 1.0 - 2.0 * ((torch.arange(2**SITES)[:, None] >> torch.arange(SITES)) & 1)
    seeded = torch.Generator().manual_seed(0)
    theta = 0.1 * torch.randn(SITES * HIDDEN + HIDDEN, generator=seeded)
    derivatives = torch.func.vmap(torch.func.grad(log_psi), in_dims=(None, 0))
    for _ in range(STEPS):
        log_amplitudes = log_psi(theta, basis)
        states = drawn(log_amplitudes, generators)
        local = local_energies(log_amplitudes, basis[states], states)
        yield float(comm.all_reduce_sum(local.sum())) / WALKERS
        shards = ngdla.RowShards(derivatives(theta, basis[states]), comm)
        theta = theta - LEARNING_RATE * ngdla.stochastic_reconfiguration(shards, local, DAMPING)


def main():
    """Meet the other processes, and print the energies on the first."""
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    comm = TorchCommunicator(timeout=60)
    for step, energy in enumerate(energies(comm)):
        if comm.rank == 0:
            print(step, energy)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

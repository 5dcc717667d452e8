r"""
A spin chain by variational Monte Carlo
=======================================

The ground state of the critical Ising chain in a transverse field,

.. math:: H = -\sum_i Z_i Z_{i+1} - \sum_i X_i,

with periodic ends. The amplitudes are those of a restricted Boltzmann machine, samples come from a
Metropolis walk, and the steps are natural gradients: stochastic reconfiguration in the sample space
(minSR), then the same with momentum (SPRING).
"""

# %%
# Chain, amplitudes, walkers
# --------------------------
# The pieces of ``python -m ngdla demo`` can be used on their own. With four hidden units a site
# there are more parameters than samples, so that the smaller system is that of the samples.

import matplotlib.pyplot as plt
import numpy as np

import ngdla
from ngdla.demo.exact import reference_energy
from ngdla.demo.hamiltonians import IsingChain, local_energies
from ngdla.demo.metropolis import place, random_spins, sweep
from ngdla.demo.rbm import RBM

chain = IsingChain(sites=10)
model = RBM(visible=10, hidden=40)
samples, steps = 256, 120
exact = reference_energy(chain).energy
print(f"{model.size} parameters, {samples} samples, exact energy {exact:.6f}")

# %%
# Optimisation
# ------------
# A step samples spins, measures local energies :math:`E_i` and log-derivatives :math:`O_{ij}`, and
# asks for the direction :math:`d`. Centring, scaling by :math:`1/\sqrt n` and the null vector of
# the centred scores are the library's business.


def optimise(momentum, learning_rate, damping=1e-3, seed=0):
    """Return the energy and its standard error at each step."""
    rng = np.random.default_rng(seed)
    parameters = model.initial(rng, 0.01)
    spins = random_spins(chain, samples, rng)
    direction, energies = None, []
    for step in range(steps):
        weights = model.unpack(parameters)
        walkers = place(model, weights, spins)
        for _ in range(2 if step else 20):
            walkers = sweep(chain, model, weights, walkers, rng)
        spins = walkers.spins
        E = local_energies(chain, model, weights, walkers)
        O = model.log_derivatives(spins, walkers.angles)
        direction = ngdla.stochastic_reconfiguration(
            O, E, damping, previous=direction, momentum=momentum
        )
        parameters = parameters - learning_rate * direction
        energies.append((E.mean(), E.std() / np.sqrt(samples)))
    return np.array(energies).T


runs = {
    "minSR": optimise(momentum=0.0, learning_rate=0.05),
    "SPRING": optimise(momentum=0.8, learning_rate=0.05),
}

# %%
# Energy against step
# -------------------
# Above, the energy with a band of one standard error and the exact energy. Below, the relative
# error of each step. What keeps it from falling further is the noise of the samples, and that falls
# as well: the closer to the ground state, the less the local energies vary.

colours = {"minSR": "#0072B2", "SPRING": "#D55E00"}
markers = {"minSR": "o", "SPRING": "^"}
step = np.arange(1, steps + 1)

figure, (above, below) = plt.subplots(2, 1, figsize=(5, 6), sharex=True, layout="constrained")
for name, (energy, error) in runs.items():
    colour = colours[name]
    above.fill_between(step, energy - error, energy + error, color=colour, alpha=0.3, lw=0)
    above.plot(step, energy, color=colour, label=name)
    below.semilogy(step, abs(energy / exact - 1), markers[name], ms=3, color=colour, label=name)
above.axhline(exact, color="black", ls="--", lw=1, label="exact")
above.set_ylabel("energy")
above.legend()
below.set_ylabel("relative error of the energy")
below.set_xlabel("step")
for axis in (above, below):
    axis.grid(True, color="0.9")
plt.show()

# %%
# The mean of the last steps, beside the exact energy:

for name, (energy, error) in runs.items():
    mean, spread = energy[-20:].mean(), np.sqrt((error[-20:] ** 2).sum()) / 20
    print(f"{name:7s} {mean:.5f} +- {spread:.5f}, relative error {abs(mean / exact - 1):.1e}")

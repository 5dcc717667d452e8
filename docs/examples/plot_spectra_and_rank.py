r"""
Spectra, rank and damping
=========================

A Kronecker factor is an average of covariances of what goes into a layer, or comes back out of it.
How fast do its eigenvalues fall, how many of them does a damping leave, and what is lost by keeping
a few and one number for all others?
"""

# %%
# Factors of three widths
# -----------------------
# Inputs of a layer of ``width`` neurons: ReLU of Gaussian variables whose covariance falls as
# :math:`1 / j`. Each step brings a batch of 128 samples, and ``ema`` averages, over about 20 of
# them. ReLU is never negative, so the mean is the largest mode.

import warnings

import matplotlib.pyplot as plt
import numpy as np

import ngdla

decay, steps, batch = 0.95, 100, 128


def kronecker_factor(width):
    """Return the average of the covariances of all batches, and the last batch."""
    rng = np.random.default_rng(width)
    modes = np.linalg.qr(rng.standard_normal((width, width)))[0]
    modes *= np.arange(1, width + 1) ** -0.5
    A = np.zeros((width, width))
    for _ in range(steps):
        X = np.maximum(rng.standard_normal((batch, width)) @ modes.T, 0) / np.sqrt(batch)
        A = ngdla.ema(A, X, decay=decay)
    return A / (1 - decay**steps), X


factors = {width: kronecker_factor(width) for width in (256, 512, 1024)}
spectra = {width: np.linalg.eigvalsh(A)[::-1] for width, (A, _) in factors.items()}
for width, values in spectra.items():
    above = np.count_nonzero(values > 0.01 * values[0])
    print(f"width {width}: trace / largest = {values.sum() / values[0]:.2f}, ", end="")
    print(f"{above} eigenvalues above 1 % of the largest")

# %%
# What a damping leaves
# ---------------------
# A damped inverse does nothing to modes far below the damping. What counts is the effective
# dimension :math:`\operatorname{tr} A (A + \lambda)^{-1}`. With ``rank="auto"`` the rank follows
# it: 1.5 times as many modes, rounded up to a multiple of 32. It stops at a quarter of the width,
# with a ``RankWarning``: beyond that a dense decomposition is as fast.

relative = np.logspace(-4, 0, 25)
dimensions = {
    width: [np.sum(values / (values + x * values[0])) for x in relative]
    for width, values in spectra.items()
}
A, X = factors[1024]
largest = spectra[1024][0]
asked = relative[relative > 1.5e-3]
warnings.simplefilter("ignore", ngdla.RankWarning)
chosen = [
    ngdla.randomized_eigh(A, "auto", damping=float(x * largest)).eigenvalues.shape[-1]
    for x in asked
]

# %%
# The falling lines hardly depend on the width: a wider layer has more small eigenvalues, not more
# large ones.

colours = {256: "#56B4E9", 512: "#009E73", 1024: "#0072B2"}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for width, values in spectra.items():
    label = f"width {width}"
    left.loglog(np.arange(1, width + 1), values / values[0], color=colours[width], label=label)
    right.loglog(relative, dimensions[width], color=colours[width], label=label)
label = 'rank="auto",\nwidth 1024'
right.step(asked, chosen, where="mid", color="black", lw=1, label=label)
left.set(xlabel="number of the eigenvalue", ylabel="eigenvalue / largest", ylim=(1e-4, 2))
right.set(xlabel="damping / largest eigenvalue", ylabel="effective dimension, rank [modes]")
right.set(ylim=(1, 1500))
for axis in (left, right):
    axis.legend(fontsize=8)
    axis.grid(True, color="0.9")
plt.show()

# %%
# What rank buys
# --------------
# The error of the damped inverse, on right-hand sides as gradients are: combinations of the samples
# of the last batch. The three tails are what may stand for each eigenvalue that is not kept: their
# mean by the trace, the smallest kept one, or zero.

values, vectors = np.linalg.eigh(A)
V = X.T @ np.random.default_rng(1).standard_normal((batch, 16))


def error(eigh, damping):
    """Return the error of a damped solve, relative to the exact solution."""
    exact = vectors @ ((vectors.T @ V) / (np.maximum(values, 0) + damping)[:, None])
    return np.linalg.norm(eigh.solve(V, damping) - exact) / np.linalg.norm(exact)


tails = {"trace": "#0072B2", "min": "#009E73", "zero": "#D55E00"}
ranks = np.array([8, 16, 32, 64, 128, 256])
dampings = np.logspace(-4, 0, 17)
by_rank = ngdla.randomized_eigh(A, int(ranks[-1]))
at_rank = ngdla.randomized_eigh(A, 64)

# %%
# Left: at one damping, against the rank. Right: at one rank, against the damping. A mode of
# eigenvalue :math:`e` that is not kept has the relative error
# :math:`(e - \text{tail}) / (\text{tail} + \lambda)`. With tail zero that is :math:`e / \lambda`,
# which grows without bound as the damping falls. With the smallest kept eigenvalue no mode is
# stepped too far, but all too short; with the mean, some are too long and some too short. A dotted
# line is where the rank is 1.5 times the effective dimension.

figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.8), sharey=True, layout="constrained")
for tail, colour in tails.items():
    errors = [error(by_rank.truncate(int(r), tail=tail), 1e-2 * largest) for r in ranks]
    left.loglog(ranks, errors, color=colour, marker="o", ms=4, label=f'tail="{tail}"')
    kept = at_rank.truncate(64, tail=tail)
    errors = [error(kept, x * largest) for x in dampings]
    right.loglog(dampings, errors, color=colour, marker="o", ms=4, label=f'tail="{tail}"')
dimension = np.interp(1e-2, relative, dimensions[1024])
enough = np.interp(-64 / 1.5, -np.array(dimensions[1024]), relative)
left.axvline(1.5 * dimension, color="0.5", ls=":", lw=1)
right.axvline(enough, color="0.5", ls=":", lw=1)
left.set(xlabel="rank [modes]", ylabel="relative error of the damped inverse")
left.set_title("damping = 0.01 of the largest", fontsize=10)
right.set(xlabel="damping / largest eigenvalue")
right.set_title("rank 64 of 1024", fontsize=10)
left.set_xticks(ranks, [str(r) for r in ranks])
left.minorticks_off()
for axis in (left, right):
    axis.grid(True, color="0.9")
right.legend(fontsize=9)
plt.show()

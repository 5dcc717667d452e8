r"""
Following a factor that moves
=============================

In training, a Kronecker factor is never the same twice. Its eigenpairs can be computed anew each
time, from those of last time, or on-line from the samples, without the factor itself. How far are
they from the best possible ones, and do the error estimates say so?
"""

# %%
# A stream that drifts, and then jumps
# ------------------------------------
# Batches of 64 samples of dimension 300. Their covariance falls as :math:`1 / j^{1.5}`; its
# eigenvectors turn a little with each batch, and after batch 120 they are other ones altogether.

import matplotlib.pyplot as plt
import numpy as np

import ngdla

d, batch, rank, decay = 300, 64, 24, 0.95
steps, jump, every = 240, 120, 5
rng = np.random.default_rng(0)
scale = np.arange(1, d + 1) ** -0.75


def batches():
    """Yield the batches."""
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    for t in range(steps):
        if t == jump:
            basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
        basis = np.linalg.qr(basis + 0.02 / np.sqrt(d) * rng.standard_normal((d, d)))[0]
        yield (rng.standard_normal((batch, d)) * scale) @ basis.T / np.sqrt(batch)


# %%
# Three ways
# ----------
# All work on the same average. **Cold**: two products with the factor, started from Gaussian
# columns. **Warm**: one product, started from the eigenvectors of five batches before. Both take a
# ``Generator``, so that each call draws its own fresh columns. **On-line**: one product with each
# batch, and no factor at all.

seeds = np.random.default_rng(1)
errors = {name: [] for name in ("best", "cold", "warm", "on-line")}
estimates = {name: [] for name in ("cold", "warm", "on-line")}
times = []
A, basis, state = np.zeros((d, d)), None, None
for t, X in enumerate(batches(), start=1):
    A = ngdla.ema(A, X, decay=decay)
    if state is None:
        state = ngdla.online_eigh_init(X, rank)
    else:
        state = ngdla.online_eigh_update(state, X, decay=decay)
    if t % every:
        continue
    average = A / (1 - decay**t)
    found = {
        "cold": ngdla.randomized_eigh(average, rank, rng=seeds),
        "warm": ngdla.randomized_eigh(
            average, rank, passes=2 if basis is None else 1, basis=basis, rng=seeds
        ),
        "on-line": ngdla.online_eigh_result(state),
    }
    basis = found["warm"].eigenvectors
    norm = np.linalg.norm(average)
    times.append(t)
    errors["best"].append(np.linalg.norm(np.linalg.eigvalsh(average)[:-rank]) / norm)
    for name, eigh in found.items():
        low_rank = (eigh.eigenvectors * eigh.eigenvalues) @ eigh.eigenvectors.T
        errors[name].append(np.linalg.norm(average - low_rank) / norm)
        estimates[name].append(float(eigh.error) / norm)

# %%
# The picture
# -----------
# Lines are true errors, in the Frobenius norm; the dashed one is that of exact truncation, which
# nothing can be below. Dots are what ``error`` says, without knowing the truth. A cold start takes
# two products with the factor. A warm one takes one, with fewer columns, and is as good or better
# while the factor drifts, since each refresh is one more power iteration; the jump throws it back
# for a few refreshes. The on-line state has to find the new eigenvectors in single batches, and
# what it did not keep of them is gone: it is back when the average has forgotten the jump. Its
# probes show all of that at once.

colours = {"cold": "#E69F00", "warm": "#009E73", "on-line": "#0072B2"}
figure, axes = plt.subplots(3, 1, figsize=(6, 6.6), sharex=True, sharey=True, layout="constrained")
for axis, (name, colour) in zip(axes, colours.items(), strict=True):
    axis.plot(times, 100 * np.array(errors["best"]), color="0.4", ls="--", lw=1, label="best")
    axis.plot(times, 100 * np.array(errors[name]), color=colour, lw=1.5, label=name)
    axis.plot(times, 100 * np.array(estimates[name]), "k.", ms=4, label="its estimate")
    axis.axvline(jump + 0.5, color="0.8", lw=1, zorder=0)
    axis.grid(True, color="0.9")
    axis.legend(fontsize=8, loc="upper right")
    axis.set(ylim=(0, 10))
axes[-1].set(xlabel="batches seen")
axes[1].set(ylabel="error [% of the Frobenius norm of the factor]")
plt.show()

# %%
# What an estimate is worth
# -------------------------
# Estimate over truth, of all refreshes. Ten fresh columns, and eight probes, scatter by some
# per cent; and what truncation drops is added as if it were orthogonal to the rest, so that the
# first two are a little low.

for name in estimates:
    ratios = np.array(estimates[name]) / errors[name]
    low, high = ratios.min(), ratios.max()
    print(f"{name:8s} median {np.median(ratios):.2f}, from {low:.2f} to {high:.2f}")

r"""
Choosing the damping
====================

A small damping fits the noise of the samples, a large one nothing at all. ``damping_path`` compares
fits with many dampings for the price of one, and estimates from the samples alone how each would
do on others: by leaving every sample out once.
"""

# %%
# A regression with a mean
# ------------------------
# Samples of a linear function of 150 inputs, of which the first matter most, plus a constant and
# noise. The inputs and the constant play the parts of log-derivatives and energies: ``scores`` and
# ``residuals`` take off their means and divide by :math:`\sqrt n`.

import matplotlib.pyplot as plt
import numpy as np

import ngdla

n, m, noise = 100, 150, 1.0
rng = np.random.default_rng(3)
scale = 1 / np.arange(1, m + 1)
x_true = rng.standard_normal(m)


def samples(count):
    """Return inputs and values of new samples."""
    inputs = rng.standard_normal((count, m)) * scale
    return inputs, 3 + inputs @ x_true + noise * rng.standard_normal(count)


inputs, values = samples(n)
S, f = ngdla.scores(inputs), ngdla.residuals(values)

# %%
# Two paths
# ---------
# Centring makes :math:`1 / \sqrt n` a null vector: :math:`S^T q = 0`. With it, leaving a sample out
# means that the mean, too, is fitted without it. Without it, the mean still knows the sample, and
# with small dampings gives it away.

dampings = np.logspace(-8, 2, 41)
q = np.full(n, n**-0.5)
path = ngdla.damping_path(S, f, dampings, null=q)
naive = ngdla.damping_path(S, f, dampings)
best = int(np.argmin(path.leave_one_out))
print(f"the smallest leave-one-out residual is at a damping of {dampings[best]:.2g},")
print(f"where {path.effective_dimension[best]:.0f} of {n - 1} directions are fitted")

# %%
# The truth
# ---------
# Here we can draw as many new samples as we like, and solve for every damping. Nobody has to:
# ``damping_path`` does not form the solutions.

new_inputs, new_values = samples(20_000)
factor = ngdla.damped_factor(S, dampings[0], null=q, method="eigh")


def error_on_new_samples(damping):
    """Return the root mean square of the residuals of samples that the fit has not seen."""
    x = factor.with_damping(damping).lstsq(f)
    predicted = values.mean() + (new_inputs - inputs.mean(axis=0)) @ x
    return np.sqrt(np.mean((new_values - predicted) ** 2))


truth = np.array([error_on_new_samples(float(damping)) for damping in dampings])

# %%
# The picture
# -----------
# Left: the residual of the samples themselves always says that less damping is better. The
# leave-one-out residual follows the truth, and has its minimum where that has; without the null
# vector it falls to zero, and would choose the smallest damping. Right: the L-curve, whose corner
# is another, rougher way to choose.

figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.8), layout="constrained")
curves = {
    "new samples": (truth, {"color": "black", "lw": 2.5}),
    "leave one out, null=q": (path.leave_one_out, {"color": "#0072B2", "marker": "o", "ms": 3}),
    "leave one out, no null": (naive.leave_one_out, {"color": "#D55E00", "ls": "--"}),
    "the samples themselves": (path.residual_norm, {"color": "#009E73", "ls": ":"}),
}
for label, (curve, style) in curves.items():
    left.loglog(dampings, curve, label=label, **style)
left.axvline(dampings[best], color="0.7", lw=1, zorder=0)
left.set(xlabel="damping", ylabel="residual norm", ylim=(1e-3, 8))
left.legend(fontsize=8, loc="lower right")
right.loglog(path.residual_norm, path.solution_norm, color="#009E73")
right.loglog(path.residual_norm[best], path.solution_norm[best], "o", color="#0072B2")
right.annotate(
    "smallest leave-one-out\nresidual",
    (path.residual_norm[best], path.solution_norm[best]),
    xytext=(-10, -30),
    textcoords="offset points",
    ha="right",
    fontsize=9,
)
right.set(xlabel=r"residual norm $|f - S x|$", ylabel=r"solution norm $|x|$")
for axis in (left, right):
    axis.grid(True, color="0.9")
plt.show()

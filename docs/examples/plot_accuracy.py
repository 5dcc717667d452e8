r"""
Accuracy and its certificate
============================

How far is the computed solution of a damped least-squares problem from the exact one, and what does
the certificate say about it? Both are drawn over ten decades of damping, for each factorisation and
for zero, one and two sweeps of refinement.
"""

# %%
# A matrix with a known spectrum
# ------------------------------
# The singular values fall from 1 to :math:`10^{-6}`, evenly in the logarithm, as those of score
# matrices tend to do. The Gram matrix squares them: its condition number is :math:`10^{12}`.

import matplotlib.pyplot as plt
import numpy as np

import ngdla

n, m = 100, 1000
rng = np.random.default_rng(0)
U = np.linalg.qr(rng.standard_normal((n, n)))[0]
V = np.linalg.qr(rng.standard_normal((m, n)))[0]
S = U * np.logspace(0, -6, n) @ V.T
f = rng.standard_normal(n)

# %%
# A reference in extended precision
# ---------------------------------
# The refinement that the library does in float64, here with products in ``numpy.longdouble`` and
# until it stands still: eigenvectors of the float64 Gram matrix are a good enough inverse to
# converge. (On platforms where ``longdouble`` is no longer than float64 the curves end at its
# errors.)

values, vectors = np.linalg.eigh(S @ S.T)
S_long = S.astype(np.longdouble)


def reference(damping):
    """Return argmin |S x - f|^2 + damping |x|^2 to about the roundoff of longdouble."""
    shifted = np.maximum(values, 0) + damping
    x, y = np.zeros(m, dtype=np.longdouble), np.zeros(n, dtype=np.longdouble)
    for _ in range(15):
        r = (f - S_long @ x - damping * y).astype(float)
        w = vectors @ ((vectors.T @ r) / shifted)
        x, y = x + w @ S_long, y + w
    return x


# %%
# Errors and bounds
# -----------------
# One line of code for each solve. ``full_output=True`` returns the bound of the error with the
# solution.

dampings = np.logspace(-2, -12, 11)
exact = [reference(damping) for damping in dampings]
lengths = np.array([float(np.linalg.norm(x)) for x in exact])


def errors_and_bounds(method, refine):
    """Return the forward errors and their bounds, both over the length of the solution."""
    errors, bounds = [], []
    for damping, x_exact in zip(dampings, exact, strict=True):
        x, info = ngdla.damped_lstsq(S, f, damping, method=method, refine=refine, full_output=True)
        errors.append(float(np.linalg.norm(x - x_exact)))
        bounds.append(float(info.error_bound))
    return np.array(errors) / lengths, np.array(bounds) / lengths


# %%
# The picture
# -----------
# Solid lines are errors, dashed lines are what the certificate promises. Without refinement the two
# methods that form the Gram matrix lose twice as many digits as those that do not. One sweep
# brings all of them to the same line, and a second is of use only at the smallest dampings. No
# dashed line is ever below the solid line of its colour.

colours = {0: "#D55E00", 1: "#0072B2", 2: "#009E73"}
markers = {0: "o", 1: "s", 2: "^"}

figure, axes = plt.subplots(2, 2, figsize=(5, 5.4), sharex=True, sharey=True, layout="constrained")
for axis, method in zip(axes.flat, ["cholesky", "eigh", "qr", "svd"], strict=True):
    for refine, colour in colours.items():
        errors, bounds = errors_and_bounds(method, refine)
        label = f"refine={refine}"
        axis.loglog(dampings, errors, color=colour, marker=markers[refine], ms=4, label=label)
        axis.loglog(dampings, bounds, color=colour, ls="--", lw=1)
    axis.set_title(method, fontsize=11)
    axis.grid(True, color="0.9")
    axis.set_xticks([1e-12, 1e-7, 1e-2])
axes[0, 0].plot([], [], color="0.3", ls="--", lw=1, label="error bound")
figure.supxlabel(r"damping / $\sigma_1^2$")
figure.supylabel("relative error")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
plt.show()

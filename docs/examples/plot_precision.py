r"""
Precision and damping
=====================

The smaller the damping, the more digits of the Gram matrix a solve needs. Which method and which
``precision`` is good down to where? The errors of all of them are drawn over ten decades of
damping, for the same matrix in float64 and in float32.
"""

# %%
# One matrix in two dtypes
# ------------------------
# The singular values fall from 1 to :math:`10^{-6}`. Its entries, and those of the right-hand side,
# are rounded to float32, so that float32 arrays hold exactly the same problem.

import warnings

import matplotlib.pyplot as plt
import numpy as np

import ngdla

n, m = 64, 800
rng = np.random.default_rng(0)
U = np.linalg.qr(rng.standard_normal((n, n)))[0]
V = np.linalg.qr(rng.standard_normal((m, n)))[0]
S32 = (U * np.logspace(0, -6, n) @ V.T).astype(np.float32)
f32 = rng.standard_normal(n).astype(np.float32)
S, f = S32.astype(np.float64), f32.astype(np.float64)

# %%
# The exact solution
# ------------------
# Refined with residuals in ``numpy.longdouble`` until it stands still.

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


dampings = np.logspace(-2, -12, 11)
exact = [reference(damping) for damping in dampings]

# %%
# Errors
# ------
# A hollow marker is a step that the certificate does not vouch for; a curve that ends early has
# raised ``LinAlgError``. "auto" warns where it computes more than was asked for, which is what is
# wanted here.

warnings.simplefilter("ignore", ngdla.PrecisionWarning)


def outcomes(S, f, method, precision):
    """Return dampings, errors and whether they are certified, as far as there is a step."""
    found = []
    for damping, x_exact in zip(dampings, exact, strict=True):
        options = {"method": method, "precision": precision, "full_output": True}
        try:
            x, info = ngdla.damped_lstsq(S, f, damping, **options)
        except np.linalg.LinAlgError:
            continue
        error = np.linalg.norm((x - x_exact).astype(float)) / np.linalg.norm(x_exact.astype(float))
        found.append((damping, error, bool(info.converged)))
    return np.array(found)


# %%
# The picture
# -----------
# In float64 all is well with a factor in float64. The single-precision factor of "mixed" gives the
# same errors down to about :math:`10^{-10}` at this size; below, conjugate gradients no
# longer converge, and the certificate says so. In float32 "native" loses a digit for each decade
# until the Gram matrix is indefinite, "auto" goes to double precision in time, and "float64" does
# so always.

colours = {"auto": "#0072B2", "native": "#D55E00", "mixed": "#009E73", "float64": "#CC79A7"}
markers = {"auto": "o", "native": "s", "mixed": "^", "float64": "D"}
sizes = {"auto": 3, "native": 6, "mixed": 5, "float64": 6}
styles = {"auto": "-", "native": "--", "mixed": ":", "float64": "-."}

figure, axes = plt.subplots(4, 2, figsize=(6, 8.4), sharex=True, sharey="col", layout="constrained")
for row, method in zip(axes, ["cholesky", "eigh", "qr", "svd"], strict=True):
    for axis, arrays, names in (
        (row[0], (S, f), ("native", "mixed", "auto")),
        (row[1], (S32, f32), ("native", "mixed", "float64", "auto")),
    ):
        for name in names:
            found = outcomes(*arrays, method, name)
            sure = found[:, 2] == 1
            style = {"color": colours[name], "marker": markers[name], "ms": sizes[name]}
            axis.loglog(found[:, 0], found[:, 1], color=colours[name], ls=styles[name], lw=1)
            axis.loglog(found[sure, 0], found[sure, 1], ls="", label=name, **style)
            axis.loglog(found[~sure, 0], found[~sure, 1], ls="", mfc="white", **style)
        axis.set_title(f"{method}, {arrays[0].dtype}", fontsize=10)
        axis.grid(True, color="0.9")
        axis.set_xticks([1e-12, 1e-7, 1e-2])
axes[0, 0].set_ylim(1e-16, 1e2)
axes[0, 1].set_ylim(1e-9, 1e2)
figure.supxlabel(r"damping / $\sigma_1^2$")
figure.supylabel("relative error")
figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
plt.show()

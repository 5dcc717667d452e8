r"""
What a structure can hold
=========================

A structured matrix :math:`K` is kept by a few numbers, and :math:`K K^T` stands for an inverse.
What do the structures look like, which preconditioners and which curvatures do they allow, what do
they cost, and how close do they come to the dense inverse?
"""

# %%
# A second moment
# ---------------
# Inputs of a layer of 24 neurons: ReLU of a signal that is correlated along the index and has a
# part that all neurons share. Each structure gets the best factor it has, in closed form: that of
# the least Kullback-Leibler divergence between the two Gaussians whose covariances are
# :math:`K K^T` and :math:`(S + \lambda)^{-1}`.

import matplotlib.pyplot as plt
import numpy as np
from scipy.fft import next_fast_len

import ngdla
from ngdla.structures import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Hierarchical,
    LowerToeplitz,
    LowRankTriangular,
    Masked,
    UpperTriangular,
)


def second_moment(d, samples=4000):
    """Return the second moment of the inputs of a layer, d x d."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal((samples, d))
    for i in range(1, d):
        x[:, i] = 0.8 * x[:, i - 1] + 0.6 * x[:, i]
    scale = rng.uniform(0.5, 1.5, d)  # neurons are not equally strong
    X = np.maximum(scale * (x + rng.standard_normal((samples, 1))), 0)
    return X.T @ X / samples


d = 24
S = second_moment(d)
damping = 0.01 * np.trace(S) / d
target = S + damping * np.eye(d)
strongest = tuple(np.argsort(-np.diag(S), kind="stable"))

# two groups of neurons, of which the second sees the first, and neurons of their own in each
groups = np.arange(d) // 12
tree = (groups[:, None] <= groups) & (np.arange(d)[:, None] % 4 == np.arange(d) % 4)

structures = {
    "Dense": Dense(),
    "Diagonal": Diagonal(),
    "BlockDiagonal(6)": BlockDiagonal(6),
    "Hierarchical(3, 3)": Hierarchical(3, 3),
    'LowRankTriangular\n(6, "upper-first")': LowRankTriangular(6, "upper-first"),
    'LowRankTriangular\n(6, "lower-first")': LowRankTriangular(6, "lower-first"),
    "LowRankTriangular\n(6, features=...)": LowRankTriangular(6, features=strongest[:6]),
    "UpperTriangular": UpperTriangular(),
    "LowerToeplitz": LowerToeplitz(),
    "Masked": Masked(tree),
}
factors = {name: ngdla.structured_factor(S, s, damping) for name, s in structures.items()}

# %%
# Pattern, preconditioner, curvature
# ----------------------------------
# Three pictures for each structure: where :math:`K` may differ from zero; its preconditioner
# :math:`K K^T`; and the curvature :math:`K^{-T} K^{-1}` that it models, to be compared with
# :math:`S + \lambda`, which is that of ``Dense`` exactly. ``UpperTriangular`` holds the same, as a
# Cholesky factor does. ``"upper-first"`` has a curvature of rank 6 and a diagonal, and an arrowhead
# as its preconditioner; ``"lower-first"`` the other way round. ``features`` takes any neurons in
# the place of the first ones, here the strongest. ``Masked`` takes any pattern that products keep.


def pattern(structure, d):
    """Return where a member may differ from zero."""
    return structure.project(np.ones((d, d))).to_dense() != 0


def draw(axis, matrix, limit, cmap="RdBu_r"):
    """Show a matrix, without ticks."""
    axis.imshow(matrix, cmap=cmap, vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set(xticks=[], yticks=[])


exact = np.linalg.inv(target)
figure, axes = plt.subplots(5, 6, figsize=(7.5, 6.6), layout="constrained")
cells = axes.reshape(10, 3)
for row, (name, factor) in zip(cells, factors.items(), strict=True):
    K = factor.to_dense()
    draw(row[0], pattern(structures[name], d), 1.5, "RdGy")
    draw(row[1], K @ K.T, 0.5 * np.abs(exact).max())
    draw(row[2], np.linalg.inv(K @ K.T), np.abs(target).max())
    row[0].set_ylabel(name, fontsize=7)
for row in cells[:2]:
    for axis, title in zip(row, ["pattern", "$K K^T$", "$K^{-T} K^{-1}$"], strict=True):
        axis.set_title(title, fontsize=9)
plt.show()

# %%
# What they cost
# --------------
# Numbers stored, and floating-point operations of :math:`K v` and of :math:`K L`, for a layer of
# 768 inputs and a bias, counted and not timed. A product :math:`K v` takes two operations for each
# number stored, and :math:`K L` two for each pair of an entry of :math:`K` and one of :math:`L`
# that meet. Toeplitz matrices multiply by real Fourier transforms of a length :math:`n` of twice
# their dimension, two for :math:`v` and one more for the other factor of :math:`K L`, of
# :math:`\tfrac 5 2 n \log_2 n` operations each.

width = 769
layer = {
    "Dense": Dense(),
    "UpperTriangular": UpperTriangular(),
    "Hierarchical(15, 15)": Hierarchical(15, 15),
    "LowRankTriangular(30)": LowRankTriangular(30),
    "BlockDiagonal(32)": BlockDiagonal(32),
    "LowRankTriangular(1)": LowRankTriangular(1),
    "LowerToeplitz": LowerToeplitz(),
    "Diagonal": Diagonal(),
}


def costs(structure):
    """Return stored numbers, and operations of K v and of K L."""
    stored = structure.identity(width, like=np.zeros(1)).size
    if isinstance(structure, LowerToeplitz):
        n = next_fast_len(2 * width - 1, real=True)
        return stored, 2 * 2.5 * n * np.log2(n), 3 * 2.5 * n * np.log2(n)
    held = pattern(structure, width)
    return stored, 2 * stored, 2 * held.sum(axis=0) @ held.sum(axis=1)


counted = {name: costs(structure) for name, structure in layer.items()}
labels = ["stored numbers", "operations of $K v$", "operations of $K L$"]
figure, axes = plt.subplots(1, 3, figsize=(7.5, 3), sharey=True, layout="constrained")
for axis, label, values in zip(axes, labels, zip(*counted.values(), strict=True), strict=True):
    axis.barh(list(counted), values, color="#0072B2", height=0.6)
    axis.set(xscale="log", xlim=(min(values) / 4, 2 * max(values)), xlabel=label)
    axis.grid(True, axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
axes[0].invert_yaxis()
plt.show()
for name, (stored, product, square) in counted.items():
    print(f"{name:22s} {stored:8,} numbers, {product:11,.0f} and {square:13,.0f} operations")

# %%
# How close, for how much memory
# ------------------------------
# The same kind of layer with 256 neurons. Left: the divergence from the dense inverse, over the
# number of neurons. Right: the condition number of :math:`K^T (S + \lambda) K`, of what is left to
# do; the dotted line is that of :math:`S + \lambda` itself. A full line is where dense factors are.
# The divergence weighs all modes alike, and most of them are between neighbours: here blocks are
# best. The condition number is made by the extreme modes, and the largest is common to all neurons:
# here dense rows are. Which rows these are is a choice: ``features`` takes any, and those of the
# largest second moment, "strongest first", are better than the first ones.

d = 256
S = second_moment(d)
damping = 0.01 * np.trace(S) / d
target = S + damping * np.eye(d)
logdet = np.linalg.slogdet(target)[1]
strongest = tuple(np.argsort(-np.diag(S), kind="stable"))


def quality(structure):
    """Return stored numbers, the divergence for each neuron, and a condition number."""
    K = ngdla.structured_factor(S, structure, damping)
    seen = K.to_dense().T @ target @ K.to_dense()
    divergence = 0.5 * (np.trace(seen) - d - logdet - 2 * K.logabsdet()) / d
    return K.size, divergence, np.linalg.cond(seen)


sizes = [1, 2, 4, 8, 16, 32, 64]
families = {
    "BlockDiagonal": [BlockDiagonal(b) for b in (2, 4, 8, 16, 32, 64, 128)],
    "Hierarchical, k1 = k2": [Hierarchical(k, k) for k in sizes],
    '"upper-first"': [LowRankTriangular(k, "upper-first") for k in sizes],
    '"upper-first", strongest first': [
        LowRankTriangular(k, "upper-first", strongest[:k]) for k in sizes
    ],
    '"lower-first"': [LowRankTriangular(k, "lower-first") for k in sizes],
    "Diagonal": [Diagonal()],
    "LowerToeplitz": [LowerToeplitz()],
}
colours = ["#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "black", "#E69F00"]
markers = ["o", "s", "^", "v", "D", "o", "*"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.9), sharex=True, layout="constrained")
for (name, members), colour, marker in zip(families.items(), colours, markers, strict=True):
    stored, divergences, conditions = zip(*map(quality, members), strict=True)
    style = {"color": colour, "marker": marker, "ms": 5, "lw": 1.2, "label": name}
    left.loglog(stored, divergences, **style)
    right.loglog(stored, conditions, **style)
right.axhline(np.linalg.cond(target), color="0.5", ls=":", lw=1)
left.set(xlabel="stored numbers", ylabel="divergence / d")
right.set(xlabel="stored numbers", ylabel=r"condition number of $K^T (S + \lambda) K$")
for axis in (left, right):
    axis.axvline(d * d, color="0.5", lw=1)
    axis.grid(True, color="0.9")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
plt.show()

r"""
KFAC without an inverse
=======================

KFAC averages two factors for each layer and inverts them. IKFAC, INGD and SINGD follow the inverse
itself, by products, and may keep it in a structure, and in half precision. Do they train as well,
and what does half precision lose?
"""

# %%
# A small network
# ---------------
# A layer of 32 tanh neurons and a linear one, in plain NumPy and float32, are to learn what another
# network of this kind does with windows of a signal. Low frequencies dominate the signal, so that
# neighbours are nearly equal, and the second moment of the inputs is badly conditioned.

from functools import partial

import matplotlib.pyplot as plt
import ml_dtypes  # noqa: F401 -- gives NumPy its bfloat16
import numpy as np

import ngdla

window, hidden, outputs, samples, batch = 48, 32, 8, 4096, 128
rng = np.random.default_rng(0)


def signal():
    """Return windows of a signal whose amplitudes fall as one over the frequency."""
    frequency = np.arange(1, window // 2 + 1)[:, None]
    phase = 2 * np.pi * frequency * np.arange(window) / (1.7 * window)
    cosine, sine = rng.standard_normal((2, samples, len(frequency))) / frequency[:, 0]
    noise = 0.02 * rng.standard_normal((samples, window))
    return cosine @ np.cos(phase) + sine @ np.sin(phase) + noise


def with_bias(x):
    """Append a column of ones."""
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)


def forward(weights, x):
    """Return the inputs of both layers, and the outputs."""
    first = with_bias(x)
    second = with_bias(np.tanh(first @ weights[0].T))
    return first, second, second @ weights[1].T


def backward(weights, second, g):
    """Return the gradients of the outputs of both layers, a row a sample."""
    return (g @ weights[1][:, :-1]) * (1 - second[:, :-1] ** 2), g


shapes = [(hidden, window + 1), (outputs, hidden + 1)]
X = signal().astype(np.float32)
teacher = [0.6 * rng.standard_normal(shapes[0]), rng.standard_normal(shapes[1])]
Y = forward(teacher, X)[-1]
Y = (Y / Y.std()).astype(np.float32)
start = [(rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32) for shape in shapes]
condition = np.linalg.cond(with_bias(X).astype(float).T @ with_bias(X))
print(f"condition number of the second moment of the inputs: {condition:.1e}")

# %%
# The methods
# -----------
# A method takes inputs ``a``, output gradients ``g`` and the gradient ``V`` of a layer, and gives a
# direction. The curvature is that of labels drawn from the model: ``g`` comes from standard normal
# residuals. All start from identities, and forget at the same rate.

damping = 1e-3


def gradient(_, a, g, V):
    """Steepest descent."""
    return None, V


def kfac(factors, a, g, V, *, coupling, dtype="float32", step_size=0.05):
    """Average both factors, and solve."""
    A, G = factors or [np.eye(x.shape[1], dtype=dtype) for x in (a, g)]
    A, G = (
        ngdla.ema(F, x / len(x) ** 0.5, decay=1 - step_size).astype(dtype)
        for F, x in ((A, a), (G, g))
    )
    return (A, G), ngdla.kronecker_solve(A, G, V, damping, coupling=coupling)


def inverse_free(state, a, g, V, *, rule, structures, step_size=0.05, **storage):
    """Update the inverse, and multiply."""
    if state is None:
        state = ngdla.inverse_free_init(
            a.shape[1], g.shape[1], structures=structures, like=a, **storage
        )
    if rule == "ikfac":  # damps both factors, the others their product
        options = {"damping": damping**0.5}
    else:
        options = {"damping": damping, "momentum": 0.5}
    statistics = ngdla.inverse_free_statistics(state, a, g)
    state = ngdla.inverse_free_update(state, statistics, rule=rule, step_size=step_size, **options)
    return state, ngdla.inverse_free_apply(state, V)


def train(method, rate, steps=200):
    """Return the loss every five steps, and the states of both layers in the end."""
    draws = np.random.default_rng(1)
    weights, momenta, states = list(start), [0, 0], [None, None]
    losses = []
    for t in range(steps):
        chosen = draws.integers(0, samples, batch)
        first, second, f = forward(weights, X[chosen])
        true = backward(weights, second, f - Y[chosen])
        model = backward(weights, second, draws.standard_normal(f.shape, np.float32))
        for i, a in enumerate((first, second)):
            states[i], step = method(states[i], a, model[i], true[i].T @ a / batch)
            momenta[i] = 0.9 * momenta[i] + step
        length = np.float32(rate * (1 - t / steps))
        weights = [W - length * B for W, B in zip(weights, momenta, strict=True)]
        if t % 5 == 0:
            residuals = forward(weights, X)[-1] - Y
            losses.append(0.5 * np.mean(np.sum(residuals**2, axis=1)))
    return losses, states


def best(method):
    """Return losses and states with the better one of two learning rates, and that rate."""
    runs = {rate: train(method, rate) for rate in (0.1, 0.03)}
    rate = min(runs, key=lambda rate: runs[rate][0][-1])
    return *runs[rate], rate


# %%
# In single precision
# -------------------
# Each method with the better of two learning rates, which fall to zero. With one network and one
# seed this shows that all of them train, and not which one is best.

dense = ("dense", "dense")
methods = {
    "gradient descent": gradient,
    'KFAC, eigh, "joint"': partial(kfac, coupling="joint"),
    'KFAC, Cholesky, "factored"': partial(kfac, coupling="factored"),
    "IKFAC": partial(inverse_free, rule="ikfac", structures=dense),
    "INGD": partial(inverse_free, rule="ingd", structures=dense),
}
hierarchical = ("hierarchical", {"k1": 6, "k2": 2})
block = ("block-diagonal", {"block": 8})
pairs = {
    "block-diagonal": (block, block),
    "hierarchical": (hierarchical, hierarchical),
    "Toeplitz, diagonal": ("lower-toeplitz", "diagonal"),
    "diagonal": ("diagonal", "diagonal"),
}
for name, structures in pairs.items():
    methods[f"SINGD, {name}"] = partial(inverse_free, rule="ingd", structures=structures)

curves, rates = {}, {}
for name, method in methods.items():
    curves[name], states, rates[name] = best(method)
    numbers = "no state"
    if isinstance(states[0], ngdla.InverseFreeState):
        numbers = f"{sum(s.K.size + s.C.size for s in states):6,} numbers in factors"
    elif states[0]:
        numbers = f"{sum(F.size for s in states for F in s):6,} numbers in factors"
    print(f"{name:28s} learning rate {rates[name]:4g}, loss {curves[name][-1]:.4f}, {numbers}")

# %%
# Left: dense factors. IKFAC is KFAC to first order in the step; here it also damps both factors
# alike. INGD weighs the curvature of one factor by that of the other, and has momentum. Right:
# SINGD, which is INGD in structures. Toeplitz factors fit a signal, and are as small as diagonal
# ones.

colours = ["0.5", "#E69F00", "black", "#0072B2", "#D55E00"]
colours += ["#009E73", "#CC79A7", "#56B4E9", "#8C6D31"]
style = dict(zip(methods, colours, strict=True))
names = list(methods)
figure, axes = plt.subplots(1, 2, figsize=(7.5, 4.2), sharey=True, layout="constrained")
for axis, shown in zip(axes, (names[:5], [names[0], *names[4:]]), strict=True):
    for name in shown:
        steps = 5 * np.arange(len(curves[name]))
        axis.semilogy(steps, curves[name], color=style[name], lw=1.5, label=name)
    axis.set(xlabel="steps")
    axis.grid(True, color="0.9")
    axis.legend(fontsize=8, loc="lower left")
axes[0].set(ylabel="loss")
plt.show()

# %%
# In half precision
# -----------------
# The same methods, with factors that are rounded to bfloat16 after each update. KFAC may lose more
# than digits: an average that is rounded can have negative eigenvalues, which the eigensolver
# finds, and the damping of a Cholesky factor hides. A product :math:`K K^T` has none.


def outcome(method, rate):
    """Return the last loss, or why there is none."""
    try:
        return f"{train(method, rate)[0][-1]:.4f}"
    except ValueError as error:
        return str(error).partition(": ")[0]


for name in [*names[1:5], "SINGD, hierarchical"]:
    rounded = outcome(partial(methods[name], dtype="bfloat16"), rates[name])
    print(f"{name:28s} float32: {curves[name][-1]:.4f}, bfloat16: {rounded}")

# %%
# When steps get lost
# -------------------
# bfloat16 has eight significant bits. A step that changes an entry by less than one part in 512 is
# rounded away, as most are once the average is long, here 200 batches. With
# ``storage="compensated"`` a second bfloat16 number keeps what was rounded away, with ``"float32"``
# the factors are in single precision.

slow = {"rule": "ikfac", "structures": dense, "step_size": 0.005, "dtype": "bfloat16"}
storages = ("float32", "compensated", "native")
stored = {
    storage: train(partial(inverse_free, **slow, storage=storage), 0.1)[0] for storage in storages
}

# %%
# The factor by itself, without a network: inputs of one distribution, and the distance of
# :math:`K K^T` from KFAC's inverse, which is computed in double precision from the same batches.
# ``"binomial"`` of order 2 follows it closely, so that what is seen is rounding.

width, step_size, updates = 32, 0.005, 800
modes = np.linalg.qr(rng.standard_normal((width, width)))[0] * np.arange(1, width + 1) ** -1.0


def distances(storage):
    """Return the distance of K K^T from the inverse of the average, relative, every ten updates."""
    draws = np.random.default_rng(2)
    like, ones = np.zeros(1, np.float32), np.ones((64, 1), np.float32)
    state = ngdla.inverse_free_init(
        width, 1, like=like, dtype="bfloat16", storage=storage, momentum=False
    )
    S = (1 - 0.01) * np.eye(width)  # so that S + damping is 1, as K K^T is
    found = []
    for t in range(updates):
        a = draws.standard_normal((64, width)) @ modes.T
        S = ngdla.ema(S, a / 8, decay=1 - step_size)
        statistics = ngdla.inverse_free_statistics(state, a.astype(np.float32), ones)
        state = ngdla.inverse_free_update(
            state,
            statistics,
            damping=0.01,
            step_size=step_size,
            rule="ikfac",
            retraction="binomial",
            order=2,
        )
        if t % 10 == 9:
            K = state.K.to_dense().astype(float)
            if state.compensation_K:
                K = K + state.compensation_K.to_dense()
            inverse = np.linalg.inv(S + 0.01 * np.eye(width))
            found.append(np.linalg.norm(K @ K.T - inverse) / np.linalg.norm(inverse))
    return found


errors = {storage: distances(storage) for storage in storages}
for storage in storages:
    print(f"{storage:11s} loss {stored[storage][-1]:.4f}, error {errors[storage][-1]:.1e}")

# %%
# Left: the network, trained by IKFAC with a small step. Right: the factor. A native factor stands
# still, and KFAC moves away from it.

looks = {"float32": ("black", "-", 2.5), "compensated": ("#0072B2", "--", 1.5)}
looks["native"] = ("#D55E00", "-", 1.5)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for storage, (colour, line, thickness) in looks.items():
    look = {"color": colour, "ls": line, "lw": thickness, "label": f'storage="{storage}"'}
    left.semilogy(5 * np.arange(len(stored[storage])), stored[storage], **look)
    right.semilogy(10 * np.arange(1, len(errors[storage]) + 1), errors[storage], **look)
left.set(xlabel="steps", ylabel="loss", yticks=[0.5, 1, 2], yticklabels=["0.5", "1", "2"])
left.minorticks_off()
right.set(xlabel="updates", ylabel="relative error of $K K^T$")
for axis in (left, right):
    axis.grid(True, color="0.9")
left.legend(fontsize=8)
plt.show()
